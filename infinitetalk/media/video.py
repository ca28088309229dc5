"""Source videos: the frame that is on screen at a time, cropped and resized by ffmpeg on its way here."""

import re
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from infinitetalk.errors import MediaUnreadable, TooLarge
from infinitetalk.media.container import is_cut_off
from infinitetalk.media.ffmpeg import decode, open_input, probe, truncated
from infinitetalk.shapes import FPS

# Players take untagged video of at least this height for BT.709, and smaller video for BT.601.
_HD_HEIGHT = 720
# Eleven hours at 25 frames a second. The limit ends the listing of a file made of nothing but tiny frames.
MAX_FRAMES = 1_000_000
MAX_FPS = 1000  # slow motion passes; all frames of a second are decoded even if only one of them is shown
MIN_SIDE = 16
MAX_ASPECT = 20  # long side to short side


@dataclass(frozen=True)
class SourceVideo:
    """A video as 25 frames a second, whatever its own frame rate. Nothing of it is kept in memory.

    Frame `index` is what is on screen at index / 25 s: the last stored frame that has begun by then. Before the first
    stored frame it is the first one, and past the end the last one.
    """

    path: Path
    field: str
    size: tuple[int, int]  # (width, height) of the frames given out
    source_size: tuple[int, int]  # (width, height) as displayed: upright, square pixels
    duration_s: float
    last_frame_s: float  # when the last stored frame begins
    color_matrix: str  # ffmpeg's name of the matrix from YUV, or auto

    is_still = False  # its frames differ from window to window

    @classmethod
    def open(cls, path: Path, field: str, width: int, height: int) -> "SourceVideo":
        """Look through a video whose frames will be fitted to width x height.

        A container without an exact index is copied, without decoding, into one that has it, beside `path`.

        Args:
            field: the job's field that named the file, for errors.

        Raises:
            MediaUnreadable: the file has no frames, or is damaged, truncated or HDR.
            TooLarge: its frames are too large or too many.
        """
        info = probe(path, field)
        if not info.has_video:
            raise MediaUnreadable(f"{field}: the file has no video; send one that shows a person.")
        if info.hdr:
            raise MediaUnreadable(
                f"{field}: the video is HDR ({info.hdr}), whose colours are not converted; export it as SDR (BT.709)."
            )
        if is_cut_off(path):
            raise truncated(field)
        if not info.has_seek_index:
            indexed = path.with_name(f"{path.name}.mkv")
            copy = ["-map", "0:V:0", "-c", "copy", "-copyinkf", "-f", "matroska", f"file:{indexed}"]
            decode(field, *open_input(path, "-fflags", "+genpts"), *copy)
            path = indexed
        last_frame_s, duration_s = _times(path, field)
        return cls(
            path=path,
            field=field,
            size=(width, height),
            source_size=_displayed_size(path, field),
            duration_s=duration_s,
            last_frame_s=last_frame_s,
            color_matrix="bt709" if not info.has_color_matrix and info.height >= _HD_HEIGHT else "auto",
        )

    def frame(self, index: int) -> NDArray[np.uint8]:
        """The frame at index / 25 s: (height, width, 3) uint8 RGB."""
        frame: NDArray[np.uint8] = self.clip(index, 1)[0]
        return frame

    def clip(self, start: int, n_frames: int) -> NDArray[np.uint8]:
        """The frames from start / 25 s on: (n_frames, height, width, 3) uint8 RGB."""
        width, height = self.size
        scale = max(width / self.source_size[0], height / self.source_size[1])
        cover = [max(side, round(own * scale)) for side, own in zip(self.size, self.source_size, strict=True)]
        # The last frame is on screen from its index on; there is nothing to seek beyond it.
        first_s = min(start, ceil(self.last_frame_s * FPS)) / FPS
        filters = [
            "tpad=stop=-1:stop_mode=clone",
            f"fps={FPS}:start_time={first_s:.6f}:round=up",
            f"scale={cover[0]}:{cover[1]}:flags=lanczos+accurate_rnd+full_chroma_int:in_color_matrix={self.color_matrix}",
            "format=rgb24",
            f"crop={width}:{height}",
        ]
        # Decoding starts at the keyframe before, and the file's own clock is kept: a frame that began long before
        # first_s must reach the fps filter with its time. Accurate seeking would drop it.
        seek = ["-noaccurate_seek", "-copyts", "-start_at_zero", "-ss", f"{min(first_s, self.last_frame_s):.6f}"]
        take = ["-map", "0:V:0", "-frames:v", str(n_frames), "-vf", ",".join(filters), "-fps_mode", "passthrough"]
        data = decode(self.field, *open_input(self.path, *seek), *take, "-f", "rawvideo", "-").data
        frames = np.frombuffer(bytearray(data), np.uint8)
        if frames.size != n_frames * height * width * 3:
            raise MediaUnreadable(f"{self.field}: the video's frames cannot be decoded; export it again.")
        return frames.reshape(n_frames, height, width, 3)


def _times(path: Path, field: str) -> tuple[float, float]:
    """When the last frame begins and ends, in seconds, from the time stamps of all frames, without decoding."""
    listing = ["-map", "0:V:0", "-c", "copy", "-copyinkf", "-frames:v", str(MAX_FRAMES + 1), "-f", "framecrc", "-"]
    text = decode(field, *open_input(path), *listing).data.decode()
    tick = re.search(r"^#tb 0: (\d+)/(\d+)$", text, re.MULTILINE)
    stamps = re.findall(r"^0, +-?\d+, +(\d+), +(\d+),", text, re.MULTILINE)  # pts and duration
    if tick is None or not stamps:
        raise MediaUnreadable(f"{field}: the video has no frames; export it again and upload it again.")
    tick_s = int(tick[1]) / int(tick[2])
    begin_s, length_s = np.array(stamps, np.float64).T * tick_s
    in_order_s = np.sort(begin_s)
    if len(begin_s) > MAX_FRAMES or (in_order_s[MAX_FPS:] - in_order_s[:-MAX_FPS] < 1).any():
        raise TooLarge(
            f"{field}: the video has more than {MAX_FRAMES} frames, or than {MAX_FPS} in one second; "
            "export it again, shorter and at 25 frames a second."
        )
    return float(begin_s.max()), float((begin_s + length_s).max())


def _displayed_size(path: Path, field: str) -> tuple[int, int]:
    """(width, height) of the first frame, turned upright and with square pixels. Decodes that frame."""
    take = ["-map", "0:V:0", "-frames:v", "1", "-vf", "showinfo", "-f", "null", "-"]
    log = decode(field, *open_input(path), *take, log_level="info").log
    shown = re.search(r"^\[Parsed_showinfo.* sar:(\d+)/(\d+) s:(\d+)x(\d+) ", log, re.MULTILINE)
    if shown is None:
        raise MediaUnreadable(f"{field}: the video's frames cannot be decoded; export it again.")
    wide, high, width, height = map(int, shown.groups())
    width = round(width * wide / high) if wide and high else width  # 0: not known, taken as square
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_ASPECT * min(width, height):
        raise MediaUnreadable(
            f"{field}: the video shows {width}x{height} pixels; at least {MIN_SIDE}x{MIN_SIDE} are needed, and no side "
            f"may be more than {MAX_ASPECT} times as long as the other."
        )
    return width, height
