"""Self-attention that reads only some blocks of keys one by one, and of each other block the mean.

Tokens are taken place by place: all latent frames of one place, then those of the next. A block is some of them in a
row, so it is a small patch of the picture over the whole time, and mostly alike. Each head and block of queries reads
the keys of those blocks that seem to have most of its attention. A block that it does not read counts as its mean key
and mean value, as often as the block has tokens: log(tokens) is added to that key's logit. So nothing is left out, but
what is not read is blurred.

That skipped blocks are given back as means with a log-count bias is an idea of several sparse attentions, such as
h3-sparse-attn. That heads attend along time, and that it helps to reorder tokens so, is from Sparse VideoGen
(arXiv 2502.01776).
"""

from math import ceil, log
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from infinitetalk.models.e4m3 import narrow_attention

BLOCK_TOKENS = 128
SMALL_BLOCK_TOKENS = 16  # without a GPU, where windows are the miniature's: 1,200 tokens are only 10 blocks of 128
PARTS = 4  # of a block, each with a mean of its own, when blocks are chosen


def sparse_attention(
    query: Tensor, key: Tensor, value: Tensor, frames: int, density: float, narrow: bool = False
) -> Tensor:
    """Attention over (B, N, H, D) of `frames` latent frames, one after the other.

    Args:
        density: the share of the blocks of keys that each block of queries reads, in (0, 1]; 1 is exact.
        narrow: compute in the 8 bits of e4m3. Without a GPU only the inputs are rounded.
    """
    output: Tensor = _sparse_attention(query, key, value, frames, density, narrow)
    return output


# An operator of its own, because torch.compile cannot leave the number of blocks open that are read, which follows from
# the size.
@torch.library.custom_op("infinitetalk::sparse_attention", mutates_args=())
def _sparse_attention(query: Tensor, key: Tensor, value: Tensor, frames: int, density: float, narrow: bool) -> Tensor:
    if query.device.type == "cuda":
        return triton_sparse_attention(query, key, value, frames, density, narrow)
    return plain_sparse_attention(query, key, value, frames, density, narrow, SMALL_BLOCK_TOKENS)


@_sparse_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, frames: int, density: float, narrow: bool) -> Tensor:
    return query.new_empty(query.shape)


def triton_sparse_attention(
    query: Tensor, key: Tensor, value: Tensor, frames: int, density: float, narrow: bool
) -> Tensor:
    """The same by Triton's kernels. Raises ImportError where Triton is not installed."""
    from infinitetalk.models import sparse_kernels  # PyTorch brings Triton along for GPUs only

    arranged = sparse_kernels.arrange(query, key, value, frames, BLOCK_TOKENS, PARTS, narrow)
    means = arranged.query_means, arranged.key_means
    blocks = choose_blocks_by_means(*means, query.shape[1], density, BLOCK_TOKENS, query.dtype)
    return sparse_kernels.attend(arranged, blocks, query.new_empty(query.shape), frames)


def plain_sparse_attention(
    query: Tensor, key: Tensor, value: Tensor, frames: int, density: float, narrow: bool, block_tokens: int
) -> Tensor:
    """The same in plain PyTorch: the reference, and what runs on a CPU."""
    rounded = _rounded(query, key, value) if narrow else (query, key, value)
    rounded_query, rounded_key, value = (place_by_place(part, frames) for part in rounded)
    blocks = choose_blocks(place_by_place(query, frames), place_by_place(key, frames), density, block_tokens)
    output = masked_attention(rounded_query, rounded_key, value, blocks, block_tokens)
    return cast(Tensor, output.unflatten(2, (-1, frames)).permute(0, 3, 2, 1, 4).flatten(1, 2).contiguous())


