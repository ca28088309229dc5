"""Where faces are in a clip, from its pixels only.

A cascade trained on photographs of frontal faces (scikit-image's) proposes places in some of the frames. A plain
picture of what faces have in common confirms and refines them: eyes, brows and a mouth that are not skin.

Lengths of a face are in units. A unit is half the width of the head. A face's middle lies between its eyes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

from infinitetalk.quality import scikit_image

Floats = NDArray[np.float32]
Frames = NDArray[np.uint8]

EYE_X, BROW_Y, MOUTH_Y = 0.40, -0.34, 0.90
# The least correlation with the plain face that a face may have in a frame.
_MIN_LIKENESS = 0.55
_SAMPLED_FRAMES = 7
_MIN_VOTES = 2
# Frames are searched at these sizes in turn (pixels of the longer side): a face missed at one is mostly found at
# another.
_SEARCH_SIDES = (360, 480, 400)
# The cascade's box is this many units wide, and its middle lies this many units below the eyes.
_BOX_UNITS, _BOX_LOWER = 2.4, 0.2
_SKIN_DISTANCE = 0.35
_DENSITY = 12  # points per unit at which the plain face is compared


@dataclass(frozen=True)
class Place:
    """Where a face is in a frame: its middle and its unit in pixels, and its likeness to a plain face, at most 1."""

    x: float
    y: float
    unit: float
    likeness: float


def grid(x0: float, x1: float, y0: float, y1: float, density: float) -> tuple[Floats, Floats]:
    """x and y of a grid of points in units, (rows, columns) each, `density` of them per unit."""
    x = np.linspace(x0, x1, max(2, round((x1 - x0) * density)), dtype=np.float32)
    y = np.linspace(y0, y1, max(2, round((y1 - y0) * density)), dtype=np.float32)
    across, down = np.meshgrid(x, y)
    return across, down


def sample(picture: Floats, x: Floats, y: Floats) -> Floats:
    """A picture (height, width[, channels]) at pixel positions, bilinear. Beyond its edge the edge is repeated.

    The middle of the first pixel is at 0.5.
    """
    at = np.stack((y - 0.5, x - 0.5))
    if picture.ndim == 2:
        return np.asarray(map_coordinates(picture, at, order=1, mode="nearest"), np.float32)
    channels = [map_coordinates(picture[..., i], at, order=1, mode="nearest") for i in range(picture.shape[-1])]
    return np.asarray(np.stack(channels, -1), np.float32)


def _plain_face(x: Floats, y: Floats) -> Floats:
    def oval(cx: float, cy: float, a: float, b: float) -> Floats:
        return np.asarray(np.clip(1.5 - 1.5 * np.hypot((x - cx) / a, (y - cy) / b), 0, 1), np.float32)

    parts = [(side * EYE_X, 0.0, 0.36, 0.26) for side in (-1, 1)]
    brows = [0.8 * oval(side * EYE_X, BROW_Y, 0.42, 0.17) for side in (-1, 1)]
    mouth = 0.9 * oval(0.0, MOUTH_Y, 0.52, 0.27)
    return np.asarray(np.maximum.reduce([*(oval(*part) for part in parts), *brows, mouth]), np.float32)


_X, _Y = grid(-0.75, 0.75, -0.55, 1.2, _DENSITY)
_INSIDE = (_X / 0.85) ** 2 + (_Y / 1.35) ** 2 < 1
_POINTS = (_X[_INSIDE], _Y[_INSIDE])
_PLAIN = _plain_face(*_POINTS)


def likeness(seen: Floats, expected: Floats) -> Floats:
    """Pearson correlation along the last axis; 0 if one of the two does not vary."""
    a, b = seen - seen.mean(-1, keepdims=True), expected - expected.mean(-1, keepdims=True)
    norm = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.asarray((a * b).sum(-1) / np.maximum(norm, 1e-6), np.float32)


def fit_face(picture: Floats, near: Place, reach: float, scales: Sequence[float]) -> Place:
    """The place within `reach` units of `near`, at one of `scales` times its unit, that looks most like a face.

    Args:
        picture: (height, width, 3) in [0, 1].
    """
    x0, x1 = (int(np.clip(near.x + side * 0.75 * near.unit, 0, picture.shape[1])) for side in (-1, 1))
    y0, y1 = (int(np.clip(near.y + down * near.unit, 0, picture.shape[0])) for down in (-0.3, 0.9))
    if x1 - x0 < 4 or y1 - y0 < 4:
        return Place(near.x, near.y, near.unit, 0.0)
    skin = np.median(picture[y0:y1, x0:x1].reshape(-1, 3), axis=0)
    distance = np.linalg.norm(picture - skin, axis=-1) / _SKIN_DISTANCE
    # It is blurred as the plain face is, so that small features need not match to the pixel.
    away = gaussian_filter(np.minimum(distance, 1).astype(np.float32), 0.05 * near.unit)
    best = Place(near.x, near.y, near.unit, -1.0)
    steps = np.linspace(-reach, reach, 9) * near.unit
    dy, dx = (d.ravel()[:, None].astype(np.float32) for d in np.meshgrid(steps, steps, indexing="ij"))
    for scale in scales:
        unit = near.unit * scale
        seen = sample(away, near.x + dx + unit * _POINTS[0], near.y + dy + unit * _POINTS[1])
        scores = likeness(seen, _PLAIN)
        i = int(scores.argmax())
        if scores[i] > best.likeness:
            best = Place(near.x + float(dx[i, 0]), near.y + float(dy[i, 0]), unit, float(scores[i]))
    return best


def find_faces(frames: Frames, most: int = 2) -> list[tuple[int, Place]]:
    """The faces of a clip (T, height, width, 3), from left to right: the frame that shows each best, and where.

    There is a face where the cascade proposes one in several of the sampled frames and the plain face agrees. If there
    are more than `most`, the largest are given. The list is empty if there is none.
    """
    groups: list[list[tuple[int, Place]]] = []
    sampled = sorted(set(np.linspace(0, len(frames) - 1, _SAMPLED_FRAMES).round().astype(int).tolist()))
    for index, side in zip(sampled, cycle(_SEARCH_SIDES), strict=False):
        picture = frames[index].astype(np.float32) / 255
        for place in _confirmed(picture, _proposals(frames[index], side)):
            group = next((g for g in groups if _is_same_face(g[0][1], place)), None)
            if group is None:
                groups.append([(index, place)])
            else:
                group.append((index, place))
    faces = [
        max(group, key=lambda seen: seen[1].likeness)
        for group in groups
        if len({index for index, _ in group}) >= min(_MIN_VOTES, len(sampled))
    ]
    distinct: list[tuple[int, Place]] = []
    for face in sorted(faces, key=lambda seen: -seen[1].likeness):
        if not any(_is_same_face(face[1], other[1]) for other in distinct):
            distinct.append(face)
    largest = sorted(distinct, key=lambda seen: -seen[1].unit)[:most]
    return sorted(largest, key=lambda seen: seen[1].x)


def _is_same_face(a: Place, b: Place) -> bool:
    return bool(np.hypot(a.x - b.x, a.y - b.y) < 1.2 * max(a.unit, b.unit))


def _proposals(frame: Frames, side: int) -> list[Place]:
    """Where the cascade sees a face, its box turned into a face's middle and unit."""
    height, width = frame.shape[:2]
    zoom = side / max(height, width)
    size = (max(1, round(width * zoom)), max(1, round(height * zoom)))
    picture = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
    limits = {"min_size": (40, 40), "max_size": (min(size),) * 2}
    found = []
    # The negative is searched too: there a dark face with light hair and eyes looks as the cascade knows faces.
    for seen in (picture, 255 - picture):
        found += _cascade().detect_multi_scale(
            img=seen, scale_factor=1.12, step_ratio=1, min_neighbor_number=2, **limits
        )
    places = []
    for box in found:
        unit = box["width"] / _BOX_UNITS / zoom
        x, y = (box["c"] + box["width"] / 2) / zoom, (box["r"] + box["height"] / 2) / zoom
        places.append(Place(x, y - _BOX_LOWER * unit, unit, 0.0))
    return places


def _confirmed(picture: Floats, proposals: list[Place]) -> list[Place]:
    confirmed: list[Place] = []
    for proposal in proposals:
        place = fit_face(picture, proposal, 0.36, (0.7, 0.8, 0.9, 1.0, 1.1, 1.2))
        if place.likeness >= _MIN_LIKENESS:
            confirmed.append(fit_face(picture, place, 0.1, (0.94, 0.97, 1.0, 1.03, 1.06)))
    return confirmed


@cache
def _cascade() -> Any:  # noqa: ANN401
    return scikit_image("feature").Cascade(scikit_image("data").lbp_frontal_face_cascade_filename())
