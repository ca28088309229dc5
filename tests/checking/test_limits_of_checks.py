"""Checks keep to their time, end with their job, and never fail it."""

import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from benchmarks.planted import Clip
from infinitetalk.checking import check
from infinitetalk.checking.check import check_video
from infinitetalk.checking.thresholds import Threshold, load_thresholds
from infinitetalk.contract.result import CheckName
from infinitetalk.errors import Cancelled, TimedOut
from infinitetalk.job.checks import time_for_checks
from infinitetalk.media.child import TooSlow, ended_by
from infinitetalk.media.ffmpeg import FfmpegError
from infinitetalk.progress import TimeLimit
from tests.support.faces import FixedFinder
from tests.support.finished import make_clip, write

DOCUMENT = Path(__file__).parents[2] / "docs" / "quality.md"
_CHECK_OF = {
    "sound_offset": "sound",
    "sound_likeness": "sound",
    "frozen_stir": "frozen",
    "frozen_speech": "frozen",
    "sharpness_least": "sharpness",
    "sharpness_most": "sharpness",
    "face_sharpness_least": "sharpness",
    "face_sharpness_most": "sharpness",
    "follows": "lip_sync",
    "does_not_follow": "lip_sync",
    "moves_enough": "lip_sync",
    "does_not_move": "lip_sync",
    "speech": "lip_sync",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Clip, Path]:
    clip = make_clip()
    return clip, write(clip, tmp_path_factory.mktemp("finished") / "clean.mp4")


