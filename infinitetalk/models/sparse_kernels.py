"""Triton kernels of the sparse attention (sparse_attention.py says what it is).

One lays out query, key and value place by place, takes their means, and rounds them to 8 bits if it is to. The other
attends: each of its programs is a block of queries of one head. It goes over the means of all blocks of keys, leaves
out those of the blocks that it reads, and then over the tokens of these, with one running softmax (FlashAttention,
arXiv 2205.14135). Both read and write the caller's layout, so nothing is copied besides.

Triton has these kernels for every NVIDIA GPU from Ampere on; 8 bits need Ada, Hopper or Blackwell.

Axes in shapes: B batch, H heads, N tokens, D channels of a head (a power of two, at least 32), M blocks.
"""

from dataclasses import dataclass
from math import ceil, e, log2
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.errors import OutOfResources

from infinitetalk.models.e4m3 import FP8, LARGEST

# The weights of the softmax lie between 0 and 1. Times 2^8 most of them are above e4m3's smallest normal number, 1/64.
_WEIGHTS_LOG2 = 8.0
_STAGES = (4, 3, 2, 1)  # how many blocks are in shared memory at once: as many as this GPU has room for
_fitting_stages: dict[tuple[object, ...], int] = {}
_WARPS = 8
_READ = -1.0e6  # the logit of a mean that does not count; finite, since all of a row may be such


