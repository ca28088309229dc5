"""8-bit linear layers: weights and activations in e4m3, each row with a scale of its own, products in bfloat16.

The weights are quantised once, when they are loaded. The activations are quantised in every pass. A row's scale follows
from its largest value.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from infinitetalk.models.transformer import InfiniteTalkTransformer

FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max
MIN_CAPABILITY = (8, 9)


def check_fp8(device: torch.device) -> None:
    """Raise ValueError unless the device multiplies 8-bit floating-point matrices."""
    if device.type == "meta":  # shapes are checked, nothing runs
        return
    if device.type != "cuda":
        raise ValueError(f"FP8 is set, but the model is on {device.type}: it needs a GPU of compute capability 8.9")
    capability = torch.cuda.get_device_capability(device)
    if capability < MIN_CAPABILITY:
        name = torch.cuda.get_device_name(device)
        raise ValueError(f"FP8 is set, but {name} has compute capability {capability[0]}.{capability[1]}, under 8.9")


def quantise_rows(values: Tensor) -> tuple[Tensor, Tensor]:
    """e4m3 numbers of `values` (rows, columns), and the float32 scales (rows, 1) to multiply them by."""
    scale = values.abs().amax(dim=-1, keepdim=True).float().clamp(min=1e-12) / LARGEST
    return (values.float() * scale.reciprocal()).clamp(-LARGEST, LARGEST).to(FP8), scale


class Fp8Linear(nn.Module):
    """x W^T + b with x and W in e4m3, one scale for each row of both."""

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scale = quantise_rows(linear.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scale", scale.t().contiguous())
        self.register_buffer("bias", linear.bias.detach())

    def forward(self, states: Tensor) -> Tensor:
        """(..., outputs) bfloat16 of `states` (..., inputs)."""
        rows, scale = quantise_rows(states.flatten(0, -2))
        product = torch._scaled_mm(
            rows,
            self.weight.t(),
            scale_a=scale,
            scale_b=self.weight_scale,
            bias=self.bias,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
        return cast(Tensor, product.unflatten(0, states.shape[:-1]))


def quantise_block(transformer: InfiniteTalkTransformer, index: int) -> None:
    """Replace the linear layers that every token passes, in one block and its adapters.

    The layers that only text, image and voices pass stay as they are, since they run outside the steps. Query, key and
    value of the self-attention become one layer, so that their input is quantised once.
    """
    block = cast(Any, transformer.blocks[index])
    block.attn1.fuse_projections()
    del block.attn1.to_q, block.attn1.to_k, block.attn1.to_v
    layers = [(block.attn1, "to_qkv"), (block.attn1.to_out, "0"), (block.attn2, "to_q"), (block.attn2.to_out, "0")]
    layers += [(block.ffn.net[0], "proj"), (block.ffn.net, "2")]
    for adapter in transformer.adapters.values():
        attention = cast(Any, adapter).blocks[index].audio_cross_attn
        layers += [(attention, "q_linear"), (attention, "proj")]
    for parent, name in layers:
        setattr(parent, name, Fp8Linear(getattr(parent, name)))
