"""Face points: what outlines a face and its neck, what holds still while it speaks, and the warp from one to another.

Points are x and y in pixels of a picture whose top left corner is (0, 0), numbered as in MediaPipe's face mesh.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

Floats = NDArray[np.float32]

OVAL = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
_JAW = (288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150, 136, 172, 58)
_TOP, _CHIN = 10, 152
# Corners of the eyes, the nose, forehead, temples and sides: neither lips nor lids nor jaw.
STEADY = (33, 133, 362, 263, 168, 6, 197, 195, 5, 4, 1, 98, 327, 10, 67, 297, 127, 356, 234, 454)

_GROWN = 0.10  # of the outline's radius
_NECK = 0.12  # of the face's height, below the chin; a longer one meets collars, which move otherwise
_NECK_WIDTH = 0.85  # of the jaw's
_BLOCK = 1024  # frames that are smoothed at once


@dataclass(frozen=True)
class Warp:
    """A similarity: turned, scaled, moved. A point p becomes matrix @ p + offset."""

    matrix: Floats  # (2, 2)
    offset: Floats  # (2,)

    def __call__(self, points: Floats) -> Floats:
        """(N, 2) points where the warp puts them."""
        return np.asarray(points @ self.matrix.T + self.offset, np.float32)

    @property
    def inverse(self) -> "Warp":
        """The way back."""
        back = np.linalg.inv(self.matrix)
        return Warp(np.asarray(back, np.float32), np.asarray(-back @ self.offset, np.float32))


def face_size(points: Floats) -> float:
    """The longer side of what (468, 2) points span."""
    return float(np.ptp(points, axis=0).max())


def similarity(start: Floats, goal: Floats) -> Warp:
    """The similarity that brings (N, 2) points closest to others (Umeyama 1991, in two dimensions)."""
    middle, goal_middle = start.mean(0), goal.mean(0)
    a, b = start - middle, goal - goal_middle
    power = max(float((a**2).sum()), 1e-9)
    cos = float((a * b).sum()) / power
    sin = float((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()) / power
    matrix = np.array([[cos, -sin], [sin, cos]], np.float32)
    return Warp(matrix, np.asarray(goal_middle - matrix @ middle, np.float32))


def mismatch(start: Floats, goal: Floats, warp: Warp) -> float:
    """How far a face is from another after the warp: the points' root mean square distance, in faces.

    Args:
        start, goal: (468, 2) points each.
    """
    steady = list(STEADY)
    apart = warp(start[steady]) - goal[steady]
    return float(np.sqrt((apart**2).sum(1).mean())) / face_size(goal)


def face_outline(points: Floats, other: Floats | None = None) -> Floats:
    """(K, 2) corners, in their order, of the convex outline around a face and its neck.

    Args:
        points: (468, 2) of the face.
        other: of a face that is put in its place, which the outline holds too.
    """
    down = points[_CHIN] - points[_TOP]
    jaw = points[list(_JAW)]
    neck = points[_CHIN] + (jaw - points[_CHIN]) * _NECK_WIDTH + _NECK * down
    ovals = [one[list(OVAL)] for one in (points, other) if one is not None]
    corners = np.concatenate((*ovals, neck))
    corners = corners[ConvexHull(corners).vertices]
    middle = corners.mean(0)
    return np.asarray(middle + (corners - middle) * (1 + _GROWN), np.float32)


def depth_inside(outline: Floats, x0: int, y0: int, width: int, height: int) -> Floats:
    """(height, width): how far inside a convex outline each pixel's middle lies, in pixels; below 0 outside.

    Args:
        outline: (K, 2) corners in their order.
        x0, y0: of the first pixel.
    """
    following = np.roll(outline, -1, axis=0)
    across, down = (following - outline).T
    turn = float((outline[:, 0] * following[:, 1] - following[:, 0] * outline[:, 1]).sum())
    length = np.maximum(np.hypot(across, down), 1e-6) * np.sign(turn)
    normal_x, normal_y = -down / length, across / length
    shift = -(normal_x * outline[:, 0] + normal_y * outline[:, 1])
    xs = np.arange(x0, x0 + width, dtype=np.float32) + np.float32(0.5)
    ys = np.arange(y0, y0 + height, dtype=np.float32) + np.float32(0.5)
    depth = np.full((height, width), np.inf, np.float32)
    for nx, ny, c in zip(normal_x, normal_y, shift, strict=True):
        np.minimum(depth, (ys * ny + c)[:, None] + (xs * nx)[None, :], out=depth)
    return depth


def smooth(values: Floats, sigma: float) -> Floats:
    """(T, ...) values smoothed along T by a Gaussian of so many frames; NaN stays and lends nothing."""
    reach = min(int(np.ceil(3 * sigma)), len(values) - 1)
    if reach < 1:
        return values
    smoothed = np.empty(values.shape, np.float32)
    for start in range(0, len(values), _BLOCK):
        low, stop = max(0, start - reach), start + _BLOCK
        smoothed[start:stop] = _smooth(values[low : stop + reach], sigma, reach)[start - low : stop - low]
    return smoothed


def _smooth(values: Floats, sigma: float, reach: int) -> Floats:
    known = np.isfinite(values)
    filled = np.where(known, values, np.float32(0))
    total, weights = np.zeros(values.shape, np.float32), np.zeros(values.shape, np.float32)
    for offset in range(-min(reach, len(values) - 1), min(reach, len(values) - 1) + 1):
        weight = np.float32(np.exp(-0.5 * (offset / sigma) ** 2))
        here = slice(max(0, -offset), len(values) - max(0, offset))
        there = slice(max(0, offset), len(values) - max(0, -offset))
        total[here] += weight * filled[there]
        weights[here] += weight * known[there]
    return np.asarray(np.where(known, total / np.maximum(weights, np.float32(1e-12)), np.nan), np.float32)
