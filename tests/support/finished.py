"""A finished video with a head that sways and a mouth that moves with its sound, and what it should hold."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from benchmarks.planted import Clip, write_clip
from infinitetalk.checking.expected import WHOLE, Expected, Stretch, Voice
from infinitetalk.media.encode import BT709
from infinitetalk.media.speech import SILENT, loudness
from infinitetalk.shapes import FPS, SAMPLES_PER_FRAME

N_FRAMES, SIZE, WINDOW = 96, (96, 64), 32


def speech(n_frames: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A wave that comes in syllables, and its loudness."""
    random = np.random.default_rng(seed)
    syllables = np.repeat(
        np.clip(gaussian_filter1d(random.normal(0, 1, n_frames), 1.5) * 3 + 0.6, 0, 2), SAMPLES_PER_FRAME
    )
    wave = (0.1 * syllables * random.normal(0, 1, n_frames * SAMPLES_PER_FRAME)).astype(np.float32)
    return wave, loudness(wave, n_frames)


def make_clip() -> Clip:
    """96 frames in three windows."""
    width, height = SIZE
    wave, loud = speech(N_FRAMES, 1)
    random = np.random.default_rng(0)
    wall = (
        120 + 250 * gaussian_filter(random.normal(0, 1, (height, width)), 5) + 12 * random.normal(0, 1, (height, width))
    )
    sway = gaussian_filter1d(random.normal(0, 1, N_FRAMES), 4) * 2
    frames = np.empty((N_FRAMES, height, width, 3), np.uint8)
    for index in range(N_FRAMES):
        picture = np.repeat(wall[..., None], 3, 2)
        across = np.arange(width) - sway[index]
        inside = ((across[None] - 48) / 18) ** 2 + ((np.arange(height)[:, None] - 30) / 24) ** 2
        picture[inside < 1] = 190, 150, 120
        mouth = ((across[None] - 48) / 6) ** 2 + ((np.arange(height)[:, None] - 42) / (1 + 4 * loud[index])) ** 2
        picture[mouth < 1] = 60, 20, 20
        frames[index] = np.clip(gaussian_filter(picture, (0.6, 0.6, 0)), 0, 255)
    windows = tuple(Stretch(start, start + WINDOW, start > 0) for start in range(0, N_FRAMES, WINDOW))
    return Clip(frames, wave, expected_of(wave, loud, frames[0], windows))


def expected_of(wave: np.ndarray, loud: np.ndarray, reference: np.ndarray, windows: tuple[Stretch, ...]) -> Expected:
    """Of a video that was made of a picture and one voice."""
    return Expected(
        n_frames=len(loud),
        rate=Fraction(FPS),
        size=SIZE,
        colors=BT709,
        windows=windows,
        sound=wave,
        sound_channel=None,
        voices=(Voice("wav_url", loud),),
        moving=loud >= SILENT,
        is_source=False,
        compared=(Stretch(0, len(loud)),),
        reference=lambda _: reference,
        made=lambda _: (WHOLE,),
        choose=lambda _scene, found, _size: [found[0] if found else None],
        suggested={"seed": 8, "audio_guidance": 2.0, "color_correction": 1.0},
    )


def write(clip: Clip, path: Path, **changed: Any) -> Path:
    """Write a clip as the worker does."""
    write_clip(replace(clip, **changed), path, path)
    return path
