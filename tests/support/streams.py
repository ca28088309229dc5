"""HLS streams as a stranger's player sees them, and what such streams are made of."""

import functools
import http.server
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from infinitetalk.media.encode import VideoWriter
from tests.support.loopback import serving
from tests.support.media_samples import ffmpeg


class Files(http.server.SimpleHTTPRequestHandler):
    """A web server of files that says nothing."""

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(folder: Path, handler: type[Files] = Files) -> Iterator[str]:
    """The address of a folder on loopback."""
    with serving(functools.partial(handler, directory=str(folder))) as server:
        yield f"http://127.0.0.1:{server.server_port}"


def frame_times(source: str | Path) -> NDArray[np.float64]:
    """When a stream's frames are on screen, in seconds; all are decoded."""
    decoded = ["-map", "0:v", "-fps_mode", "passthrough", "-enc_time_base", "1/90000", "-f", "framecrc", "-"]
    lines = ffmpeg("-copyts", "-i", source, *decoded).decode().splitlines()
    return np.array([int(line.split(",")[2]) for line in lines if not line.startswith("#")]) / 90_000


def sound_of(source: str | Path) -> NDArray[np.float64]:
    """A stream's samples, mixed to mono."""
    return np.frombuffer(ffmpeg("-i", source, "-map", "0:a", "-ac", "1", "-f", "s16le", "-"), np.int16).astype(float)


def write_chirp(path: Path, seconds: float, rate_hz: int = 44_100) -> Path:
    """A rising tone as AAC: no two parts of it are alike."""
    source = f"aevalsrc=0.4*sin(2*PI*(200+60*t)*t):s={rate_hz}:d={seconds}"
    ffmpeg("-f", "lavfi", "-i", source, "-c:a", "aac", "-bitexact", path)
    return path


def numbered_frames(first: int, count: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Grey frames whose brightness is 20 and their number."""
    width, height = size
    levels = np.arange(20 + first, 20 + first + count, dtype=np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3))


def write_pieces(
    folder: Path, counts: Sequence[int], size: tuple[int, int] = (96, 64), rate: Fraction = Fraction(25)
) -> list[Path]:
    """Pieces of so many numbered frames each, as a job's encoder gets them."""
    pieces, first = [], 0
    with VideoWriter(folder / "unused.mp4", *size, rate) as writer:
        for index, count in enumerate(counts):
            pieces.append(folder / f"piece{index}.mp4")
            pieces[-1].write_bytes(writer.pack(numbered_frames(first, count, size)) if count else b"")
            first += count
    return pieces
