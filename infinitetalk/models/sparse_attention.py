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

from collections.abc import Callable, Sequence
from functools import cache
from math import ceil, log
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

BLOCK_TOKENS = 128  # as FlexAttention's kernel wants them
SMALL_BLOCK_TOKENS = 16  # without a GPU, where windows are the miniature's: 1,200 tokens are only 10 blocks of 128
PARTS = 4  # of a block, each with a mean of its own, when blocks are chosen


def sparse_attention(query: Tensor, key: Tensor, value: Tensor, frames: int, density: float) -> Tensor:
    """Attention over (B, N, H, D) of `frames` latent frames, one after the other.

    Args:
        density: the share of the blocks of keys that each block of queries reads, in (0, 1]; 1 is exact.
    """
    query, key, value = (_place_by_place(part, frames) for part in (query, key, value))
    output: Tensor = _sparse_attention(query, key, value, density)
    return cast(Tensor, output.unflatten(2, (-1, frames)).permute(0, 3, 2, 1, 4).flatten(1, 2))


def _place_by_place(states: Tensor, frames: int) -> Tensor:
    """(B, N, H, D), frame by frame, to (B, H, N, D), contiguous."""
    return cast(Tensor, states.unflatten(1, (frames, -1)).permute(0, 3, 2, 1, 4).flatten(2, 3).contiguous())


# An operator of its own, because FlexAttention skips blocks only if it is compiled, and torch.compile cannot leave the
# number of blocks open that are read, which follows from the size.
@torch.library.custom_op("infinitetalk::sparse_attention", mutates_args=())
def _sparse_attention(query: Tensor, key: Tensor, value: Tensor, density: float) -> Tensor:
    """The same over (B, H, N, D), place by place, contiguous."""
    if query.device.type == "cuda":
        return flex_sparse_attention(query, key, value, choose_blocks(query, key, density, BLOCK_TOKENS))
    blocks = choose_blocks(query, key, density, SMALL_BLOCK_TOKENS)
    return masked_attention(query, key, value, blocks, SMALL_BLOCK_TOKENS)


@_sparse_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, density: float) -> Tensor:
    return torch.empty_like(query)


def choose_blocks(query: Tensor, key: Tensor, density: float, block_tokens: int) -> Tensor:
    """Indices (B, H, blocks, chosen) int32 of the blocks of keys that each block of queries reads, in any order.

    A block reads itself. The others are those with most of the attention, as the means of parts of blocks show it.
    """
    size, tokens = block_tokens // PARTS, query.shape[2]
    queries, keys = _means(query, size) * query.shape[-1] ** -0.5, _means(key, size)
    logits = queries.to(query.dtype) @ keys.to(key.dtype).transpose(-1, -2)
    logits[..., -1:] += _log_counts(tokens, size, key.device)[-1:] - log(size)  # the last part may be short
    share = F.avg_pool2d(logits.softmax(dim=-1), PARTS, ceil_mode=True, divisor_override=1).float()
    share.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
    return share.topk(ceil(density * share.shape[-1]), dim=-1, sorted=False).indices.to(torch.int32)


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
    """Sparse attention by PyTorch's dense attention and a mask. It is the reference, and it runs on a CPU."""
    tokens, reads = query.shape[2], _is_read(blocks)
    of_tokens = torch.where(reads, 0.0, -torch.inf).repeat_interleave(block_tokens, -1)[..., :tokens]
    of_means = torch.where(reads, -torch.inf, _log_counts(tokens, block_tokens, query.device))
    bias = torch.cat((of_tokens, of_means), dim=-1).repeat_interleave(block_tokens, -2)[..., :tokens, :]
    keys, values = (torch.cat((part, _means(part, block_tokens).to(part.dtype)), dim=2) for part in (key, value))
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=bias.to(query.dtype)).contiguous()