@triton.jit
def _arrange_kernel(
    states,
    arranged,
    means,
    scales,
    n_tokens,
    frames,
    heads,
    batch_stride,
    token_stride,
    head_stride,
    channels: tl.constexpr,
    block_tokens: tl.constexpr,
    parts: tl.constexpr,
    transposed: tl.constexpr,
    largest: tl.constexpr,
):
    block, blocks, of_head = tl.program_id(0), tl.num_programs(0), tl.program_id(1).to(tl.int64)
    token, channel = block * block_tokens + tl.arange(0, block_tokens), tl.arange(0, channels)
    row = (token % frames) * (n_tokens // frames) + token // frames
    start = states + (of_head // heads) * batch_stride + (of_head % heads) * head_stride
    places = start + row.to(tl.int64)[:, None] * token_stride + channel[None, :]
    values = tl.load(places, mask=(token < n_tokens)[:, None], other=0.0).to(tl.float32)

    size: tl.constexpr = block_tokens // parts
    part = tl.arange(0, parts)
    sums = tl.sum(tl.reshape(values, (parts, size, channels)), axis=1)
    held = tl.minimum(tl.maximum(n_tokens - block * block_tokens - part * size, 1), size)
    to = means + (of_head * blocks + block) * (parts + 1) * channels
    tl.store(to + part[:, None] * channels + channel[None, :], sums / held[:, None].to(tl.float32))
    held_by_block = tl.minimum(n_tokens - block * block_tokens, block_tokens)
    tl.store(to + parts * channels + channel, tl.sum(sums, axis=0) / held_by_block.to(tl.float32))

    if largest > 0:
        values = tl.minimum(tl.maximum(values / tl.load(scales + of_head), -largest), largest)
    narrow = values.to(arranged.dtype.element_ty)
    to = arranged + of_head * blocks * block_tokens * channels
    if transposed:
        tl.store(to + channel[:, None].to(tl.int64) * (blocks * block_tokens) + token[None, :], tl.trans(narrow))
    else:
        tl.store(to + token.to(tl.int64)[:, None] * channels + channel[None, :], narrow)


@triton.jit
def _attend_kernel(
    query,
    key,
    value,
    mean_key,
    mean_value,
    counts_log2,
    table,
    is_read,
    scales,
    output,
    n_tokens,
    frames,
    heads,
    chosen,
    n_means,
    batch_stride,
    token_stride,
    head_stride,
    logits_scale,
    channels: tl.constexpr,
    block_tokens: tl.constexpr,
    has_short_block: tl.constexpr,
    weights_log2: tl.constexpr,
    read_logit: tl.constexpr,
):
    block, blocks, of_head = tl.program_id(0), tl.num_programs(0), tl.program_id(1).to(tl.int64)
    padded = blocks * block_tokens
    inside, channel = tl.arange(0, block_tokens), tl.arange(0, channels)
    token = block * block_tokens + inside
    head = of_head * padded * channels
    queries = tl.load(query + head + token.to(tl.int64)[:, None] * channels + channel[None, :])
    best = tl.full((block_tokens,), -float("inf"), tl.float32)  # logits are to the base 2
    total = tl.zeros((block_tokens,), tl.float32)
    attended = tl.zeros((block_tokens, channels), tl.float32)

    keys = mean_key + of_head * n_means * channels + channel[:, None] + inside[None, :] * channels
    values = mean_value + of_head * n_means * channels + inside[:, None] + channel[None, :] * n_means
    reads = is_read + (of_head * blocks + block) * n_means + inside
    wide = queries.to(mean_key.dtype.element_ty)
    for mean in tl.range(0, n_means, block_tokens, num_stages=1):
        logits = (
            tl.dot(wide, tl.load(keys + mean * channels)) * logits_scale + tl.load(counts_log2 + mean + inside)[None, :]
        )
        logits = tl.where((tl.load(reads + mean) == 0)[None, :], logits, read_logit)
        higher = tl.maximum(best, tl.max(logits, 1))
        weights = tl.exp2(logits - (higher - weights_log2)[:, None])
        faded = tl.exp2(best - higher)
        total = total * faded + tl.sum(weights, 1)
        attended = tl.dot(weights.to(mean_value.dtype.element_ty), tl.load(values + mean), attended * faded[:, None])
        best = higher

    keys = key + head + channel[:, None] + inside[None, :] * channels
    values = value + head + inside[:, None] + channel[None, :].to(tl.int64) * padded
    table += (of_head * blocks + block) * chosen
    for i in tl.range(0, chosen):
        at = tl.load(table + i).to(tl.int64) * block_tokens
        logits = tl.dot(queries, tl.load(keys + at * channels))
        if has_short_block:
            logits = tl.where(at + inside[None, :] < n_tokens, logits, -float("inf"))
        higher = tl.maximum(best, tl.max(logits, 1) * logits_scale)
        weights = tl.exp2(logits * logits_scale - (higher - weights_log2)[:, None])
        faded = tl.exp2(best - higher)
        total = total * faded + tl.sum(weights, 1)
        attended = tl.dot(weights.to(value.dtype.element_ty), tl.load(values + at), attended * faded[:, None])
        best = higher

    attended = attended * (tl.load(scales + of_head) / total)[:, None]
    row = (token % frames) * (n_tokens // frames) + token // frames
    start = output + (of_head // heads) * batch_stride + (of_head % heads) * head_stride
    places = start + row.to(tl.int64)[:, None] * token_stride + channel[None, :]
    tl.store(places, attended.to(output.dtype.element_ty), mask=(token < n_tokens)[:, None])


@dataclass(frozen=True)
class Arranged:
    """Query, key and value of a window, place by place, and their means.

    Args:
        query, key: (B * H, padded N, D), in the 8 bits of e4m3 if narrow. What is padded is zero.
        value: (B * H, D, padded N); in 8 bits divided by its scale.
        value_scale: (B * H,) float32.
        query_means, key_means: (B, H, parts, D) float32, over the parts of blocks.
        mean_key, mean_value: (B * H, M, D) float32, over whole blocks.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    value_scale: Tensor
    query_means: Tensor
    key_means: Tensor
    mean_key: Tensor
    mean_value: Tensor


def arrange(
    query: Tensor, key: Tensor, value: Tensor, frames: int, block_tokens: int, parts: int, narrow: bool
) -> Arranged:
    """Lay out query, key and value (B, N, H, D) of `frames` latent frames.

    Args:
        block_tokens, parts: tokens in a block, and the parts in which it has means of its own.
        narrow: round to e4m3. Query and key have no scale (see `e4m3.narrow_attention`), value has one for each head.
    """
    batch, _, heads, _ = query.shape
    value_scale = torch.ones(batch * heads, device=query.device)
    if narrow:
        value_scale = torch.linalg.vector_norm(value, ord=torch.inf, dim=(1, 3)).float().clamp(min=1e-6).flatten()
        value_scale /= LARGEST
    ones = torch.ones_like(value_scale)
    states = {"query": (query, ones, False), "key": (key, ones, False), "value": (value, value_scale, True)}
    arranged, means = {}, {}
    for name, (part, scales, transposed) in states.items():
        arranged[name], means[name] = _arrange(part, scales, frames, block_tokens, parts, narrow, transposed)
    of_parts = ceil(query.shape[1] / (block_tokens // parts))
    query_means, key_means = (
        means[name][:, :, :parts].flatten(1, 2)[:, :of_parts].unflatten(0, (batch, heads)) for name in ("query", "key")
    )
    mean_key, mean_value = (means[name][:, :, parts] for name in ("key", "value"))
    return Arranged(
        **arranged,
        value_scale=value_scale,
        query_means=query_means,
        key_means=key_means,
        mean_key=mean_key,
        mean_value=mean_value,
    )


def _arrange(
    states: Tensor, scales: Tensor, frames: int, block_tokens: int, parts: int, narrow: bool, transposed: bool
) -> tuple[Tensor, Tensor]:
    batch, tokens, heads, channels = states.shape
    if states.stride(3) != 1:
        states = states.contiguous()
    blocks = ceil(tokens / block_tokens)
    sizes = (channels, blocks * block_tokens) if transposed else (blocks * block_tokens, channels)
    arranged = states.new_empty((batch * heads, *sizes), dtype=FP8 if narrow else states.dtype)
    means = states.new_empty((batch * heads, blocks, parts + 1, channels), dtype=torch.float32)
    _arrange_kernel[(blocks, batch * heads)](
        states,
        arranged,
        means,
        scales,
        tokens,
        frames,
        heads,
        *states.stride()[:3],
        channels=channels,
        block_tokens=block_tokens,
        parts=parts,
        transposed=transposed,
        largest=LARGEST if narrow else 0.0,
        num_warps=4,
    )
    return arranged, means


def attend(arranged: Arranged, blocks: Tensor, output: Tensor, frames: int) -> Tensor:
    """Fill `output` (B, N, H, D) with what the queries read.

    Args:
        blocks: (B, H, M, chosen) int32, the blocks of keys that each block of queries reads.
        output: of `frames` latent frames, one after the other.
    """
    _, tokens, heads, channels = output.shape
    count, chosen = blocks.shape[2:]
    block_tokens = arranged.query.shape[1] // count
    table = blocks.flatten(0, 1)
    n_means = ceil(count / block_tokens) * block_tokens
    missing = n_means - count
    # A mean that is only there to fill the last block counts as one that is read.
    is_read = F.pad(torch.zeros(*table.shape[:2], count, dtype=torch.uint8, device=table.device), (0, missing), value=1)
    is_read.scatter_(2, table.long(), 1)
    held = (tokens - torch.arange(0, n_means * block_tokens, block_tokens, device=table.device)).clamp(1, block_tokens)
    mean_key = F.pad(arranged.mean_key, (0, 0, 0, missing)).to(output.dtype)
    mean_value = arranged.mean_value / arranged.value_scale[:, None, None]
    mean_value = F.pad(mean_value.transpose(1, 2), (0, missing)).to(output.dtype).contiguous()
    _launch(
        (output.device, arranged.value.dtype, channels),
        _attend_kernel[(count, table.shape[0])],
        arranged.query,
        arranged.key,
        arranged.value,
        mean_key,
        mean_value,
        held.log2(),
        table,
        is_read,
        arranged.value_scale,
        output,
        tokens,
        frames,
        heads,
        chosen,
        n_means,
        *output.stride()[:3],
        channels**-0.5 * log2(e),
        channels=channels,
        block_tokens=block_tokens,
        has_short_block=tokens % block_tokens != 0,
        weights_log2=_WEIGHTS_LOG2 if arranged.value.dtype == FP8 else 0.0,
        read_logit=_READ,
    )
    return output


def _launch(kind: tuple[object, ...], kernel: Any, *arguments: object, **constants: object) -> None:  # noqa: ANN401
    """Run the kernel with as many stages as this GPU's shared memory holds.

    Args:
        kind: what decides how much it takes. The number is found once for each.
    """
    for stages in (_fitting_stages[kind],) if kind in _fitting_stages else _STAGES:
        try:
            kernel(*arguments, **constants, num_warps=_WARPS, num_stages=stages)
        except OutOfResources:
            if stages == _STAGES[-1]:
                raise
        else:
            _fitting_stages[kind] = stages
            return
