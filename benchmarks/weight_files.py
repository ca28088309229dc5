"""Weight files as people have them, written by the formats' own writers: gguf's and ggml's for GGUF, and fp8."""

import ctypes
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import libggml
import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

Kind = GGMLQuantizationType
UNQUANTISED = (Kind.F32, Kind.F16, Kind.BF16)
K_BLOCK = 256  # numbers in a block of the K kinds
E4M3 = torch.float8_e4m3fn


def ggml_quantise(numbers: NDArray[np.float32], kind: Kind) -> NDArray[np.uint8]:
    """Rows of numbers in blocks, by ggml's own quantiser, which the python package lacks for the K kinds."""
    library = ctypes.CDLL(str(Path(libggml.__file__).parent / "lib64" / "libggml-base.so"))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        *[ctypes.c_void_p] * 2,
        *[ctypes.c_int64] * 3,
        ctypes.c_void_p,
    ]
    block_numbers, block_bytes = GGML_QUANT_SIZES[kind]
    rows, columns = numbers.shape
    numbers = np.ascontiguousarray(numbers, np.float32)
    blocks = np.zeros((rows, columns // block_numbers * block_bytes), np.uint8)
    library.ggml_quantize_chunk(int(kind), numbers.ctypes.data, blocks.ctypes.data, 0, rows, columns, None)
    return blocks


def wan_kind(kind: Kind, finer: Kind | None = None) -> Callable[[str, Tensor], Kind]:
    """Which kind city96's converter and llama-quantize give a tensor of Wan: the blocks' matrices are quantised.

    finer: what files of a name with _M have for values and for the second matrices of feed-forwards.
    """

    def choose(name: str, tensor: Tensor) -> Kind:
        if tensor.ndim == 2 and name.endswith(".weight") and "blocks." in name:
            return finer if finer is not None and name.endswith((".v.weight", ".ffn.2.weight")) else kind
        return Kind.F16 if tensor.ndim == 2 else Kind.F32

    return choose


def adapter_kind(kind: Kind) -> Callable[[str, Tensor], Kind]:
    """As in Kijai's adapters: all matrices are quantised."""
    return lambda _, tensor: kind if tensor.ndim == 2 else Kind.F32


def write_gguf(
    path: Path, tensors: Mapping[str, Tensor], kind_of: Callable[[str, Tensor], Kind], architecture: str = "wan"
) -> dict[str, Kind]:
    """Write a GGUF file, and say of what kind each tensor is.

    Rows that are no whole blocks are written as rows of 256, with the shape beside them, as city96's converter does.
    """
    writer = GGUFWriter(None, architecture)
    kinds = {}
    for name, tensor in tensors.items():
        numbers, kind = tensor.float().numpy(), kind_of(name, tensor)
        if tensor.ndim > 0 and tensor.shape[-1] % GGML_QUANT_SIZES[kind][0]:
            if tensor.numel() % K_BLOCK:
                kind = Kind.F16
            else:
                writer.add_array(f"comfy.gguf.orig_shape.{name}", list(tensor.shape))
                numbers = numbers.reshape(-1, K_BLOCK)
        blocks = quantize(numbers, kind) if kind in UNQUANTISED else ggml_quantise(numbers, kind)
        writer.add_tensor(name, blocks, raw_dtype=kind)
        kinds[name] = kind
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return kinds


def scaled(weight: Tensor, dtype: torch.dtype, scale: str = "tensor", block: int = 32) -> tuple[Tensor, Tensor]:
    """A weight in 8 bits and its scale: one number ("tensor"), one a "row", or one a "block" of a row.

    Rows that are no whole blocks get one scale each, as in musubi-tuner.
    """
    parts = weight.float()
    if scale == "block" and weight.shape[-1] % block == 0:
        parts = parts.view(len(weight), -1, block)
    largest = parts.abs().amax() if scale == "tensor" else parts.abs().amax(-1, keepdim=True)
    scales = largest.clamp(min=1e-12) / torch.finfo(dtype).max
    return (parts / scales).to(dtype).view(weight.shape), scales


def write_fp8(
    path: Path,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype = E4M3,
    scale: str | None = "tensor",
    names: str = "scale_weight",
    keep: tuple[str, ...] = (),
) -> None:
    """Write matrices in 8 bits, the rest in float16 (one-dimensional: float32), as Kijai and ComfyUI do.

    Args:
        scale: see `scaled`; None: cast as they are, without scales.
        names: of the scales: scale_weight, with the marker scaled_fp8, or weight_scale, with comfy_quant a layer.
        keep: matrices that stay in float16.
    """
    written: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        layer = name.removesuffix(".weight")
        if tensor.ndim != 2 or layer == name or name in keep:
            written[name] = tensor.float() if tensor.ndim < 2 else tensor.half()
        elif scale is None:
            written[name] = tensor.to(dtype)
        else:
            written[name], written[f"{layer}.{names}"] = scaled(tensor, dtype, scale)
            if names == "weight_scale":
                text = json.dumps({"format": str(dtype).removeprefix("torch.")})
                written[f"{layer}.comfy_quant"] = torch.tensor(list(text.encode()), dtype=torch.uint8)
                written[f"{layer}.input_scale"] = torch.ones(())
    if scale is not None and names == "scale_weight":
        written["scaled_fp8"] = torch.zeros(2, dtype=dtype)
    save_file({name: tensor.contiguous() for name, tensor in written.items()}, path)
