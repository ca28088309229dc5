"""Pixels to latents and back with the Wan video autoencoder, in the transformer's normalisation."""

from typing import cast

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor


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
def decode_video(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Video (B, 3, 4T-3, height, width) float32 in [-1, 1] of normalised latents (B, 16, T, ...)."""
    latents_mean, latents_std = _statistics(vae, latents.float())
    latents = (latents.float() * latents_std + latents_mean).to(vae.dtype)
    return cast(Tensor, vae.decode(latents, return_dict=False)[0].float())
