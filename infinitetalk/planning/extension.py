"""Which frame of the source the clip shows when the source is shorter than the sound. Exact numbers only."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from infinitetalk.contract.request import Extend


@dataclass(frozen=True)
class Run:
    """Frames of the source, one after the other: `start`, `start + step`, ...

    Args:
        step: 1 forwards, -1 backwards, 0 the same frame each time.
    """

    start: int
    length: int
    step: int

    @property
    def lowest(self) -> int:
        """The earliest of its frames."""
        return min(self.start, self.start + self.step * (self.length - 1))


def source_index(index: int, n_source: int, extend: Extend) -> int:
    """The source's frame that the clip shows at `index`.

    Args:
        n_source: how many frames the source has.
        extend: what follows the last of them: that frame again, the first one, or the one before it and so on back to
            the first. Where the direction turns, no frame is shown twice.
    """
    if index < n_source or extend == "hold":
        return min(index, n_source - 1)
    if extend == "loop":
        return index % n_source
    period = max(2 * n_source - 2, 1)
    place = index % period
    return min(place, period - place)


def source_place(place: Fraction, n_source: int, extend: Extend) -> Fraction:
    """The same as `source_index` between frames: where in the source the clip is, both in frames of the clip.

    So sources at rates of their own begin again and turn when the clip does.
    """
    if place < n_source or extend == "hold":
        return place
    if extend == "loop":
        return place % n_source
    period = max(2 * n_source - 2, 1)
    place %= period
    return place if place < n_source else period + 1 - place


def source_runs(start: int, length: int, n_source: int, extend: Extend) -> Iterator[Run]:
    """The source's frames for the clip's frames from `start` on, as few runs as possible."""
    return runs_of([source_index(index, n_source, extend) for index in range(start, start + length)])


def runs_of(shown: Sequence[int]) -> Iterator[Run]:
    """Frames as few runs as possible."""
    while shown:
        step = max(-1, min(1, shown[1] - shown[0])) if len(shown) > 1 else 1
        n = 1
        while n < len(shown) and shown[n] - shown[n - 1] == step:
            n += 1
        yield Run(shown[0], n, step)
        shown = shown[n:]


def cuts_of_clip(source_cuts: Sequence[int], n_frames: int, n_source: int, extend: Extend) -> tuple[int, ...]:
    """The clip's frames with which a new scene begins, 0 aside.

    Args:
        source_cuts: the same of the source, in ascending order.
        n_frames: frames of the clip.

    A loop's return to the first frame begins a scene, too.
    """
    ascending = set(source_cuts)
    cuts = []
    before = source_index(0, n_source, extend)
    for index in range(1, n_frames):
        now = source_index(index, n_source, extend)
        is_jump = abs(now - before) > 1 or (extend == "loop" and now < before)
        if is_jump or (now != before and max(now, before) in ascending):
            cuts.append(index)
        before = now
    return tuple(cuts)
