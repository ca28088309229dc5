"""Pixels to latents and back with the Wan video autoencoder, in the transformer's normalisation."""

from typing import Any, cast

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn


def _statistics(vae: AutoencoderKLWan, like: Tensor) -> tuple[Tensor, Tensor]:
    mean = like.new_tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    std = like.new_tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    return mean, std


@torch.inference_mode()
def to_latents(vae: AutoencoderKLWan, video: Tensor) -> Tensor:
    """Latents (B, 16, T, height/8, width/8) float32 of a video (B, 3, 4T-3, height, width) in [-1, 1].

    The mean of the distribution, normalised by the model's latent statistics. Frames beyond 4T-3 are ignored.
    """
    mean = vae.encode(video.to(vae.dtype)).latent_dist.mode().float()
    latents_mean, latents_std = _statistics(vae, mean)
    return cast(Tensor, (mean - latents_mean) / latents_std)


@torch.inference_mode()
def picture_then_grey_to_latents(vae: AutoencoderKLWan, picture: Tensor, frames: int) -> Tensor:
    """Latents (1, 16, T, height/8, width/8) of a video: the picture (3, height, width), then frames of zeros.

    The result is that of `to_latents`, bit for bit, for a third of its work.

    Args:
        frames: 4T-3 frames in all.
    """
    video = picture.new_zeros(1, picture.shape[0], frames, *picture.shape[1:], dtype=vae.dtype)
    video[:, :, 0] = picture
    layers = vae.encoder.down_blocks
    vae.encoder.down_blocks = nn.ModuleList(_Settling(layer) for layer in layers)
    try:
        return to_latents(vae, video)
    finally:
        vae.encoder.down_blocks = layers


@torch.inference_mode()
def to_video(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Video (B, 3, 4T-3, height, width) float32 in [-1, 1] of normalised latents (B, 16, T, ...)."""
    latents_mean, latents_std = _statistics(vae, latents.float())
    latents = (latents.float() * latents_std + latents_mean).to(vae.dtype)
    return cast(Tensor, vae.decode(latents, return_dict=False)[0].float())


class _Settling(nn.Module):
    """A layer of the encoder that returns its last result again if nothing has changed.

    The encoder takes four frames at a time. A layer's result depends on them and on the few frames before them that it
    remembers. Once the input stops changing, so do both. In the early layers, which do most of the work, that takes
    about a dozen frames.
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
