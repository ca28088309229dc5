"""Experimental: self-attention in which each block of queries reads only some blocks of keys.

A block is 128 tokens in a row. Every block of queries reads its own latent frame, the first latent frame (the
reference), and its own place in the frames before and after. The rest of its share goes to the blocks whose mean key is
most like its mean query. What is left out is lost: this is not the model's own attention.
"""

from collections.abc import Callable
from functools import cache
from math import ceil
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

BLOCK_TOKENS = 128
NEIGHBOUR_BLOCKS = 2  # around the same place in the frames before and after


def sparse_attention(query: Tensor, key: Tensor, value: Tensor, frames: int, density: float) -> Tensor:
    """Attention over (B, N, H, D) of `frames` latent frames, each block of queries reading `density` of all blocks."""
    query, key, value = (part.transpose(1, 2).contiguous() for part in (query, key, value))
    output: Tensor = _sparse_attention(query, key, value, frames, density)
    return output.transpose(1, 2)


# An operator of its own, because FlexAttention skips blocks only if it is compiled, and torch.compile cannot leave the
# number of blocks open that are read, which follows from the size.
@torch.library.custom_op("infinitetalk::sparse_attention", mutates_args=())
def _sparse_attention(query: Tensor, key: Tensor, value: Tensor, frames: int, density: float) -> Tensor:
    """The same over (B, H, N, D), contiguous."""
    blocks = choose_blocks(query, key, frames, density)
    if query.device.type == "cuda":
        return _flex_attention(query, key, value, blocks)
    return masked_attention(query, key, value, blocks)


@_sparse_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, frames: int, density: float) -> Tensor:
    return torch.empty_like(query)


def choose_blocks(query: Tensor, key: Tensor, frames: int, density: float) -> Tensor:
    """Indices (B, H, blocks, chosen) int32 of the blocks of keys that each block of queries reads, ascending."""
    tokens = query.shape[2]
    alike = _block_means(query) @ _block_means(key).transpose(-1, -2)
    # The blocks that are always read come first. If not all of them fit, the most alike among them come first.
    rank = torch.where(always_read(tokens, frames, query.device), alike + 2 * alike.abs().amax() + 1, alike)
    chosen = rank.topk(ceil(density * rank.shape[-1]), dim=-1, sorted=False).indices
    return chosen.sort(dim=-1).values.to(torch.int32)


def _block_means(states: Tensor) -> Tensor:
    """Means (B, H, blocks, D) float32 over the tokens of each block of (B, H, N, D). The last block may be short."""
    whole = states.shape[2] // BLOCK_TOKENS * BLOCK_TOKENS
    means: Tensor = states[:, :, :whole].unflatten(2, (-1, BLOCK_TOKENS)).mean(dim=3, dtype=torch.float32)
    if whole == states.shape[2]:
        return means
    return torch.cat((means, states[:, :, whole:].mean(dim=2, keepdim=True, dtype=torch.float32)), dim=2)


def always_read(tokens: int, frames: int, device: torch.device) -> Tensor:
    """(blocks, blocks), true if a block of queries (row) reads a block of keys (column) whatever they hold."""
    per_frame = tokens // frames
    start = torch.arange(0, tokens, BLOCK_TOKENS, device=device)
    first = start // per_frame
    last = (start + BLOCK_TOKENS - 1).clamp(max=tokens - 1) // per_frame
    same_frame = (first[:, None] <= last) & (last[:, None] >= first)
    apart = (start[:, None] - start).abs()
    same_place = (apart - per_frame).abs() <= NEIGHBOUR_BLOCKS * BLOCK_TOKENS
    return same_frame | same_place | (first == 0)


def _flex_attention(query: Tensor, key: Tensor, value: Tensor, blocks: Tensor) -> Tensor:
    numbers = torch.full(blocks.shape[:3], blocks.shape[3], dtype=torch.int32, device=blocks.device)
    table = F.pad(blocks, (0, blocks.shape[2] - blocks.shape[3]))  # its rows must be as long as there are blocks
    mask = BlockMask.from_kv_blocks(
        torch.zeros_like(numbers),  # no block is read in part
        torch.zeros_like(table),
        numbers,  # these blocks are read as a whole
        table,
        BLOCK_SIZE=BLOCK_TOKENS,
        seq_lengths=(query.shape[2], key.shape[2]),
        compute_q_blocks=False,
    )
    return _compiled_flex_attention()(query, key, value, block_mask=mask)


@cache
def _compiled_flex_attention() -> Callable[..., Tensor]:
    return cast(Callable[..., Tensor], torch.compile(flex_attention, dynamic=True))


def masked_attention(query: Tensor, key: Tensor, value: Tensor, blocks: Tensor) -> Tensor:
    """The same by PyTorch's dense attention and a mask. It is the reference, and it runs on a CPU."""
    count, tokens = blocks.shape[2], query.shape[2]
    reads = torch.zeros(*blocks.shape[:3], count, dtype=torch.bool, device=blocks.device)
    reads = reads.scatter(-1, blocks.long(), torch.ones_like(blocks, dtype=torch.bool))
    mask = reads.repeat_interleave(BLOCK_TOKENS, -1)[..., :tokens].repeat_interleave(BLOCK_TOKENS, -2)[..., :tokens, :]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
