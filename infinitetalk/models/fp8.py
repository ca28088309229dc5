"""8-bit linear layers: weights and activations in e4m3, products in bfloat16.

The weights are quantised once, when they are loaded. The activations are quantised in every pass. Each row has a scale
of its own, which follows from its largest value. Where the device has no such products, each matrix has one scale.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from infinitetalk.arithmetic import ROWS, TENSORS
from infinitetalk.models.e4m3 import FP8, LARGEST
from infinitetalk.models.transformer import InfiniteTalkTransformer
from infinitetalk.models.trials import FP8_ERROR, attempted, check_error, return_memory

MIN_CAPABILITY = (8, 9)

# Inputs and outputs of layers of the 14B transformer: query, key and value in one; both of the feed-forward.
TRIED_LAYERS = ((5120, 15_360), (5120, 13_824), (13_824, 5120))
TRIED_TOKENS = 2_005


def check_fp8(device: torch.device) -> None:
    """Raise ValueError unless the device multiplies 8-bit floating-point matrices."""
    if device.type == "meta":  # shapes are checked, nothing runs
        return
    if device.type != "cuda":
        raise ValueError(
            f"8 bits (FP8 or LANES) need a GPU of compute capability 8.9, and the model is on {device.type}"
        )
    capability = torch.cuda.get_device_capability(device)
    if capability < MIN_CAPABILITY:
        name = torch.cuda.get_device_name(device)
        found = f"{name} has {capability[0]}.{capability[1]}"
        raise ValueError(f"8 bits (FP8 or LANES) need a GPU of compute capability 8.9, and {found}")


def quantise(values: Tensor, scales: str = ROWS) -> tuple[Tensor, Tensor]:
    """e4m3 numbers of `values` (rows, columns), and the float32 scales to multiply them by.

    The scales are (rows, 1), or (1, 1) if `scales` is `TENSORS`.
    """
    largest = values.abs().amax(dim=-1 if scales == ROWS else (-2, -1), keepdim=True)
    scale = largest.float().clamp(min=1e-12) / LARGEST
    return (values.float() * scale.reciprocal()).clamp(-LARGEST, LARGEST).to(FP8), scale


class Fp8Linear(nn.Module):
    """x W^T + b with x and W in e4m3, one scale for each row of both, or one for each of both."""

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor

    def __init__(self, linear: nn.Linear, scales: str = ROWS) -> None:
        super().__init__()
        self.scales = scales
        weight, scale = quantise(linear.weight.detach(), scales)
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scale", scale.t().contiguous())
        self.register_buffer("bias", linear.bias.detach())

    def forward(self, states: Tensor) -> Tensor:
        """(..., outputs) bfloat16 of `states` (..., inputs)."""
        rows, scale = quantise(states.flatten(0, -2), self.scales)
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


MakeLayer = Callable[[nn.Linear], nn.Module]

LAYERS: Mapping[str, MakeLayer] = {ROWS: partial(Fp8Linear, scales=ROWS), TENSORS: partial(Fp8Linear, scales=TENSORS)}
"""The 8-bit layers by their scales, in the order in which they are tried."""


def choose_scales(
    device: torch.device,
    layers: Mapping[str, MakeLayer] = LAYERS,
    shapes: tuple[tuple[int, int], ...] = TRIED_LAYERS,
    tokens: int = TRIED_TOKENS,
) -> str:
    """The first scales of 8-bit layers whose products run on the device and are right.

    Rows come first: no less exact, and their activations are quantised in one pass.

    Args:
        layers: 8-bit layers by their scales.
        shapes: (inputs, outputs) of the layers that are tried.
        tokens: rows of the activations.

    Raises:
        ValueError: there are none.
    """
    if device.type == "meta":  # shapes are checked, nothing runs
        return next(iter(layers))
    attempts = {name: partial(_prove, make, device, shapes, tokens) for name, make in layers.items()}
    passed = next(attempted("8-bit products with scales by", attempts), None)
    return_memory(device)
    if passed is None:
        raise ValueError("no 8-bit products work on this GPU: leave 8 bits out of FP8 and LANES, or try another torch")
    return passed[0]


@torch.inference_mode()
def _prove(make: MakeLayer, device: torch.device, shapes: tuple[tuple[int, int], ...], tokens: int) -> None:
    """Raise TrialFailed if such layers err too much."""
    generator = torch.Generator(device).manual_seed(0)
    for inputs, outputs in shapes:
        linear = nn.Linear(inputs, outputs, device=device, dtype=torch.bfloat16)
        # Rows of different sizes show whether each is multiplied by its own scale.
        linear.weight.mul_(torch.linspace(0.5, 4, outputs, device=device).unsqueeze(1))
        states = torch.randn(tokens, inputs, generator=generator, device=device).bfloat16()
        states *= torch.linspace(4, 0.5, tokens, device=device).unsqueeze(1)
        expected = states.float() @ linear.weight.float().t() + linear.bias.float()
        check_error(make(linear)(states), expected, FP8_ERROR, f"products of {inputs} columns")


def quantise_block(transformer: InfiniteTalkTransformer, index: int, scales: str = ROWS) -> None:
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
        setattr(parent, name, Fp8Linear(getattr(parent, name), scales))
