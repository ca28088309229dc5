"""Which attention kernels a transformer uses: those of an `Arithmetic`, measured if it leaves the choice open."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from infinitetalk.arithmetic import AUTO, FLASH_3, Arithmetic
from infinitetalk.models.attention import Attention, fastest_kernel, find_kernel, flash_3_fp8_attention
from infinitetalk.models.sparse_attention import sparse_attention

# Self-attention over the tokens of a window, whose number of latent frames is the last argument.
SelfAttention = Callable[[Tensor, Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Kernels:
    """The attention kernels of a transformer's blocks.

    Args:
        attention: for what the tokens read besides themselves: text, image, voices. Always exact.
        self_attention: for the tokens among themselves.
        in_order: whether the self-attention goes by the tokens' places, so that it needs them frame by frame.
    """

    attention: Attention
    self_attention: SelfAttention
    in_order: bool = False

    @classmethod
    def exact(cls, attention: Attention) -> "Kernels":
        """One kernel for everything."""
        return cls(attention, _self_attention(attention))


def choose_kernels(transformer: Any, arithmetic: Arithmetic) -> tuple[Kernels, Arithmetic]:  # noqa: ANN401
    """The kernels for an arithmetic, and the arithmetic itself, with the kernel's name in place of `AUTO`.

    Args:
        transformer: a diffusers model. Kernels are measured with its heads, dtype and device.

    Raises:
        ValueError: the kernel is unknown or not installed.
    """
    name = arithmetic.attention
    if name == AUTO:
        config = transformer.config
        name = fastest_kernel(
            transformer.device, config.num_attention_heads, config.attention_head_dim, transformer.dtype
        )
    try:
        if name != FLASH_3:
            transformer.set_attention_backend(name)  # checks that it is installed
        attention = find_kernel(name)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the attention backend {name!r} cannot be used: {error}") from error
    chosen = replace(arithmetic, attention=name)
    if chosen.density is not None:
        return Kernels(attention, _sparse(chosen.density), in_order=True), chosen
    if chosen.has_fp8_attention:
        return Kernels(attention, _self_attention(flash_3_fp8_attention())), chosen
    return Kernels.exact(attention), chosen


def _self_attention(attention: Attention) -> SelfAttention:
    """A kernel for which it does not matter which frame a token belongs to."""

    def attend(query: Tensor, key: Tensor, value: Tensor, _n_latent_frames: int) -> Tensor:
        return attention(query, key, value)

    return attend


def _sparse(density: float) -> SelfAttention:
    def attend(query: Tensor, key: Tensor, value: Tensor, n_latent_frames: int) -> Tensor:
        return sparse_attention(query, key, value, n_latent_frames, density)

    return attend