def _rounded(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value as 8 bits keep them."""
    narrow_query, narrow_key, narrow_value, scale = narrow_attention(query, key, value)
    value = (narrow_value.float() * scale[:, None, :, None]).to(value.dtype)
    return narrow_query.to(query.dtype), narrow_key.to(key.dtype), value


def place_by_place(states: Tensor, frames: int) -> Tensor:
    """(B, N, H, D), frame by frame, to (B, H, N, D), place by place."""
    return cast(Tensor, states.unflatten(1, (frames, -1)).permute(0, 3, 2, 1, 4).flatten(2, 3))


def choose_blocks(query: Tensor, key: Tensor, density: float, block_tokens: int) -> Tensor:
    """Indices (B, H, M, chosen) int32 of the blocks of keys that each of the M blocks of queries reads, in any order.

    A block reads itself. The others are those with most of the attention, as the means of parts of blocks show it.

    Args:
        query, key: (B, H, N, D), place by place.
    """
    query_means, key_means = (_means(part, block_tokens // PARTS) for part in (query, key))
    return choose_blocks_by_means(query_means, key_means, query.shape[2], density, block_tokens, query.dtype)


def choose_blocks_by_means(
    query_means: Tensor, key_means: Tensor, tokens: int, density: float, block_tokens: int, dtype: torch.dtype
) -> Tensor:
    """The same from the means.

    Args:
        query_means, key_means: (B, H, parts, D) float32, over each part of `block_tokens` // `PARTS` of the tokens. The
            last part may hold fewer.
        dtype: in which they are compared.
    """
    size, parts = block_tokens // PARTS, key_means.shape[2]
    queries = (query_means * query_means.shape[-1] ** -0.5).to(dtype).flatten(0, 1)
    # Rows of eight numbers are what fast matrix products need; what they are filled with is not attended to.
    missing = -parts % 8
    keys = F.pad(key_means, (0, 0, 0, missing)).to(dtype).flatten(0, 1)
    counts = _log_counts(tokens, size, key_means.device) - log(size)  # only the last one is not zero
    counts = F.pad(counts, (0, missing), value=-torch.inf).to(dtype)
    logits = torch.baddbmm(counts.expand(queries.shape[0], 1, -1), queries, keys.transpose(1, 2))
    share = F.avg_pool2d(logits.softmax(dim=-1), PARTS, ceil_mode=True, divisor_override=1).float()
    share = share[..., : ceil(tokens / block_tokens)].unflatten(0, query_means.shape[:2])
    share.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
    chosen: Tensor = share.topk(ceil(density * share.shape[-1]), dim=-1, sorted=False).indices
    return chosen.to(torch.int32)


def _means(states: Tensor, size: int) -> Tensor:
    """Means (B, H, pieces, D) float32 over each `size` tokens of (B, H, N, D). The last piece may be short."""
    whole = states.shape[2] // size * size
    means: Tensor = states[:, :, :whole].unflatten(2, (-1, size)).mean(dim=3, dtype=torch.float32)
    if whole == states.shape[2]:
        return means
    return torch.cat((means, states[:, :, whole:].mean(dim=2, keepdim=True, dtype=torch.float32)), dim=2)


def _log_counts(tokens: int, size: int, device: torch.device) -> Tensor:
    """Logarithms (pieces,) float32 of the numbers of tokens over which `_means` takes the mean."""
    starts = torch.arange(0, tokens, size, device=device)
    return (tokens - starts).clamp(max=size).log()


def _is_read(blocks: Tensor) -> Tensor:
    """(B, H, blocks, blocks), true where a block of queries (row) reads a block of keys (column)."""
    count = blocks.shape[2]
    reads = torch.zeros(*blocks.shape[:3], count, dtype=torch.bool, device=blocks.device)
    return reads.scatter(-1, blocks.long(), torch.ones_like(blocks, dtype=torch.bool))


def masked_attention(query: Tensor, key: Tensor, value: Tensor, blocks: Tensor, block_tokens: int) -> Tensor:
    """What the queries (B, H, N, D) read of those blocks and of the means, by PyTorch's dense attention and a mask."""
    tokens, reads = query.shape[2], _is_read(blocks)
    of_tokens = torch.where(reads, 0.0, -torch.inf).repeat_interleave(block_tokens, -1)[..., :tokens]
    of_means = torch.where(reads, -torch.inf, _log_counts(tokens, block_tokens, query.device))
    bias = torch.cat((of_tokens, of_means), dim=-1).repeat_interleave(block_tokens, -2)[..., :tokens, :]
    keys, values = (torch.cat((part, _means(part, block_tokens).to(part.dtype)), dim=2) for part in (key, value))
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=bias.to(query.dtype)).contiguous()
