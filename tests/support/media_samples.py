"""Small media files for tests, made on the spot."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import soundfile
from PIL import Image

from infinitetalk.media.encode import VideoWriter

X264 = ("-c:v", "libx264", "-qp", "4", "-g", "60", "-bf", "3")
DARKEST = 30  # brightness of frame 0 of a numbered video


def ffmpeg(*args: str | Path, stdin: bytes = b"") -> bytes:
    """Run ffmpeg, quietly and overwriting; gives its standard output, raises CalledProcessError where it fails."""
    quiet = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error"]
    return subprocess.run([*quiet, *map(str, args)], input=stdin, stdout=subprocess.PIPE, check=True).stdout


def write_tone(
    path: Path,
    seconds: float,
    rate_hz: int = 16_000,
    channels: int = 1,
    frequency_hz: float = 440.0,
    amplitude: float = 0.3,
    subtype: str | None = None,
) -> Path:
    """A sine in any format soundfile writes (wav, flac, ogg, mp3, aiff, ...)."""
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    wave = amplitude * np.sin(2 * np.pi * frequency_hz * time)
    soundfile.write(path, np.repeat(wave[:, None], channels, axis=1), rate_hz, subtype=subtype)
    return path


def write_picture(path: Path, width: int = 96, height: int = 64, **options: object) -> Path:
    """Left half red, right half blue."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2] = 200, 60, 30
    pixels[:, width // 2 :] = 20, 120, 220
    Image.fromarray(pixels).save(path, **options)
    return path


def write_video(path: Path, frames: np.ndarray, fps: float, options: Sequence[str] = X264) -> Path:
    """frames: (n, height, width, 3) uint8 RGB."""
    _, height, width, _ = frames.shape
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
    ffmpeg(*raw, *options, path, stdin=frames.tobytes())
    return path


def write_numbered_video(path: Path, n_frames: int, fps: float, options: Sequence[str] = X264) -> Path:
    """A 64x64 video whose frame i is grey of brightness DARKEST + i, so that a frame tells its number."""
    levels = np.arange(DARKEST, DARKEST + n_frames, dtype=np.uint8)
    return write_video(path, np.broadcast_to(levels[:, None, None, None], (n_frames, 64, 64, 3)), fps, options)


def write_talking_video(path: Path, seconds: float = 2.0, width: int = 96, height: int = 64) -> Path:
    """A moving test picture with a tone."""
    picture = ["-f", "lavfi", "-i", f"testsrc2=s={width}x{height}:r=25:d={seconds}"]
    sound = ["-f", "lavfi", "-i", f"sine=d={seconds}:r=44100"]
    ffmpeg(*picture, *sound, "-c:v", "libx264", "-g", "25", path)
    return path


def cut_off(source: Path, part: float = 0.6) -> Path:
    """The first part of a file's bytes, as a file of its own beside it."""
    data = source.read_bytes()
    path = source.with_name(f"cut_{source.name}")
    path.write_bytes(data[: int(len(data) * part)])
    return path


def read_frames(path: Path, width: int, height: int) -> np.ndarray:
    """All frames of a video of that size: (n, height, width, 3) uint8 RGB."""
    data = ffmpeg("-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    return np.frombuffer(data, np.uint8).reshape(-1, height, width, 3)


def write_frames(writer, frames):
    """Frames straight into a VideoWriter."""
    writer.append(writer.pack(frames))


def write_result(path, frames):
    """Frames (n, height, width, 3) as the worker's own video file, without sound."""
    with VideoWriter(path, frames.shape[2], frames.shape[1]) as writer:
        write_frames(writer, frames)
        writer.finish(len(frames))
    return path
