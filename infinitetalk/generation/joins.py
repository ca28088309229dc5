"""Where windows join: what one hands to the next, and how the next begins where it ended."""

from dataclasses import dataclass

import torch
from torch import Tensor

STILL = 0.5 / 127.5  # largest change of a still pixel from one frame to the next: half of one of 255 levels


@dataclass(frozen=True)
class Handover:
    """What a window hands to the next one.

    motion: latents (1, 16, T, height / 8, width / 8) of its last `overlap` frames, which the next window holds.
    last_frame: (3, height, width) float32 in [-1, 1].
    """

    motion: Tensor
    last_frame: Tensor

    def to(self, device: torch.device | str) -> "Handover":
        """The same on that device."""
        return Handover(self.motion.to(device), self.last_frame.to(device))


@dataclass(frozen=True)
class Start:
    """Where the loop over the windows begins: after `windows` of them, with what the last one handed over."""

    windows: int = 0
    handover: Handover | None = None


def fade_in(frames: Tensor, overlap: int, last_frame: Tensor, fade_frames: int) -> None:
    """Let a window begin where the one before it ended, in place.

    The overlapping frames have been through the autoencoder once more than in the window before, and look a little
    different. The frames after them, which are not held, differ a little from them again. Cut hard, the clip jumps.

    Added to frame k = 1, 2, ... of the fade, with weight 1 - k / (fade_frames + 1): the change from this window's last
    overlapping frame to the same frame in the window before, minus this window's next step as far as it is below STILL,
    which is too small to be motion.

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
