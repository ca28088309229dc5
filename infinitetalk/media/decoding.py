"""Frames of strangers' videos, decoded from any time on, and which of them is on screen when."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from math import ceil
from pathlib import Path

import numpy as np
from av import VideoFrame
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream
from numpy.typing import NDArray

from infinitetalk.errors import TooLarge
from infinitetalk.media.probe import MAX_VIDEO_PIXELS
from infinitetalk.media.stream import first_video, open_media, tick_s
from infinitetalk.shapes import FPS

Fit = Callable[[VideoFrame, VideoFrame | None, VideoFrame | None], NDArray[np.uint8]]

# A reader that knows the order of packets only: a frame's time is that of the packet which completed it.
ORDER_ONLY = ("avi",)
# Readers whose time stamps are right after seeking, too. Videos of others are decoded from their beginning.
_SEEKABLE = ("matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "avi", "mpegts", "flv", "asf")
# Seeking is tried from so long before a time, then from the beginning.
_SEEK_BACK_S = (0.0, 0.2, 2.0, 20.0)
_NEIGHBOUR_S = 0.2  # within it stands the frame before, which deinterlacing looks at


class Shown:
    """Takes frames in the order of their times, and gives the bytes of those that are on screen at each index."""

    def __init__(
        self, fit: Fit, start: int, n_frames: int, rate: Fraction = Fraction(FPS), phase: Fraction = Fraction(0)
    ) -> None:
        """Begin at an index.

        Args:
            fit: makes the pixels of a frame, given those before and after it.
            rate: indices a second.
            phase: index i stands for the time (i + phase) / rate.
        """
        self._fit = fit
        self._rate, self._phase = rate, phase
        self._next, self._stop = start, start + n_frames
        self._recent: deque[tuple[VideoFrame, Fraction]] = deque(maxlen=3)
        self._bytes: list[bytes] = []

    @property
    def is_done(self) -> bool:
        return self._next >= self._stop

    def add(self, frame: VideoFrame, begin_s: Fraction) -> None:
        """A frame, and when it begins; the one before is then on screen up to that time."""
        self._recent.append((frame, begin_s))
        if len(self._recent) > 1:
            self._show(-2, min(ceil(begin_s * self._rate - self._phase), self._stop))

    def finish(self) -> None:
        """No frame follows: the last one stays on screen to the end."""
        if self._recent:
            self._show(-1, self._stop)

    def take(self) -> list[bytes]:
        """The pixels of every index since the last call."""
        taken, self._bytes = self._bytes, []
        return taken

    def _show(self, which: int, until: int) -> None:
        """Put out a recent frame for each index before `until`."""
        if until <= self._next:
            return
        place = len(self._recent) + which
        before = self._recent[place - 1][0] if place > 0 else None
        after = self._recent[place + 1][0] if place + 1 < len(self._recent) else None
        pixels = self._fit(self._recent[place][0], before, after).tobytes()
        self._bytes += [pixels] * (until - self._next)
        self._next = until


def shown_one_by_one(shown: Shown, frames: Iterator[tuple[VideoFrame, Fraction]]) -> Iterator[bytes]:
    """The pixels of each index, from frames and the times when they begin. Fewer where nothing can be decoded."""
    for frame, begin_s in frames:
        shown.add(frame, begin_s)
        yield from shown.take()
        if shown.is_done:
            return
    shown.finish()
    yield from shown.take()


def opened(container: InputContainer) -> VideoStream:
    """The first video of a container that `frames.survey` has seen, ready to be decoded by two threads."""
    stream = first_video(container)
    assert stream is not None
    stream.thread_type = "AUTO"
    stream.codec_context.thread_count = 2
    return stream


def decoded_from(path: Path, field: str, zero_s: Fraction, from_s: Fraction) -> Iterator[tuple[VideoFrame, Fraction]]:
    """Frames and when they begin, from some frame before `from_s` on, if there is one.

    Decoding starts at a key frame. Where a reader lands behind the time or cannot seek, it is tried from further back.
    """
    for back_s in _SEEK_BACK_S:
        with open_media(path, field) as container:
            stream = opened(container)
            if back_s >= from_s or container.format.name not in _SEEKABLE:
                break
            with suppress(FFmpegError):
                container.seek(int((zero_s + from_s - back_s) / tick_s(stream)), stream=stream)
                frames = decoded(container, stream, field)
                for first, begin_s in frames:
                    if begin_s - zero_s > (from_s - _NEIGHBOUR_S if first.interlaced_frame else from_s):
                        break
                    yield first, begin_s - zero_s
                    yield from ((frame, begin_s - zero_s) for frame, begin_s in frames)
                    return
    with open_media(path, field) as container:
        yield from ((frame, begin_s - zero_s) for frame, begin_s in decoded(container, opened(container), field))


def decoded(container: InputContainer, stream: VideoStream, field: str) -> Iterator[tuple[VideoFrame, Fraction]]:
    """Frames and their time stamps in seconds, beginning with a key frame. What cannot be decoded is passed over.

    Raises TooLarge for a frame that is.
    """
    begin_s, is_begun = Fraction(0), False
    usual_s = 1 / stream.average_rate if stream.average_rate else Fraction(0)
    for packet in container.demux(stream):
        is_begun |= packet.is_keyframe
        if not is_begun:
            continue
        try:
            frames = packet.decode()
        except FFmpegError:
            continue
        for frame in frames:
            check_pixels(field, frame.width, frame.height)
            stamp = frame.dts if frame.pts is None or container.format.name in ORDER_ONLY else frame.pts
            begin_s = begin_s + usual_s if stamp is None else stamp * tick_s(stream)
            yield frame, begin_s


def check_pixels(field: str, width: int, height: int) -> None:
    """Raise TooLarge for frames of more pixels than are read."""
    if width * height > MAX_VIDEO_PIXELS:
        raise TooLarge(
            f"{field}: the video is {width}x{height}; at most {MAX_VIDEO_PIXELS} pixels a frame "
            "(8192x4608) are read, make it smaller."
        )