def flex_sparse_attention(query: Tensor, key: Tensor, value: Tensor, blocks: Tensor) -> Tensor:
    """The same in blocks of `BLOCK_TOKENS`, by compiled kernels that skip the blocks that are not read."""
    batch, _, tokens, _ = query.shape
    count, size = blocks.shape[2], BLOCK_TOKENS
    place: dict[str, Any] = {"dtype": torch.int32, "device": query.device}
    query, key, value, blocks = (part.flatten(0, 1).unsqueeze(0) for part in (query, key, value, blocks))
    means = [_means(part, size).to(part.dtype) for part in (key, value)]
    # Rows of tables are as long as there are blocks, although they hold fewer.
    read = (torch.full(blocks.shape[:3], blocks.shape[3], **place), F.pad(blocks, (0, count - blocks.shape[3])))
    every = torch.arange(count, **place).expand(count, 1, 1, count).contiguous()
    all_means = (torch.full((count, 1, 1), ceil(count / size), **place), every)
    output = _compiled_flex_attention()(
        F.pad(query, (0, 0, 0, count * size - tokens)),
        (key, value, *read),
        (*means, *all_means),
        _is_read(blocks)[0],
        _log_counts(tokens, size, query.device),
    )
    # Contiguous, as the operator promises.
    return cast(Tensor, output[0, :, :tokens].unflatten(0, (batch, -1)).contiguous())


@cache
def _compiled_flex_attention() -> Callable[..., Tensor]:
    return torch.compile(_flex_attention, dynamic=True)


def _flex_attention(
    query: Tensor, tokens: Sequence[Tensor], means: Sequence[Tensor], reads: Tensor, log_counts: Tensor
) -> Tensor:
    """What is read as it is, and the means of the rest, each by FlexAttention, joined by their log-sum-exps.

    Args:
        query: (1, H, blocks * BLOCK_TOKENS, D).
        tokens, means: keys, values (1, H, N, D), and for each row of blocks how many blocks of keys it reads and which.
        reads: (H, blocks, blocks), as in `_is_read`.
    """
    keys, values, numbers, table = tokens
    mask = BlockMask.from_kv_blocks(
        torch.zeros_like(numbers),  # no block is read in part
        torch.zeros_like(table),
        numbers,  # these blocks are read as a whole
        table,
        BLOCK_SIZE=BLOCK_TOKENS,
        seq_lengths=(query.shape[2], keys.shape[2]),
        compute_q_blocks=False,
    )
    exact, exact_lse = _with_lse(query, keys, values, block_mask=mask)

    # Each block of queries is one of a batch, so that the kernel looks up only once for all of its queries what counts.
    def is_skipped(block: Tensor, head: Tensor, _query_at: Tensor, key_at: Tensor) -> Tensor:
        return ~reads[head, block, key_at]

    def weighed(score: Tensor, _block: Tensor, _head: Tensor, _query_at: Tensor, key_at: Tensor) -> Tensor:
        return score + log_counts[key_at]

    keys, values, numbers, table = means
    mask = BlockMask.from_kv_blocks(
        numbers,
        table,
        BLOCK_SIZE=BLOCK_TOKENS,
        mask_mod=is_skipped,
        seq_lengths=(BLOCK_TOKENS, keys.shape[2]),
        compute_q_blocks=False,
    )
    queries = query[0].unflatten(1, (-1, BLOCK_TOKENS)).transpose(0, 1)
    found = _with_lse(queries, keys, values, score_mod=weighed, block_mask=mask)
    rest, rest_lse = (part.transpose(0, 1).flatten(1, 2).unsqueeze(0) for part in found)
    weight = (rest_lse - exact_lse).sigmoid().unsqueeze(-1)
    return exact.float().lerp(rest.float(), weight).to(query.dtype)


def _with_lse(query: Tensor, keys: Tensor, values: Tensor, **options: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """FlexAttention and the logarithm of what it divides by."""
    output, aux = flex_attention(query, keys, values, return_aux=AuxRequest(lse=True), **options)
    return output, aux.lse
