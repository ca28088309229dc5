"""Voices and the faces of a source video: what a job makes of mouths that move with its voices."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from infinitetalk.contract.presets import load_mode, load_profile
from infinitetalk.contract.request import LOCAL_FILES, Request
from infinitetalk.contract.settings import Settings
from infinitetalk.faces.finder import Face, FaceFinder
from infinitetalk.job.matching import ENOUGH_SPEECH_S, MAX_WATCHED_S, watched_match
from infinitetalk.job.read import Job, read_job
from infinitetalk.media.speech import loudness
from infinitetalk.media.video import SourceVideo
from infinitetalk.shapes import FPS, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from tests.support.media_samples import X264, ffmpeg, write_result, write_talking_video
from tests.support.mouths import mesh, syllables

SETTINGS = Settings.from_env({})
SECONDS = 10
SIZE = (240, 160)


def speech(seed: int) -> np.ndarray:
    """Noise whose loudness goes up and down like speech's."""
    frames = SECONDS * FPS
    noise = np.random.default_rng(seed).standard_normal(frames * SAMPLES_PER_FRAME).astype(np.float32)
    level = np.interp(np.arange(len(noise)) / SAMPLES_PER_FRAME, np.arange(frames), syllables(frames, seed) ** 2 + 0.03)
    return (noise * level * 0.2).astype(np.float32)


class MadeUpFaces:
    """Stands in for FaceFinder: faces side by side whose mouths follow voices, whatever the frames show."""

    def __init__(self, waves: Sequence[np.ndarray], gone_from: int | None = None, jump_at: int | None = None) -> None:
        self._openings = [loudness(wave, SECONDS * FPS) * 20 for wave in waves]
        self._gone_from, self._jump_at = gone_from, jump_at
        self.watched = 0

    def _face(self, person: int, frame: int, width: int) -> Face:
        left = person * width / len(self._openings) + 10
        if self._jump_at is not None and frame >= self._jump_at:
            left += 200
        points = mesh(float(self._openings[person][frame]), left, 20)
        return Face((left, 10.0, left + 60, 100.0), points, 1.0)

    def find(self, picture: np.ndarray) -> tuple[Face, ...]:
        return tuple(self._face(person, 0, picture.shape[1]) for person in range(len(self._openings)))

    def follow(self, frames: Iterable[np.ndarray], first: Sequence[Face]) -> Iterator[tuple[Face | None, ...]]:
        for index, picture in enumerate(frames):
            self.watched += 1
            is_gone = self._gone_from is not None and index >= self._gone_from
            people = range(len(first))
            yield tuple(None if is_gone and p else self._face(p, index, picture.shape[1]) for p in people)


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("two")
    for number in (1, 2):
        soundfile.write(folder / f"voice_{number}.wav", speech(number), SAMPLE_RATE_HZ)
    write_talking_video(folder / "source.mp4", SECONDS, *SIZE)
    return {path.stem: path.as_uri() for path in folder.iterdir()}


@pytest.fixture
def read(media: dict[str, str], tmp_path: Path) -> Callable[..., Job]:
    def read(faces: MadeUpFaces, **fields: Any) -> Job:
        speakers = [{"wav_url": media["voice_1"]}, {"wav_url": media["voice_2"]}]
        job = {"input_type": "video", "video_url": media["source"], "aspect_ratio": "16:9", "speakers": speakers}
        job = {name: value for name, value in (job | fields).items() if value is not None}
        request = Request.parse(job, LOCAL_FILES)
        files = {file.field: Path(file.url.removeprefix("file://")) for file in request.media_files}
        links = {field: tmp_path / str(number) for number, field in enumerate(files)}
        for field, link in links.items():
            link.symlink_to(files[field])
        profile, mode = load_profile("miniature"), load_mode("turbo")
        return read_job(request, links, profile, SETTINGS, mode, 1, faces)  # type: ignore[arg-type]

    return read


def test_voices_go_to_the_mouths_that_move_with_them_and_the_result_says_so(read: Callable[..., Job]) -> None:
    job = read(MadeUpFaces([speech(2), speech(1)]))
    assert job.people is not None
    assert [person.voice for person in job.people] == ["speakers[1].wav_url", "speakers[0].wav_url"]
    note = next(text for text in job.media_warnings if "mouths move" in text)
    assert "face 1 with speakers[0].wav_url and face 0 with speakers[1].wav_url" in note
    assert "10.0 s of speech" in note and "give each of the speakers a face" in note
    boxes = job.places.boxes
    assert boxes[0] is not None and boxes[1] is not None and boxes[0][0] > boxes[1][0]


