"""How far mouths are open in every frame of a clip, from its pixels only.

A face is found once (faces.py) and then followed: in every frame its upper part (eyes, brows and nose) is registered to
its usual look, by shift, scale and turn. The mouth is then read at a place that keeps still in the face.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infinitetalk.quality.faces import Floats, Frames, Place, find_faces, fit_face, grid, likeness, sample

MIN_FRAMES = 5
MIN_UNIT_PX = 8.0  # half the width of the smallest head whose mouth can be read, in pixels
# In half head widths: the height of two shut lips, and how much higher a wide open mouth is.
SHUT_HEIGHT, OPENING = 0.095, 0.29
_MOUTH_COLOR = np.array([0.2, 0.08, 0.08])  # the inside of mouths, in their own shadow
_MIN_MATCH = 0.6  # correlation of a face's upper part with its usual look; with less, something else is shown
_MIN_LIKENESS = 0.68  # of the face's usual look with a plain face; drawn faces have 0.8 and more
MIN_FOLLOWED = 0.9  # share of the frames in which a face must be followed
_DENSITY = 20.0  # points per unit at most
_STEPS = 6
_MAX_STEP_PX = 2.0


@dataclass(frozen=True)
class Mouth:
    """One person's mouth in a clip of T frames.

    Args:
        openness: (T,), about 0 if shut, 1 if wide open, NaN where the face could not be followed. It is the height of
            what is not skin in the mouth's middle columns, minus SHUT_HEIGHT, divided by OPENING. A pixel counts by how
            far its colour is from the cheeks', on the way to the inside of a mouth. By landmarks it is the gap between
            the lips, in such units that a wide open mouth of drawn people is 1.
        x, y, unit: (T,), the middle between the eyes and half the head's width, in pixels.
        likeness: correlation with a plain face, or by landmarks the mean presence; at most 1.
    """

    openness: Floats
    x: Floats
    y: Floats
    unit: Floats
    likeness: float


@dataclass(frozen=True)
class Tracked:
    """The people of a clip, from left to right. If nobody can be followed, `reason` says why."""

    mouths: tuple[Mouth, ...]
    reason: str | None


def track_mouths(frames: Frames, people: int | None = None) -> Tracked:
    """Find and follow the faces of a clip: (T, height, width, 3) uint8 RGB.

    Args:
        people: how many there must be, 1 or 2; None takes up to two that are found. If there must be two and one cannot
            be followed, nobody is given, since it could not be told which one is missing.

    Raises:
        ValueError: frames have another shape, or people is another number.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"frames must be uint8 (T, height, width, 3), not {frames.dtype} {frames.shape}")
    if people not in (None, 1, 2):
        raise ValueError(f"people must be 1 or 2, not {people}")
    if len(frames) < MIN_FRAMES:
        return Tracked((), f"the clip has {len(frames)} frames; {MIN_FRAMES} are needed to follow a face")
    found = find_faces(frames, people or 2)
    if not found or len(found) < (people or 1):
        seen = f"{len(found)} of {people} frontal faces" if people == 2 else "no frontal face"
        return Tracked((), f"{seen} found in the picture")
    mouths = []
    for index, place in found:
        mouth = _follow(frames, index, place)
        if isinstance(mouth, Mouth):
            mouths.append(mouth)
        elif people or len(found) == 1:
            return Tracked((), mouth)
    return Tracked(tuple(mouths), None if mouths else "no face could be followed through the clip")


def _follow(frames: Frames, index: int, place: Place) -> Mouth | str:
    """The mouth of the face at `place` in frame `index`, in all frames; or why it cannot be read."""
    if place.unit < MIN_UNIT_PX:
        return f"a face is too small: its head is {2 * place.unit:.0f} pixels wide, {2 * MIN_UNIT_PX:.0f} are needed"
    density = min(place.unit, _DENSITY)
    upper = grid(-0.85, 0.85, -0.55, 0.62, density)
    poses = np.zeros((len(frames), 4))
    poses[index] = place.x, place.y, place.unit, 0
    first = _shown(frames[index], poses[index], upper)
    for order in (range(index + 1, len(frames)), range(index - 1, -1, -1)):
        pose = poses[index]
        for t in order:
            pose = poses[t] = _register(frames[t], first, upper, pose)
    usual = np.median([_shown(frames[t], poses[t], upper) for t in range(len(frames))], axis=0).astype(np.float32)
    for t in range(len(frames)):
        poses[t] = _register(frames[t], usual, upper, poses[t])
    match = [
        float(likeness(_shown(f, pose, upper).ravel(), usual.ravel())) for f, pose in zip(frames, poses, strict=True)
    ]
    followed = np.array(match) >= _MIN_MATCH
    if followed.mean() < MIN_FOLLOWED:
        return f"a face could be followed in only {followed.mean():.0%} of the frames"
    poses, face_likeness = _centred(frames, poses, density)
    if face_likeness < _MIN_LIKENESS:
        return "the face that was found does not look enough like a face for its mouth to be read"
    openness = np.array([_opening(f, pose, density) for f, pose in zip(frames, poses, strict=True)])
    openness = np.where(followed, (openness - SHUT_HEIGHT) / OPENING, np.nan)
    x, y, unit, _ = poses.T.astype(np.float32)
    return Mouth(openness.astype(np.float32), x, y, unit, face_likeness)


