"""The finished video: frames go to ffmpeg as they come, and out comes an H.264 mp4 with its sound."""

import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np
from numpy.typing import NDArray

from infinitetalk.errors import Internal
from infinitetalk.media.ffmpeg import TIME_LIMIT_S, FfmpegError, command, log_tail
from infinitetalk.shapes import FPS

# x264 divides each frame among its threads, so their number is part of the result: same frames, same bytes.
_THREADS = 4
_FAILED = "the video could not be encoded; try again."


class VideoWriter:
    """Writes frames to an mp4 file: H.264, yuv420p, BT.709, index at the front.

        with VideoWriter(path, 480, 848, soundtrack=sound) as writer:
            writer.write(frames)

    The file appears under its name when the block has ended well; after an exception nothing is left.
    imageio_ffmpeg.write_frames does not do here: it drops ffmpeg's log and exit status.
    """

    def __init__(self, path: Path, width: int, height: int, fps: int = FPS, soundtrack: Path | None = None) -> None:
        """soundtrack: an AAC file, as audio.write_soundtrack makes it; muxed as it is."""
        self._path = path
        self._part = path.with_name(f"{path.name}.part")
        self._frame_shape = (height, width, 3)
        self._frames_written = 0
        frames = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "pipe:0"]
        sound = ["-i", f"file:{soundtrack}", "-map", "0:v", "-map", "1:a", "-c:a", "copy"] if soundtrack else []
        # Matrix and range are converted to, primaries and transfer only named: sRGB's are close to BT.709's.
        convert = "scale=out_color_matrix=bt709:out_range=tv:flags=lanczos+accurate_rnd,format=yuv420p"
        name = "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"
        self._command = command(
            *frames,
            *sound,
            *["-vf", f"{convert},{name}", "-c:v", "libx264", "-preset", "medium", "-crf", "18"],
            *["-threads", str(_THREADS), "-flags", "+bitexact", "-fflags", "+bitexact", "-map_metadata", "-1"],
            *["-movflags", "+faststart", "-f", "mp4", f"file:{self._part}"],
        )

    def __enter__(self) -> Self:
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._log
        )
        return self

    def write(self, frames: NDArray[np.uint8]) -> None:
        """Append frames: (n, height, width, 3) uint8 RGB. Raises Internal where ffmpeg has given up."""
        if frames.dtype != np.uint8 or frames.shape[1:] != self._frame_shape:
            raise ValueError(f"frames must be uint8 (n, {self._frame_shape}), not {frames.dtype} {frames.shape}")
        assert self._process.stdin is not None
        try:
            for frame in frames:
                self._process.stdin.write(np.ascontiguousarray(frame).data)
        except BrokenPipeError:
            self._process.wait(TIME_LIMIT_S)
            raise Internal(_FAILED) from self._reason()
        self._frames_written += len(frames)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        try:
            if kind is None:
                self._finish(self._process.stdin)
        finally:
            self._process.kill()
            self._process.wait()
            with suppress(BrokenPipeError):
                self._process.stdin.close()
            self._log.close()
            self._part.unlink(missing_ok=True)

    def _finish(self, stdin: IO[bytes]) -> None:
        with suppress(BrokenPipeError):  # its exit status tells more
            stdin.close()
        try:
            status = self._process.wait(TIME_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise Internal(_FAILED) from self._reason()
        if status != 0 or self._frames_written == 0:
            raise Internal(_FAILED) from self._reason()
        self._part.replace(self._path)

    def _reason(self) -> FfmpegError:
        return FfmpegError(f"exit status {self._process.returncode}: {log_tail(self._log)}")
