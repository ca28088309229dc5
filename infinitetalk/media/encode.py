"""The finished video: a window's frames become a piece of H.264 while the next window is made, and the pieces an mp4.

A piece stands alone (it starts with a key frame and nothing refers across its ends), so one that an earlier process
encoded is as good as a new one, and joining them copies bytes. What that costs against a single run of the encoder is
a key frame per window.
"""

import subprocess
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from infinitetalk.errors import Internal
from infinitetalk.media.child import log_tail
from infinitetalk.media.ffmpeg import FfmpegError, command, run
from infinitetalk.shapes import FPS

TIME_LIMIT_S = 300.0  # for the frames of a window, and for the joining
# x264 divides each frame among its threads, so their number is part of the result: same frames, same bytes.
_THREADS = 4
_FAILED = "the video could not be encoded; try again."


class VideoWriter:
    """Writes frames to an mp4 file: H.264, yuv420p, BT.709, index at the front.

        with VideoWriter(path, 480, 848, soundtrack=sound) as writer:
            writer.write(frames)
            writer.finish()

    The file appears under its name when it is finished. Nothing else is left behind.
    """

    def __init__(self, path: Path, width: int, height: int, fps: int = FPS, soundtrack: Path | None = None) -> None:
        """soundtrack: an AAC file, as audio.write_soundtrack makes it; muxed as it is."""
        self._path = path
        self._fps = fps
        self._soundtrack = soundtrack
        self._frame_shape = (height, width, 3)
        self._piece_frames: list[int] = []
        self._pending: Future[None] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._given_up = threading.Event()

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix=f"{self._path.name}-", dir=self._path.parent)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode")
        return self

    def write(self, frames: NDArray[np.uint8], when_encoded: Callable[[bytes], None] | None = None) -> None:
        """Append a piece of frames, (n, height, width, 3) uint8 RGB, at least one. Returns while it is encoded.

        Waits until the piece before is encoded: frames of two pieces at most are held.
        when_encoded: called with the encoded piece, from another thread.
        Raises Internal where the piece before could not be encoded.
        """
        if frames.dtype != np.uint8 or frames.shape[1:] != self._frame_shape or len(frames) == 0:
            raise ValueError(f"frames must be uint8 (n, {self._frame_shape}), not {frames.dtype} {frames.shape}")
        self._wait()
        path = self._next_piece(len(frames))
        self._pending = self._thread.submit(self._encode, frames, path, when_encoded)

    def append(self, piece: bytes, n_frames: int) -> None:
        """Append a piece that a writer of the same size and rate has encoded before."""
        self._next_piece(n_frames).write_bytes(piece)

    def finish(self) -> None:
        """Join the pieces. Raises Internal where ffmpeg fails."""
        self._wait()
        self._join()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._given_up.set()
        if self._process is not None:
            self._process.kill()
        self._thread.shutdown()
        self._folder.cleanup()

    def _next_piece(self, n_frames: int) -> Path:
        self._piece_frames.append(n_frames)
        return Path(self._folder.name, f"{len(self._piece_frames)}.mp4")

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()

    def _encode(self, frames: NDArray[np.uint8], path: Path, when_encoded: Callable[[bytes], None] | None) -> None:
        height, width, _ = self._frame_shape
        size = ["-s", f"{width}x{height}", "-r", str(self._fps)]
        # Matrix and range are converted to, primaries and transfer only named: sRGB's are close to BT.709's.
        convert = "scale=out_color_matrix=bt709:out_range=tv:flags=lanczos+accurate_rnd,format=yuv420p"
        name = "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"
        args = command(
            *["-f", "rawvideo", "-pix_fmt", "rgb24", *size, "-i", "pipe:0", "-vf", f"{convert},{name}"],
            *["-c:v", "libx264", "-preset", "medium", "-crf", "18", "-threads", str(_THREADS)],
            *["-flags", "+bitexact", "-fflags", "+bitexact", "-map_metadata", "-1", "-f", "mp4", f"file:{path}"],
        )
        # imageio_ffmpeg.write_frames does not do here: it drops ffmpeg's log and exit status.
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log)
            self._process = process
            time_limit = threading.Timer(TIME_LIMIT_S, process.kill)  # writing to a stuck process would never end
            time_limit.start()
            try:
                if self._given_up.is_set():
                    process.kill()
                assert process.stdin is not None
                with suppress(BrokenPipeError), process.stdin:  # its exit status tells more
                    for frame in frames:
                        process.stdin.write(np.ascontiguousarray(frame).data)
                process.wait()
            finally:
                time_limit.cancel()
                process.kill()
                process.wait()
            if process.returncode != 0:
                raise Internal(_FAILED) from FfmpegError(f"exit status {process.returncode}: {log_tail(log)}")
        if when_encoded is not None:
            when_encoded(path.read_bytes())

    def _join(self) -> None:
        """Copy the pieces, one after the other, and the soundtrack into the file."""
        folder = Path(self._folder.name)
        pieces = [f"file {i}.mp4\nduration {n / self._fps:.6f}\n" for i, n in enumerate(self._piece_frames, start=1)]
        folder.joinpath("pieces").write_text("ffconcat version 1.0\n" + "".join(pieces), "ascii")
        sound = ["-i", f"file:{self._soundtrack}", "-map", "0:v", "-map", "1:a"] if self._soundtrack else []
        # A piece of one or two frames has no B-frames and starts later in decoding order. Counting that order through
        # leaves no gap there; when frames are shown (pts) stays as it is.
        frame = f"1/({self._fps}*TB)"
        times = f"setts=dts=STARTDTS+round(N*{frame}):pts=PTS:duration=round({frame})"
        joined = folder / "joined.mp4"
        try:
            run(
                *["-f", "concat", "-i", f"file:{folder / 'pieces'}", *sound, "-c", "copy", "-bsf:v", times],
                *["-flags", "+bitexact", "-fflags", "+bitexact", "-map_metadata", "-1", "-movflags", "+faststart"],
                *["-f", "mp4", f"file:{joined}"],
                time_limit_s=TIME_LIMIT_S,
            )
        except FfmpegError as error:
            raise Internal(_FAILED) from error
        joined.replace(self._path)
