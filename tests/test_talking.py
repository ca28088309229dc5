"""The miniature talks: faces, voices and sentences it was not trained on, through the whole worker, read from pixels.

The whole table is printed by benchmarks/quality.py; here are a few clips of it.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality import Task, make, read
from infinitetalk.job import open_models
from infinitetalk.models.loading import Models
from infinitetalk.quality.measures import beyond_shared, correlation, lip_sync
from infinitetalk.quality.report import Measured
from infinitetalk.settings import Settings
from training.data import SIZES
from training.held_out import HeldOutJob
from training.speech import Corpus, load_corpus

WIDE = SIZES[0]
SETTINGS = Settings.from_env({})


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus("held_out")


@pytest.fixture(scope="module")
def models() -> Models:
    return open_models(SETTINGS)


@pytest.fixture(scope="module")
def render(
    corpus: Corpus, models: Models, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[HeldOutJob, Path]]:
    def run(task: Task, **fields: object) -> tuple[HeldOutJob, Path]:
        job = task.job(corpus)
        return job, make(task, job, models, SETTINGS, tmp_path_factory.mktemp(task.name), **fields)

    return run


@pytest.fixture(scope="module")
def one(render: Callable[..., tuple[HeldOutJob, Path]]) -> Measured:
    job, video = render(Task("one", 0, 1, WIDE, 4.0, "turbo"))
    return read(video, job)


def test_lips_follow_the_speech(one: Measured) -> None:
    (person,) = one.report.people
    assert person.lip_sync is not None
    assert person.lip_sync.correlation is not None and person.lip_sync.correlation >= 0.85
    assert person.lip_sync.lag_frames is not None and abs(person.lip_sync.lag_frames) <= 1


def test_lips_do_not_follow_other_speech(one: Measured) -> None:
    (mouth,), (loud,) = one.tracked.mouths, one.voices
    for shift in (25, 50, 75):
        other = lip_sync(mouth.openness, np.roll(loud, shift)).correlation
        assert other is None or other < 0.6


def test_the_person_stays_and_windows_join(one: Measured) -> None:
    report = one.report
    assert report.identity is not None and report.identity.still_first_db is not None
    assert report.identity.still_first_db >= 30
    assert report.drift.color_worst <= 4
    assert report.seams is not None and len(report.seams.joins) == 2
    # In absolute terms small, 1 or 2 of 255; still more than an ordinary frame's change.
    assert max(report.seams.at_joins) <= 3


def test_each_voice_moves_its_own_mouth(render: Callable[..., tuple[HeldOutJob, Path]]) -> None:
    job, video = render(Task("two", 1, 2, WIDE, 3.0, "turbo"))
    found = read(video, job)
    mouths = [mouth.openness for mouth in found.tracked.mouths]
    for mouth, own, other in zip(mouths, found.voices, found.voices[::-1], strict=True):
        follows, strays = correlation(mouth, own), beyond_shared(mouth, own, other)
        assert follows is not None and follows >= 0.75
        assert strays is not None and strays <= 0.25
