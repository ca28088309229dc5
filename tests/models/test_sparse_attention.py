"""Block-sparse attention: which blocks are read, and what they give with the means of the others."""

import json
import os
import subprocess
import sys
from math import log
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from infinitetalk.arithmetic import Arithmetic
from infinitetalk.contract.settings import Settings
from infinitetalk.models import sparse_attention as module
from infinitetalk.models.sparse_attention import (
    BLOCK_TOKENS,
    SMALL_BLOCK_TOKENS,
    choose_blocks,
    masked_attention,
    place_by_place,
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
    for narrow in (False, True):
        torch.library.opcheck(module._sparse_attention, (*draw(1, TOKENS, 2, 8), FRAMES, 0.3, narrow))


def without_a_gpu(program: str, **environment: str) -> str:
    """What a program of Triton's prints, whose kernels are interpreted or only compiled."""
    pytest.importorskip("triton", minversion="3.9", reason="earlier interpreters fail with numpy 2.4 and later")
    command = [sys.executable, str(Path(__file__).parent / program)]
    return subprocess.run(command, env=os.environ | environment, check=True, capture_output=True, text=True).stdout


def test_interpreted_kernels_give_what_the_mask_gives() -> None:
    errors = json.loads(without_a_gpu("interpreted_kernels.py", TRITON_INTERPRET="1"))
    assert (len(errors["wide"]), len(errors["narrow"])) == (5, 2)
    assert max(errors["wide"]) < 1e-6
    # The interpreter cuts numbers to 8 bits instead of rounding them. Without a scale, or with a wrong one, it is 0.5.
    assert max(errors["narrow"]) < 0.25


def test_compiled_kernels_fit_the_shared_memory_of_gpus() -> None:
    """The RTX PRO 6000 is of compute capability 12.0 (like the L40S's 8.9 in this), the H200 of 9.0."""
    limits = {"9.0": 232_448, "12.0": 101_376}
    for kind, shared_bytes in json.loads(without_a_gpu("compiled_kernels.py")).items():
        assert 0 < shared_bytes <= limits[kind.split()[0]], kind


def test_a_machine_without_triton_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "infinitetalk.models.sparse_kernels", raising=False)
    with pytest.raises(ImportError, match="triton"):
        module.triton_sparse_attention(*draw(1, TOKENS, 2, 32), FRAMES, 0.3, False)


@pytest.mark.parametrize("narrow", [False, True])
def test_8_bits_round_what_is_read(narrow: bool) -> None:
    parts = draw(1, TOKENS, 2, 32)
    wide = sparse_attention(*parts, FRAMES, 0.3)
    error_of_8_bits = error(sparse_attention(*parts, FRAMES, 0.3, narrow), wide)
    assert 0.01 < error_of_8_bits < 0.1 if narrow else error_of_8_bits == 0


def test_the_setting_reaches_every_block() -> None:
    models = open_models(Settings.from_env({"SPARSE_ATTENTION": "0.3", "DEVICE": "cpu"}))
    assert models.arithmetic == Arithmetic("native", density=0.3)
    assert models.arithmetic.attention_text == "30 % of the self-attention, native"
    query, key, value = draw(1, TOKENS, 2, 8)
    expected = sparse_attention(query, key, value, FRAMES, 0.3)
    for block in models.transformer.blocks:
        assert torch.equal(block.kernels.self_attention(query, key, value, FRAMES), expected)


@pytest.mark.requires_cuda
@pytest.mark.parametrize(
    ("dtype", "narrow", "limit"),
    [(torch.float32, False, 2e-3), (torch.bfloat16, False, 0.01), (torch.bfloat16, True, 0.08)],
)
def test_the_kernels_give_what_the_mask_gives(dtype: torch.dtype, narrow: bool, limit: float) -> None:
    for places, density in ((111, 0.4), (34, 0.2), (555, 0.15), (170, 1.0)):
        parts = [part.cuda().to(dtype) for part in draw(2, FRAMES * places, 4, 128)]
        query, key, value = (place_by_place(part, FRAMES) for part in parts)
        blocks = choose_blocks(query, key, density, BLOCK_TOKENS)
        expected = masked_attention(query.double(), key.double(), value.double(), blocks, BLOCK_TOKENS)
        output = sparse_attention(*parts, FRAMES, density, narrow)
        assert error(place_by_place(output, FRAMES).double(), expected) < limit
