"""Faces as the finder gives them, without its networks."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from infinitetalk.blending.geometry import OVAL
from infinitetalk.faces.finder import Face


def mesh(x: float, y: float, size: float, turn: float = 0.0) -> NDArray[np.float32]:
    """(468, 2) points of a face around (x, y), `size` pixels high; its inner points are `turn` faces to the right."""
    random = np.random.default_rng(0)
    points = random.uniform(-0.3, 0.3, (468, 2))
    points[:, 0] += turn
    angle = 2 * np.pi * np.arange(len(OVAL)) / len(OVAL)
    points[list(OVAL)] = np.stack((0.38 * np.sin(angle), -0.5 * np.cos(angle)), 1)
    points[[33, 263]] = [[-0.2 + turn, -0.1], [0.2 + turn, -0.1]]
    return (points * size + (x, y)).astype(np.float32)


def face(points: NDArray[np.float32]) -> Face:
    (x0, y0), (x1, y1) = points.min(0).tolist(), points.max(0).tolist()
    return Face((x0, y0, x1, y1), points, 1.0)


class FixedFinder:
    """Finds faces always at the same places of a picture."""

    def __init__(self, *places: tuple[float, float, float]) -> None:
        """Place faces: the middle, in fractions of the picture, and the height, in fractions of its height."""
        self.places = places

    def find(self, picture: NDArray[np.uint8]) -> tuple[Face, ...]:
        """See FaceFinder.find."""
        height, width = picture.shape[:2]
        return tuple(face(mesh(x * width, y * height, size * height)) for x, y, size in self.places)

    def follow(self, frames: Iterable[NDArray[np.uint8]], first: Sequence[Face]) -> Iterator[tuple[Face | None, ...]]:
        """See FaceFinder.follow: they stay where they were."""
        for _ in frames:
            yield tuple(first)