class Time:
    """Stands for the clock: it goes on where a test says so, and not with how busy the machine is."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    stand_in = Time()
    monkeypatch.setattr(check, "time", stand_in)
    return stand_in


def read_slowly(monkeypatch: pytest.MonkeyPatch, time: Time, frame_s: float = 0.0, start_s: float = 0.0) -> None:
    """Let reading the file take so long until it begins, and for each frame."""
    quick = check.read_frames

    def read(*arguments):
        time.now_s += start_s
        for frame in quick(*arguments):
            time.now_s += frame_s
            yield frame

    monkeypatch.setattr(check, "read_frames", read)


def test_what_is_not_measured_in_time_says_so(
    finished: tuple[Clip, Path], monkeypatch: pytest.MonkeyPatch, time: Time
) -> None:
    clip, path = finished
    read_slowly(monkeypatch, time, frame_s=0.02)
    checks = check_video(path, clip.expected, FixedFinder((0.5, 0.5, 0.5)), 1.0)
    assert checks.seconds < 1
    frames = next(one for one in checks.details if one.name == "frames")
    assert (frames.outcome, checks.verdict) == ("not measured", "ok")
    assert frames.note is not None
    assert frames.note.startswith("Only the first ")


def test_faces_are_left_first_where_time_is_short(
    finished: tuple[Clip, Path], monkeypatch: pytest.MonkeyPatch, time: Time
) -> None:
    clip, path = finished
    read_slowly(monkeypatch, time, frame_s=0.005)

    class Slow(FixedFinder):
        def follow(self, frames, first):
            for faces in super().follow(frames, first):
                time.now_s += 0.05
                yield faces

    checks = check_video(path, clip.expected, Slow((0.5, 0.5, 0.5)), 2.0)
    assert checks.seconds < 2
    assert next(one for one in checks.details if one.name == "frames").outcome == "ok"
    lips = next(one for one in checks.details if one.name == "lip_sync")
    assert "since there was no time for more" in (lips.note or "")


def test_a_slow_start_leaves_no_faces_out(
    finished: tuple[Clip, Path], monkeypatch: pytest.MonkeyPatch, time: Time
) -> None:
    clip, path = finished
    read_slowly(monkeypatch, time, start_s=5)
    checks = check_video(path, clip.expected, FixedFinder((0.5, 0.5, 0.5)), 10.0)
    assert not any("no time" in (one.note or "") for one in checks.details)


def test_a_film_is_asked_for_no_more_often_than_there_is_time(
    finished: tuple[Clip, Path], tmp_path: Path, time: Time
) -> None:
    clip, _ = finished
    asked: list[int] = []

    def reference(frame: int) -> np.ndarray:
        asked.append(frame)
        time.now_s += 1.0
        return frames[frame]

    frames = np.repeat(np.repeat(clip.frames, 4, 1), 4, 2)
    frames[1::2] = frames[0::2]  # a film of half the frames
    size = frames.shape[2], frames.shape[1]
    film = replace(clip.expected, is_source=True, reference=reference, compared=(), size=size)
    halves = replace(clip, frames=frames, expected=film)
    checks = check_video(write(halves, tmp_path / "halves.mp4"), film, None, 10.0)
    assert [one.outcome for one in checks.details if one.name == "frozen"] == ["ok"]
    assert not asked
    frames[1::4] = 0  # and flashes
    checks = check_video(write(halves, tmp_path / "flashes.mp4"), film, None, 10.0)
    assert len(asked) == 11
    assert [one.note for one in checks.details if one.name == "blank"] == ["There was no time left for it."]


def test_a_job_that_is_cancelled_ends_them(finished: tuple[Clip, Path]) -> None:
    clip, path = finished

    def cancelled() -> None:
        raise Cancelled("The job was cancelled.")

    with ended_by(cancelled), pytest.raises(Cancelled):
        check_video(path, clip.expected, None, 60)


def test_a_time_limit_that_is_reached_leaves_the_rest_unmeasured(finished: tuple[Clip, Path]) -> None:
    clip, path = finished

    def late() -> None:
        raise TimedOut("The job has used up its time.")

    with ended_by(late):
        checks = check_video(path, clip.expected, None, 60)
    assert checks.verdict == "ok"
    assert {one.outcome for one in checks.details} <= {"not measured", "ok"}


def test_a_check_that_crashes_is_not_measured_and_logged(
    finished: tuple[Clip, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clip, path = finished

    def broken(*_):
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(check, "picture_checks", broken)
    checks = check_video(path, clip.expected, None, 60)
    outcomes = {one.name: one.outcome for one in checks.details}
    assert [outcomes[name] for name in ("blank", "frozen", "repeated", "joins")] == ["not measured"] * 4
    assert [outcomes[name] for name in ("sound", "color")] == ["ok", "ok"]
    assert checks.verdict == "ok"
    assert any(record.message == "a check failed" for record in caplog.records)
    assert "a secret" not in caplog.text


def test_a_program_that_is_too_slow_says_nothing_of_the_sound(
    finished: tuple[Clip, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, path = finished

    def fail(cause: Exception | None) -> None:
        raise FfmpegError("not done") from cause

    monkeypatch.setattr(check, "heard_in", lambda *_: fail(TooSlow("")))
    checks = check_video(path, clip.expected, None, 60)
    assert checks.verdict == "ok"
    assert [one.outcome for one in checks.details if one.name.startswith("sound")] == ["not measured"] * 2
    monkeypatch.setattr(check, "heard_in", lambda *_: fail(None))
    checks = check_video(path, clip.expected, None, 60)
    assert checks.look_at == ["Second 0.00: the video has no sound that can be decoded."]


def test_a_finder_that_fails_leaves_the_pictures_measured(finished: tuple[Clip, Path]) -> None:
    clip, path = finished

    class Broken(FixedFinder):
        def follow(self, frames, first):
            for index, faces in enumerate(super().follow(frames, first)):
                if index == 5:
                    raise RuntimeError("the GPU is gone")
                yield faces

    checks = check_video(path, clip.expected, Broken((0.5, 0.5, 0.5)), 60)
    outcomes = {one.name: one.outcome for one in checks.details}
    assert (outcomes["frames"], outcomes["joins"], outcomes["lip_sync"]) == ("ok", "ok", "not measured")


@pytest.mark.parametrize(
    ("taken_s", "limit", "expected"),
    [
        (100, None, 10),
        (1600, None, 32),
        (1600, TimeLimit(600, False), 32),
        (1600, TimeLimit(2000, True), 32),
        (580, TimeLimit(590, True), 5),
        (595, TimeLimit(590, True), -2.5),
    ],
)
def test_the_time_is_two_per_cent_or_ten_seconds_and_half_of_what_is_left(
    taken_s: float, limit: TimeLimit | None, expected: float
) -> None:
    assert time_for_checks(taken_s, limit) == pytest.approx(expected)


def test_each_threshold_says_where_it_comes_from() -> None:
    limits = load_thresholds()
    for name in type(limits).model_fields:
        if name not in ("name", "description"):
            source = getattr(limits, name).source
            assert "TODO" not in source
            assert len(source) > 30, name


def test_the_documents_limits_are_those_of_the_file() -> None:
    limits = load_thresholds()
    section = DOCUMENT.read_text("utf-8").partition("## What is checked in every result")[2].partition("\n## ")[0]
    described = {row.split("`")[1]: row for row in section.splitlines()[::-1] if row.startswith("| `")}
    assert set(described) == set(get_args(CheckName))
    for name, limit in ((name, getattr(limits, name)) for name in type(limits).model_fields):
        if not isinstance(limit, Threshold):
            continue
        check = _CHECK_OF.get(name, name)
        assert re.search(rf"(?<![\d.]){re.escape(f'{limit.limit:g}')}(?![\d.]*\d)", described[check]), (name, check)
    for name in ("silence", "joins", "jumps"):
        assert f"| `{name}` | {getattr(limits, name).limit:g} |" in section
