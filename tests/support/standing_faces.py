"""A stand-in for what finds faces."""

import numpy as np
from numpy.typing import NDArray

from infinitetalk.faces.finder import Face


class Finder:
    """The same faces in every picture, in fractions of it. Keeps the (width, height) of the pictures it was shown."""

    def __init__(self, *boxes: tuple[float, float, float, float]) -> None:
        self.boxes = boxes
        self.sizes: list[tuple[int, int]] = []

    def find(self, picture: NDArray[np.uint8]) -> tuple[Face, ...]:
        height, width = picture.shape[:2]
        self.sizes.append((width, height))
        points = np.zeros((468, 2), np.float32)
        return tuple(
            Face((x0 * width, y0 * height, x1 * width, y1 * height), points, 1.0) for x0, y0, x1, y1 in self.boxes
        )
