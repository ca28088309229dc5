"""Between the bytes of pictures and the numbers of the model."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_picture(frame: NDArray[np.uint8], device: torch.device) -> Tensor:
    """(3, height, width) float32 in [-1, 1] of RGB bytes (height, width, 3)."""
    return torch.tensor(frame, device=device).permute(2, 0, 1).float() / 127.5 - 1


def to_bytes(frames: Tensor) -> NDArray[np.uint8]:
    """RGB bytes (frames, height, width, 3) of (3, frames, height, width) in [-1, 1]."""
    levels = frames.add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8).permute(1, 2, 3, 0)
    # Pinned memory is filled several times faster, and torch keeps it for the next windows.
    host = torch.empty(levels.shape, dtype=torch.uint8, pin_memory=frames.is_cuda)
    return host.copy_(levels).numpy()
