"""cuDNN's attention in 8 bits, which PyTorch does not offer, through NVIDIA's own package nvidia-cudnn-frontend.

cuDNN has it for Hopper and for Blackwell GPUs. The documentation of its operation `sdpa_fp8` says what the scales mean:
https://docs.nvidia.com/deeplearning/cudnn/frontend/latest/operations/Attention.html
"""

import atexit
import importlib
import math
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from infinitetalk.models.e4m3 import FP8, narrow_attention

# The weights of the softmax lie between 0 and 1, most of them below e4m3's smallest normal number, 1/64. Times 256 they
# keep their relative precision.
WEIGHTS_SCALE = 256.0
WIDE_OUTPUT = (10, 0)  # from this compute capability on, cuDNN gives bfloat16; before, e4m3


class _Layout(NamedTuple):
    """Sizes and strides of one tensor, its heads before its tokens."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, states: Tensor) -> "_Layout":
        heads_first = states.transpose(1, 2)
        return cls(tuple(heads_first.shape), tuple(heads_first.stride()))


class _Graph(NamedTuple):
    """A graph of cuDNN for tensors of certain layouts.

    Args:
        graph: it, built.
        states: its query, key, value and output.
        scales: its scales, each with a tensor of its value.
    """

    graph: Any
    states: tuple[Any, ...]
    scales: tuple[tuple[Any, Tensor], ...]
    workspace_bytes: int


@cache
def load_frontend() -> Any:  # noqa: ANN401
    """The package. Raises ValueError if it is not installed."""
    if find_spec("cudnn") is None:
        raise ValueError("nvidia-cudnn-frontend is not installed")
    atexit.register(_build.cache_clear)  # graphs that outlive the package are reported as leaks, line by line
    return importlib.import_module("cudnn")


@cache
def _handle(device: torch.device) -> Any:  # noqa: ANN401
    with torch.cuda.device(device):
        return load_frontend().create_handle()


@cache
def _build(
    device: torch.device, query: _Layout, key: _Layout, value: _Layout, output: _Layout, output_dtype: torch.dtype
) -> _Graph:
    """The graph for tensors of these layouts. Raises cuDNN's own error where it has no kernel for them."""
    cudnn = load_frontend()
    kinds = cudnn.data_type
    graph = cudnn.pygraph(
        io_data_type=kinds.FP8_E4M3,
        intermediate_data_type=kinds.FLOAT,
        compute_data_type=kinds.FLOAT,
        handle=_handle(device),
    )
    inputs = [
        graph.tensor(dim=list(layout.sizes), stride=list(layout.strides), data_type=kinds.FP8_E4M3)
        for layout in (query, key, value)
    ]
    numbers = dict.fromkeys(("descale_q", "descale_k", "descale_v", "scale_o"), 1.0)
    numbers |= {"scale_s": WEIGHTS_SCALE, "descale_s": 1 / WEIGHTS_SCALE}
    scales = {name: graph.tensor(dim=[1, 1, 1, 1], stride=[1, 1, 1, 1], data_type=kinds.FLOAT) for name in numbers}
    found, _, *largest = graph.sdpa_fp8(
        q=inputs[0],
        k=inputs[1],
        v=inputs[2],
        attn_scale=1 / math.sqrt(query.sizes[-1]),
        generate_stats=False,
        **scales,
    )
    found.set_output(True).set_dim(list(output.sizes)).set_stride(list(output.strides))
    found.set_data_type(kinds.FP8_E4M3 if output_dtype == FP8 else kinds.BFLOAT16)
    for tensor in largest:
        tensor.set_output(False).set_dim([1, 1, 1, 1]).set_stride([1, 1, 1, 1]).set_data_type(kinds.FLOAT)
    graph.validate()
    graph.build_operation_graph()
    graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    graph.check_support()
    graph.build_plans()
    values = {name: torch.full((1, 1, 1, 1), number, device=device) for name, number in numbers.items()}
    bound = tuple((scales[name], values[name]) for name in numbers)
    return _Graph(graph, (*inputs, found), bound, graph.get_workspace_size())


# An operator of its own, because torch.compile cannot look into the graph.
@torch.library.custom_op("infinitetalk::cudnn_fp8_attention", mutates_args=())
def _cudnn_fp8_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention (B, N, H, D) over e4m3 numbers (B, N, H, D)."""
    output = _output(query)
    states = (query, key, value, output)
    built = _build(query.device, *map(_Layout.of, states), output.dtype)
    workspace = torch.empty(max(1, built.workspace_bytes), dtype=torch.uint8, device=query.device)
    handle = _handle(query.device)
    load_frontend().set_stream(handle=handle, stream=torch.cuda.current_stream(query.device).cuda_stream)
    bound = dict(zip(built.states, (part.transpose(1, 2) for part in states), strict=True))
    built.graph.execute(bound | dict(built.scales), workspace, handle=handle)
    return output


@_cudnn_fp8_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return _output(query)


def _output(query: Tensor) -> Tensor:
    """What holds the result, in the widest format that cuDNN gives on the device."""
    wide = torch.cuda.get_device_capability(query.device) >= WIDE_OUTPUT
    return torch.empty(query.shape, dtype=torch.bfloat16 if wide else FP8, device=query.device)


def cudnn_fp8_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention over (B, N, H, D) with query, key and value in e4m3, in the inputs' own number format.

    An output is never larger than the largest value, so that it fits e4m3, too.
    """
    *narrow, scale = narrow_attention(query, key, value)
    output: Tensor = _cudnn_fp8_attention(*narrow)
    return (output.float() * scale[:, None, :, None]).to(query.dtype)
