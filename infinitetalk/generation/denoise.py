"""The denoising loop of one window."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from infinitetalk.generation.guidance import Drop, Guide
from infinitetalk.generation.schedule import Scheduler
from infinitetalk.models.transformer import Context, InfiniteTalkTransformer, TimeEmbedding


@torch.inference_mode()
def denoise(
    transformer: InfiniteTalkTransformer,
    scheduler: Scheduler,
    times: TimeEmbedding,
    latents: Tensor,
    condition: Tensor,
    motion: Tensor,
    contexts: Mapping[Drop, Context],
    guide: Guide,
    generator: torch.Generator,
    on_step: Callable[[int, Tensor], None],
) -> Tensor:
    """Clean latents (1, 16, T, h, w) float32 of one window.

    Args:
        scheduler: fresh from `make_scheduler`.
        times: embeddings of its timesteps.
        latents: (1, 16, T, h, w) float32, noise, or the noised source.
        condition: (1, 4 + 16, T, h, w), mask and condition latents.
        motion: (1, 16, m, h, w), latents that the first m latent frames are held at.
        contexts: one for each forward pass that `guide` makes.
        generator: noise of the stochastic schedulers.
        on_step: called before each step with its number and the latents; may raise to stop.
    """
    held = motion.shape[2]
    latents[:, :, :held] = motion
    condition = condition.to(transformer.dtype)
    for step, timestep in enumerate(scheduler.timesteps):
        on_step(step, latents)
        model_input = torch.cat((latents.to(transformer.dtype), condition), dim=1)
        time = times.step(step)
        velocity = guide(lambda drop: transformer(model_input, time, contexts[drop]).float())  # noqa: B023
        latents = scheduler.step(velocity, timestep, latents, generator=generator).prev_sample
        latents[:, :, :held] = motion
    return latents
