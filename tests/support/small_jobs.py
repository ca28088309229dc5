"""A job of three windows that takes a second: one picture and one tone, 32x48 pixels."""

from pathlib import Path

import pytest

from infinitetalk.contract.presets import load_mode, load_profile
from infinitetalk.job import run as job
from tests.support.media_samples import write_picture, write_tone

MODE = load_mode("turbo").model_copy(update={"window_frames": 9, "overlap_frames": 5, "steps": 1})
N_FRAMES = 17  # three windows of 9 frames, which bring 9, 4 and 4 new ones
SMALL = load_profile("miniature").model_copy(update={"sizes": {"480p": {"9:16": (32, 48)}}})


def make_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have jobs made so."""
    monkeypatch.setattr(job, "load_mode", lambda _: MODE)
    monkeypatch.setattr(job, "profile_of", lambda _: SMALL)


def small_media(folder: Path) -> dict[str, str]:
    """The picture and the tone, as a job's fields."""
    return {
        "image_url": write_picture(folder / "face.png").as_uri(),
        "wav_url": write_tone(folder / "voice.wav", seconds=N_FRAMES / 25, frequency_hz=180).as_uri(),
    }
