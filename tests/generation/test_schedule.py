"""Noise levels and the schedulers that take them."""

from itertools import pairwise

import pytest
import torch

from infinitetalk.generation.schedule import make_scheduler, make_sigmas
from tests.support.golden import info, loop_variants, tensors

NAMES = ["dpm++_sde", "euler", "infinitetalk"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("start", [1.0, 0.7, 0.1])
def test_sigmas_fall_from_the_start_to_zero(name: str, start: float) -> None:
    sigmas = make_sigmas(name, 5, 11.0, start)
    assert len(sigmas) == 6
    assert sigmas[0].item() == pytest.approx(start, abs=2e-4)
    assert sigmas[-1] == 0
    assert all(later < earlier for earlier, later in pairwise(sigmas.tolist()))


def test_authors_timesteps() -> None:
    """Shift 7, 4 steps: linspace(1000, 1, 4), then 0, each shifted."""
    expected = [7 * t / (1 + 6 * t) * 1000 for t in (1.0, 0.667, 0.334, 0.001)] + [0.0]
    assert (make_sigmas("infinitetalk", 4, 7.0) * 1000).tolist() == pytest.approx(expected, rel=1e-5)


def test_unknown_names_and_starts_are_refused() -> None:
    with pytest.raises(ValueError, match="heun"):
        make_sigmas("heun", 4, 7.0)
    for start in (0.0, 1.01):
        with pytest.raises(ValueError, match="first sigma"):
            make_sigmas("euler", 4, 7.0, start)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("start", [1.0, 0.6])
def test_a_perfect_model_ends_at_the_clean_latents(name: str, start: float) -> None:
    """With velocity = noise - clean known exactly, every scheduler must arrive at `clean`."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(1, 16, 2, 4, 4, generator=generator)
    noise = torch.randn(clean.shape, generator=generator)
    scheduler = make_scheduler(name, 5, 11.0, start)
    latents = start * noise + (1 - start) * clean
    for step, timestep in enumerate(scheduler.timesteps):
        sigma = make_sigmas(name, 5, 11.0, start)[step]
        velocity = (latents - clean) / sigma
        latents = scheduler.step(velocity, timestep, latents, generator=generator).prev_sample
    torch.testing.assert_close(latents, clean, rtol=0, atol=5e-3 if name == "dpm++_sde" else 1e-5)


def test_dpm_solver_is_stochastic_and_seeded() -> None:
    def run(seed: int) -> torch.Tensor:
        scheduler = make_scheduler("dpm++_sde", 4, 11.0)
        latents = torch.ones(1, 1, 1, 2, 2)
        for timestep in scheduler.timesteps:
            generator = torch.Generator().manual_seed(seed)
            latents = scheduler.step(latents * 0.1, timestep, latents, generator=generator).prev_sample
        return latents

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


@pytest.mark.parametrize(("folder", "variant"), loop_variants())
def test_stored_timesteps_of_the_authors_loops(folder: str, variant: str) -> None:
    settings = info(folder)[variant]["settings"]
    sigmas = make_sigmas("infinitetalk", settings["sampling_steps"], float(settings["shift"]))
    stored = tensors(f"{folder}/{variant}")["timesteps"]
    torch.testing.assert_close(sigmas * 1000, stored, rtol=1e-6, atol=0)
