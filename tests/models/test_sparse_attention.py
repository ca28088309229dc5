"""Block-sparse attention: which blocks are read, and what they give with the means of the others."""

from math import log
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import AuxOutput

from infinitetalk.arithmetic import Arithmetic
from infinitetalk.contract.settings import Settings
from infinitetalk.models import sparse_attention as module
from infinitetalk.models.sparse_attention import (
    BLOCK_TOKENS,
    SMALL_BLOCK_TOKENS,
    choose_blocks,
    flex_sparse_attention,
    masked_attention,
    sparse_attention,
)
from infinitetalk.startup.opening import open_models

FRAMES, PER_FRAME = 9, 51
TOKENS = FRAMES * PER_FRAME  # 28 small blocks and a short one


def draw(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(shape, generator=generator) for _ in range(3))
    return query, key, value


def error(output: Tensor, expected: Tensor) -> float:
    return float((output - expected).norm() / expected.norm())


def dense(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Exact attention over (B, N, H, D)."""
    return F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (query, key, value))).transpose(1, 2)


def test_all_blocks_give_dense_attention() -> None:
    parts = draw(2, TOKENS, 2, 16)
    torch.testing.assert_close(sparse_attention(*parts, FRAMES, 1.0), dense(*parts), rtol=0, atol=1e-5)


def test_a_block_of_queries_sees_its_blocks_of_keys_and_the_means_of_the_others() -> None:
    query, key, value = (part.transpose(1, 2) for part in draw(1, 300, 1, 8))  # blocks of 128, 128 and 44 tokens
    blocks = torch.tensor([[[[0, 2], [1, 2], [0, 1]]]], dtype=torch.int32)
    output = masked_attention(query, key, value, blocks, 128)
    pieces = [slice(0, 128), slice(128, 256), slice(256, 300)]
    for row, chosen in enumerate(blocks[0, 0].tolist()):
        (skipped,) = {0, 1, 2} - set(chosen)
        # The mean, once for every token of the block: this is what a log-count bias stands for.
        keys, values = key.clone(), value.clone()
        for part in (keys, values):
            part[:, :, pieces[skipped]] = part[:, :, pieces[skipped]].mean(dim=2, keepdim=True)
        expected = F.scaled_dot_product_attention(query[:, :, pieces[row]], keys, values)
        torch.testing.assert_close(output[:, :, pieces[row]], expected)


def test_blocks_of_equal_tokens_lose_nothing_by_their_means() -> None:
    """What is the same in all frames is read exactly at any density: blocks lie along time."""
    frames, places = 2 * SMALL_BLOCK_TOKENS, 20
    query, key, value = (part.repeat(1, frames, 1, 1) for part in draw(1, places, 2, 8))
    query = query + 0.1 * torch.randn(query.shape)
    output = sparse_attention(query, key, value, frames, 0.01)
    torch.testing.assert_close(output, dense(query, key, value), rtol=0, atol=1e-5)


def test_what_is_not_read_is_blurred_rather_than_lost() -> None:
    query, key, value = (part.transpose(1, 2) for part in draw(1, TOKENS, 2, 16))
    exact = F.scaled_dot_product_attention(query, key, value)
    blocks = choose_blocks(query, key, 0.2, SMALL_BLOCK_TOKENS)
    count = blocks.shape[2]
    reads = torch.zeros(1, 2, count, count, dtype=torch.bool).scatter(-1, blocks.long(), True)
    for axis in (-1, -2):
        reads = reads.repeat_interleave(SMALL_BLOCK_TOKENS, axis).narrow(axis, 0, TOKENS)
    lost = F.scaled_dot_product_attention(query, key, value, attn_mask=reads)
    blurred = masked_attention(query, key, value, blocks, SMALL_BLOCK_TOKENS)
    assert error(blurred, exact) < 0.6 * error(lost, exact)


def test_a_block_reads_itself_and_those_that_have_most_of_its_attention() -> None:
    query, key, _ = (part.transpose(1, 2) for part in draw(1, TOKENS, 1, 16))
    size = SMALL_BLOCK_TOKENS
    query[:, :, 5 * size : 6 * size] += 3
    key[:, :, 20 * size : 21 * size] += 3
    # A quarter of block 11 is more alike than block 20. The rest is as unlike, so that the block's mean hides it.
    key[:, :, 11 * size : 11 * size + size // 4] += 9
    key[:, :, 11 * size + size // 4 : 12 * size] -= 3
    chosen = choose_blocks(query, key, 3 / 29 - 1e-6, size)
    assert set(chosen[0, 0, 5].tolist()) == {5, 11, 20}
    assert all(row in chosen[0, 0, row] for row in range(29))


def test_a_short_part_counts_as_what_it_holds() -> None:
    """The last block holds one token. It is not taken for a whole part of a block."""
    size = SMALL_BLOCK_TOKENS
    query, key, _ = (part.transpose(1, 2) for part in draw(1, 3 * size + 1, 1, 16))
    query[:], key[:] = 1, 0
    key[:, :, size : 2 * size] = 0.1
    key[:, :, -1] = 0.1 + log(size / 2) / 4  # more than one of the others, less than half of them
    assert set(choose_blocks(query, key, 0.5, size)[0, 0, 0].tolist()) == {0, 1}


@pytest.mark.parametrize(("density", "count"), [(0.01, 1), (0.2, 6), (0.5, 15), (1.0, 29)])
def test_density_is_the_part_of_the_blocks_that_is_read(density: float, count: int) -> None:
    query, key, _ = (part.transpose(1, 2) for part in draw(1, TOKENS, 2, 8))
    chosen = choose_blocks(query, key, density, SMALL_BLOCK_TOKENS)
    assert chosen.shape == (1, 2, 29, count)
    assert (chosen.sort(dim=-1).values.diff(dim=-1) > 0).all()


def test_the_operator_is_what_a_compiled_block_takes_it_for() -> None:
    parts = [part.transpose(1, 2).contiguous() for part in draw(1, TOKENS, 2, 8)]
    torch.library.opcheck(module._sparse_attention, (*parts, 0.3))


def dense_flex_attention(
    query: Tensor, key: Tensor, value: Tensor, score_mod: Any = None, block_mask: Any = None, **_options: Any
) -> tuple[Tensor, AuxOutput]:
    """FlexAttention by its tables, dense: what a kernel that skips blocks gives."""
    rows, columns = query.shape[2], key.shape[2]
    grid = torch.meshgrid(*map(torch.arange, (query.shape[0], query.shape[1], rows, columns)), indexing="ij")

    def listed(numbers: Tensor, table: Tensor) -> Tensor:
        valid = torch.arange(table.shape[-1]) < numbers.unsqueeze(-1)
        reads = torch.zeros(*table.shape[:3], -(-columns // BLOCK_TOKENS) + 1, dtype=torch.bool)
        reads = reads.scatter(-1, torch.where(valid, table, reads.shape[-1] - 1).long(), True)[..., :-1]
        reads = reads.repeat_interleave(BLOCK_TOKENS, -1)[..., :columns].repeat_interleave(BLOCK_TOKENS, -2)
        return reads[..., :rows, :].expand(*query.shape[:2], -1, -1)

    allowed = listed(block_mask.kv_num_blocks, block_mask.kv_indices) & block_mask.mask_mod(*grid)
    if block_mask.full_kv_num_blocks is not None:
        allowed = allowed | listed(block_mask.full_kv_num_blocks, block_mask.full_kv_indices)
    logits = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    logits = logits if score_mod is None else score_mod(logits, *grid)
    logits = logits.masked_fill(~allowed, -torch.inf)
    return logits.softmax(dim=-1).nan_to_num() @ value, AuxOutput(lse=logits.logsumexp(dim=-1))


@pytest.mark.parametrize(
    ("batch", "tokens", "density"), [(1, 1000, 0.4), (2, 308, 0.2), (1, 1536, 0.3), (2, 300, 1.0), (1, 17_000, 0.1)]
)
def test_the_two_kernels_give_what_the_mask_gives(
    batch: int, tokens: int, density: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "flex_attention", dense_flex_attention)
    monkeypatch.setattr(module, "_compiled_flex_attention", lambda: module._flex_attention)
    parts = [part.transpose(1, 2) for part in draw(batch, tokens, 2 if tokens < 10_000 else 1, 16)]
    blocks = choose_blocks(parts[0], parts[1], density, BLOCK_TOKENS)
    expected = masked_attention(*parts, blocks, BLOCK_TOKENS)
    output = flex_sparse_attention(*parts, blocks)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)
    assert output.is_contiguous()


def test_the_setting_reaches_every_block() -> None:
    models = open_models(Settings.from_env({"EXPERIMENTAL_SPARSE_ATTENTION": "0.3", "DEVICE": "cpu"}))
    assert models.arithmetic == Arithmetic("native", density=0.3)
    assert models.arithmetic.attention_text == "30 % of the self-attention by FlexAttention, native"
    query, key, value = draw(1, TOKENS, 2, 8)
    expected = sparse_attention(query, key, value, FRAMES, 0.3)
    for block in models.transformer.blocks:
        assert torch.equal(block.kernels.self_attention(query, key, value, FRAMES), expected)


@pytest.mark.requires_cuda
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.bfloat16, 0.01)])
def test_the_compiled_kernels_give_what_the_mask_gives(dtype: torch.dtype, limit: float) -> None:
    for tokens, density in ((1000, 0.4), (308, 0.2), (5000, 0.15), (1536, 1.0)):
        parts = [part.transpose(1, 2).contiguous().cuda().to(dtype) for part in draw(1, tokens, 4, 128)]
        blocks = choose_blocks(parts[0], parts[1], density, BLOCK_TOKENS)
        expected = masked_attention(*(part.double() for part in parts), blocks, BLOCK_TOKENS)
        assert error(flex_sparse_attention(*parts, blocks).double(), expected) < limit
