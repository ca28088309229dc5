"""What is wrong with a video's pictures: blank and frozen frames, windows that repeat, jumps, colours and sharpness.

Frames pass once, and a few numbers and a thumbnail of each stay.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from infinitetalk.checking.expected import Box, Expected, Stretch
from infinitetalk.checking.frames import Floats, Frame, change, scaled, sharpness, thumbnail
from infinitetalk.shapes import FPS

_LEAST_PART_PX = 12  # of a generated part's shorter side; there is little sharpness in smaller ones
_LOOKS_PER_S = 3  # at colours and sharpness
_STRONGEST = 0.1  # the share of a thumbnail's pixels, those that move most, by which windows are compared
_STEP = 2  # frames from one to the next that is compared in two windows
_SHIFTS_S = (-0.6, -0.4, -0.24, 0.24, 0.4, 0.6)
_LEAST_WINDOW_S = 0.8
_LEAST_STIR = 2.0  # levels by which a window must differ from itself shifted, for it to be told from others
_LEAST_OTHER = 0.15  # by how much the loudness of two windows differs where they are to differ in what they show
_ORDINARY = 0.8  # of what two unrelated windows differ by; only those that differ by less are looked at further
_LEAST_CHANGE, _LEAST_TONE = 0.2, 0.5  # levels of pixels, and of mean brightness: what joins are compared with at least


@dataclass
class Seen:
    """What stays of the frames that have passed.

    Args:
        changes: to the frame before, see `frames.change`; 0 for the first.
        looks: of some frames, by their numbers: mean colour, and the sharpness of each generated part.
    """

    changes: list[float] = field(default_factory=list)
    thumbnails: list[NDArray[np.uint8]] = field(default_factory=list)
    looks: dict[int, tuple[NDArray[np.float64], list[float]]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.changes)

    def passing(self, frames: Iterable[Frame], expected: Expected) -> Iterator[Frame]:
        """The same frames, looked at as they pass."""
        last: Frame | None = None
        every = max(1, expected.frames(1 / _LOOKS_PER_S))
        for index, frame in enumerate(frames):
            self.changes.append(0.0 if last is None else change(last, frame))
            self.thumbnails.append(thumbnail(frame).round().astype(np.uint8))
            if any(part.first <= index < part.stop and (index - part.first) % every == 0 for part in expected.compared):
                self.looks[index] = _look_at(frame, expected.made(index))
            last = frame
            yield frame


def _look_at(frame: Frame, parts: Sequence[Box]) -> tuple[NDArray[np.float64], list[float]]:
    """Mean colour of a frame (height, width, 3), and the sharpness of its parts; NaN of those that are too small."""
    sides = np.array(frame.shape[1::-1] * 2)
    sharp = []
    for part in parts:
        left, top, right, bottom = np.nan_to_num(np.round(part * sides)).astype(int).clip(0, sides).tolist()
        inside = frame[top:bottom, left:right]
        is_large = min(inside.shape[:2]) >= _LEAST_PART_PX
        sharp.append(sharpness(inside[None]) if is_large else np.nan)
    return frame.mean((0, 1)), sharp


def runs(marked: Sequence[bool] | NDArray[np.bool_]) -> list[Stretch]:
    """Stretches of frames that are marked."""
    edges = np.flatnonzero(np.diff(np.asarray(marked, np.int8), prepend=0, append=0))
    return [Stretch(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def contrast(small: NDArray[np.uint8] | Floats) -> float:
    """The standard deviation of a thumbnail, of 255; about 0 for a blank one."""
    return float(np.std(small, dtype=np.float64))


def blank(seen: Seen, least: float) -> NDArray[np.bool_]:
    """(frames,) which of them show one even tone: their contrast is below `least`."""
    return np.array([contrast(small) < least for small in seen.thumbnails], np.bool_)


def frozen(seen: Seen, moving: NDArray[np.bool_], most: float, least: int) -> list[tuple[Stretch, int]]:
    """Where nothing moves, and in how many of the frames somebody should be seen to.

    Each stretch is compared with its own first frame: an encoder goes on refining a picture that stands still, by some
    levels, but nothing gets away from where it was.

    Args:
        most: by which a pixel of the thumbnail may differ from it.
        least: frames in which somebody should move; of stretches with fewer, any of which may overlap, only the
            longest is given.

    Returns the longest first; only those with such a frame.
    """
    small = np.stack(seen.thumbnails).astype(np.int16)
    found, longest = [], (Stretch(0, 0), 0)
    first = 0
    while first < len(small):
        stop = first + 1
        while stop < len(small) and np.abs(small[stop] - small[first]).max() <= most:
            stop += 1
        heard = int(moving[first + 1 : stop].sum())
        if heard >= least:
            found.append((Stretch(first, stop), heard))
        elif heard > longest[1]:
            longest = Stretch(first, stop), heard
        first = stop if heard >= least else max(first + 1, stop - least)
    found.sort(key=lambda one: -one[1])
    return [*found, longest] if longest[1] else found


def most_alike(seen: Seen, expected: Expected) -> tuple[float, Stretch, Stretch] | None:
    """The two windows that are most alike, by how alike they are; None where no two can be compared.

    How much two windows differ, frame by frame, is divided by how much they do when one of them is shifted in time: 0
    if they are equal, about 1 if they have nothing to do with each other. Only what moves most counts, and only
    windows in which somebody is heard and moves. The earlier window comes first.
    """
    small = np.stack(seen.thumbnails).reshape(len(seen), -1)
    motion = small.std(0, dtype=np.float32)
    moves = np.argsort(-motion)[: max(16, round(_STRONGEST * motion.size))]
    frames = small[:, moves].astype(np.float32)
    least = expected.frames(_LEAST_WINDOW_S)
    windows = [
        window
        for window in expected.windows
        if min(window.stop, len(seen)) - window.first >= least
        and expected.moving[window.first : window.stop].mean() > 0.5
    ]
    unrelated = float(2 / np.sqrt(np.pi) * motion[moves].mean())  # two normal values of that deviation differ so much
    best: tuple[float, Stretch, Stretch] | None = None
    for before, after in combinations(windows, 2):
        if not _sound_alike(before, after, expected):
            share = _apart(frames, before, after, expected, unrelated)
            if share is not None and (best is None or share < best[0]):
                best = share, before, after
    return best


def _sound_alike(before: Stretch, after: Stretch, expected: Expected) -> bool:
    """Whether the same is heard in two windows, so that the same may be seen."""
    for voice in expected.voices:
        starts = [int(window.first * FPS / expected.rate) for window in (before, after)]
        length = int(min(window.stop - window.first for window in (before, after)) * FPS / expected.rate)
        one, other = (voice.loud[start : start + length] for start in starts)
        n = min(len(one), len(other))
        if n and float(np.abs(one[:n] - other[:n]).mean()) > _LEAST_OTHER:
            return False
    return True


def _apart(frames: Floats, before: Stretch, after: Stretch, expected: Expected, unrelated: float) -> float | None:
    """How much two windows differ; None where they move too little for it.

    Args:
        unrelated: what two unrelated windows differ by. Those that differ by about as much are not shifted.
    """
    length = min(window.stop - window.first for window in (before, after))
    length = min(length, len(frames) - after.first)
    one = frames[before.first : before.first + length : _STEP]
    together = float(np.abs(one - frames[after.first : after.first + length : _STEP]).mean())
    if together > _ORDINARY * unrelated:
        return together / unrelated
    shifted = []
    for shift in map(expected.frames, _SHIFTS_S):
        # both parts stay within their windows
        a, b = max(0, -shift), max(0, shift)
        n = length - abs(shift)
        if n >= length // 2:
            moved = frames[after.first + b : after.first + b + n : _STEP]
            shifted.append(float(np.abs(frames[before.first + a : before.first + a + n : _STEP] - moved).mean()))
    if not shifted or np.median(shifted) < _LEAST_STIR:
        return None
    return together / float(np.median(shifted))


def joins(seen: Seen, expected: Expected) -> list[tuple[float, int]]:
    """How many times the ordinary change (95 % of the others are smaller) each join is, the worst first.

    The change of the pixels or that of the mean brightness, whichever is more out of the ordinary. With each comes the
    number of its window. Empty where no window joins another.
    """
    numbers = {window.first: number for number, window in enumerate(expected.windows) if window.is_join}
    times = _times_ordinary(seen, expected)
    return sorted(
        ((float(times[first]), number) for first, number in numbers.items() if first < len(times)), reverse=True
    )


def jumps(seen: Seen, expected: Expected, least: float) -> list[tuple[float, int]]:
    """The same of all other frames, with their numbers. Cuts to another scene, and to and from blank frames, are left
    out; blank ones have a contrast below `least`.
    """
    times, empty = _times_ordinary(seen, expected), blank(seen, least)
    known = {0, *expected.joins, *expected.scenes}
    return sorted(
        (
            (float(one), frame)
            for frame, one in enumerate(times)
            if frame not in known and not empty[frame - 1 : frame + 1].any()
        ),
        reverse=True,
    )


def _times_ordinary(seen: Seen, expected: Expected) -> NDArray[np.float64]:
    """(frames,) how many times the ordinary change each one's is; empty where nothing is ordinary."""
    known = [first for first in {0, *expected.joins, *expected.scenes} if first < len(seen)]
    if len(known) >= len(seen):
        return np.zeros(0)
    tones = np.array([small.mean(dtype=np.float64) for small in seen.thumbnails])
    times = np.zeros(len(seen))
    for changes, least in ((np.array(seen.changes), _LEAST_CHANGE), (np.abs(np.diff(tones, prepend=0)), _LEAST_TONE)):
        usual = max(float(np.percentile(np.delete(changes, known), 95)), least)
        times = np.maximum(times, changes / usual)
    return times


