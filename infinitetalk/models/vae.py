"""Pixels to latents and back with the Wan video autoencoder, in the transformer's normalisation."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanCausalConv3d,
    WanResidualBlock,
    WanRMS_norm,
    WanUpsample,
)
from torch import Tensor, nn

# Height and width of the first latents that are decoded. torch.compile takes sizes that are equal while it looks on to
# be always equal: the products of these are no model's number of channels.
_WARM_UP_LATENTS = (7, 11)


def _statistics(vae: AutoencoderKLWan, like: Tensor) -> tuple[Tensor, Tensor]:
    mean = like.new_tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    std = like.new_tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    return mean, std


@torch.inference_mode()
def encode_video(vae: AutoencoderKLWan, video: Tensor) -> Tensor:
    """Latents (B, 16, T, height/8, width/8) float32 of a video (B, 3, 4T-3, height, width) in [-1, 1].

    The mean of the distribution, normalised by the model's latent statistics. Frames beyond 4T-3 are ignored.
    """
    mean = vae.encode(video.to(vae.dtype)).latent_dist.mode().float()
    latents_mean, latents_std = _statistics(vae, mean)
    return cast(Tensor, (mean - latents_mean) / latents_std)


@torch.inference_mode()
def encode_picture_then_grey(vae: AutoencoderKLWan, picture: Tensor, frames: int) -> Tensor:
    """Latents (1, 16, T, height/8, width/8) of a video whose first frame is the picture, (3, height, width), and whose
    other frames are zero: 4T-3 `frames` in all.

    What `encode_video` gives, bit for bit, for a third of its work.
    """
    video = picture.new_zeros(1, picture.shape[0], frames, *picture.shape[1:], dtype=vae.dtype)
    video[:, :, 0] = picture
    layers = vae.encoder.down_blocks
    vae.encoder.down_blocks = nn.ModuleList(_Settling(layer) for layer in layers)
    try:
        return encode_video(vae, video)
    finally:
        vae.encoder.down_blocks = layers


@torch.inference_mode()
def decode_video(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Video (B, 3, 4T-3, height, width) float32 in [-1, 1] of normalised latents (B, 16, T, ...)."""
    latents_mean, latents_std = _statistics(vae, latents.float())
    latents = (latents.float() * latents_std + latents_mean).to(vae.dtype)
    return cast(Tensor, vae.decode(latents, return_dict=False)[0].float())


class _Settling(nn.Module):
    """A layer of the encoder that hands out its last result again where nothing has changed.

    The video is encoded four frames at a time, and what a layer makes of them depends on them and on the few frames
    before that it remembers. Frames that stay the same change neither any more after a while: in the first layers,
    which do most of the work, after a dozen frames.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.last: tuple[Tensor, list[Any], Tensor, int] | None = None

    def forward(self, x: Tensor, feat_cache: list[Any], feat_idx: list[int]) -> Tensor:
        start = feat_idx[0]
        if self.last is not None:
            last_x, last_memory, last_output, stop = self.last
            if _same(x, last_x) and all(map(_same, feat_cache[start:stop], last_memory)):
                feat_idx[0] = stop
                return last_output
        memory = feat_cache[start:]
        output: Tensor = self.layer(x, feat_cache=feat_cache, feat_idx=feat_idx)
        stop = feat_idx[0]
        self.last = x, memory[: stop - start], output, stop
        return output


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and torch.equal(a, b))


# --- the same layers, faster ---------------------------------------------------------------------------------


def optimise_vae(vae: AutoencoderKLWan, compiled: bool) -> None:
    """Rearrange the autoencoder for speed, in place. Results stay the same up to rounding.

    cuDNN's autotuning is left off: it found nothing faster, and its choice, which changes the last bits, could differ
    between a worker and the one that goes on with its job.

    Args:
        compiled: normalisation and activation in one kernel, compiled here for all sizes.
    """
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in vae.parameters():
        parameter.data = parameter.data.contiguous(memory_format=formats.get(parameter.dim(), torch.contiguous_format))
    activation = torch.compile(_normalise_and_activate, dynamic=True) if compiled else _normalise_and_activate
    for module in list(vae.modules()):
        if isinstance(module, WanResidualBlock):
            module.norm1 = _ActivatedNorm(module.norm1, activation)
            module.norm2 = _ActivatedNorm(module.norm2, activation)
            module.nonlinearity = nn.Identity()
        for name, child in module.named_children():
            if isinstance(child, WanCausalConv3d):
                setattr(module, name, _CausalConv(child))
            elif isinstance(child, WanUpsample):  # diffusers' goes through float32
                setattr(module, name, nn.Upsample(scale_factor=child.scale_factor, mode=child.mode))
    if compiled:
        decode_video(vae, torch.zeros(1, vae.config.z_dim, 2, *_WARM_UP_LATENTS, device=vae.device))


class _CausalConv(nn.Module):
    """A causal convolution that copies no input to pad its height and width: cuDNN does that by itself."""

    def __init__(self, conv: WanCausalConv3d) -> None:
        super().__init__()
        width, _, height, _, self.before, _ = conv._padding
        self.padding = (0, height, width)
        self.stride = conv.stride
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
        missing = self.before
        if cache_x is not None and missing:
            x = torch.cat((cache_x, x), dim=2)
            missing -= cache_x.shape[2]
        if missing:
            x = F.pad(x, (0, 0, 0, 0, missing, 0))
        return F.conv3d(x, self.weight, self.bias, self.stride, self.padding)


class _ActivatedNorm(nn.Module):
    """SiLU of the normalised channels of (B, C, T, height, width), channels last."""

    def __init__(self, norm: WanRMS_norm, activation: Any) -> None:  # noqa: ANN401
        super().__init__()
        self.gamma = norm.gamma
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        rows = x.permute(0, 2, 3, 4, 1)
        activated = self.activation(rows.reshape(-1, rows.shape[-1]), self.gamma.flatten())
        return cast(Tensor, activated.view(rows.shape).permute(0, 4, 1, 2, 3))


def _normalise_and_activate(rows: Tensor, gamma: Tensor) -> Tensor:
    """SiLU of rows (n, C) scaled to a root mean square of gamma (C)."""
    normalised = F.normalize(rows.float(), dim=1) * (rows.shape[1] ** 0.5) * gamma.float()
    return F.silu(normalised).to(rows.dtype)