def _register(
    frame: Frames, wanted: Floats, points: tuple[Floats, Floats], pose: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The pose near `pose` in which the points look as wanted: Gauss-Newton, with outliers (blinks) weighted down."""
    x, y, unit, turn = pose
    picture, corner = _surroundings(frame, pose)
    for _ in range(_STEPS):
        at_x, at_y = _pixels((x, y, unit, turn), points)
        u, v = at_x - corner[0], at_y - corner[1]
        error = (wanted - sample(picture, u, v)).ravel().astype(np.float64)
        dx = sample(picture, u + 0.5, v) - sample(picture, u - 0.5, v)
        dy = sample(picture, u, v + 0.5) - sample(picture, u, v - 0.5)
        # A change of scale by 1/unit, or a turn by 1/unit, moves a point that is one unit away by one pixel.
        right, down = (at_x - x)[..., None] / unit, (at_y - y)[..., None] / unit
        change = (
            np.stack((dx, dy, dx * right + dy * down, dy * right - dx * down), -1).reshape(-1, 4).astype(np.float64)
        )
        weight = 1 / (1 + (error / (1.5 * np.median(np.abs(error)) + 0.02)) ** 2)
        normal = (change * weight[:, None]).T @ change
        normal[np.diag_indices(4)] += 1e-3 * normal.trace() / 4 * np.array([1, 1, 10, 10]) + 1e-9
        step = np.clip(np.linalg.solve(normal, change.T @ (weight * error)), -_MAX_STEP_PX, _MAX_STEP_PX)
        x, y, unit, turn = x + step[0], y + step[1], max(unit + step[2], 1.0), turn + step[3] / unit
        if np.abs(step).max() < 0.01:
            break
    return np.array([x, y, unit, turn])


def _centred(frames: Frames, poses: NDArray[np.float64], density: float) -> tuple[NDArray[np.float64], float]:
    """The poses, corrected by where the plain face lies in the clip's usual face, and the likeness of the two."""
    reach_x, top, bottom = 1.3, -1.0, 1.6
    points = grid(-reach_x, reach_x, top, bottom, density)
    sampled = np.linspace(0, len(frames) - 1, min(len(frames), 100)).astype(int)
    face = np.median([_shown(frames[t], poses[t], points) for t in sampled], axis=0).astype(np.float32)
    across, down = (face.shape[1] - 1) / (2 * reach_x), (face.shape[0] - 1) / (bottom - top)
    middle = Place(reach_x * across + 0.5, -top * down + 0.5, density, 0.0)
    fit = fit_face(face, middle, 0.15, (0.92, 0.96, 1.0, 1.04, 1.08))
    dx, dy = (fit.x - middle.x) / across, (fit.y - middle.y) / down
    centred = poses.copy()
    u, v = poses[:, 2] * np.cos(poses[:, 3]), poses[:, 2] * np.sin(poses[:, 3])
    centred[:, 0] += u * dx - v * dy
    centred[:, 1] += v * dx + u * dy
    centred[:, 2] *= fit.unit / density
    return centred, fit.likeness


def _opening(frame: Frames, pose: NDArray[np.float64], density: float) -> float:
    """Height, in units, of what is not skin in the middle columns of a mouth."""
    top, bottom = 0.62, 1.3
    cheeks = _shown(frame, pose, grid(-0.8, 0.8, 0.3, 0.62, density)).reshape(-1, 3)
    skin = np.median(cheeks, axis=0)
    mouth = _shown(frame, pose, grid(-0.12, 0.12, top, bottom, density))
    distance = np.linalg.norm(mouth - skin, axis=-1) / max(float(np.linalg.norm(skin - _MOUTH_COLOR)), 0.1)
    return float(np.minimum(distance, 1).mean() * (bottom - top))


def _shown(frame: Frames, pose: NDArray[np.float64], points: tuple[Floats, Floats]) -> Floats:
    """What a frame shows at points of the face, in [0, 1]."""
    picture, corner = _surroundings(frame, pose)
    x, y = _pixels(pose, points)
    return sample(picture, x - corner[0], y - corner[1])


def _surroundings(frame: Frames, pose: NDArray[np.float64]) -> tuple[Floats, tuple[int, int]]:
    """The part of a frame in which a face may be, in [0, 1], and the pixel at which it begins."""
    height, width = frame.shape[:2]
    reach = 2 * pose[2] + _STEPS * _MAX_STEP_PX
    left, top = (int(np.clip(pose[i] - reach, 0, (width, height)[i] - 1)) for i in (0, 1))
    right, bottom = (int(np.clip(pose[i] + reach, 0, (width, height)[i] - 1)) + 1 for i in (0, 1))
    return np.asarray(frame[top:bottom, left:right] / np.float32(255), np.float32), (left, top)


def _pixels(
    pose: NDArray[np.float64] | tuple[float, float, float, float], points: tuple[Floats, Floats]
) -> tuple[Floats, Floats]:
    """Pixel positions of points in units. A pose is the middle's x and y, the unit, and the turn in radians."""
    x, y, unit, turn = pose
    u, v = unit * np.cos(turn), unit * np.sin(turn)
    return (
        np.asarray(x + u * points[0] - v * points[1], np.float32),
        np.asarray(y + v * points[0] + u * points[1], np.float32),
    )
