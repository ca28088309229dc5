"""Attention kernels: found by name, refused where they are not installed."""

import types

import pytest
import torch
import torch.nn.functional as F

from infinitetalk.models import attention as module
from infinitetalk.models.attention import find_kernel, flash_3_fp8_attention


def qkv() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, 12, 3, 8, generator=generator) for _ in range(3))


def dense(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (query, key, value))).transpose(1, 2)


@pytest.fixture
def flash_3(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """FlashAttention-3 as the wheel fa3-fwd installs it, and what it was called with."""
    calls: list[dict[str, torch.Tensor]] = []

    def flash_attn_func(q, k, v, q_descale=None, k_descale=None, v_descale=None):
        calls.append({"q": q, "k": k, "v": v, "q_descale": q_descale, "k_descale": k_descale, "v_descale": v_descale})
        scales = [
            torch.ones(1, 1, 1, 1) if s is None else s[:, None, :, None] for s in (q_descale, k_descale, v_descale)
        ]
        return dense(*(part.float() * scale for part, scale in zip((q, k, v), scales, strict=True)))

    wheel = types.SimpleNamespace(flash_attn_func=flash_attn_func)
    monkeypatch.setattr(module, "find_spec", lambda name: name == "fa3_fwd_interface" or None)
    monkeypatch.setattr(module.importlib, "import_module", lambda name: {"fa3_fwd_interface": wheel}[name])
    return calls


@pytest.mark.parametrize("name", ["native", "_native_math", "_native_flash", "_flash_3"])
def test_kernels_have_one_layout(name: str, flash_3: list[dict[str, torch.Tensor]]) -> None:
    torch.testing.assert_close(find_kernel(name)(*qkv()), dense(*qkv()))
    assert bool(flash_3) == (name == "_flash_3")


def test_eight_bit_attention_scales_values_by_head(flash_3: list[dict[str, torch.Tensor]]) -> None:
    query, key, value = qkv()
    value = value * torch.tensor([1e-3, 1.0, 1e3]).view(1, 1, 3, 1)
    output, expected = flash_3_fp8_attention()(query, key, value), dense(query, key, value)
    assert all(flash_3[0][part].dtype == torch.float8_e4m3fn for part in "qkv")
    for head in range(3):
        error = (output - expected)[:, :, head].norm() / expected[:, :, head].norm()
        assert 0.001 < error < 0.1


def test_unknown_and_missing_kernels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="fastest"):
        find_kernel("fastest")
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match="FlashAttention-3 is not installed: none of the modules flash_attn_interface"):
        find_kernel("_flash_3")
