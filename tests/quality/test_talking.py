"""The miniature talks: faces, voices and sentences it was not trained on, through the whole worker, read from pixels.

The whole table is printed by benchmarks/quality.py; here are a few clips of it.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality import Task, above_shut, make, read
from infinitetalk.contract.presets import load_mode
from infinitetalk.contract.settings import Settings
from infinitetalk.media.speech import Floats, loudness
from infinitetalk.models.opening import Models
from infinitetalk.quality.measures import beyond_shared, correlation, lip_sync
from infinitetalk.quality.report import Measured, read_frames
from infinitetalk.quality.tracking import Mouth, track_mouths
from infinitetalk.shapes import FPS
from infinitetalk.startup.calibration import run_sample
from tests.support.media_samples import write_result
from training.data import SIZES
from training.held_out import HeldOutJob, held_out_job
from training.speech import Corpus, load_corpus

pytestmark = pytest.mark.long  # each clip is seconds of talking

WIDE, TALL = SIZES[:2]
SETTINGS = Settings.from_env({})


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus("held_out")


@pytest.fixture(scope="module")
def render(
    corpus: Corpus, models: Models, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[HeldOutJob, Path]]:
    def run(task: Task, **fields: object) -> tuple[HeldOutJob, Path]:
        job = task.job(corpus)
        return job, make(task, job, models, SETTINGS, tmp_path_factory.mktemp(task.name), **fields)

    return run


Render = Callable[..., tuple[HeldOutJob, Path]]


@pytest.fixture(scope="module")
def one(render: Render) -> Measured:
    job, video = render(Task("one", 0, 1, WIDE, 4.0, "turbo"))
    return read(video, job)


@pytest.fixture(scope="module")
def two(render: Render) -> Measured:
    job, video = render(Task("two", 1, 2, WIDE, 3.0, "turbo"))
    return read(video, job)


def follows(mouth: Mouth, loudness: Floats) -> float:
    """Correlation, of a mouth that moves."""
    value = correlation(mouth.openness, loudness)
    assert value is not None
    return value


def test_lips_follow_the_speech(one: Measured) -> None:
    (person,) = one.report.people
    assert person.lip_sync is not None
    assert person.lip_sync.correlation is not None and person.lip_sync.correlation >= 0.93
    assert person.lip_sync.lag_frames is not None and abs(person.lip_sync.lag_frames) <= 1


@pytest.mark.parametrize(("mode", "number"), [("fast", 6), ("balanced", 2), ("maximum_quality", 6)])
def test_lips_follow_the_speech_in_slower_modes(mode: str, number: int, render: Render) -> None:
    job, video = render(Task(mode, number, 1, TALL, 3.0, mode))
    (person,) = read(video, job).report.people
    assert person.lip_sync is not None
    assert person.lip_sync.correlation is not None and person.lip_sync.correlation >= 0.93
    assert person.lip_sync.lag_frames is not None and abs(person.lip_sync.lag_frames) <= 1


@pytest.mark.parametrize(("people", "number", "size"), [(1, 102, TALL), (2, 109, WIDE)])
def test_mouths_are_shut_in_silence(people: int, number: int, size: tuple[int, int], render: Render) -> None:
    job, video = render(Task("silent", number, people, size, 2.0, "turbo", silent=True))
    values = above_shut(video, job)
    assert len(values) == people and max(values) <= 0.03


def test_lips_do_not_follow_other_speech(one: Measured) -> None:
    (mouth,), (loud,) = one.tracked.mouths, one.voices
    for shift in (25, 50, 75):
        other = lip_sync(mouth.openness, np.roll(loud, shift)).correlation
        assert other is None or other < 0.6


@pytest.mark.parametrize("people", ["one", "two"])
def test_the_people_stay_and_joins_are_not_seen(people: str, request: pytest.FixtureRequest) -> None:
    report = request.getfixturevalue(people).report
    assert report.identity is not None and report.identity.still_first_db is not None
    assert report.identity.still_first_db >= (31 if people == "one" else 30)
    assert report.drift.color_worst <= 4
    assert report.seams is not None and report.seams.joins
    assert np.mean(report.seams.at_joins) <= 1.6 * report.seams.median
    assert np.mean(report.seams.at_joins) <= report.seams.percentile_95


def test_each_voice_moves_its_own_mouth(two: Measured) -> None:
    for mouth, own, other in zip(two.tracked.mouths, two.voices, two.voices[::-1], strict=True):
        assert follows(mouth, own) >= 0.93
        strays = beyond_shared(mouth.openness, own, other)
        assert strays is not None and strays <= 0.08


def test_swapped_voices_swap_the_mouths(corpus: Corpus, models: Models, tmp_path: Path) -> None:
    task = Task("swapped", 1, 2, WIDE, 2.4, "turbo")
    job = task.job(corpus)
    job = replace(job, waves=job.waves[::-1])
    left, right = read(make(task, job, models, SETTINGS, tmp_path), job).tracked.mouths
    for mouth, voice in ((left, job.waves[0]), (right, job.waves[1])):
        assert follows(mouth, loudness(voice, len(job.drawn))) >= 0.9


def test_a_box_on_the_right_person_gives_the_first_voice_to_that_one(render: Render) -> None:
    boxes = [[0.5, 0.0, 1.0, 1.0], [0.0, 0.0, 0.5, 1.0]]
    job, video = render(Task("boxes", 1, 2, WIDE, 2.4, "turbo"), speaker_boxes=boxes)
    left, right = read(video, job).tracked.mouths
    for mouth, voice in ((right, job.waves[0]), (left, job.waves[1])):
        assert follows(mouth, loudness(voice, len(job.drawn))) >= 0.9


def test_audio_guidance_opens_the_mouth_further(render: Render, one: Measured) -> None:
    frames = load_mode("turbo").window_frames  # the clip of `one` begins with this window
    job, video = render(Task("guided", 0, 1, WIDE, frames / FPS, "turbo"), audio_guidance=2.0)
    (guided,), (mouth,) = read(video, job).tracked.mouths, one.tracked.mouths
    assert guided.openness.std() > 1.1 * mouth.openness[:frames].std()


def test_a_video_keeps_its_heads_motion(corpus: Corpus, models: Models, tmp_path: Path) -> None:
    job = held_out_job(corpus, 301, 1, WIDE, 75, wander=True)
    fields = job.write(tmp_path) | {"input_type": "video", "video_strength": 0.6}
    del fields["image_url"]
    write_result(tmp_path / "source.mp4", job.drawn)
    fields |= {"video_url": (tmp_path / "source.mp4").as_uri(), "speed_mode": "turbo", "seed": 1}
    run_sample(fields, load_mode("turbo"), models, SETTINGS, tmp_path / "video.mp4")
    made, source = (track_mouths(f, 1).mouths[0] for f in (read_frames(tmp_path / "video.mp4", "video")[0], job.drawn))
    for axis in ("x", "y"):
        assert np.corrcoef(getattr(made, axis), getattr(source, axis))[0, 1] >= 0.7
    assert follows(made, loudness(job.waves[0], len(job.drawn))) >= 0.85
