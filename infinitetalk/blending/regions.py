"""Which parts of a frame are generated: a face with its neck, a person in a picture, or all that the model makes.

Sizes are (width, height) and boxes x0, y0, x1, y1, both in pixels of the frame.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from infinitetalk.blending.blend import Region
from infinitetalk.blending.geometry import Floats, depth_inside, face_outline, face_size

Box = tuple[float, float, float, float]
Size = tuple[int, int]

_MIN_FEATHER_PX = 2.0
_FACE_FEATHER = 0.08  # of a face
_PERSON_FEATHER = 0.35  # likewise, around a whole person
_CROP_FEATHER = 0.04  # of the crop's shorter side
_ABOVE, _BESIDE = 0.9, 1.6  # of a person around the face, in faces


def face_region(own: Floats, made: Floats, size: Size) -> Region | None:
    """Around a face of the source and the generated one in its place, (468, 2) points each; None outside the frame."""
    feather = max(_FACE_FEATHER * face_size(own), _MIN_FEATHER_PX)
    return _inside(face_outline(own, made), feather, size)


def person_region(own: Floats, others: Sequence[Box], size: Size) -> Region:
    """Head, shoulders and what is below them of the person with this face, cut off half-way to other people's faces."""
    (x0, y0), (x1, y1) = own.min(0).tolist(), own.max(0).tolist()
    wide, high = x1 - x0, y1 - y0
    left, right, middle = x0 - _BESIDE * wide, x1 + _BESIDE * wide, (x0 + x1) / 2
    for other in others:
        border = (middle + (other[0] + other[2]) / 2) / 2
        if border < x0:
            left = max(left, border)
        elif border > x1:
            right = min(right, border)
    return _box_region((left, y0 - _ABOVE * high, right, float(size[1])), _PERSON_FEATHER * wide, size)


def crop_region(crop: Box, size: Size) -> Region:
    """All that is generated. Its colours are compared everywhere."""
    x0, y0, x1, y1 = crop
    return replace(_box_region(crop, _CROP_FEATHER * min(x1 - x0, y1 - y0), size), ring_depth=np.inf)


def _box_region(box: Box, feather: float, size: Size) -> Region:
    """A box, which goes on beyond the frame where it reaches the frame's edge, so that there is no border there."""
    feather = max(feather, _MIN_FEATHER_PX)
    low, high = -2 * feather, 2 * feather
    x0, y0 = (low if edge <= 1 else edge for edge in box[:2])
    x1, y1 = (side + high if edge >= side - 1 else edge for edge, side in zip(box[2:], size, strict=True))
    region = _inside(np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float32), feather, size)
    assert region is not None
    return region


def _inside(outline: Floats, feather: float, size: Size) -> Region | None:
    """The part of the frame within a convex outline (K, 2); None where it lies outside."""
    width, height = size
    low, high = np.floor(outline.min(0)).astype(int), np.ceil(outline.max(0)).astype(int)
    x0, x1 = (int(np.clip(x, 0, width)) for x in (low[0] // 2 * 2, (high[0] + 1) // 2 * 2))
    y0, y1 = (int(np.clip(y, 0, height)) for y in (low[1] // 2 * 2, (high[1] + 1) // 2 * 2))
    if x1 <= x0 or y1 <= y0:
        return None
    return Region(x0, y0, depth_inside(outline, x0, y0, x1 - x0, y1 - y0), feather)
