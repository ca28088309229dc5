"""How loud speech is, in the way that lips follow it. It is computed from the sound only."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.signal import butter, sosfiltfilt

from infinitetalk.shapes import FPS, SAMPLE_RATE_HZ

Floats = NDArray[np.float32]

_BAND_HZ = (150, 3500)  # of voices; rumble and hiss move no lips
_STEP_HZ = 100  # a whole number per frame
_ENERGY_S, _LIPS_S = 0.010, 0.025  # standard deviations of the two smoothings
_EXPONENT = 0.6  # Stevens: loudness grows with the 0.6th power of the amplitude
_FLOOR = 0.003  # a voice's level has at least this amplitude (-50 dBFS), so that hiss does not count as speech
SILENT = 0.12  # below this loudness, 31 dB under the voice's own level, nobody speaks
_BEFORE_FRAMES, _AFTER_FRAMES = 2, 5  # lips open before the sound and close after it


def loudness(wave: Floats, n_frames: int) -> Floats:
    """The loudness of speech in each of n_frames frames at 25 per second, (n_frames,): 0 is silent, 1 its own level.

    It is the amplitude between 150 and 3500 Hz, smoothed over 10 ms, relative to its root mean square where there is
    speech, to the power 0.6, smoothed over 25 ms and averaged over each frame. Beyond the sound it is 0.

    Args:
        wave: (samples,) mono, 16 kHz.
    """
    samples = n_frames * SAMPLE_RATE_HZ // FPS
    heard = np.pad(wave[:samples], (0, max(0, samples - len(wave)))).astype(np.float64)
    voice = sosfiltfilt(butter(2, _BAND_HZ, "bandpass", fs=SAMPLE_RATE_HZ, output="sos"), heard)
    energy = np.square(voice).reshape(n_frames * _STEP_HZ // FPS, -1).mean(1)
    energy = gaussian_filter1d(energy, _ENERGY_S * _STEP_HZ)
    spoken = energy[energy > 1e-3 * energy.max()] if energy.max() > 0 else energy
    level = max(float(np.sqrt(spoken.mean())), _FLOOR)
    loud = gaussian_filter1d((np.sqrt(energy) / level) ** _EXPONENT, _LIPS_S * _STEP_HZ)
    return np.asarray(loud.reshape(n_frames, -1).mean(1), np.float32)


def silent_frames(loud: Floats) -> NDArray[np.bool_]:
    """(T,), true where nobody speaks, has just spoken or is about to speak."""
    speaks = loud >= SILENT
    near = speaks.copy()
    for shift in range(1, _AFTER_FRAMES + 1):
        near[shift:] |= speaks[:-shift]
    for shift in range(1, _BEFORE_FRAMES + 1):
        near[:-shift] |= speaks[shift:]
    return ~near
