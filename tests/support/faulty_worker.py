"""The worker, with faults that a test can order: a job whose prompt names one meets it before its second step.

It runs the miniature as the other tests do.
"""

import torch

import handler
import infinitetalk.job.render
from infinitetalk.generation.pipeline import generate
from tests.support.miniature import open_miniature

FAULTS = {
    "out of memory": torch.OutOfMemoryError("CUDA out of memory."),
    "illegal access": torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    "bug": KeyError("SECRET-detail of /the/inside"),
}


def faulty_generate(plan, models, material, noise, on_step, *more):
    def step(window, number, latents):
        on_step(window, number, latents)
        if number == 1 and plan.prompt in FAULTS:
            raise FAULTS[plan.prompt]

    return generate(plan, models, material, noise, step, *more)


infinitetalk.job.render.generate = faulty_generate
handler.open_models = lambda _: open_miniature()
handler.main()
