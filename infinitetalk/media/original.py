"""A source video as it is: its own size, frame rate and colours, frame after frame.

A program decodes it (`own_frames`). Nothing but a few frames is in memory.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from infinitetalk.contract.request import Extend
from infinitetalk.errors import JobError, MediaUnreadable
from infinitetalk.media.child import limit
from infinitetalk.media.encode import Colors
from infinitetalk.media.pipe import Pipe
from infinitetalk.media.probe import ask_about
from infinitetalk.media.program import ERRORS, PROGRAM_ENV
from infinitetalk.media.video import SourceVideo
from infinitetalk.planning.extension import Run, runs_of, source_place
from infinitetalk.shapes import FPS

# A frame of the result shows what is on screen in the middle of its time, so that rounded time stamps move nothing.
PHASE = Fraction(1, 2)
MIN_RATE, MAX_RATE = 23, 61  # frames a second of the result
READ_TIME_LIMIT_S = 60.0  # for one frame
_BACKWARDS_BYTES = 200_000_000  # of frames that are decoded forwards and given out backwards

Frame = NDArray[np.uint8]
Check = Callable[[], object]


def result_rate(rate: Fraction) -> Fraction:
    """The frame rate of the result: the source's own, times or over the smallest number that brings it to 23 to 61.

    Faces that speak need some 25 frames a second. Beyond 60, players leave frames out.
    """
    if rate > MAX_RATE:
        return rate / ceil(rate / MAX_RATE)
    return rate * ceil(MIN_RATE / rate) if rate < MIN_RATE else rate


@dataclass(frozen=True)
class Original:
    """A source video at its own size and rate. Frame i is on screen at (i + 1/2) / rate.

    Args:
        size: (width, height), upright, with square pixels; even.
        rate: frames a second of the result.
        n_frames: how many it has before it is extended.
    """

    video: SourceVideo
    size: tuple[int, int]
    rate: Fraction
    n_frames: int
    colors: Colors

    @classmethod
    def of(cls, video: SourceVideo) -> "Original":
        """Look at a video's first frame. Raises MediaUnreadable where it cannot be decoded."""
        video = video.original or video
        facts = ask_about(video.field, "own_frames", "describe", *_place(video)).facts
        rate = result_rate(Fraction(video.rate))
        n_frames = max(1, ceil(Fraction(video.duration_s).limit_denominator(1_000_000) * rate - PHASE))
        size = facts.pop("size")
        return cls(video, (size[0], size[1]), rate, n_frames, Colors(**facts))

    @property
    def extend(self) -> Extend:
        """What is shown past the end."""
        return self.video.extend

    def frames_until(self, clip_frame: int) -> int:
        """How many of the result's frames are on screen before that frame of the clip at 25 a second."""
        return ceil(clip_frame * self.rate / FPS - PHASE)

    def clip_frame(self, index: int) -> int:
        """The clip's frame, at 25 a second, that is on screen together with that frame of the result."""
        return floor((index + PHASE) * FPS / self.rate)

    def stored_index(self, index: int) -> int:
        """The source's own frame that is shown at an index; past its end it goes on together with the clip."""
        if self.extend != "hold":
            place = source_place((index + PHASE) * FPS / self.rate, self.video.n_frames, self.extend)
            index = floor(place * self.rate / FPS)
        return min(index, self.n_frames - 1)

    def planes(self, start: int, n_frames: int, check: Check) -> Iterator[Frame]:
        """The result's frames from `start` on, extended, each as planes Y, U, V: (height * 3 / 2, width) uint8.

        Args:
            check: asked while a frame is waited for; what it raises ends the reading.
        """
        width, height = self.size
        at_once = max(1, _BACKWARDS_BYTES // (width * height * 3 // 2))
        for run in runs_of([self.stored_index(index) for index in range(start, start + n_frames)]):
            for part in _parts(run, at_once):
                frames = self._read("yuv", part.lowest, part.length, self.size, (height * 3 // 2, width), check)
                with closing(frames):
                    if part.step == 0:
                        yield from [next(frames)] * part.length
                    elif part.step > 0:
                        yield from frames
                    else:
                        yield from list(frames)[::-1]

    def pictures(self, n_frames: int, size: tuple[int, int], check: Check) -> Iterator[Frame]:
        """The first frames before extension as (height, width, 3) RGB, scaled to `size` (width, height)."""
        return self._read("rgb", 0, min(n_frames, self.n_frames), size, (size[1], size[0], 3), check)

    def _read(
        self, task: str, start: int, n_frames: int, size: tuple[int, int], shape: tuple[int, ...], check: Check
    ) -> Generator[Frame]:
        numbers = (self.rate, PHASE, start, n_frames, *size)
        program = [sys.executable, "-m", "infinitetalk.media.own_frames", task, *_place(self.video)]
        with subprocess.Popen(
            [*program, *map(str, numbers)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=PROGRAM_ENV,
            bufsize=0,
        ) as process:
            limit(process)
            try:
                pipe = Pipe(process, check, READ_TIME_LIMIT_S, self._failure)
                facts = json.loads(pipe.line())
                if "error" in facts:
                    raise ERRORS[facts["error"]](facts["message"])
                for _ in range(n_frames):
                    frame = np.empty(shape, np.uint8)
                    pipe.fill(frame.reshape(-1).data)
                    yield frame
            finally:
                process.kill()

    def _failure(self, is_slow: bool) -> JobError:
        what = "takes too long to be decoded" if is_slow else "cannot be decoded to its end"
        return MediaUnreadable(f"{self.video.field}: the video {what}; export it again in a common format, or smaller.")


def _place(video: SourceVideo) -> tuple[str, str, str, str]:
    return str(video.path), video.field, video.zero_s, video.aspect


def _parts(run: Run, at_once: int) -> Iterator[Run]:
    """A run in pieces, if it goes backwards: at most so many frames are in memory."""
    if run.step >= 0:
        yield run
        return
    for done in range(0, run.length, at_once):
        yield Run(run.start - done, min(at_once, run.length - done), -1)
