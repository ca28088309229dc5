"""Several ranks give the numbers of one: passes, loops and decoding meet the authors' within the same tolerances."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.random_models import random_transformer
from benchmarks.transformer import MINIATURE, inputs
from infinitetalk.arithmetic import EXACT, NATIVE, Arithmetic
from infinitetalk.generation.pipeline import generate
from infinitetalk.models.lanes import make_lanes
from infinitetalk.models.opening import Models
from infinitetalk.planning.windows import Window
from infinitetalk.progress import Stopwatch
from infinitetalk.ranks.group import Ranks
from infinitetalk.ranks.sharing import share_models
from tests.models.test_transformer import ATOL, Case
from tests.models.test_vae import ATOL as VAE_ATOL
from tests.support.golden import CPU, Loop, info, load_golden_models, loop_variants, tensors, wan_folder

# The tiny transformer has 6 heads, and 24 or 20 tokens a latent frame: with 5 ranks neither divides.
COUNTS = [2, pytest.param(5, marks=pytest.mark.long)]


@pytest.fixture(params=COUNTS)
def models(request: pytest.FixtureRequest, start_ranks: Callable[[int], Ranks], tmp_path: Path) -> Models:
    models = load_golden_models(wan_folder(tmp_path))
    return share_models(models, start_ranks(request.param))


def test_passes_loops_and_decoding_are_those_of_one_rank(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """One test for each number of ranks, since it takes seconds to start them."""
    for name in ("dit_single", "dit_multi"):
        assert info(name)
        with torch.inference_mode():
            case = Case(name, models.transformer)
            for key, stored in case.outputs.items():
                _, kind, masks, time = key.split(".")
                prediction = case.predict(kind, int(masks.removeprefix("mask")), int(time.removeprefix("t")))
                torch.testing.assert_close(prediction, stored, rtol=0, atol=ATOL, msg=lambda m, key=key: f"{key}: {m}")
    video = models.to_video(tensors("vae/inputs")["latent"].unsqueeze(0))
    torch.testing.assert_close(video[0], tensors("vae/outputs")["decode.latent"], rtol=0, atol=VAE_ATOL)
    for folder, variant in loop_variants():
        _check_loop(Loop(folder, variant), models, monkeypatch)


def test_a_sparse_lane_attends_by_the_tokens_places(start_ranks: Callable[[int], Ranks], tmp_path: Path) -> None:
    """It takes tokens frame by frame, and exchanged ones come rank by rank."""
    models = load_golden_models(wan_folder(tmp_path))
    lanes = make_lanes(models.transformer, [Arithmetic(NATIVE), Arithmetic(NATIVE, density=0.4)])
    models = replace(models, arithmetic=lanes[EXACT].arithmetic, transformer=lanes[EXACT].transformer, lanes=lanes)

    def predictions(models: Models) -> dict[str, torch.Tensor]:
        with torch.inference_mode():
            return {
                lane: Case("dit_multi", models.in_lane(lane).transformer).predict("cond", 0, 0) for lane in models.lanes
            }

    alone = predictions(models)
    shared = predictions(share_models(models, start_ranks(2)))
    assert not torch.allclose(alone["sparse_40"], alone[EXACT], rtol=0, atol=10 * ATOL)
    for lane in lanes:
        torch.testing.assert_close(shared[lane], alone[lane], rtol=0, atol=ATOL)


@pytest.mark.long
def test_eight_ranks_share_the_real_models_forty_heads(start_ranks: Callable[[int], Ranks], tmp_path: Path) -> None:
    """Each has five heads, in turns of three and two. Eight divide neither the 90 tokens of a frame nor the 18 rows."""
    sizes = {**MINIATURE, "num_attention_heads": 40, "attention_head_dim": 16}
    transformer = random_transformer(CPU, torch.float32, **sizes)
    models = replace(load_golden_models(wan_folder(tmp_path)), transformer=transformer)
    with torch.inference_mode():
        times = transformer.embed_timesteps(torch.tensor([900.0])).step(0)
        cases = [inputs(transformer, 160, 144, 17, people, 17) for people in (1, 2)]
    latents = torch.randn(1, 16, 3, 18, 20)

    def results(models: Models) -> list[torch.Tensor]:
        with torch.inference_mode():
            passes = [models.transformer(noisy, times, context) for noisy, context in cases]
            return [*passes, models.to_video(latents)]

    alone = results(models)
    shared = results(share_models(models, start_ranks(8)))
    for result, expected, atol in zip(shared, alone, (ATOL, ATOL, VAE_ATOL), strict=True):
        torch.testing.assert_close(result, expected, rtol=0, atol=atol)


def _check_loop(loop: Loop, models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    loop.replace_encoders(monkeypatch, models)
    tolerances = loop.info["suggested_atol"]

    def check_step(window: Window, step: int, latents: torch.Tensor) -> None:
        stored = loop.stored[f"w{window.index}.latents"][step]
        atol = tolerances["final_latent_per_window"][window.index]
        torch.testing.assert_close(latents[0], stored, rtol=0, atol=atol, msg=lambda m: f"{loop.name}: {m}")

    parts = generate(loop.plan, models, loop.material, loop, check_step, Stopwatch())
    video = torch.cat([part.frames for part in parts], dim=1)
    torch.testing.assert_close(video[..., ::4, ::4], loop.stored["video_sub4"], rtol=0, atol=tolerances["video"])
