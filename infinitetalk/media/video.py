"""Source videos: the frame on screen at a time, cropped and resized by a program that is bounded."""

from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from infinitetalk.contract.request import Extend
from infinitetalk.errors import MediaUnreadable
from infinitetalk.media.probe import ask_about
from infinitetalk.media.program import ask
from infinitetalk.planning.extension import Run, source_runs
from infinitetalk.shapes import CENTRE, FPS, Crop, whole_size

# Pixels from one key frame to the next that are decoded for a single frame: 16 s of 1080p at 30 frames a second, which
# two cores decode in a few seconds and the slowest formats within the time limit. Beyond, a copy is made once.
MAX_GROUP_PIXELS = 1_000_000_000
COPY_TIME_LIMIT_S = 300.0
CUTS_TIME_LIMIT_S = 300.0


@dataclass(frozen=True)
class SourceVideo:
    """A video as 25 frames a second, whatever its own frame rate. Nothing of it is kept in memory.

    Frame `index` is what is on screen at index / 25 s: the last stored frame that has begun by then. Before
    the first stored frame it is the first, past the end what `extend` says. Frames that are marked interlaced are
    deinterlaced; each is cropped and resized by its own size.
    """

    path: Path
    field: str
    size: tuple[int, int]  # (width, height) of the frames given out
    source_size: tuple[int, int]  # (width, height) as displayed: upright, square pixels
    duration_s: float
    last_frame_s: float  # when the last stored frame begins
    zero_s: str  # the time stamp, in seconds, at which the video begins; a fraction
    aspect: str  # width to height of its pixels as stored; a fraction
    group_pixels: int = 0  # pixels from one key frame to the next, at most
    crop: Crop = CENTRE  # where the part that is given out lies, as in shapes.cover_crop
    rate: str = str(FPS)  # its own frames a second, on average; a fraction
    extend: Extend = "hold"  # what is shown past the end
    original: "SourceVideo | None" = None  # the same at its own size and rate, where this is a copy

    is_still = False  # its frames differ from window to window

    @classmethod
    def open(
        cls,
        path: Path,
        field: str,
        width: int,
        height: int,
        needed_s: float | None = None,
        folder: Path | None = None,
        extend: Extend = "hold",
    ) -> "SourceVideo":
        """Look through a video whose frames will be fitted to width x height, and make it `ready`.

        Raises as `look` and `ready`.
        """
        return cls.look(path, field, width, height, extend).ready(needed_s=needed_s, folder=folder)

    @classmethod
    def look(
        cls, path: Path, field: str, width: int | None = None, height: int | None = None, extend: Extend = "hold"
    ) -> "SourceVideo":
        """Look through a video whose frames will be fitted to width x height.

        Args:
            field: the job's field that named the file, for errors.
            width, height: in pixels; the video's own if not given.
            extend: what is shown past the end.

        Raises MediaUnreadable where the file has no frames, is damaged, truncated or HDR; TooLarge where its frames
        are, or too many.
        """
        facts = ask_about(field, "frames", "survey", str(path), field).facts
        return cls(
            path=path,
            field=field,
            size=(width or facts["source_size"][0], height or facts["source_size"][1]),
            source_size=tuple(facts["source_size"]),
            duration_s=facts["duration_s"],
            last_frame_s=facts["last_frame_s"],
            zero_s=facts["zero_s"],
            aspect=facts["aspect"],
            group_pixels=facts["group_pixels"],
            rate=facts["rate"],
            extend=extend,
        )

    def ready(self, crop: Crop = CENTRE, needed_s: float | None = None, folder: Path | None = None) -> "SourceVideo":
        """The video of which a part is given out, in a state in which every frame is quickly found.

        A video whose key frames are too far apart for its size, or cannot be found, is decoded once, into a copy of the
        frames that are needed.

        Args:
            crop: where the part lies, as in `shapes.cover_crop`.
            needed_s: no frame later than this will be asked for; the whole video if not given.
            folder: where the copy is left; beside the video if not given.

        Raises MediaUnreadable where the video cannot be decoded in time.
        """
        video = replace(self, crop=crop)
        if self.group_pixels > MAX_GROUP_PIXELS:
            return video._prepared(needed_s, (folder or self.path.parent) / f"{self.path.name}.frames.mkv")
        return video

    def whole(self, longest: int, index: int = 0) -> NDArray[np.uint8]:
        """The whole frame at index / 25 s: (height, width, 3) RGB, whose longer side has `longest` pixels at most."""
        video = self.original or self
        return replace(video, size=whole_size(self.source_size, longest), crop=CENTRE).frame(index)

    @property
    def n_frames(self) -> int:
        """How many frames of the clip it lasts before it is extended."""
        return max(1, round(self.duration_s * FPS))

    def frame(self, index: int) -> NDArray[np.uint8]:
        """The frame at index / 25 s: (height, width, 3) uint8 RGB."""
        frame: NDArray[np.uint8] = self.clip(index, 1)[0]
        return frame

    def clip(self, start: int, n_frames: int) -> NDArray[np.uint8]:
        """The frames from start / 25 s on: (n_frames, height, width, 3) uint8 RGB."""
        if self.extend == "hold" or start + n_frames <= self.n_frames:
            return self._stored(start, n_frames)
        return np.concatenate([self._run(run) for run in source_runs(start, n_frames, self.n_frames, self.extend)])

    def cuts(self, n_frames: int) -> tuple[int, ...] | None:
        """The frames before `n_frames` with which a new scene begins; None where decoding takes too long.

        Raises MediaUnreadable where the video cannot be decoded.
        """
        too_slow = MediaUnreadable(f"{self.field}: cuts were not found within {CUTS_TIME_LIMIT_S:g} s.")
        try:
            answer = ask(
                "frames",
                *("cuts", str(self.path), self.field, self.zero_s, self.aspect, "0", "0", str(n_frames), "0", "0"),
                time_limit_s=CUTS_TIME_LIMIT_S,
                too_slow=too_slow,
                crashed=MediaUnreadable(
                    f"{self.field}: the file is damaged or cannot be decoded; export it again and upload it again."
                ),
            )
        except MediaUnreadable as error:
            if error is too_slow:
                return None
            raise
        return tuple(answer.facts["cuts"])

    def _run(self, run: Run) -> NDArray[np.uint8]:
        frames = self._stored(run.lowest, run.length if run.step else 1)
        return frames[::-1] if run.step < 0 else np.repeat(frames, run.length // len(frames), axis=0)

    def _stored(self, start: int, n_frames: int) -> NDArray[np.uint8]:
        """The frames from start / 25 s on; past the end the last one."""
        width, height = self.size
        # At its index and later, the last frame is on screen; there is nothing to seek beyond it.
        start = min(start, max(ceil(self.last_frame_s * FPS), 0))
        numbers = map(str, (start, n_frames, width, height))
        data = ask_about(
            self.field, "frames", "clip", str(self.path), self.field, self.zero_s, self.aspect, str(self.crop), *numbers
        ).data
        return np.frombuffer(bytearray(data), np.uint8).reshape(n_frames, height, width, 3)

    def _prepared(self, needed_s: float | None, target: Path) -> "SourceVideo":
        """The same frames from a copy in which they are quickly found."""
        width, height = self.size
        length_s = min(self.last_frame_s, self.last_frame_s if needed_s is None else needed_s)
        n_frames = max(ceil(length_s * FPS), 0) + 1
        numbers = map(str, (0, n_frames, width, height))
        too_slow = MediaUnreadable(
            f"{self.field}: the video has too few key frames for its size and could not be decoded within "
            f"{COPY_TIME_LIMIT_S:g} s; export it again with a key frame every second, shorter or smaller."
        )
        ask(
            "frames",
            *("prepare", str(self.path), self.field, self.zero_s, self.aspect, str(self.crop), *numbers, str(target)),
            time_limit_s=COPY_TIME_LIMIT_S,
            too_slow=too_slow,
            crashed=too_slow,
        )
        # The copy holds the part alone, in its size.
        last_s = (n_frames - 1) / FPS
        copy = replace(self, path=target, zero_s="0", aspect="1", last_frame_s=last_s)
        return replace(copy, group_pixels=0, crop=CENTRE, original=self)
