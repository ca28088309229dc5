"""torch.compile for the autoencoder's norms and activations, which spend their time in reading and writing memory.

The transformer's blocks take minutes to compile, so its steps are recorded instead (graphs.py). The painter is not
compiled either: that takes over a minute, and drawing is a small part of a step.
"""

from functools import partial

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResidualBlock, WanRMS_norm
from torch import Tensor


def allow_many_sizes() -> None:
    """Let graphs hold for clips of all sizes, and do not assume that sizes that are equal once always are."""
    torch._dynamo.config.cache_size_limit = 64
    torch.fx.experimental._config.use_duck_shape = False


def norm_and_activate(rows: Tensor, gamma: Tensor) -> Tensor:
    """SiLU of `WanRMS_norm` of rows (n, C) with gamma (C,), in the rows' type."""
    return F.silu(F.normalize(rows.float(), dim=-1) * (rows.shape[-1] ** 0.5 * gamma)).type_as(rows)


def compile_norms(vae: AutoencoderKLWan) -> None:
    """Let residual blocks run their norms and activations fused, and hand on bfloat16 where autocast gives it.

    This is meant for weights in channels-last order, whose outputs have their channels in rows.
    """
    fused = torch.compile(norm_and_activate, dynamic=True)

    def activated(norm: WanRMS_norm, states: Tensor) -> Tensor:
        channels_last = states.movedim(1, -1)
        rows, gamma = channels_last.reshape(-1, channels_last.shape[-1]), norm.gamma.flatten()
        for tensor in (rows, gamma):  # compiled for each number of channels, so that a sum over them reads once
            torch._dynamo.mark_static(tensor, tensor.dim() - 1)
        return fused(rows, gamma).view(channels_last.shape).movedim(-1, 1)

    def forward(block: WanResidualBlock, states: Tensor, feat_cache: None = None, feat_idx: object = None) -> Tensor:
        shortcut = block.conv_shortcut(states)
        states = block.conv1(activated(block.norm1, states))
        return block.conv2(activated(block.norm2, states)) + shortcut

    for module in vae.modules():
        if isinstance(module, WanResidualBlock):
            module.forward = partial(forward, module)
    for half in (vae.encoder, vae.decoder):
        half.norm_out.forward = partial(activated, half.norm_out)
        half.nonlinearity = torch.nn.Identity()
