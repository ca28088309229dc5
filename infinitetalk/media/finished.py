"""A finished video of our own, read back from its file: frame after frame, and its sound."""

import subprocess
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from infinitetalk.media.child import check_ended, limit
from infinitetalk.media.encode import BT709, Colors
from infinitetalk.media.ffmpeg import FfmpegError, command
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


def _failure(is_slow: bool) -> FfmpegError:
    return FfmpegError("a frame takes too long" if is_slow else "the file cannot be decoded to its end")
