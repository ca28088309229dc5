"""Which voice belongs to which face of a video, by how its mouths move.

It can be told only where the video shows people saying what the voices say, or saying it with the same timing. So the
order is a matter of evidence: without enough of it there is none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from infinitetalk.faces.mouths import MAX_LAG_FRAMES, Floats, shift_correlations
from infinitetalk.media.speech import SILENT
from infinitetalk.shapes import FPS

MIN_SPEECH_S = 6.0
MIN_MARGIN = 0.2

Order = tuple[int, ...]


@dataclass(frozen=True)
class Match:
    """The best order of voices and faces.

    Args:
        faces: of each voice, the face whose mouth moves with it.
        margin: how much better the mouths correlate with these voices than in the order that comes closest: the mean
            over the voices in which the two differ. Of two voices and two faces it is the correlation of each mouth
            with its own voice minus that with the other's.
        speech_s: for how long anybody is heard.
    """

    faces: Order
    margin: float
    speech_s: float

    @property
    def is_certain(self) -> bool:
        """Whether the margin is clear and there is enough speech."""
        return self.margin > MIN_MARGIN and self.speech_s >= MIN_SPEECH_S


def match_voices(mouths: Sequence[Floats], loud: Sequence[Floats]) -> Match | None:
    """Find the order in which mouths follow voices best.

    Args:
        mouths: (T,) openness of each face, as `mouths.openness_curve`.
        loud: (T,) loudness of each voice, as `speech.loudness`; as many as mouths, two or more.

    Returns None where a mouth or a voice does not vary, or there are fewer than 50 frames.
    """
    table = [[shift_correlations(mouth, voice) for mouth in mouths] for voice in loud]
    lags = np.arange(-MAX_LAG_FRAMES, MAX_LAG_FRAMES + 1)
    near: dict[tuple[int, int], NDArray[np.float64]] = {}
    for voice, row in enumerate(table):
        for face, by_shift in enumerate(row):
            if by_shift is None:
                return None
            near[voice, face] = by_shift[lags]

    def score(order: Order, voices: Sequence[int]) -> float:
        """The mean correlation of some voices with their faces; picture and sound may be shifted, but all alike."""
        return float(np.mean([near[voice, order[voice]] for voice in voices], axis=0).max())

    everyone = range(len(loud))
    orders = sorted(permutations(everyone), key=lambda order: -score(order, everyone))
    best, margins = orders[0], []
    for other in orders[1:]:
        differing = [voice for voice in everyone if best[voice] != other[voice]]
        margins.append(score(best, differing) - score(other, differing))
    speech_s = float((np.max(loud, axis=0) >= SILENT).sum()) / FPS
    return Match(best, min(margins), speech_s)
