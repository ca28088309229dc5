"""A finished video's file looked at, within a time."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import get_args

from infinitetalk.checking.expected import Expected
from infinitetalk.checking.findings import (
    NO_TIME,
    frames_check,
    look_checks,
    not_measured,
    picture_checks,
    size_check,
    sound_checks,
)
from infinitetalk.checking.frames import Frame
from infinitetalk.checking.lip_findings import lip_checks, lip_names
from infinitetalk.checking.mouths import Follower, lips
from infinitetalk.checking.pictures import Look, Seen, looks
from infinitetalk.checking.thresholds import Thresholds, load_thresholds
from infinitetalk.contract.result import LOOK_AT_IT, Check, CheckName, Checks
from infinitetalk.errors import Cancelled, TimedOut
from infinitetalk.faces.finder import FaceFinder
from infinitetalk.faces.networks import MISSING
from infinitetalk.logs import log_event, places
from infinitetalk.media.audio import heard_in
from infinitetalk.media.child import TooSlow
from infinitetalk.media.ffmpeg import FfmpegError
from infinitetalk.media.finished import read_frames, read_shape
from infinitetalk.shapes import whole_size

LONGEST_PX = 640  # of the frames that are looked at
# Shares of the time: by when the frames would pass if faces were left now, and by when they must have. The rest is for
# what is measured then.
_FOR_FACES, _FOR_FRAMES = 0.82, 0.85
_WARM_UP = 12  # frames
_OF_PICTURES: tuple[CheckName, ...] = ("blank", "frozen", "repeated", "joins", "jumps")
_OF_LOOKS: tuple[CheckName, ...] = ("color", "sharpness")

logger = logging.getLogger(__name__)


class _Late(Exception):
    """The time is over."""


class _Clock:
    """Says how much of the time is taken."""

    def __init__(self, limit_s: float) -> None:
        self._started_s, self.limit_s = time.monotonic(), limit_s

    @property
    def taken_s(self) -> float:
        return time.monotonic() - self._started_s

    def check(self) -> None:
        """Raise _Late where the time is over."""
        if self.taken_s > self.limit_s:
            raise _Late


class _Timed:
    """An iterator that knows how long its frames take."""

    def __init__(self, frames: Iterator[Frame]) -> None:
        self._frames, self._count, self._seconds = frames, 0, 0.0

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        started_s = time.monotonic()
        try:
            frame = next(self._frames)
        finally:
            if self._count >= _WARM_UP:  # the first ones wait for the program to start
                self._seconds += time.monotonic() - started_s
        self._count += 1
        return frame

    def left_s(self, n_frames: int) -> float:
        """How long the frames that are left of `n_frames` will take; 0 where it is not known yet."""
        measured = self._count - _WARM_UP
        return self._seconds / measured * (n_frames - self._count) if measured > 0 else 0.0


def check_video(video: Path, expected: Expected, finder: FaceFinder | None, limit_s: float) -> Checks:
    """Look at a finished file. What cannot be measured, or not in time, says so.

    What the decoder cannot read of the file is a finding. An error of the worker's own says nothing of the file: it is
    logged, and the check is not measured.

    Args:
        finder: what finds faces; None where that is not installed.
        limit_s: how long it may take.

    Raises:
        Cancelled: by the check of `media.child.ended_by`.
    """
    limits, clock = load_thresholds(), _Clock(limit_s)
    seen, size = Seen(), whole_size(expected.size, LONGEST_PX)
    follower = None if finder is None else Follower(expected, finder)
    details = _guarded(("size",), lambda: [_size(video, expected)])
    details += _guarded(("sound_length", "sound"), lambda: _sound(video, expected, limits))
    frames = read_frames(video, size, expected.colors)
    details += _guarded(("frames",), lambda: [_frames(frames, seen, follower, expected, clock)])
    if not seen.changes:
        details += [not_measured(name, "no frame can be decoded") for name in (*_OF_PICTURES, *_OF_LOOKS)]
    else:
        pictures = lambda: picture_checks(seen, expected, limits, lambda: clock.taken_s <= clock.limit_s)  # noqa: E731
        details += _guarded(_OF_PICTURES, pictures)
        measured = lambda: look_checks(_looks(seen, expected, size, clock), expected, limits)  # noqa: E731
        details += _guarded(_OF_LOOKS, measured)
    details += _guarded(lip_names(expected), lambda: _lips(follower, seen, expected))
    return _summary(details, expected, clock)


def nothing_measured(why: str) -> Checks:
    """The answer where nothing could be looked at."""
    return Checks(verdict="ok", details=[not_measured(name, why) for name in get_args(CheckName)], seconds=0.0)


def _size(video: Path, expected: Expected) -> Check:
    try:
        return size_check(read_shape(video, expected.duration_s / 2), expected)
    except FfmpegError as error:  # the frames are counted by themselves
        log_event(logger, logging.WARNING, "the finished video's size cannot be read", cause=places(error))
        return not_measured("size", "no frame can be decoded in the middle of the file")


def _sound(video: Path, expected: Expected, limits: Thresholds) -> Iterable[Check]:
    try:
        heard = heard_in(video, expected.sound_channel)
    except FfmpegError as error:
        if isinstance(error.__cause__, TooSlow):
            raise
        log_event(logger, logging.WARNING, "the finished video's sound cannot be decoded", cause=places(error))
        heard = None
    return sound_checks(heard, expected, limits)


def _frames(frames: Iterator[Frame], seen: Seen, follower: Follower | None, expected: Expected, clock: _Clock) -> Check:
    """Let all frames pass; those who follow faces are left behind where time is short."""
    timed = _Timed(seen.passing(frames, expected))
    limit_s = _FOR_FRAMES * clock.limit_s
    try:
        if follower is not None:
            _follow(follower, timed, expected, clock, _FOR_FACES * clock.limit_s)
        for _ in timed:
            if clock.taken_s > limit_s:
                raise _Late
    except FfmpegError as error:  # the frames before it say how far the file goes
        logger.warning("The finished video cannot be decoded to its end: %s", error)
    except (_Late, TimedOut):
        return not_measured("frames", f"only the first {expected.seconds(len(seen)):.0f} s were looked at in time")
    return frames_check(len(seen), expected)


def _follow(follower: Follower, timed: _Timed, expected: Expected, clock: _Clock, limit_s: float) -> None:
    """Follow faces as long as the frames that are left can pass in time. The frames pass where that fails, too."""
    try:
        for _ in follower.following(timed):
            if clock.taken_s + timed.left_s(expected.n_frames) > limit_s:
                break
    except (Cancelled, TimedOut, FfmpegError, _Late):  # of the frames themselves
        raise
    except Exception as error:
        follower.failure = error


def _looks(seen: Seen, expected: Expected, size: tuple[int, int], clock: _Clock) -> list[Look]:
    """As many as there is time for, at least one."""
    found = []
    for look in looks(seen, expected, size, load_thresholds().blank.limit):
        found.append(look)
        if clock.taken_s > clock.limit_s:
            break
    if not found:
        raise _Late
    return found


def _lips(follower: Follower | None, seen: Seen, expected: Expected) -> Iterable[Check]:
    names = lip_names(expected)
    if follower is None:
        return [not_measured(name, MISSING.rstrip("."), voice.name) for voice in expected.voices for name in names]
    if follower.failure is not None:
        raise follower.failure
    measured = [lips(mouth, speaker, expected) for speaker, mouth in enumerate(follower.mouths)]
    checks = list(lip_checks(measured, expected, load_thresholds()))
    taken = follower.n_frames
    if taken < len(seen):
        part = f"Over the first {expected.seconds(taken):.0f} s, since there was no time for more."
        checks = [check.model_copy(update={"note": f"{check.note} {part}" if check.note else part}) for check in checks]
    return checks


def _guarded(names: Sequence[CheckName], measure: Callable[[], Iterable[Check]]) -> list[Check]:
    """The checks that are measured. Where that fails, each of the names says why it is not."""
    done: list[Check] = []
    try:
        for check in measure():
            done.append(check)
        return done
    except Cancelled:
        raise
    except _Late:
        why = NO_TIME
    except TimedOut:
        why = "the job's time limit is near"
    except Exception as error:  # whatever it is, the video is finished and goes to its caller
        log_event(logger, logging.WARNING, "a check failed", checks=list(names), cause=places(error))
        why = "the check itself failed; the worker's log says where"
    known = {check.name for check in done}
    return [*done, *(not_measured(name, why) for name in names if name not in known)]


def _summary(details: Sequence[Check], expected: Expected, clock: _Clock) -> Checks:
    """All of it, with what to change in the job."""
    found = [check for check in details if check.outcome == LOOK_AT_IT]
    return Checks(
        verdict=LOOK_AT_IT if found else "ok",
        look_at=[check.note for check in found if check.note],
        retryable_with=retryable_with({check.name for check in found}, expected) or None,
        details=list(details),
        seconds=round(clock.taken_s, 3),
    )


def retryable_with(found: Iterable[CheckName], expected: Expected) -> dict[str, int | float | bool]:
    """The fields of the job that may help against what was found, with other values than the job's."""
    wanted: list[str] = []
    for name in found:
        wanted += _HELPS.get(name, ())
    return {field: value for field, value in expected.suggested.items() if field in wanted}


# A file that is cut off or has another sound comes out of the same job whole; everything else is the model's.
_HELPS: dict[CheckName, tuple[str, ...]] = {
    "blank": ("seed",),
    "frozen": ("seed", "audio_guidance"),
    "repeated": ("seed",),
    "joins": ("seed",),
    "jumps": ("seed",),
    "color": ("color_correction", "seed"),
    "sharpness": ("seed",),
    "lip_sync": ("audio_guidance", "isolate_vocals", "seed"),
    "other_voice": ("audio_guidance", "seed"),
    "silence": ("seed",),
}
