"""What is wrong with a video's pictures: blank and frozen frames, windows that repeat, jumps, colours and sharpness.

Frames pass once, and a few numbers and a thumbnail of each stay.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from infinitetalk.checking.expected import Expected, Stretch
from infinitetalk.checking.frames import Floats, Frame, change, color_and_sharpness, scaled, thumbnail
from infinitetalk.shapes import FPS

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
        stirs: the largest change of a thumbnail's pixel since the frame before, of 255.
        looks: mean colour and sharpness of some frames, by their numbers.
    """

    changes: list[float] = field(default_factory=list)
    stirs: list[float] = field(default_factory=list)
    thumbnails: list[NDArray[np.uint8]] = field(default_factory=list)
    looks: dict[int, tuple[NDArray[np.float64], float]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.changes)

    def passing(self, frames: Iterable[Frame], expected: Expected) -> Iterator[Frame]:
        """The same frames, looked at as they pass."""
        last: Frame | None = None
        last_small: Floats | None = None
        every = max(1, expected.frames(1 / _LOOKS_PER_S))
        for index, frame in enumerate(frames):
            small = thumbnail(frame)
            self.changes.append(0.0 if last is None else change(last, frame))
            self.stirs.append(255.0 if last_small is None else float(np.abs(small - last_small).max()))
            self.thumbnails.append(small.round().astype(np.uint8))
            if any(part.first <= index < part.stop and (index - part.first) % every == 0 for part in expected.compared):
                self.looks[index] = color_and_sharpness(frame[None])
            last, last_small = frame, small
            yield frame


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


def frozen(seen: Seen, moving: NDArray[np.bool_], most: float) -> list[tuple[Stretch, int]]:
    """Where nothing stirs by more than `most`, and in how many of the frames somebody should be seen to move.

    The longest first; only where there is such a frame.
    """
    found = []
    for run in runs(np.array(seen.stirs) <= most):
        heard = int(moving[run.first : run.stop].sum())
        if heard:
            found.append((Stretch(run.first - 1, run.stop), heard))  # the frame before is the one that stands
    return sorted(found, key=lambda one: -one[1])


def most_alike(seen: Seen, expected: Expected) -> tuple[float, Stretch, Stretch] | None:
    """The two windows that are most alike, by how alike they are; None where no two come near to it.

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
            share = _apart(frames, before, after, expected, _ORDINARY * unrelated)
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


def _apart(frames: Floats, before: Stretch, after: Stretch, expected: Expected, most: float) -> float | None:
    length = min(window.stop - window.first for window in (before, after))
    length = min(length, len(frames) - after.first)
    one = frames[before.first : before.first + length : _STEP]
    together = float(np.abs(one - frames[after.first : after.first + length : _STEP]).mean())
    if together > most:
        return None
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
    at = [first for first in numbers if first < len(seen)]
    not_ordinary = [0, *at, *(first for first in expected.scenes if first < len(seen))]
    if not at or len(not_ordinary) >= len(seen):
        return []
    tones = np.array([small.mean(dtype=np.float64) for small in seen.thumbnails])
    times = np.zeros(len(at))
    for changes, least in ((np.array(seen.changes), _LEAST_CHANGE), (np.abs(np.diff(tones, prepend=0)), _LEAST_TONE)):
        usual = max(float(np.percentile(np.delete(changes, not_ordinary), 95)), least)
        times = np.maximum(times, changes[at] / usual)
    return sorted(((float(one), numbers[first]) for one, first in zip(times, at, strict=True)), reverse=True)


@dataclass(frozen=True)
class Look:
    """How one second compares with its reference.

    Args:
        color: mean absolute difference of the three mean colours, of 255.
        sharpness: divided by the reference's.
    """

    start: int
    color: float
    sharpness: float


def looks(seen: Seen, expected: Expected, size: tuple[int, int], least: float) -> Iterator[Look]:
    """Each compared stretch, second by second. A reference is asked for when its first second is.

    Frames whose contrast is below `least` are left out.
    """
    second, empty = max(1, expected.frames(1)), blank(seen, least)
    for part in expected.compared:
        if part.first not in seen.looks:
            continue
        wanted, sharp = color_and_sharpness(scaled(expected.reference(part.first), size)[None])
        for start in range(part.first, part.stop, second):
            inside = range(start, min(start + second, part.stop))
            taken = [seen.looks[at] for at in inside if at in seen.looks and not empty[at]]
            if taken:
                color = float(np.abs(np.mean([one for one, _ in taken], axis=0) - wanted).mean())
                sharpness = float(np.mean([one for _, one in taken])) / max(sharp, 1e-6)
                yield Look(start, color, sharpness)
