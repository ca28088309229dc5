"""Jobs whose faces, voices and sentences no training has seen, with the truth about them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from PIL import Image

from infinitetalk.contract.presets import load_profile
from infinitetalk.shapes import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from training.data import Maker
from training.speech import Corpus

Frames = NDArray[np.uint8]

SEED = 9_000  # of the first job; training and its evaluation count from far below


@dataclass(frozen=True)
class HeldOutJob:
    """A drawn picture and voices, and the clip as it is drawn.

    Args:
        drawn: (T, height, width, 3) uint8 RGB; its first frame is the picture.
        waves: (T * 640,) float32 for each person, the left one's first.
    """

    drawn: Frames
    waves: tuple[NDArray[np.float32], ...]

    def write(self, folder: Path) -> dict[str, str]:
        """Write the picture and the voices, and return the request's fields for them."""
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(self.drawn[0]).save(folder / "picture.png")
        height, width = self.drawn.shape[1:3]
        resolution, aspect_ratio = _named(width, height)
        fields = {
            "image_url": (folder / "picture.png").resolve().as_uri(),
            "aspect_ratio": aspect_ratio,
            "resolution": resolution,
        }
        for voice in self.write_voices(folder):
            fields["wav_url_2" if "wav_url" in fields else "wav_url"] = voice.resolve().as_uri()
        if len(self.waves) == 2:
            fields["person_count"] = "multi"
        return fields

    def write_voices(self, folder: Path) -> Sequence[Path]:
        """The voices as files, the left person's first."""
        paths = [folder / f"voice_{number}.wav" for number in range(1, 1 + len(self.waves))]
        for path, wave in zip(paths, self.waves, strict=True):
            soundfile.write(path, wave, SAMPLE_RATE_HZ)
        return paths


def _named(width: int, height: int) -> tuple[str, str]:
    """The resolution and aspect ratio that have this size in the miniature's profile."""
    sizes = load_profile("miniature").sizes
    return next(
        (resolution, ratio)
        for resolution, by_ratio in sizes.items()
        for ratio, size in by_ratio.items()
        if size == (width, height)
    )


def held_out_job(
    corpus: Corpus,
    number: int,
    people: int,
    size: tuple[int, int],
    frames: int,
    silent: bool = False,
    wander: bool = False,
) -> HeldOutJob:
    """Job `number` of that many people on a picture of `size` (width, height), who speak from `corpus`.

    Args:
        silent: the voices are only pauses.
        wander: heads move on their own.
    """
    maker = Maker(corpus, torch.device("cpu"), SEED + number)
    scene = maker.painter.scene(1, people, size)
    starts = maker.starts((1, people), frames, 1.0 if silent else 0.0)
    motion = maker.motion(starts, frames, torch.tensor([True]), maker.reference(1, people))
    if wander:
        motion = maker.wander(motion, 1.0)
    video = maker.painter.draw(scene, motion)[0].float()
    return HeldOutJob(
        ((video + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 3, 0).contiguous().numpy(),
        tuple(
            corpus.sound[start * SAMPLES_PER_FRAME : (start + frames) * SAMPLES_PER_FRAME].astype(np.float32)
            for start in starts[0].tolist()
        ),
    )
