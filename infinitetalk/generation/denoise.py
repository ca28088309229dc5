"""The denoising loop of one window."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from infinitetalk.generation.conditioning import Conditions
from infinitetalk.generation.guidance import Guide
from infinitetalk.generation.schedule import Scheduler
from infinitetalk.models.video_transformer import TimeEmbedding, VideoTransformer


@dataclass(frozen=True)
class Steps:
    """The steps of one window: a scheduler fresh from `make_scheduler`, and the embeddings of its timesteps."""

    scheduler: Scheduler
    times: TimeEmbedding


@torch.inference_mode()
def denoise(
    transformer: VideoTransformer,
    steps: Steps,
    latents: Tensor,
    conditions: Conditions,
    guide: Guide,
    generator: torch.Generator,
    on_step: Callable[[int, Tensor], None],
) -> Tensor:
    """Clean latents (1, 16, T, h, w) float32 of one window.

    Args:
        latents: (1, 16, T, h, w) float32: noise, or the noised source.
        conditions: they have a context for each forward pass that `guide` makes.
        generator: gives the noise of the stochastic schedulers.
        on_step: called before each step with its number and the latents; may raise to stop.
    """
    held = conditions.motion.shape[2]
    latents[:, :, :held] = conditions.motion
    known = conditions.latents.to(transformer.dtype)
    for step, timestep in enumerate(steps.scheduler.timesteps):
        on_step(step, latents)
        model_input = torch.cat((latents.to(transformer.dtype), known), dim=1)
        time = steps.times.step(step)
        velocity = guide(lambda drop: transformer(model_input, time, conditions.contexts[drop]).float())  # noqa: B023
        latents = steps.scheduler.step(velocity, timestep, latents, generator=generator).prev_sample
        latents[:, :, :held] = conditions.motion
    return latents
