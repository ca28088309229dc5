"""The finished video: each window's frames become a lossless piece, and one run of the encoder reads the pieces.

There is one run, because a window that began with a key frame of its own would be seen to begin: the picture would
jump. The pieces are lossless, so that one made by an earlier process is as good as a new one: same frames, same bytes.
"""

import subprocess
import tempfile
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from infinitetalk.errors import Internal
from infinitetalk.media.child import limit, log_tail
from infinitetalk.media.ffmpeg import FfmpegError, command, run
from infinitetalk.shapes import FPS

TIME_LIMIT_S = 300.0  # for the frames of a window, and for completing the file
# x264 divides each frame among its threads, so the result depends on their number.
_THREADS = 4
_FAILED = "the video could not be encoded; try again."
_REPEATABLE = ("-flags", "+bitexact", "-fflags", "+bitexact", "-map_metadata", "-1", "-f", "mp4")


@dataclass(frozen=True)
class Colors:
    """What a video's Y, U and V mean, as numbers of ITU-T H.273; 2 is not said.

    Args:
        meant: the matrix as players take it where it is not said.
        range: 1: Y from 16 to 235; 2: from 0 to 255.
    """

    matrix: int = 1
    primaries: int = 1
    transfer: int = 1
    range: int = 1
    meant: int = 1

    @property
    def named(self) -> str:
        """The filter that names them in a video."""
        return (
            f"setparams=colorspace={self.matrix}:color_primaries={self.primaries}:color_trc={self.transfer}"
            f":range={self.range}"
        )


BT709 = Colors()


class VideoWriter:
    """Writes an mp4 file: H.264, yuv420p, index at the front.

        with VideoWriter(path, 480, 848, soundtrack=sound) as writer:
            writer.append(writer.pack(frames))
            writer.finish(len(frames))

    The file appears under its name when it is finished. Nothing else is left behind.
    """

    def __init__(
        self,
        path: Path,
        width: int,
        height: int,
        fps: int | Fraction = FPS,
        soundtrack: Path | None = None,
        colors: Colors = BT709,
    ) -> None:
        """Make a writer of a file that does not exist yet.

        Args:
            width, height: of the frames, in pixels.
            colors: what `pack_planes` gets; `pack` makes BT.709.
            soundtrack: an AAC file, as `audio.write_soundtrack` makes it; it is muxed as it is.
        """
        self._path = path
        self._fps = fps
        self._colors = colors
        self._soundtrack = soundtrack
        self._frame_shape = (height, width, 3)
        self._encoder: _Ffmpeg | None = None
        self._children: list[_Ffmpeg] = []
        self._given_up = threading.Event()

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix=f"{self._path.name}-", dir=self._path.parent)
        return self

    def pack(self, frames: NDArray[np.uint8]) -> bytes:
        """Frames, (n, height, width, 3) uint8 RGB, as a piece: H.264 without loss, in the finished video's colours.

        Raises Internal if ffmpeg fails, and ValueError if the frames have another shape or type or there are none.
        """
        if frames.dtype != np.uint8 or frames.shape[1:] != self._frame_shape or len(frames) == 0:
            raise ValueError(f"frames must be uint8 (n, {self._frame_shape}), not {frames.dtype} {frames.shape}")
        # Matrix and range are converted. Primaries and transfer are only named, since sRGB's are close to BT.709's.
        convert = "scale=out_color_matrix=bt709:out_range=tv:flags=lanczos+accurate_rnd,format=yuv420p"
        return self._packed("rgb24", f"{convert},{self._colors.named}", frames)

    def pack_planes(self, frames: Iterable[NDArray[np.uint8]]) -> bytes:
        """Frames that are planes Y, U, V, (height * 3 / 2, width) uint8 each, as a piece; they are kept as they are.

        The frames are taken one after the other. Raises Internal if ffmpeg fails; no frame gives no bytes.
        """
        frames = iter(frames)
        first = next(frames, None)
        return b"" if first is None else self._packed("yuv420p", self._colors.named, chain([first], frames))

    def _packed(self, pixels: str, filters: str, frames: Iterable[NDArray[np.uint8]]) -> bytes:
        packer = self._start(
            *[*self._raw, "-pix_fmt", pixels, "-i", "pipe:0", "-vf", filters],
            *["-c:v", "libx264", "-preset", "ultrafast", "-qp", "0", "-threads", str(_THREADS)],
            *[*_REPEATABLE, f"file:{self._piece}"],
        )
        packer.end(frames)
        return self._piece.read_bytes()

    def append(self, piece: bytes) -> None:
        """Append a piece that this writer, or an earlier one of the same size, has packed; b"" has no frame.

        Raises Internal if ffmpeg fails.
        """
        if not piece:
            return
        self._piece.write_bytes(piece)
        if self._encoder is None:
            self._encoder = self._start(
                *[*self._raw, "-pix_fmt", "yuv420p", "-i", "pipe:0", "-vf", self._colors.named],
                *["-c:v", "libx264", "-preset", "medium", "-crf", "18", "-threads", str(_THREADS)],
                *[*_REPEATABLE, f"file:{self._soundless}"],
            )
        frames = ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "yuv420p", "pipe:1"]
        reader = self._start("-i", f"file:{self._piece}", *frames, output=self._encoder)
        try:
            reader.end()
        except Internal:
            self._encoder.end()  # if the encoder has failed, its error says why the reader did
            raise
        self._piece.unlink()

    def finish(self, n_frames: int) -> None:
        """Complete the file. Raises Internal where ffmpeg fails, or where it does not hold just `n_frames` frames."""
        if self._encoder is None:
            raise Internal(_FAILED) from FfmpegError("no frames")
        self._encoder.end()
        sound = ["-i", f"file:{self._soundtrack}", "-map", "0:v", "-map", "1:a"] if self._soundtrack else []
        whole = Path(self._folder.name, "whole.mp4")
        copy = ["-c", "copy", *_REPEATABLE, "-movflags", "+faststart", f"file:{whole}"]
        self._start("-i", f"file:{self._soundless}", *sound, *copy).end()
        try:
            written = count_frames(whole)
            if written != n_frames:
                raise FfmpegError(f"{written} of {n_frames} frames were written")
        except FfmpegError as error:
            raise Internal(_FAILED) from error
        whole.replace(self._path)

    def give_up(self) -> None:
        """End what runs. Any thread may call this; a call that runs in another thread then raises Internal."""
        self._given_up.set()
        for child in list(self._children):
            child.kill()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_up()
        for child in self._children:
            child.close()
        self._folder.cleanup()

    @property
    def _soundless(self) -> Path:
        return Path(self._folder.name, "soundless.mp4")

    @property
    def _piece(self) -> Path:
        return Path(self._folder.name, "piece.mp4")

    @property
    def _raw(self) -> list[str]:
        height, width, _ = self._frame_shape
        return ["-f", "rawvideo", "-s", f"{width}x{height}", "-r", str(self._fps)]

    def _start(self, *args: str, output: "_Ffmpeg | None" = None) -> "_Ffmpeg":
        self._children = [child for child in self._children if child.is_running]
        child = _Ffmpeg(*args, output=output)
        self._children.append(child)
        if self._given_up.is_set():
            child.kill()
        return child


