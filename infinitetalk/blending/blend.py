"""One region of a generated frame put into a source frame: feathered, with the colours of what is around it."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from infinitetalk.blending.canvas import Canvas, Frame, reduced
from infinitetalk.blending.geometry import Floats

_RING = 0.7  # of the feather: how far inside the border colours are compared


@dataclass(frozen=True)
class Region:
    """A part of the frame.

    Args:
        x0, y0: its first pixel; even.
        depth: (rows, columns) how far inside each pixel lies, in pixels; both numbers are even.
        feather: in pixels; from so deep on all is generated.
        ring_depth: in pixels, how far inside the border colours are compared; 0.7 of the feather if not given.
    """

    x0: int
    y0: int
    depth: Floats
    feather: float
    ring_depth: float | None = None

    @property
    def alpha(self) -> Floats:
        """(rows, columns) the share that is generated: 0 at the border and outside."""
        share = np.clip(self.depth / self.feather, 0, 1)
        return np.asarray(share * share * (3 - 2 * share), np.float32)

    @property
    def ring(self) -> NDArray[np.bool_]:
        """(rows, columns) whether a pixel is just inside the border, where colours are compared."""
        deepest = _RING * self.feather if self.ring_depth is None else self.ring_depth
        return np.asarray((self.depth > 0) & (self.depth < deepest), np.bool_)


@dataclass
class ColorMatch:
    """What is added to a region's generated colours so that they meet the source's at the border.

    Args:
        kept: the share of the shift before that stays in the next frame.
        shift: of the three channels, in levels; None before the first frame.
    """

    kept: float
    shift: list[float] | None = field(default=None)

    def follow(self, differences: list[float]) -> list[float]:
        """The shift of the next frame, whose ring differs by so much."""
        if self.shift is None:
            self.shift = differences
        pairs = zip(self.shift, differences, strict=True)
        self.shift = [self.kept * old + (1 - self.kept) * new for old, new in pairs]
        return self.shift


def blend(canvas: Canvas, frame: Frame, region: Region, generated: Tensor, strength: float, match: ColorMatch) -> None:
    """Put a region into a frame, in place. Where its alpha is 0 no value is touched.

    Args:
        generated: (3, rows, columns) RGB from 0 to 255, of the region.
        strength: 0 to 1; times the region's alpha.
    """
    alpha, ring = region.alpha, region.ring
    wanted = canvas.of_rgb(generated)
    parts = []
    for values, (plane, step) in zip(wanted, canvas.channels(frame), strict=True):
        rows, columns = values.shape[0] // step, values.shape[1] // step
        y, x = region.y0 // step, region.x0 // step
        parts.append((plane[y : y + rows, x : x + columns], reduced(values, step), step))
    match.follow([_difference(place, values, ring[::step, ::step]) for place, values, step in parts])
    assert match.shift is not None
    if strength <= 0:
        return
    for (place, values, step), shift in zip(parts, match.shift, strict=True):
        share = reduced(alpha, step) * np.float32(strength)
        mixed = place + share * (values + np.float32(shift) - place)
        np.copyto(place, np.rint(mixed).clip(0, 255).astype(np.uint8), where=share > 0)


def _difference(place: Frame, values: Floats, ring: NDArray[np.bool_]) -> float:
    """How much brighter the source is in the ring, on average."""
    return float((place[ring] - values[ring]).mean()) if ring.any() else 0.0
