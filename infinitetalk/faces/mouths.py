"""How far mouths are open by the face mesh's points, and whether they follow a voice.

Used to find out which voice belongs to which face of a source video (job/), and to measure finished videos (quality/).
Curves have 25 values a second, as `media.speech.loudness` gives them.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, rfft
from scipy.signal import butter, sosfiltfilt

from infinitetalk.faces.mesh import EYE_CORNERS
from infinitetalk.shapes import FPS

Floats = NDArray[np.float32]

MAX_LAG_FRAMES = 4
MIN_FRAMES = 2 * FPS  # fewer leave no shifts to compare with
_BAND_HZ = (0.7, 7.0)  # syllables; slower changes are poses of the mouth, faster ones the mesh's noise
_INNER_LIPS = ((13, 14), (82, 87), (312, 317))  # of the mesh's points: upper and lower, in three columns
_UNRELATED_FRAMES = 12  # a sound that is shifted by this much or more belongs to other movements


@dataclass(frozen=True)
class Following:
    """How well a mouth follows a voice.

    Args:
        correlation: the highest within 4 frames of shift, both curves band-passed from 0.7 to 7 Hz.
        lag_frames: the shift at which it is; above 0 the mouth is late.
        z: how many standard deviations the correlation lies above those with the same voice shifted in time.
    """

    correlation: float
    lag_frames: int
    z: float


def openness(points: Floats) -> float:
    """How far a mouth is open: the mean height between the inner lips, in distances of the outer corners of the eyes.

    Args:
        points: (468, 2), the face mesh in pixels.
    """
    heights = [np.linalg.norm(points[upper] - points[lower]) for upper, lower in _INNER_LIPS]
    return float(np.mean(heights) / max(np.linalg.norm(points[EYE_CORNERS[0]] - points[EYE_CORNERS[1]]), 1e-6))


def openness_curve(meshes: Iterable[Floats | None]) -> Floats:
    """The openness in every frame, (T,): NaN where there is no mesh."""
    return np.array([np.nan if points is None else openness(points) for points in meshes], np.float32)


def following(mouth: Floats, loud: Floats) -> Following | None:
    """Whether a mouth follows a voice: their correlation, against that with the voice shifted in time.

    The correlation is circular, so that every shift of the voice against the mouth is a sample of what chance gives.

    Args:
        mouth: (T,) openness. Where it is NaN, it is taken to go straight from the frame before to the one after.
        loud: (T,) loudness of the voice.

    Returns None where there are fewer than 50 frames, or one of the curves does not vary.
    """
    by_shift = shift_correlations(mouth, loud)
    if by_shift is None:
        return None
    lags = range(-MAX_LAG_FRAMES, MAX_LAG_FRAMES + 1)
    lag = max(lags, key=lambda lag: by_shift[lag])
    peaks = np.max([np.roll(by_shift, -lag) for lag in lags], axis=0)
    chance = peaks[_UNRELATED_FRAMES:-_UNRELATED_FRAMES]
    return Following(float(by_shift[lag]), lag, float((by_shift[lag] - chance.mean()) / chance.std()))


def shift_correlations(mouth: Floats, loud: Floats) -> NDArray[np.float64] | None:
    """Correlation of a mouth with a voice that is shifted by 0, 1, ... T - 1 frames, in a circle; as in `following`."""
    if len(mouth) != len(loud):
        raise ValueError(f"mouth and voice must have the same number of frames, not {len(mouth)} and {len(loud)}")
    known = np.isfinite(mouth)
    if len(mouth) < MIN_FRAMES or not known.any():
        return None
    frames = np.arange(len(mouth))
    a, b = _syllables(np.interp(frames, frames[known], mouth[known])), _syllables(loud)
    if a is None or b is None:
        return None
    spectrum = np.asarray(rfft(a)) * np.conj(rfft(b))
    return np.asarray(irfft(spectrum, len(a)) / len(a), np.float64)


def _syllables(curve: Floats | NDArray[np.float64]) -> NDArray[np.float64] | None:
    """A curve's changes in the band, with mean 0 and standard deviation 1; None if it does not vary."""
    band = np.asarray(sosfiltfilt(butter(2, _BAND_HZ, "bandpass", fs=FPS, output="sos"), curve.astype(np.float64)))
    deviation = float(band.std())
    return None if deviation < 1e-6 else (band - band.mean()) / deviation
