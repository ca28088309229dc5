"""Prints how far the sparse attention's kernels are from plain PyTorch when Triton's interpreter runs them.

Run with TRITON_INTERPRET=1: Triton reads it when a kernel is defined.
"""

import json

import torch

from infinitetalk.models.sparse_attention import (
    BLOCK_TOKENS,
    choose_blocks,
    masked_attention,
    place_by_place,
    triton_sparse_attention,
)

# Batch, latent frames, places, heads, channels, density: with and without a short block, more blocks than a mean's
# block of them holds, all blocks read, fewer tokens than a block.
CASES = (
    (1, 5, 80, 2, 64, 0.3),
    (2, 4, 97, 2, 32, 0.4),
    (1, 4, 96, 2, 32, 1.0),
    (1, 8, 2090, 1, 32, 0.01),
    (2, 5, 20, 2, 32, 0.2),
)

NARROW_CASES = 2  # the first ones; in 8 bits the kernels differ in the numbers' format alone


def main() -> None:
    errors: dict[str, list[float]] = {"wide": [], "narrow": []}
    for batch, frames, places, heads, channels, density in CASES:
        generator = torch.Generator().manual_seed(0)
        tokens = frames * places
        query = torch.randn(batch, tokens, heads, channels, generator=generator)
        both = torch.randn(batch, tokens, 2, heads, channels, generator=generator)
        key, value = both.unbind(2)  # views of one tensor, as a fused layer gives them
        value = value * torch.tensor([3.0, 500.0])[:heads, None]
        parts = [place_by_place(part, frames) for part in (query, key, value)]
        expected = masked_attention(*parts, choose_blocks(*parts[:2], density, BLOCK_TOKENS), BLOCK_TOKENS)
        kinds = (("wide", False), ("narrow", True)) if len(errors["narrow"]) < NARROW_CASES else (("wide", False),)
        for name, narrow in kinds:
            found = place_by_place(triton_sparse_attention(query, key, value, frames, density, narrow), frames)
            off, scale = (part.transpose(0, 1).flatten(1).norm(dim=1) for part in (found - expected, expected))
            errors[name].append(float((off / scale).max()))
    print(json.dumps(errors))


if __name__ == "__main__":
    main()
