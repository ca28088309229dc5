"""Numbers of single frames: how much changes from one to the next, colour, sharpness, and how it looks from afar.

Frames are (height, width, 3) uint8 RGB.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infinitetalk.shapes import whole_size

Floats = NDArray[np.float32]
Frame = NDArray[np.uint8]

THUMBNAIL = 64  # pixels of the longer side
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def change(before: Frame, after: Frame) -> float:
    """Mean absolute difference of two frames of one size, of 255."""
    return float(np.abs(after.astype(np.int16) - before).mean())


def color_and_sharpness(frames: NDArray[np.uint8]) -> tuple[NDArray[np.float64], float]:
    """Mean colour (3,) and mean gradient magnitude of the luminance, of 255, of frames (T, height, width, 3)."""
    return frames.mean((0, 1, 2)), sharpness(frames)


def sharpness(frames: NDArray[np.uint8]) -> float:
    """Mean gradient magnitude of the luminance, of 255, of frames (T, height, width, 3)."""
    down, across = np.gradient(frames.astype(np.float32) @ _LUMA, axis=(1, 2))
    return float(np.hypot(down, across).mean())


def thumbnail(frame: Frame) -> Floats:
    """The luminance of a small copy, at most 64 pixels long: (height, width), means of what each covers, of 255."""
    height, width = frame.shape[:2]
    grey = Image.fromarray(frame).convert("L").convert("F")
    return np.asarray(grey.resize(whole_size((width, height), THUMBNAIL), Image.Resampling.BOX), np.float32)


def scaled(frame: Frame, size: tuple[int, int]) -> Frame:
    """A frame at a (width, height), each pixel the mean of what it covers."""
    if frame.shape[1::-1] == size:
        return frame
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX), np.uint8)
