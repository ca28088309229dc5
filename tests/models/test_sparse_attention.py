"""Block-sparse attention: which blocks are read, and what they give."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from infinitetalk.arithmetic import Arithmetic
from infinitetalk.contract.settings import Settings
from infinitetalk.models import sparse_attention as module
from infinitetalk.models.sparse_attention import (
    BLOCK_TOKENS,
    always_read,
    choose_blocks,
    masked_attention,
    sparse_attention,
)
from infinitetalk.startup.opening import open_models

FRAMES, PER_FRAME = 9, 400
TOKENS = FRAMES * PER_FRAME  # 28 blocks and a short one


def draw(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(shape, generator=generator) for _ in range(3))
    return query, key, value


def test_all_blocks_give_dense_attention() -> None:
    query, key, value = draw(2, TOKENS, 2, 16)
    dense = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (query, key, value))).transpose(1, 2)
    torch.testing.assert_close(sparse_attention(query, key, value, FRAMES, 1.0), dense, rtol=0, atol=1e-5)


def test_a_block_of_queries_sees_its_blocks_of_keys_and_nothing_else() -> None:
    query, key, value = draw(1, 300, 1, 8)  # blocks of 128, 128 and 44 tokens
    blocks = torch.tensor([[[[0, 2], [1, 2], [0, 1]]]], dtype=torch.int32)
    parts = [part.transpose(1, 2) for part in (query, key, value)]
    output = masked_attention(*parts, blocks)
    for row, chosen in enumerate(blocks[0, 0].tolist()):
        rows = slice(row * BLOCK_TOKENS, (row + 1) * BLOCK_TOKENS)
        read = torch.cat([torch.arange(300)[block * BLOCK_TOKENS : (block + 1) * BLOCK_TOKENS] for block in chosen])
        expected = F.scaled_dot_product_attention(parts[0][:, :, rows], parts[1][:, :, read], parts[2][:, :, read])
        torch.testing.assert_close(output[:, :, rows], expected)


def test_own_frame_first_frame_and_same_place_nearby_are_always_read() -> None:
    reads = always_read(TOKENS, FRAMES, torch.device("cpu"))
    for row in range(reads.shape[0]):
        for column in range(reads.shape[1]):
            tokens = range(row * BLOCK_TOKENS, min(TOKENS, (row + 1) * BLOCK_TOKENS))
            others = range(column * BLOCK_TOKENS, min(TOKENS, (column + 1) * BLOCK_TOKENS))
            own = {token // PER_FRAME for token in tokens} & {token // PER_FRAME for token in others}
            near = abs(abs(tokens.start - others.start) - PER_FRAME) <= 2 * BLOCK_TOKENS
            assert reads[row, column] == bool(own or near or others.start < PER_FRAME)


def test_the_rest_goes_to_the_most_alike() -> None:
    query, key, _ = (part.transpose(1, 2) for part in draw(1, TOKENS, 1, 16))
    reads = always_read(TOKENS, FRAMES, torch.device("cpu"))
    far = int((~reads[5]).nonzero()[-2])
    query[:, :, 5 * BLOCK_TOKENS : 6 * BLOCK_TOKENS] += 3
    key[:, :, far * BLOCK_TOKENS : (far + 1) * BLOCK_TOKENS] += 3
    needed = int(reads[5].sum())
    chosen = choose_blocks(query, key, FRAMES, (needed + 1) / reads.shape[0] - 1e-6)[0, 0, 5].tolist()
    assert chosen == sorted({*reads[5].nonzero().flatten().tolist(), far})


@pytest.mark.parametrize(("density", "count"), [(0.01, 1), (0.2, 6), (0.5, 15), (1.0, 29)])
def test_density_is_the_part_of_the_blocks_that_is_read(density: float, count: int) -> None:
    query, key, _ = (part.transpose(1, 2) for part in draw(1, TOKENS, 2, 8))
    chosen = choose_blocks(query, key, FRAMES, density)
    assert chosen.shape == (1, 2, 29, count)
    assert (chosen.diff(dim=-1) > 0).all()


def test_the_setting_reaches_every_block() -> None:
    models = open_models(Settings.from_env({"EXPERIMENTAL_SPARSE_ATTENTION": "0.3", "DEVICE": "cpu"}))
    assert models.arithmetic == Arithmetic("native", density=0.3)
    assert models.arithmetic.attention_text == "30 % of the self-attention by FlexAttention, native"
    query, key, value = draw(1, TOKENS, 2, 8)
    expected = sparse_attention(query, key, value, FRAMES, 0.3)
    for block in models.transformer.blocks:
        assert torch.equal(block.kernels.self_attention(query, key, value, FRAMES), expected)


@pytest.mark.requires_cuda
def test_the_kernel_gives_what_the_mask_gives() -> None:
    parts = [part.transpose(1, 2).contiguous().cuda().bfloat16() for part in draw(1, 1000, 4, 128)]
    blocks = choose_blocks(parts[0], parts[1], 5, 0.4)
    expected = masked_attention(*(part.float() for part in parts), blocks)
    error = (module._flex_attention(*parts, blocks).float() - expected).norm() / expected.norm()
    assert error < 0.01