def count_frames(path: Path) -> int:
    """The frames of a video file, by its packets; nothing is decoded. Raises FfmpegError."""
    listing = run("-i", f"file:{path}", "-map", "0:v:0", "-c", "copy", "-f", "framecrc", "-")
    return sum(not line.startswith(b"#") for line in listing.splitlines())


def hash_streams(path: Path) -> dict[str, str]:
    """The MD5 of each stream's packets, by its number and kind: "0 video". Nothing is decoded. Raises FfmpegError.

    What lies beside the streams in the file (content credentials, metadata) does not count.
    """
    listing = run("-i", f"file:{path}", "-map", "0", "-c", "copy", "-f", "streamhash", "-hash", "md5", "-")
    kinds = {"v": "video", "a": "audio"}
    lines = (line.split(",") for line in listing.decode().split())
    return {f"{index} {kinds.get(kind, kind)}": digest.removeprefix("MD5=") for index, kind, digest in lines}


class _Ffmpeg:
    """A running ffmpeg. It reads frames from its standard input, and may write them to that of another one.

    imageio_ffmpeg.write_frames would not do: it drops ffmpeg's log and exit status.
    """

    def __init__(self, *args: str, output: "_Ffmpeg | None" = None) -> None:
        stdout = subprocess.DEVNULL if output is None else output._process.stdin
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by end or close)
        self._process: subprocess.Popen[bytes] = subprocess.Popen(
            command(*args), stdin=subprocess.PIPE, stdout=stdout, stderr=self._log, env={}
        )
        limit(self._process)

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def end(self, frames: Iterable[NDArray[np.uint8]] = ()) -> None:
        """Write the last frames and wait for the end.

        Raises Internal if ffmpeg fails or is not done within TIME_LIMIT_S.
        """
        time_limit = threading.Timer(TIME_LIMIT_S, self._process.kill)  # writing to a stuck process would never end
        time_limit.start()
        try:
            assert self._process.stdin is not None
            with suppress(BrokenPipeError), self._process.stdin:  # the exit status says more
                for frame in frames:
                    self._process.stdin.write(np.ascontiguousarray(frame).data)
            self._process.wait()
        finally:
            time_limit.cancel()
            self.kill()
        with self._log:
            if self._process.returncode != 0:
                status, log = self._process.returncode, log_tail(self._log)
                raise Internal(_FAILED) from FfmpegError(f"exit status {status}: {log}")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Close what a killed process has left open."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._log.close()
