"""Noise levels of the denoising steps, and the diffusers scheduler that takes them.

A sigma is the share of noise in the latents: x = (1 - sigma) * clean + sigma * noise; the timestep is 1000 sigma.
"""

from typing import Any, TypeAlias

import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

TRAIN_TIMESTEPS = 1000
Scheduler: TypeAlias = DPMSolverMultistepScheduler | FlowMatchEulerDiscreteScheduler


def make_sigmas(name: str, steps: int, shift: float, start: float = 1.0) -> Tensor:
    """Sigmas (steps + 1,) float32, from `start` down to 0.

    Evenly spaced times u become shift*u / (1 + (shift-1)*u). For "euler" and "dpm++_sde" the times are spaced from the
    first one to 0, without the 0 itself, as in Wan and diffusers. For "infinitetalk" they are spaced from the first one
    to timestep 1, as in the authors' code. (No mode in presets/modes uses "infinitetalk"; it is there to be compared
    with the authors' numbers.)

    Args:
        name: "dpm++_sde", "euler" or "infinitetalk".
        start: the sigma of the first step, in (0, 1]. Below 1 the loop starts from a noised source (SDEdit, arXiv
            2108.01073). The number of steps stays the same.

    Raises:
        ValueError: the name is unknown, or start is outside (0, 1].
    """
    if not 0 < start <= 1:
        raise ValueError(f"the first sigma must be in (0, 1], not {start}")
    first = start / (shift - (shift - 1) * start)
    if name == "infinitetalk":
        times = torch.linspace(first * TRAIN_TIMESTEPS, 1, steps, dtype=torch.float32) / TRAIN_TIMESTEPS
    elif name in ("euler", "dpm++_sde"):
        # DPM-Solver works with log((1 - sigma) / sigma), which is infinite at 1; diffusers starts it here.
        first = min(first, 1 - 1 / TRAIN_TIMESTEPS) if name == "dpm++_sde" else first
        times = torch.linspace(first, 0, steps + 1, dtype=torch.float32)[:-1]
    else:
        raise ValueError(f"unknown scheduler {name!r}")
    sigmas = shift * times / (1 + (shift - 1) * times)
    return torch.cat((sigmas, sigmas.new_zeros(1)))


def make_scheduler(name: str, steps: int, shift: float, start: float = 1.0) -> Scheduler:
    """A diffusers scheduler ready for its first step, with the sigmas of `make_sigmas`."""
    sigmas = make_sigmas(name, steps, shift, start)
    scheduler: Any
    if name == "dpm++_sde":
        scheduler = DPMSolverMultistepScheduler(
            algorithm_type="sde-dpmsolver++",
            solver_order=2,
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
        )
        scheduler.set_timesteps(steps)
        # set_timesteps takes no sigmas here and would round the timesteps to integers.
        scheduler.sigmas, scheduler.timesteps = sigmas, sigmas[:-1] * TRAIN_TIMESTEPS
    else:
        scheduler = FlowMatchEulerDiscreteScheduler()
        scheduler.set_timesteps(sigmas=sigmas[:-1].tolist())
    scheduler.set_begin_index(0)
    return scheduler