@dataclass(frozen=True)
class Look:
    """How one second compares with its reference.

    Args:
        color: mean absolute difference of the three mean colours, of 255.
        least_sharp: the sharpness of the least sharp generated part, divided by the reference's; None where none is
            seen that is large enough.
        most_sharp: likewise of the sharpest one; 0 where none is.
    """

    start: int
    color: float
    least_sharp: float | None
    most_sharp: float


def looks(seen: Seen, expected: Expected, size: tuple[int, int], least: float) -> Iterator[Look]:
    """Each compared stretch, second by second. A reference is asked for when its first second is.

    Frames whose contrast is below `least` are left out.
    """
    second, empty = max(1, expected.frames(1)), blank(seen, least)
    for part in expected.compared:
        if part.first not in seen.looks:
            continue
        wanted, sharp = _look_at(scaled(expected.reference(part.first), size), expected.made(part.first))
        for start in range(part.first, part.stop, second):
            inside = range(start, min(start + second, part.stop))
            taken = [seen.looks[at] for at in inside if at in seen.looks and not empty[at]]
            if taken:
                color = float(np.abs(np.mean([one for one, _ in taken], axis=0) - wanted).mean())
                shares = [
                    one / max(other, 1e-6) for one, other in zip(np.mean([s for _, s in taken], 0), sharp, strict=True)
                ]
                known = [float(share) for share in shares if np.isfinite(share)]
                yield Look(start, color, min(known, default=None), max(known, default=0.0))
