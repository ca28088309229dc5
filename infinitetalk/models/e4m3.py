"""e4m3, the 8-bit floating-point numbers of fast products: three bits after the leading one."""

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max


def narrow_attention(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Query, key and value (B, N, H, D) in e4m3, and the values' float32 scale (B, H).

    Query and key have no scale: their block normalises them, and e4m3 keeps its relative precision from 0.016 to 448.
    Values have one scale for each head, to multiply the result by.
    """
    scale = value.abs().amax(dim=(1, 3)).float().clamp(min=1e-6) / LARGEST
    value = value / scale[:, None, :, None]
    query, key, value = (part.clamp(-LARGEST, LARGEST).to(FP8) for part in (query, key, value))
    return query, key, value, scale
