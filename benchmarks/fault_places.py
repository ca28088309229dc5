"""Which faults a video can have, by what it should hold, and where somebody speaks in it."""

import numpy as np

from infinitetalk.checking.expected import WHOLE, Expected
from infinitetalk.media.speech import SILENT
from infinitetalk.shapes import FPS


def heard(expected: Expected, number: int) -> float:
    window = expected.windows[number]
    return float(expected.moving[window.first : window.stop].mean()) if window.stop > window.first else 0.0


def spoken_window(expected: Expected) -> int:
    return max(range(len(expected.windows)), key=lambda number: heard(expected, number))


def spoken_second(expected: Expected) -> int:
    """The first frame of a second within a window in which somebody is heard most; its first frame stays."""
    firsts = [first for window in expected.windows for first in range(window.first + 1, window.stop - FPS, FPS // 5)]
    return max(firsts, key=lambda first: expected.moving[first : first + FPS].sum(), default=-1)


def speaks_for_a_second(expected: Expected) -> bool:
    first = spoken_second(expected)
    return first >= 0 and not expected.is_source and bool(expected.moving[first : first + FPS].mean() >= 0.6)


def two_spoken_windows(expected: Expected) -> tuple[int, int]:
    spoken = [
        number
        for number, window in enumerate(expected.windows)
        if heard(expected, number) > 0.6 and window.stop - window.first >= FPS
    ]
    return spoken[0], spoken[-1]


def has_joins(expected: Expected) -> bool:
    return bool(expected.joins)


def two_speak(expected: Expected) -> bool:
    return is_long(expected) and len(expected.voices) == 2


def keeps_face(expected: Expected) -> bool:
    return WHOLE not in expected.made(0)


def is_long(expected: Expected) -> bool:
    return all((voice.loud >= SILENT).sum() >= 8.5 * FPS for voice in expected.voices)


def repeats(expected: Expected) -> bool:
    if expected.is_source or len(expected.windows) < 2:
        return False
    try:
        first, second = two_spoken_windows(expected)
    except IndexError:
        return False
    return first != second


def pause(expected: Expected) -> tuple[int, int]:
    """The longest silence of the first voice: its first frame and the one after its last."""
    quiet = np.flatnonzero(expected.voices[0].loud < SILENT)
    longest = max(np.split(quiet, np.flatnonzero(np.diff(quiet) > 1) + 1), key=len)
    return (int(longest[0]), int(longest[-1]) + 1) if len(longest) else (0, 0)


def pauses(expected: Expected) -> bool:
    """Whether one person is silent for long, after having spoken for as long."""
    start, stop = pause(expected)
    return len(expected.voices) == 1 and not expected.is_source and 1.5 * FPS < stop - start <= start
