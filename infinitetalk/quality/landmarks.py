"""How far the mouths of photographed people are open: by MediaPipe's points on their faces (faces/)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from infinitetalk.faces.finder import Face, FaceFinder
from infinitetalk.faces.mesh import EYE_CORNERS
from infinitetalk.faces.mouths import openness_curve
from infinitetalk.quality.tracking import MIN_FOLLOWED, MIN_FRAMES, Mouth, Tracked

Floats = NDArray[np.float32]
Frames = NDArray[np.uint8]

MIN_FACE_PX = 24
_EARS = (234, 454)  # the mesh's points beside them
_WIDE_OPEN = 0.234  # between the lips of a wide open mouth, in distances of the eyes' outer corners: as of drawn people
_SAMPLED_FRAMES = 5


def follow_mouths(frames: Frames, finder: FaceFinder, people: int | None = None) -> Tracked:
    """The same as tracking.track_mouths, by points on the faces; people may be photographed.

    Args:
        frames: (T, height, width, 3) uint8 RGB.
        people: how many there must be, 1 or 2; None takes up to two that are found, the largest.
    """
    if len(frames) < MIN_FRAMES:
        return Tracked((), f"the clip has {len(frames)} frames; {MIN_FRAMES} are needed to follow a face")
    start, faces = _first_seen(frames, finder, people or 2)
    if len(faces) < (people or 1):
        seen = f"{len(faces)} of {people} faces" if people == 2 else "no face"
        return Tracked((), f"{seen} found in the picture")
    small = min(face.size for face in faces)
    if small < MIN_FACE_PX:
        return Tracked((), f"a face is too small: it is {small:.0f} pixels large, {MIN_FACE_PX} are needed")
    after = list(finder.follow(frames[start:], faces))
    before = list(finder.follow(frames[:start][::-1], faces))[::-1]
    seen_in = [[in_frame[i] for in_frame in (*before, *after)] for i in range(len(faces))]
    followed = min(sum(face is not None for face in one) / len(frames) for one in seen_in)
    if followed < MIN_FOLLOWED:
        return Tracked((), f"a face could be followed in only {followed:.0%} of the frames")
    return Tracked(tuple(_mouth(one) for one in seen_in), None)


def _first_seen(frames: Frames, finder: FaceFinder, most: int) -> tuple[int, tuple[Face, ...]]:
    """The first of some frames that shows the most faces, up to `most`, and the largest of them from left to right."""
    best: tuple[int, tuple[Face, ...]] = (0, ())
    for index in np.unique(np.linspace(0, len(frames) - 1, _SAMPLED_FRAMES).round().astype(int)).tolist():
        largest = sorted(finder.find(frames[index]), key=lambda face: -face.size)[:most]
        if len(largest) > len(best[1]):
            best = (index, tuple(sorted(largest, key=lambda face: face.box[0] + face.box[2])))
        if len(best[1]) == most:
            break
    return best


def _mouth(faces: Sequence[Face | None]) -> Mouth:
    """One person's mouth out of their face in each frame; not a number where it was not seen."""
    missing = np.full((468, 2), np.nan, np.float32)
    points = np.stack([missing if face is None else face.points for face in faces])  # (T, 468, 2)

    def between(a: int, b: int) -> Floats:
        return np.asarray(np.linalg.norm(points[:, a] - points[:, b], axis=-1), np.float32)

    curve = openness_curve(None if face is None else face.points for face in faces)
    openness = np.asarray(curve / _WIDE_OPEN, np.float32)
    x, y = points[:, EYE_CORNERS].mean(1).T
    presence = float(np.mean([face.presence for face in faces if face is not None]))
    half_width = np.asarray(between(*_EARS) / 2, np.float32)
    return Mouth(openness, x, y, half_width, presence)
