"""Weights in 8-bit floating point with scales beside them, as ComfyUI, its extensions and musubi-tuner write them.

`<layer>.weight` in float8_e4m3fn or float8_e5m2 stands for itself times `<layer>.scale_weight` (newer files:
`<layer>.weight_scale`), which is one number, one for each row, or one for each block of a row. `scaled_fp8` marks such
a file; `scale_input` and `input_scale` are for products in 8 bits, which multiply other weights than these.
Sources: comfy/ops.py of github.com/comfyanonymous/ComfyUI, modules/fp8_optimization_utils.py of
github.com/kohya-ss/musubi-tuner.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from infinitetalk.errors import ModelMissing
from infinitetalk.models.stored import Shape

SCALES = ("scale_weight", "weight_scale")
UNUSED = ("scaled_fp8", "scale_input", "input_scale")
FORMAT = "comfy_quant"  # per layer: JSON that names how it is quantised
FORMATS = ("float8_e4m3fn", "float8_e5m2")


def find_scales(
    file: Path, shapes: Mapping[str, Shape], read: Callable[[str], Tensor]
) -> tuple[dict[str, str], list[str]]:
    """What tells how other tensors are stored.

    Args:
        file: for errors.
        shapes: of all tensors, by name.
        read: gives one of them.

    Returns:
        The name of the scale by the name of its weight, and all names that are no weights.

    Raises:
        ModelMissing: a scale does not fit its weight, or a layer is quantised in another way.
    """
    scales, besides = {}, []
    for name, shape in shapes.items():
        layer, _, kind = name.rpartition(".")
        weight = f"{layer}.weight"
        if kind in SCALES and weight in shapes:
            _check_scale(file, weight, shapes[weight], shape)
            scales[weight] = name
            besides.append(name)
        elif kind == FORMAT:
            _check_format(file, layer, read(name))
            besides.append(name)
        elif kind in UNUSED:
            besides.append(name)
    return scales, besides


def rescaled(weight: Tensor, scale: Tensor) -> Tensor:
    """The float32 numbers of a weight (rows, columns) with its scale: one, (rows,), (rows, 1) or (rows, blocks, 1)."""
    scale, numbers = scale.to(weight.device, torch.float32), weight.float()
    if scale.ndim < 2 or scale.numel() == 1:
        scale = scale.reshape(-1, *(1,) * (numbers.ndim - 1))
    elif scale.ndim > numbers.ndim:
        numbers = numbers.view(*scale.shape[:-1], -1)
    return (numbers * scale).view(weight.shape)


def _check_scale(file: Path, name: str, weight: Shape, scale: Shape) -> None:
    fits = torch.Size(scale).numel() == 1 or scale in (weight[:1], (*weight[:1], *(1,) * (len(weight) - 1)))
    is_like_blocks = len(weight) == 2 and len(scale) == 3 and scale[::2] == (weight[0], 1) and scale[1] > 0
    in_blocks = is_like_blocks and weight[1] % scale[1] == 0
    if not (fits or in_blocks):
        raise ModelMissing(
            f"{file}: the scale of {name} {list(weight)} has the shape {list(scale)}; it should be one number, one for "
            "each row, or one for each block of a row."
        )


def _check_format(file: Path, layer: str, content: Tensor) -> None:
    try:
        found = json.loads(bytes(content.tolist()))["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelMissing(f"{file}: {layer}.{FORMAT} does not say how the layer is quantised.") from error
    if found not in FORMATS:
        raise ModelMissing(
            f"{file}: {layer} is quantised as {found}, which is not read here; put a file there in "
            f"{' or '.join(FORMATS)}, in GGUF, or in bfloat16."
        )
