"""Whether a video's sound is the one that it should have, and begins when it should."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft

from infinitetalk.shapes import SAMPLE_RATE_HZ

Floats = NDArray[np.float32]

_PIECE_S, _SEARCHED_S = 8.0, 1.0
_NEAR_S = 0.005  # an offset below counts as none
_SILENT = 1e-3  # root mean square: -60 dB of full scale
_LOUD = 0.1  # of a piece's root mean square: a second above it is compared by itself
# A tone is like itself a period later: another offset counts where it is so much more alike.
_CLEARER = 0.05


@dataclass(frozen=True)
class Piece:
    """Some seconds of sound.

    Args:
        start_s: where it begins in what should be heard.
        offset_s: how much later it is heard; 0 within 5 ms.
        likeness: the correlation there, at most 1; it does not depend on loudness.
    """

    start_s: float
    offset_s: float
    likeness: float


def is_silent(wave: Floats) -> bool:
    """Whether nothing is heard."""
    return not len(wave) or float(np.sqrt(np.mean(np.square(wave, dtype=np.float64)))) < _SILENT


def pieces(heard: Floats, wanted: Floats) -> list[Piece]:
    """Every 8 s of what should be heard that are not silent, and where in what is heard they are within a second.

    Behind each come its loud seconds at the same place: one that is missing is little of 8 s.
    """
    length, reach = round(_PIECE_S * SAMPLE_RATE_HZ), round(_SEARCHED_S * SAMPLE_RATE_HZ)
    padded = np.pad(heard.astype(np.float64), reach + 1)
    found: list[Piece] = []
    for start in range(0, len(wanted), length):
        piece = wanted[start : start + length].astype(np.float64)
        if len(piece) < reach // 4 and start:
            break
        if not is_silent(piece.astype(np.float32)):
            around = padded[start + 1 : start + 1 + len(piece) + 2 * reach]
            around = np.pad(around, (0, len(piece) + 2 * reach - len(around)))
            found += _found(piece, around, start / SAMPLE_RATE_HZ, reach)
    return found


def _found(piece: NDArray[np.float64], around: NDArray[np.float64], start_s: float, reach: int) -> Iterator[Piece]:
    best, place = _best(piece, around, start_s, reach)
    yield best
    there = around[place : place + len(piece)]
    least = _LOUD * float(np.sqrt(np.square(piece).mean()))
    for first in range(0, len(piece) - reach // 2 + 1, reach):
        wanted, heard = piece[first : first + reach], there[first : first + reach]
        if float(np.sqrt(np.square(wanted).mean())) > least:
            power = float(np.square(wanted).sum() * np.square(heard).sum())
            likeness = float((wanted * heard).sum() / np.sqrt(power)) if power > 0 else 0.0
            yield Piece(start_s + first / SAMPLE_RATE_HZ, best.offset_s, likeness)


def _best(piece: NDArray[np.float64], around: NDArray[np.float64], start_s: float, reach: int) -> tuple[Piece, int]:
    """The piece where it is found, and the first sample of that place."""
    size = next_fast_len(len(around) + len(piece), real=True)
    products = np.asarray(irfft(rfft(around, size) * np.conj(rfft(piece, size)), size))[: 2 * reach + 1]
    energy = np.concatenate(([0.0], np.cumsum(np.square(around))))
    norms = np.sqrt(np.maximum(energy[len(piece) :] - energy[: -len(piece)], 0) * np.square(piece).sum())
    likeness = products / np.maximum(norms, 1e-9 + 1e-3 * norms.max())
    near = round(_NEAR_S * SAMPLE_RATE_HZ)
    here = reach - near + int(likeness[reach - near : reach + near + 1].argmax())
    best = int(likeness.argmax())
    if likeness[best] <= likeness[here] + _CLEARER:
        return Piece(start_s, 0.0, float(likeness[here])), here
    return Piece(start_s, (best - reach) / SAMPLE_RATE_HZ, float(likeness[best])), best
