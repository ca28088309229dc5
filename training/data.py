"""Clips of drawn people who speak the corpus's sentences."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from math import exp, tau

import numpy as np
import torch
from torch import Tensor

from training.faces import NOD, SWAY, Motion, Painter, Scene
from training.speech import NOD_FRAMES, SWAY_FRAMES, Corpus

SIZES = ((160, 96), (96, 160), (224, 128), (128, 224))
SIZE_SHARES = (0.4, 0.36, 0.1, 0.14)
OVERLAP = 9  # frames that a window takes over from the one before it
SETTLE_FRAMES = 6.0  # a head that is not where the reference frame has it returns within a few times this


@dataclass(frozen=True)
class Clip:
    """A drawn clip.

    Args:
        video: (B, 3, T, H, W) in [-1, 1].
        starts: (B, P), first frame of each voice in the corpus.
    """

    scene: Scene
    motion: Motion
    video: Tensor
    starts: Tensor


class Maker:
    """Makes clips from one corpus."""

    def __init__(self, corpus: Corpus, device: torch.device, seed: int, sizes: Sequence[int] = (0, 1, 2, 3)) -> None:
        self.device = device
        self.painter = Painter(device, seed)
        self.choices = np.random.default_rng(seed)
        self.size_choices = list(sizes)
        self.speech_frames = corpus.speech_frames
        self.frames = len(corpus.tracks.height)
        self.height, self.width, self.nod, self.sway, self.blink = (
            torch.from_numpy(np.asarray(track)).to(device) for track in astuple(corpus.tracks)
        )

    def size(self) -> tuple[int, int]:
        shares = np.array([SIZE_SHARES[i] for i in self.size_choices])
        return SIZES[self.choices.choice(self.size_choices, p=shares / shares.sum())]

    def starts(self, shape: tuple[int, ...], frames: int, silent: float = 0.0) -> Tensor:
        """First frames of voices. A share `silent` of them lie in the corpus's silence."""
        speaking = self.painter.uniform(2, self.speech_frames - frames - 3, *shape).long()
        silence = self.painter.uniform(self.speech_frames + 50, self.frames - frames - 3, *shape).long()
        return torch.where(self.painter.chance(silent, *shape), silence, speaking)

    def reference(self, count: int, people: int) -> tuple[Tensor, Tensor]:
        """Mouth height and width (B, P) of reference frames: often shut."""
        height = self.painter.uniform(0, 0.7, count, people) * self.painter.chance(0.5, count, people)
        return height, self.painter.uniform(0.3, 0.7, count, people)

    def motion(self, starts: Tensor, frames: int, first: Tensor, reference: tuple[Tensor, Tensor]) -> Motion:
        """What people do while they say what begins at `starts` (B, P).

        Args:
            first: (B,), whether the clip begins with its reference frame, the head at rest and the eyes open.
            reference: mouth height and width of the reference frame, from `reference`.
        """
        time = torch.arange(frames, device=self.device)
        index = starts[..., None] + time
        begins = first[:, None, None]
        nod, sway = self.nod[index], self.sway[index]
        nod = torch.where(begins, nod - nod[..., :1] * exp(-1 / NOD_FRAMES) ** time, nod)
        sway = torch.where(begins, sway - sway[..., :1] * exp(-1 / SWAY_FRAMES) ** time, sway)
        is_reference = begins & (time == 0)
        return Motion(
            height=torch.where(is_reference, reference[0][..., None], self.height[index]),
            width=torch.where(is_reference, reference[1][..., None], self.width[index]),
            eyes=torch.where(is_reference, 1.0, 1 - self.blink[index]),
            shift_x=SWAY * sway,
            shift_y=NOD * nod,
        )

    def wander(self, motion: Motion, probability: float) -> Motion:
        """Let some heads also move on their own, as in a filmed source, beginning where they are."""
        b, p, frames = motion.height.shape
        time = torch.arange(frames, device=self.device) / 25
        moves = []
        for reach in (0.22, 0.12):
            phase, pace = self.painter.uniform(0, tau, b, p, 1), self.painter.uniform(0.15, 0.6, b, p, 1)
            path = torch.sin(tau * pace * time + phase) - torch.sin(phase)
            moves.append(path * self.painter.uniform(0, reach, b, p, 1))
        wanders = self.painter.chance(probability, b, 1, 1)
        return Motion(
            motion.height,
            motion.width,
            motion.eyes,
            motion.shift_x + moves[0] * wanders,
            motion.shift_y + moves[1] * wanders,
        )

    def clip(
        self,
        count: int,
        frames: int,
        people: int | None = None,
        size: tuple[int, int] | None = None,
        teeth: float = 0.0,
        silent: float = 0.1,
        wander: float = 0.3,
        alike: float = 0.0,
    ) -> Clip:
        """A clip from the middle of a conversation.

        Args:
            silent: share of the voices that are silent.
            wander: share of the clips whose heads move on their own.
            teeth, alike: as in `Painter.scene`.
        """
        people = people or int(self.choices.integers(1, 3))
        scene = self.painter.scene(count, people, size or self.size(), teeth, alike)
        starts = self.starts((count, people), frames, silent)
        first = self.painter.chance(0.3, count)
        motion = self.wander(self.motion(starts, frames, first, self.reference(count, people)), wander)
        return Clip(scene, motion, self.painter.draw(scene, motion), starts)
