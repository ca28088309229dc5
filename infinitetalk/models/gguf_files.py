"""GGUF files: what is in them, and their blocks of a few bits as numbers.

Numbers are dequantised in float32, on the device that the blocks are on, to the bits that the gguf package's own
(numpy) functions give. Layout: docs/gguf.md of github.com/ggml-org/ggml; shapes that the format does not keep and
`comfy.gguf.orig_shape`: github.com/city96/ComfyUI-GGUF.
"""

from math import prod
from pathlib import Path

import torch
from diffusers.quantizers.gguf.utils import dequantize_functions
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, ReaderTensor
from torch import Tensor

from infinitetalk.errors import ModelMissing
from infinitetalk.models.stored import Blocks, Shape, Stored

MAGIC = b"GGUF"
PLAIN = {
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
}
# Numbers that are dequantised at a time: what the steps in between take stays under half a gigabyte.
CHUNK = 1 << 24


def read_header(path: Path) -> dict[str, Stored]:
    """The tensors of a GGUF file by name.

    Raises ModelMissing where the file is cut off or a tensor is of a kind that is not read here.
    """
    try:
        reader = GGUFReader(path)
    except (ValueError, KeyError, IndexError, OverflowError) as error:
        raise ModelMissing(
            f"{path} cannot be read (a GGUF file, incomplete or damaged: {error}); fetch it again."
        ) from error
    if reader.byte_order == "S":
        raise ModelMissing(f"{path} cannot be read (a GGUF file of the other byte order); put another file there.")
    return {tensor.name: _stored(path, reader, tensor) for tensor in reader.tensors}


def _stored(path: Path, reader: GGUFReader, tensor: ReaderTensor) -> Stored:
    kind, offset = tensor.tensor_type, int(tensor.data_offset)
    original = reader.get_field(f"comfy.gguf.orig_shape.{tensor.name}")
    # GGUF names the fastest-running dimension first.
    shape: Shape = tuple(reversed(tensor.shape.tolist())) if original is None else tuple(original.contents())
    if prod(shape) != tensor.n_elements:
        raise ModelMissing(
            f"{path}: {tensor.name} has not the numbers that its shape {list(shape)} says; fetch it again."
        )
    if kind in PLAIN:
        return Stored(PLAIN[kind], shape, offset)
    if kind not in dequantize_functions:
        known = ", ".join(dict.fromkeys(known.name for known in (*PLAIN, *dequantize_functions)))
        raise ModelMissing(
            f"{path}: {tensor.name} is quantised as {kind.name}, which is not read; put a file in one of {known} there."
        )
    return Stored(torch.uint8, shape, offset, blocks=Blocks(kind.name, *GGML_QUANT_SIZES[kind]))


def dequantise(raw: Tensor, blocks: Blocks, shape: Shape) -> Tensor:
    """The float32 numbers of `shape` in quantised blocks.

    Args:
        raw: the bytes of the blocks; on the meta device any tensor.
    """
    if raw.is_meta:
        return torch.empty(shape, device=raw.device)
    rows, dequantize = raw.view(-1, blocks.bytes), dequantize_functions[GGMLQuantizationType[blocks.kind]]
    numbers = torch.empty(len(rows), blocks.numbers, device=raw.device)
    step = CHUNK // blocks.numbers
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        numbers[start : start + step] = dequantize(part, blocks.numbers, blocks.bytes, torch.float32)
    return numbers.view(shape)
