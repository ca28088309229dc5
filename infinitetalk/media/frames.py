"""A stranger's video, surveyed and decoded: the program behind `video.SourceVideo`."""

import dataclasses
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av import VideoFrame
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream
from numpy.typing import NDArray

from infinitetalk.errors import Internal, MediaUnreadable, TooLarge
from infinitetalk.media.decoding import ORDER_ONLY, Shown, check_pixels, decoded, decoded_from, opened, shown_one_by_one
from infinitetalk.media.fitting import Fitter, shown_size
from infinitetalk.media.program import Answer, reply
from infinitetalk.media.scenes import THUMBNAIL, find_cuts
from infinitetalk.media.stream import damaged, describe, first_video, open_media, tick_s, truncated
from infinitetalk.media.tables import is_cut_off
from infinitetalk.shapes import FPS, crop_of

# Eleven hours at 25 frames a second; ends the listing of a file made of nothing but tiny frames.
MAX_FRAMES = 1_000_000
MAX_FPS = 1000  # slow motion passes; all frames of a second are decoded even if only one of them is shown
MIN_SIDE = 16
MAX_ASPECT = 20  # long side to short side
_RATE_TOLERANCE = 0.005  # times stored in milliseconds


@dataclass
class _Listing:
    """The time stamps of all frames, in ticks, and where the key frames are; nothing is decoded."""

    begins: list[int] = dataclasses.field(default_factory=list)
    lengths: list[int] = dataclasses.field(default_factory=list)
    longest_group: int = 0  # frames from one key frame to the next
    _group: int = 0

    def add(self, begin: int, length: int, is_key: bool) -> None:
        self.begins.append(begin)
        self.lengths.append(length)
        self._group = 1 if is_key else self._group + 1
        self.longest_group = max(self.longest_group, self._group)


def survey(path: Path, field: str) -> Answer:
    """Look through a video: its time stamps, its size, and what finding a frame in it takes.

    Raises MediaUnreadable where the file has no frames, is damaged, truncated or HDR, TooLarge where its frames are,
    or too many.
    """
    with open_media(path, field) as container:
        stream = first_video(container)
        info = describe(container)
        if stream is None:
            raise MediaUnreadable(f"{field}: the file has no video; send one that shows a person.")
        check_pixels(field, info.width, info.height)
        if info.hdr:
            raise MediaUnreadable(
                f"{field}: the video is HDR ({info.hdr}), whose colours are not converted; export it as SDR (BT.709)."
            )
        if is_cut_off(path):
            raise truncated(field)
        unit_s = tick_s(stream)
        zero_s = round(Fraction(container.start_time or 0, av.time_base) / unit_s) * unit_s
        listing = _list_frames(container, stream, field)
    if not listing.begins:
        raise MediaUnreadable(f"{field}: the video has no frames; export it again and upload it again.")
    begins_s = np.sort(listing.begins) * float(unit_s) - float(zero_s)
    ends_s = (np.array(listing.begins) + listing.lengths) * float(unit_s) - float(zero_s)
    if len(begins_s) > MAX_FRAMES or (begins_s[MAX_FPS:] - begins_s[:-MAX_FPS] < 1).any():
        raise TooLarge(
            f"{field}: the video has more than {MAX_FRAMES} frames, or than {MAX_FPS} in one second; "
            "export it again, shorter and at 25 frames a second."
        )
    with open_media(path, field) as container:
        stream = opened(container)
        first = next((frame for frame, _ in decoded(container, stream, field)), None)
        if first is None:
            raise MediaUnreadable(f"{field}: the video's frames cannot be decoded; export it again.")
        rate = _rate((stream.base_rate, stream.average_rate), begins_s)
        aspect = stream.sample_aspect_ratio or Fraction(1)  # square where it is not known
        source_size = shown_size(first, aspect)
    _check_shown(field, *source_size)
    landed_s = _landing_s(path, field, zero_s, Fraction(begins_s[-1]))
    group = max(listing.longest_group, int((begins_s >= landed_s).sum()))
    return Answer(
        {
            "zero_s": str(zero_s),
            "aspect": str(aspect),
            "rate": str(rate),
            "source_size": source_size,
            "duration_s": float(ends_s.max()),
            "last_frame_s": float(begins_s[-1]),
            "group_pixels": group * first.width * first.height,
        }
    )


def _rate(said: Iterable[Fraction | None], begins_s: NDArray[np.float64]) -> Fraction:
    """Frames a second on average.

    Args:
        said: what the file says it is; counts if that is what its time stamps come to.
        begins_s: when the frames begin.
    """
    if len(begins_s) < 2 or begins_s[-1] <= begins_s[0]:
        return Fraction(FPS)
    measured = (len(begins_s) - 1) / float(begins_s[-1] - begins_s[0])
    for stated in said:
        if stated and abs(stated / measured - 1) < _RATE_TOLERANCE:
            return stated
    return Fraction(measured).limit_denominator(1001)


def _landing_s(path: Path, field: str, zero_s: Fraction, last_s: Fraction) -> float:
    """The frame from which decoding has to start to reach the last one."""
    for _, begin_s in decoded_from(path, field, zero_s, last_s):
        return float(begin_s)
    return 0.0