@pytest.mark.parametrize("others", [(1, 2), (3, 4)], ids=["the right order", "other words"])
def test_voices_stay_from_left_to_right_otherwise(read: Callable[..., Job], others: tuple[int, int]) -> None:
    job = read(MadeUpFaces([speech(seed) for seed in others]))
    assert job.people is not None
    assert [person.voice for person in job.people] == ["speakers[0].wav_url", "speakers[1].wav_url"]
    assert not any("mouths move" in text for text in job.media_warnings)


def test_a_choice_of_the_caller_is_not_measured(read: Callable[..., Job], media: dict[str, str]) -> None:
    faces = MadeUpFaces([speech(2), speech(1)])
    chosen = [{"wav_url": media["voice_1"], "face": 0}, {"wav_url": media["voice_2"], "face": 1}]
    job = read(faces, speakers=chosen)
    assert faces.watched == 0
    assert job.people is not None and job.people[0].voice == "speakers[0].wav_url"


def test_jobs_of_two_plain_voices_stay_as_they_were_and_are_told(
    read: Callable[..., Job], media: dict[str, str]
) -> None:
    plain = {"speakers": None, "person_count": "multi", "wav_url": media["voice_1"], "wav_url_2": media["voice_2"]}
    job = read(MadeUpFaces([speech(2), speech(1)]), **plain)
    assert job.places.boxes == (None, None)
    assert any("face 1 with wav_url and face 0 with wav_url_2" in text for text in job.media_warnings)
    assert any("exchange wav_url and wav_url_2" in text for text in job.media_warnings)


def test_a_video_of_one_short_frame_tells_nothing(read: Callable[..., Job], tmp_path: Path) -> None:
    one = tmp_path / "one.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=r=60:s=240x160", "-frames:v", "1", "-pix_fmt", "yuv420p", *X264, one)
    faces = MadeUpFaces([speech(2), speech(1)])
    read(faces, video_url=one.as_uri())
    assert faces.watched == 0


@pytest.mark.parametrize("end", ["gone_from", "jump_at"])
def test_what_follows_a_cut_does_not_count(read: Callable[..., Job], end: str) -> None:
    faces = MadeUpFaces([speech(2), speech(1)], **{end: 5 * FPS})
    job = read(faces)
    assert faces.watched < 7 * FPS, "watched beyond the scene"
    assert not any("mouths move" in text for text in job.media_warnings), "5 s are not enough"


def test_a_long_video_is_watched_until_there_is_enough_speech(tmp_path: Path) -> None:
    """The video lasts a minute and a half; 15 s of speech are enough, and a minute is the most."""
    path = write_talking_video(tmp_path / "long.mp4", 90, 32, 32)
    video = SourceVideo.look(path, "video_url", 32, 32)
    urls = {"video_url": "https://a.b/v.mp4", "input_type": "video"}
    speakers = [{"wav_url": "https://a.b/1.wav"}, {"wav_url": "https://a.b/2.wav"}]
    request = Request.parse(urls | {"speakers": speakers})
    boxes = [(0.0, 0.0, 0.4, 1.0), (0.6, 0.0, 1.0, 1.0)]
    waves = [np.tile(speech(seed), 9) for seed in (1, 2)]
    faces = MadeUpFaces([np.tile(speech(seed), 9) for seed in (1, 2)])
    faces._openings = [np.tile(opening, 9) for opening in faces._openings]
    watched_match(request, faces, boxes, video, waves)  # type: ignore[arg-type]
    assert faces.watched == pytest.approx(ENOUGH_SPEECH_S * FPS, abs=10)
    faces.watched = 0
    quiet = [np.where(np.arange(len(wave)) < 80 * SAMPLE_RATE_HZ, 0, wave).astype(np.float32) for wave in waves]
    watched_match(request, faces, boxes, video, quiet)  # type: ignore[arg-type]
    assert faces.watched == MAX_WATCHED_S * FPS


@pytest.mark.long
def test_drawn_people_are_matched_by_the_real_networks(tmp_path: Path) -> None:
    from training.data import SIZES
    from training.held_out import held_out_job
    from training.speech import load_corpus

    drawn = held_out_job(load_corpus("held_out"), 700, 2, SIZES[2], SECONDS * FPS, wander=True)
    path = write_result(tmp_path / "source.mp4", drawn.drawn)
    video = SourceVideo.look(path, "video_url", *SIZES[2])
    finder = FaceFinder.open(torch.device("cpu"))
    height, width = drawn.drawn.shape[1:3]
    found = [face.box for face in finder.find(video.frame(0))]
    boxes = [(x0 / width, y0 / height, x1 / width, y1 / height) for x0, y0, x1, y1 in found]
    speakers = [{"wav_url": "https://a.b/1.wav"}, {"wav_url": "https://a.b/2.wav"}]
    request = Request.parse({"video_url": "https://a.b/v.mp4", "input_type": "video", "speakers": speakers})
    match = watched_match(request, finder, boxes, video, drawn.waves[::-1])
    assert match is not None and match.faces == (1, 0) and match.is_certain
