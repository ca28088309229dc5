"""Made-up mouths and voices: curves of 25 values a second, and meshes that are open that far."""

import numpy as np


def syllables(frames: int, seed: int) -> np.ndarray:
    """A curve from 0 to 1 that goes up and down some four times a second, never in the same way."""
    steps = np.random.default_rng(seed).uniform(0, 1, frames // 3 + 2)
    return np.interp(np.arange(frames), np.arange(len(steps)) * 3, steps).astype(np.float32)


def mesh(opening_px: float, left: float = 0.0, top: float = 0.0, width_px: float = 60.0) -> np.ndarray:
    """Points (468, 2) of a face mesh whose eyes are so far apart and whose mouth is open so far."""
    points = np.zeros((468, 2), np.float32)
    points[263] = (width_px, 0)
    for lower in (14, 87, 317):
        points[lower] = (width_px / 2, 50 + opening_px)
    for upper in (13, 82, 312):
        points[upper] = (width_px / 2, 50)
    return points + np.array([left, top], np.float32)
