"""Attention kernels by name: diffusers', and FlashAttention-3 from either of its packages, exact or in 8 bits.

A kernel takes query, key and value of (batch, tokens, H, D) and returns softmax(q k / sqrt(D)) v in the same layout.
"""

import importlib
import logging
import statistics
from collections.abc import Callable
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from infinitetalk.arithmetic import FLASH_3, NATIVE

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]

# The exact kernels that are measured at start. Among those whose time is within EQUAL_WITHIN of the fastest, the first
# one is taken, so that workers choose alike: a job that goes on where another worker stopped needs the same kernel.
MEASURED = (FLASH_3, "_native_cudnn", "_native_flash")
EQUAL_WITHIN = 0.03
TRIAL_TOKENS = 32_768

_SDPA = {"_native_cudnn": SDPBackend.CUDNN_ATTENTION, "_native_flash": SDPBackend.FLASH_ATTENTION}
_FLASH_3_MODULES = ("flash_attn_interface", "fa3_fwd_interface")  # built from source; the wheel fa3-fwd

logger = logging.getLogger(__name__)


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
    """FlashAttention-3 with query, key and value in e4m3. Raises ValueError if it is not installed.

    Query and key have no scale: their block normalises them, and e4m3 keeps its relative precision from 0.016 to 448.
    Values have one scale for each head.
    """
    function = _flash_3_function()

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        largest = torch.finfo(torch.float8_e4m3fn).max
        scale = value.abs().amax(dim=(1, 3)).float().clamp(min=1e-6) / largest
        one = torch.ones_like(scale)
        query, key = (part.clamp(-largest, largest).to(torch.float8_e4m3fn) for part in (query, key))
        value = (value / scale[:, None, :, None]).clamp(-largest, largest).to(torch.float8_e4m3fn)
        return _first(function(query, key, value, q_descale=one, k_descale=one, v_descale=scale))

    return attend


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


@torch.inference_mode()
def fastest_kernel(device: torch.device, heads: int, head_dim: int, dtype: torch.dtype) -> str:
    """The fastest exact kernel on this device, measured in about a second; PyTorch's own choice on a CPU."""
    if device.type != "cuda":
        return NATIVE
    shape = (1, TRIAL_TOKENS, heads, head_dim)
    query, key, value = (torch.randn(shape, device=device, dtype=dtype) for _ in range(3))
    times_ms = {}
    for name in MEASURED:
        try:
            times_ms[name] = _milliseconds(find_kernel(name), query, key, value)
        except (ImportError, RuntimeError, ValueError) as error:  # not installed, or not for this GPU or dtype
            logger.info("attention kernel %s: %s", name, str(error).split("\n")[0])
    if not times_ms:
        return NATIVE
    best_ms = min(times_ms.values())
    chosen = next(name for name, time_ms in times_ms.items() if time_ms <= best_ms * (1 + EQUAL_WITHIN))
    logger.info("attention kernel %s of %s", chosen, {name: round(time_ms, 1) for name, time_ms in times_ms.items()})
    return chosen


def _milliseconds(kernel: Attention, query: Tensor, key: Tensor, value: Tensor) -> float:
    """Median of three calls after a first one."""
    times = []
    for _ in range(4):
        started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        started.record()
        kernel(query, key, value)
        ended.record()
        ended.synchronize()
        times.append(started.elapsed_time(ended))
    return float(statistics.median(times[1:]))
