"""Attention kernels by name: diffusers', and FlashAttention-3 from either of its packages, exact or in 8 bits.

A kernel takes query, key and value of (batch, tokens, H, D) and returns softmax(q k / sqrt(D)) v in the same layout.
"""

import importlib
from collections.abc import Callable
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from infinitetalk.arithmetic import FLASH_3
from infinitetalk.models.cudnn_attention import cudnn_fp8_attention, load_frontend
from infinitetalk.models.e4m3 import narrow_attention

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]

# The exact kernels that are measured at start, in the order in which equally fast ones are taken (see trials.py).
MEASURED = (FLASH_3, "_native_cudnn", "_native_flash")

_SDPA = {"_native_cudnn": SDPBackend.CUDNN_ATTENTION, "_native_flash": SDPBackend.FLASH_ATTENTION}
_FLASH_3_MODULES = ("flash_attn_interface", "fa3_fwd_interface")  # built from source; the wheel fa3-fwd


def sdpa_attention(backend: SDPBackend) -> Attention:
    """PyTorch's scaled_dot_product_attention with one of its kernels.

    diffusers copies query, key and value to (batch, H, tokens, D) for it, and the output back. No kernel needs that.
    """

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            heads = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
        return heads.transpose(1, 2)

    return attend


def diffusers_attention(name: str) -> Attention:
    """A kernel of diffusers' dispatch. Raises ValueError for a name that it does not know."""
    backend = AttentionBackendName(name)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return dispatch_attention_fn(query, key, value, backend=backend)  # type: ignore[no-any-return]

    return attend


def flash_3_module() -> str | None:
    """The module that FlashAttention-3 is installed as."""
    return next(filter(find_spec, _FLASH_3_MODULES), None)


def flash_3_attention() -> Attention:
    """FlashAttention-3 in the inputs' own precision. Raises ValueError if it is not installed."""
    function = _flash_3_function()

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return _first(function(query, key, value))

    return attend


def flash_3_fp8_attention() -> Attention:
    """FlashAttention-3 with query, key and value in e4m3. Raises ValueError if it is not installed."""
    function = _flash_3_function()

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value, scale = narrow_attention(query, key, value)
        one = torch.ones_like(scale)
        return _first(function(query, key, value, q_descale=one, k_descale=one, v_descale=scale))

    return attend


def find_cudnn_fp8_attention() -> Attention:
    """cuDNN's attention in e4m3. Raises ValueError if nvidia-cudnn-frontend is not installed."""
    load_frontend()
    return cudnn_fp8_attention


def _flash_3_function() -> Callable[..., Tensor | tuple[Tensor, ...]]:
    name = flash_3_module()
    if name is None:
        raise ValueError(f"FlashAttention-3 is not installed: none of the modules {', '.join(_FLASH_3_MODULES)}")
    function: Callable[..., Tensor | tuple[Tensor, ...]] = importlib.import_module(name).flash_attn_func
    return function


def _first(result: Tensor | tuple[Tensor, ...]) -> Tensor:
    return result if isinstance(result, Tensor) else result[0]  # some versions also return the log-sum-exp


def find_kernel(name: str) -> Attention:
    """The kernel of that name. Raises ValueError if it is unknown or not installed."""
    if name == FLASH_3:
        return flash_3_attention()
    if name in _SDPA:
        return sdpa_attention(_SDPA[name])
    return diffusers_attention(name)


# The 8-bit kernels of the self-attention, each under the name of its exact one. All that are installed are measured.
FP8_KERNELS: dict[str, Callable[[], Attention]] = {
    FLASH_3: flash_3_fp8_attention,
    "_native_cudnn": find_cudnn_fp8_attention,
}