def _list_frames(container: InputContainer, stream: VideoStream, field: str) -> _Listing:
    """Read all packets of a video. Raises MediaUnreadable where the reader meets damage."""
    listing = _Listing()
    usual = round(1 / (stream.average_rate * tick_s(stream))) if stream.average_rate else 0
    is_corrupt = False
    try:
        for packet in container.demux(stream):
            if not packet.size:
                continue
            stamp = packet.dts if packet.pts is None or container.format.name in ORDER_ONLY else packet.pts
            if stamp is None and not listing.begins:
                raise MediaUnreadable(f"{field}: the video's frames have no time stamps; export it again.")
            if stamp is None:
                stamp = listing.begins[-1] + listing.lengths[-1]
            listing.add(stamp, packet.duration or usual, packet.is_keyframe)
            is_corrupt = packet.is_corrupt
            if len(listing.begins) > MAX_FRAMES:
                break
    except FFmpegError as error:
        raise damaged(field) from error
    if is_corrupt and container.format.name != "avi":  # whose lengths is_cut_off judges
        raise truncated(field)
    return listing


def clip(path: Path, field: str, zero_s: Fraction, start: int, n_frames: int, fitter: Fitter) -> bytes:
    """The frames on screen at start / 25 s and so on: (n_frames, height, width, 3) uint8 RGB, as bytes.

    Args:
        zero_s: the time stamp at which the video begins.

    Raises MediaUnreadable where nothing can be decoded.
    """
    shown = Shown(fitter.fit, start, n_frames)
    for frame, begin_s in decoded_from(path, field, zero_s, Fraction(start, FPS)):
        shown.add(frame, begin_s)
        if shown.is_done:
            break
    shown.finish()
    if not shown.is_done:
        raise MediaUnreadable(f"{field}: the video's frames cannot be decoded; export it again.")
    return b"".join(shown.take())


def _check_shown(field: str, width: int, height: int) -> None:
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_ASPECT * min(width, height):
        raise MediaUnreadable(
            f"{field}: the video shows {width}x{height} pixels; at least {MIN_SIDE}x{MIN_SIDE} are needed, and no side "
            f"may be more than {MAX_ASPECT} times as long as the other."
        )


def cuts(path: Path, field: str, zero_s: Fraction, n_frames: int, aspect: Fraction) -> Answer:
    """The frames, of those that `clip` gives for 0 and so on, with which a new scene begins."""
    width, height = THUMBNAIL
    shown = Shown(Fitter(width, height, aspect).fit, 0, n_frames)
    thumbnails = np.zeros((n_frames, height, width, 3), np.uint8)
    for index, pixels in enumerate(shown_one_by_one(shown, decoded_from(path, field, zero_s, Fraction(0)))):
        thumbnails[index] = np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
    return Answer({"cuts": find_cuts(thumbnails)})


def main(arguments: list[str]) -> None:
    """The program: `survey PATH FIELD`; `clip PATH FIELD ZERO ASPECT CROP START FRAMES WIDTH HEIGHT`; `cuts` likewise;
    `prepare` likewise, and TARGET.
    """
    task, path, field, *others = arguments

    def work() -> Answer:
        try:
            if task == "survey":
                return survey(Path(path), field)
            zero_s, aspect, crop, *numbers = others
            start, n_frames, width, height = map(int, numbers[:4])
            fitter = Fitter(width, height, Fraction(aspect), crop_of(crop))
            if task == "clip":
                return Answer({}, clip(Path(path), field, Fraction(zero_s), start, n_frames, fitter))
            if task == "cuts":
                return cuts(Path(path), field, Fraction(zero_s), n_frames, Fraction(aspect))
            return prepare(Path(path), field, Fraction(zero_s), n_frames, fitter, Path(numbers[4]))
        except OSError as error:
            if isinstance(error, FFmpegError):
                raise damaged(field) from error
            raise Internal(f"{field}: the worker has no room for a copy of the video; try again.") from error

    reply(work)


def prepare(path: Path, field: str, zero_s: Fraction, n_frames: int, fitter: Fitter, target: Path) -> Answer:
    """Write the first frames, as `clip` gives them, to a file whose every second begins with a key frame, lossless.

    For videos whose key frames are so far apart that each clip would take minutes.
    """
    width, height = fitter.size
    shown = Shown(fitter.fit, 0, n_frames)
    with av.open(str(target), "w", format="matroska") as copy:
        stream = copy.add_stream("libx264rgb", rate=FPS, options={"qp": "0", "preset": "ultrafast", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = width, height, "rgb24"
        stream.gop_size = FPS
        for index, pixels in enumerate(shown_one_by_one(shown, decoded_from(path, field, zero_s, Fraction(0)))):
            frame = VideoFrame.from_ndarray(np.frombuffer(pixels, np.uint8).reshape(height, width, 3), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            copy.mux(stream.encode(frame))
        copy.mux(stream.encode(None))
    if not shown.is_done:
        raise MediaUnreadable(f"{field}: the video's frames cannot be decoded; export it again.")
    return Answer({})


if __name__ == "__main__":
    main(sys.argv[1:])
