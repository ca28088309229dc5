"""Faces of a picture, and the same faces from frame to frame of a video."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from infinitetalk.faces.detector import MAX_OVERLAP, Detector, overlap
from infinitetalk.faces.mesh import EYE_CORNERS, Mesh, Square, square_around

Picture = NDArray[np.uint8]

# The mesh's probabilities from which on there is a face: where the detector has proposed one, and where one was in the
# frame before.
FOUND_PRESENCE, FOLLOWED_PRESENCE = 0.7, 0.5
MAX_SIDE = 1280  # larger pictures are searched at this size
_LOOKS = 3  # how often a face that is found must be confirmed
_SEARCH_EVERY = 5  # frames from one search for a lost face to the next
_MAX_MOVE = 1.5  # in faces: how far a lost face may have gone when it is found again


@dataclass(frozen=True, eq=False)
class Face:
    """One face in one picture.

    Args:
        box: x0, y0, x1, y1 in pixels of the picture: what the points span, from ear to ear and from the hair to the
            chin. A face at the picture's edge may reach beyond it.
        points: (468, 2), x and y in pixels: MediaPipe's face mesh.
        presence: the mesh's probability that this is a face, at most 1.
    """

    box: tuple[float, float, float, float]
    points: NDArray[np.float32]
    presence: float

    def fractions(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """The box in fractions of a picture of that (width, height)."""
        x0, y0, x1, y1 = self.box
        return x0 / size[0], y0 / size[1], x1 / size[0], y1 / size[1]

    @property
    def size(self) -> float:
        """The longer side of the box, in pixels."""
        x0, y0, x1, y1 = self.box
        return max(x1 - x0, y1 - y0)


class FaceFinder:
    """The two networks on one device: the detector proposes faces, the mesh confirms them and gives their points."""

    def __init__(self, detector: Detector, mesh: Mesh) -> None:
        self._detector, self._mesh = detector, mesh

    @classmethod
    def open(cls, device: torch.device) -> "FaceFinder":
        """Read the networks. Raises ModelMissing, with the command that brings them, where they are not installed."""
        return cls(Detector(device), Mesh(device))

    def find(self, picture: Picture) -> tuple[Face, ...]:
        """The faces of a picture, from left to right by the middles of their boxes.

        Args:
            picture: (height, width, 3) RGB of any size; where it is longer than 1280 pixels, it is searched at 1280.
        """
        height, width = picture.shape[:2]
        zoom = min(1.0, MAX_SIDE / max(height, width))
        shown = picture
        if zoom < 1:
            size = (max(1, round(width * zoom)), max(1, round(height * zoom)))
            shown = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX, reducing_gap=2.0))
        candidates = self._detector(shown)
        squares = [square_around(one.box.reshape(2, 2), one.eyes) for one in candidates]
        # A face's points span a square in which they are found again; those seen in leaves or fur wander off.
        for _ in range(_LOOKS):
            faces = [face for face in self._faces(shown, squares, FOUND_PRESENCE) if face is not None]
            squares = [_next_square(face) for face in faces]
        scale = np.array([width / shown.shape[1], height / shown.shape[0]], np.float32)
        found = [_face(face.points * scale, face.presence) for face in faces]
        distinct: list[Face] = []
        for face in sorted(found, key=lambda one: -one.presence):
            if not any(_is_same_place(face, other) for other in distinct):
                distinct.append(face)
        return tuple(sorted(distinct, key=lambda one: one.box[0] + one.box[2]))

    def follow(self, frames: Iterable[Picture], first: Sequence[Face]) -> Iterator[tuple[Face | None, ...]]:
        """The same faces in each frame of one shot, in the order of `first`; None where a face is not seen.

        A face is looked for where it was in the frame before. One that is lost is searched for in the whole frame,
        every fifth frame, and is known by its place alone: the nearest face that no other one is followed on.

        Args:
            frames: (height, width, 3) RGB each, of one size.
            first: the faces in the first frame, or in one close to it.
        """
        last, lost_for = list(first), [0] * len(first)
        for frame in frames:
            squares = [_next_square(face) for face in last]
            now = self._faces(frame, squares, FOLLOWED_PRESENCE)
            for i, j in _collided(now):
                now[max((i, j), key=lambda k: _moved(last[k], now[k]))] = None
            lost = [i for i, face in enumerate(now) if face is None]
            if any(lost_for[i] % _SEARCH_EVERY == 0 for i in lost):
                self._search(frame, last, now, lost)
            for i, face in enumerate(now):
                lost_for[i] = 0 if face is not None else lost_for[i] + 1
                last[i] = face or last[i]
            yield tuple(now)

    def _search(self, frame: Picture, last: Sequence[Face], now: list[Face | None], lost: Sequence[int]) -> None:
        """Put faces of the whole frame where they are missing in `now`, the nearest first."""
        free = [one for one in self.find(frame) if not any(face and _is_same_place(face, one) for face in now)]
        near = sorted((_moved(last[i], face), i, k) for i in lost for k, face in enumerate(free))
        taken: set[int] = set()
        for distance, i, k in near:
            if distance <= _MAX_MOVE and now[i] is None and k not in taken:
                now[i] = free[k]
                taken.add(k)

    def _faces(self, picture: Picture, squares: Sequence[Square], least: float) -> list[Face | None]:
        """The face in each square; None where it is less present than `least`."""
        points, presence = self._mesh(picture, squares)
        return [_face(one, float(sure)) if sure > least else None for one, sure in zip(points, presence, strict=True)]


def _face(points: NDArray[np.float32], presence: float) -> Face:
    (x0, y0), (x1, y1) = points.min(0).tolist(), points.max(0).tolist()
    return Face((x0, y0, x1, y1), points.astype(np.float32), presence)


def _next_square(face: Face) -> Square:
    return square_around(face.points, face.points[list(EYE_CORNERS)])


def _is_same_place(a: Face, b: Face) -> bool:
    return overlap(np.array(a.box, np.float32), np.array(b.box, np.float32)) > MAX_OVERLAP


def _collided(faces: Sequence[Face | None]) -> list[tuple[int, int]]:
    """Pairs of faces that are followed to one place, by their indices."""
    seen = [(i, face) for i, face in enumerate(faces) if face is not None]
    return [(i, j) for n, (i, a) in enumerate(seen) for j, b in seen[n + 1 :] if _is_same_place(a, b)]


def _moved(before: Face, after: Face | None) -> float:
    """How far a face has gone, in its own sizes."""
    if after is None:
        return 0.0
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = before.box, after.box
    return float(np.hypot(ax0 + ax1 - bx0 - bx1, ay0 + ay1 - by0 - by1)) / 2 / before.size
