"""The bundled model as the tests run it."""

from functools import partial

import torch
from torch import Tensor, nn

from infinitetalk.contract.settings import Settings
from infinitetalk.models.opening import Models
from infinitetalk.startup.opening import open_models


def open_miniature() -> Models:
    """The miniature on this machine's device. On a CPU the autoencoder's convolutions run in oneDNN."""
    models = open_models(Settings())
    if models.device.type == "cpu":
        quicken(models.vae)
    return models


def quicken(model: nn.Module) -> None:
    """Let the 3-D convolutions of a float32 model on the CPU run in oneDNN, in place: the same up to rounding.

    Of a single small video torch lets a kernel of its own take care (`ConvParams::use_mkldnn` in its Convolution.cpp
    counts all sides of the input but the last), which is several times slower.
    """
    for conv in model.modules():
        if isinstance(conv, nn.Conv3d):
            conv._conv_forward = partial(_by_onednn, conv)


def _by_onednn(conv: nn.Conv3d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    sizes = (conv.padding, conv.stride, conv.dilation, conv.groups)
    return torch.ops.aten.mkldnn_convolution(x, weight, bias, *sizes)
