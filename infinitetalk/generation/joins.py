"""Where windows join: what one window hands to the next, and how the next begins where it ended."""

from dataclasses import dataclass

import torch
from torch import Tensor

STILL = 0.5 / 127.5  # a pixel that changes by at most this between two frames stands still: half of one of 255 levels


@dataclass(frozen=True)
class Handover:
    """What a window hands to the next one.

    Args:
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
    different. The frames after them, which are not held, differ a little from them again. With a hard cut the clip
    jumps.

    So a correction is added to frame k = 1, 2, ... of the fade, with weight 1 - k / (fade_frames + 1). The correction
    is the change from this window's last overlapping frame to the same frame in the window before, minus the part of
    this window's next step that is at most STILL and thus too small to be motion.

    Args:
        frames: (3, T, height, width) in [-1, 1], a decoded window.
        overlap: how many of its leading frames repeat the window before; they are left as they are.
        last_frame: (3, height, width), the last of these moments in the window before.
        fade_frames: how many frames are changed; 0 for a hard cut.
    """
    repeated, following = frames[:, overlap - 1], frames[:, overlap]
    difference = last_frame - repeated - (following - repeated).clamp(-STILL, STILL)
    for step in range(1, min(fade_frames, frames.shape[1] - overlap) + 1):
        frame = frames[:, overlap + step - 1]
        torch.clamp(frame + difference * (1 - step / (fade_frames + 1)), -1, 1, out=frame)
