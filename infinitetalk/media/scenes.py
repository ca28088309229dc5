"""Where a video is cut, by thumbnails of its frames: hard cuts, dissolves and fades, but not flashes.

All differences are mean absolute differences of two thumbnails, in levels of 255.
"""

import numpy as np
from numpy.typing import NDArray

THUMBNAIL = (64, 36)  # (width, height) in pixels

Thumbnails = NDArray[np.uint8]
Floats = NDArray[np.float32]

# A hard cut: the change into a frame, and how many times the changes around it that is.
_CUT_LEVELS = 12.0
_CUT_TIMES = 4.0
_AROUND_FRAMES = 12
# After a flash the picture is what it was: a frame so long after a cut is like none of so many before it.
_AFTER_FRAMES, _BEFORE_FRAMES = 5, 8
# A dissolve or fade: two frames so far before and after its middle differ, and both stand in a quiet stretch.
_HALF_FRAMES = (5, 10, 20, 40)
_DISSOLVE_LEVELS = 16.0
_QUIET = 0.2  # of the difference across it
_DARK = 0.35  # how bright the middle of a fade is at most, against its ends


def find_cuts(thumbnails: Thumbnails) -> list[int]:
    """The frames with which a new scene begins, in ascending order; never frame 0.

    A dissolve's new scene begins where the old one is gone.

    Args:
        thumbnails: (frames, height, width, 3) RGB at 25 frames a second.
    """
    changes = _apart(thumbnails, 1)
    hard = [index for index in range(1, len(thumbnails)) if _is_cut(thumbnails, changes, index)]
    slow: list[int] = []
    for half in _HALF_FRAMES:
        for first, last in _dissolves(thumbnails, half):
            near = [cut for cut in slow if first - half <= cut <= last + half]
            if any(first - half <= cut <= last + half for cut in hard):
                continue
            if near and not _is_dark_between(thumbnails[first : last + 1]):
                continue
            # Seen closer, a fade out and the fade in after it are two changes.
            slow = [*(cut for cut in slow if cut not in near), _end(thumbnails, first, last)]
    return sorted({*hard, *slow})


def _is_dark_between(stretch: Thumbnails) -> bool:
    """Whether the picture is far darker in the middle of a stretch than at both of its ends."""
    levels = stretch.mean(axis=(1, 2, 3))
    return bool(levels.min() < _DARK * min(levels[0], levels[-1]))


def _is_cut(thumbnails: Thumbnails, changes: Floats, index: int) -> bool:
    """Whether a scene begins with the frame, at once."""
    change = changes[index - 1]  # from the frame before
    if change <= _CUT_LEVELS:
        return False
    around = np.concatenate((changes[max(index - 1 - _AROUND_FRAMES, 0) : index - 1], changes[index:][:_AROUND_FRAMES]))
    moved = around[around > 0]  # a source of fewer frames a second shows each of them several times
    if len(moved) and change <= _CUT_TIMES * np.median(moved):
        return False
    later = thumbnails[min(index + _AFTER_FRAMES, len(thumbnails) - 1)]
    earlier = thumbnails[max(index - _BEFORE_FRAMES, 0) : index]
    return bool((_difference(earlier, later) > _CUT_LEVELS).all())


def _dissolves(thumbnails: Thumbnails, half: int) -> list[tuple[int, int]]:
    """First and last frames of the slow changes that last at most some 2 * half frames."""
    found: list[int] = []
    if len(thumbnails) <= 4 * half:
        return []
    across = _apart(thumbnails, 2 * half)  # [i]: from frame i to i + 2 * half
    for first in range(half, len(across) - half):
        if across[first] <= _DISSOLVE_LEVELS or not _is_dissolve(thumbnails, first, half, across[first]):
            continue
        if found and first - found[-1] <= 2 * half:  # the same change
            found[-1] = max(found[-1], first, key=lambda place: across[place])
        else:
            found.append(first)
    return [(first, first + 2 * half) for first in found]


def _is_dissolve(thumbnails: Thumbnails, first: int, half: int, across: float) -> bool:
    """Whether two frames that differ stand in quiet stretches that differ as a whole; those of a flash do not."""
    before = thumbnails[[first - half, first - half // 2, first]]
    after = thumbnails[[first + 2 * half, first + 2 * half + half // 2, first + 3 * half]]
    stirred = max(_difference(before, before[-1]).max(), _difference(after, after[0]).max())
    apart = min(_difference(before, after[0]).min(), _difference(after, before[-1]).min())
    return bool(stirred < _QUIET * across and apart > _DISSOLVE_LEVELS)


def _end(thumbnails: Thumbnails, first: int, last: int) -> int:
    """The frame from which on a dissolve shows the new scene alone."""
    left = _difference(thumbnails[first : last + 1], thumbnails[last])
    return first + int(np.flatnonzero(left > _QUIET * left[0])[-1]) + 1


def _apart(thumbnails: Thumbnails, step: int) -> Floats:
    """(frames - step,) the difference of each frame to the one `step` later."""
    pairs = zip(thumbnails[:-step], thumbnails[step:], strict=True)
    return np.array([np.abs(a.astype(np.int16) - b).mean() for a, b in pairs], np.float32)


def _difference(some: Thumbnails, one: Thumbnails) -> Floats:
    """(frames,) the difference of each of some frames to one frame."""
    return np.asarray(np.abs(some.astype(np.int16) - one).mean(axis=(1, 2, 3)), np.float32)
