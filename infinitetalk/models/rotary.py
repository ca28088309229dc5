"""Rotation of neighbouring channels, by which queries and keys carry positions (RoFormer, arXiv 2104.09864)."""

from typing import cast

import torch
from torch import Tensor


def rotate_pairs(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate neighbouring channels (2i, 2i+1) of `states` (..., D).

    Args:
        cos, sin: (..., D), see `per_channel`.
    """
    # One formula writes every channel, so that it compiles to one kernel together with what comes before.
    swapped = states.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return cast(Tensor, (states.float() * cos + swapped.float() * sin).type_as(states))


def per_channel(cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of pairs (..., D/2) as factors of channels (..., D): (c, c) and (-s, s) for each pair."""
    return torch.stack((cos, cos), dim=-1).flatten(-2), torch.stack((-sin, sin), dim=-1).flatten(-2)
