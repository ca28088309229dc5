"""A finished video of our own, read back from its file: its size, and frame after frame."""

import subprocess
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from infinitetalk.media.child import check_ended, limit
from infinitetalk.media.encode import BT709, Colors
from infinitetalk.media.ffmpeg import FfmpegError, command, run
from infinitetalk.media.pipe import Pipe

TIME_LIMIT_S = 60.0  # for one frame
_MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}  # ITU-T H.273

Frame = NDArray[np.uint8]


def read_frames(
    video: Path, size: tuple[int, int], colors: Colors = BT709, check: Callable[[], object] = check_ended
) -> Generator[Frame]:
    """All frames that a file holds, each (height, width, 3) uint8 RGB; each pixel is the mean of what it covers.

    A program decodes them, and no more than one is in memory.

    Args:
        size: (width, height) of the frames.
        colors: what the video's Y, U and V mean.
        check: asked while a frame is waited for, and before each; what it raises ends the reading.

    Raises:
        FfmpegError: the file cannot be decoded, or takes too long.
    """
    width, height = size
    matrix = _MATRICES.get(colors.meant, "auto")
    filters = f"scale={width}:{height}:flags=area+accurate_rnd+full_chroma_int:in_color_matrix={matrix},format=rgb24"
    arguments = ["-i", f"file:{video}", "-map", "0:v:0", "-vf", filters, "-fps_mode", "passthrough"]
    process = subprocess.Popen(
        command(*arguments, "-f", "rawvideo", "pipe:1"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={},
        bufsize=0,
    )
    with process:
        limit(process)
        try:
            pipe = Pipe(process, check, TIME_LIMIT_S, _failure)
            frame = np.empty((height, width, 3), np.uint8)
            while pipe.fill_or_end(frame.reshape(-1).data):
                yield frame
                check()
                frame = np.empty_like(frame)
            if process.wait(TIME_LIMIT_S) != 0:
                raise _failure(False)
        finally:
            process.kill()


@dataclass(frozen=True)
class Shape:
    """How a player shows a file.

    Args:
        size: (width, height) in square pixels.
        is_turned: whether the file says that its frames are to be turned or mirrored.
    """

    size: tuple[int, int]
    is_turned: bool


def read_shape(video: Path, at_s: float) -> Shape:
    """How a player shows a file, by its key frame before a time.

    Raises:
        FfmpegError: the file cannot be decoded there.
    """
    seek = ["-skip_frame", "nokey", "-noaccurate_seek", "-ss", f"{at_s:.3f}", "-i", f"file:{video}"]
    frame = ["-map", "0:v:0", "-frames:v", "1", "-fps_mode", "passthrough"]
    one = [*frame, "-pix_fmt", "yuv444p", "-f", "yuv4mpegpipe", "-"]
    header, _, shown = run(*seek, *one).partition(b"\n")
    if not shown:
        raise FfmpegError("the file holds no frame there")
    said = {word[:1]: word[1:] for word in header.decode().split()[1:]}  # W96 H64 A1:1
    across, down = map(int, said.get("A", "1:1").split(":"))
    width = round(int(said["W"]) * across / down) if across and down else int(said["W"])
    stored = run("-noautorotate", *seek, *one).partition(b"\n")[2]
    return Shape((width, int(said["H"])), stored != shown)


def _failure(is_slow: bool) -> FfmpegError:
    return FfmpegError("a frame takes too long" if is_slow else "the file cannot be decoded to its end")
