"""Where windows join: what one hands to the next, and how the next begins where it ended."""

from dataclasses import dataclass

import torch
from torch import Tensor

STILL = 0.5 / 127.5
"""A pixel that changes by no more from a frame to the next stands still: half of one of 255 levels."""


@dataclass(frozen=True)
class Handover:
    """What a window hands to the next one.

    motion: latents (1, 16, T, height / 8, width / 8) of its last `overlap` frames, which the next window holds.
    last_frame: (3, height, width) float32 in [-1, 1].
    """

    motion: Tensor
    last_frame: Tensor

    def to(self, device: torch.device | str) -> "Handover":
        return Handover(self.motion.to(device), self.last_frame.to(device))


def fade_in(frames: Tensor, overlap: int, last_frame: Tensor, fade_frames: int) -> None:
    """Let a window begin where the one before it ended, in place.

    The overlapping frames have been through the autoencoder once more than in the window before, and look a little
    different; the frames after them, which are not held, differ a little from them again: cut hard, the clip jumps. The
    difference in the last overlapping frame, and what of the change to the next is too small to be motion, are added
    to the frames that follow, from all but one part in `fade_frames + 1` down to one.

    Args:
        frames: (3, T, height, width) in [-1, 1], a decoded window.
        overlap: its leading frames that repeat the window before; they are left as they are.
        last_frame: (3, height, width), the same moment in the window before.
        fade_frames: frames that are changed; 0 for a hard cut.
    """
    repeated, following = frames[:, overlap - 1], frames[:, overlap]
    difference = last_frame - repeated - (following - repeated).clamp(-STILL, STILL)
    for step in range(1, min(fade_frames, frames.shape[1] - overlap) + 1):
        frame = frames[:, overlap + step - 1]
        torch.clamp(frame + difference * (1 - step / (fade_frames + 1)), -1, 1, out=frame)
