"""Masks of speakers made the model authors' way (InfiniteTalk, wan/multitalk.py): pixel masks, resized.

The masks for callers are made in `infinitetalk.generation.masks`, without a pixel mask.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Rectangle = tuple[
    int, int, int, int
]  # row0, column0, row1, column1 in pixels of the source, whatever its keys say there
BORDER = 0.05
LATENT_PIXELS, PATCH_LATENTS = 8, 2


def default_rectangles(source_size: tuple[int, int]) -> list[Rectangle]:
    """The halves that two people without boxes get, of a source of (width, height)."""
    width, height = source_size
    half = width // 2
    rows = int(height * BORDER), int(height * (1 - BORDER))
    columns = int(half * BORDER), int(half * (1 - BORDER))
    return [(rows[0], left + columns[0], rows[1], left + columns[1]) for left in (0, half)]


def latent_masks(rectangles: Sequence[Rectangle], source_size: tuple[int, int], target_size: tuple[int, int]) -> Tensor:
    """(P + 1, latent height, latent width): each person's rectangle, and what neither covers; sizes (width, height)."""
    width, height = source_size
    people = torch.zeros(len(rectangles), height, width)
    for mask, (row0, column0, row1, column1) in zip(people, rectangles, strict=True):
        mask[row0:row1, column0:column1] = 1
    masks = torch.cat((people, (people.sum(0, keepdim=True) == 0).float()))
    target_width, target_height = target_size
    scale = max(target_height / height, target_width / width)
    resized_height, resized_width = math.ceil(scale * height), math.ceil(scale * width)
    resized = F.interpolate(masks.unsqueeze(0), size=(resized_height, resized_width), mode="nearest")
    top, left = round((resized_height - target_height) / 2.0), round((resized_width - target_width) / 2.0)
    cropped = resized[:, :, top : top + target_height, left : left + target_width]
    latent_size = (target_height // LATENT_PIXELS, target_width // LATENT_PIXELS)
    return F.interpolate(cropped, size=latent_size, mode="nearest")[0]


def token_masks(latents: Tensor) -> Tensor:
    """(1, P + 1, S) token masks of latent ones, by nearest neighbour."""
    size = (latents.shape[1] // PATCH_LATENTS, latents.shape[2] // PATCH_LATENTS)
    return F.interpolate(latents.unsqueeze(0), size=size, mode="nearest").flatten(2)
