"""Windows that hear some of a job's voices: the same as jobs of these voices alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from infinitetalk.contract.presets import load_mode, load_profile
from infinitetalk.contract.request import Request
from infinitetalk.generation.masks import masks_of_window, person_masks
from infinitetalk.generation.pipeline import Material, SeededNoise, VoiceFeatures, generate
from infinitetalk.media.image import Picture
from infinitetalk.models.audio_encoder import embed_voice
from infinitetalk.models.opening import Models
from infinitetalk.planning.plan import Plan, make_plan
from infinitetalk.planning.windows import SILENCE, Window
from infinitetalk.progress import Stopwatch
from infinitetalk.shapes import SAMPLES_PER_FRAME

SIZE, FRAMES = (160, 96), 5
BOXES = ((0.0, 0.0, 0.3, 1.0), (0.35, 0.0, 0.65, 1.0), (0.7, 0.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def features(models: Models) -> Tensor:
    """Three voices and silence."""
    waves = np.random.default_rng(1).standard_normal((4, FRAMES * SAMPLES_PER_FRAME)).astype(np.float32)
    waves[3] = 0
    return torch.stack([embed_voice(models.audio_encoder, models.audio_extractor, wave, FRAMES) for wave in waves])


@pytest.fixture(scope="module")
def plan() -> Plan:
    url = "https://example.com/a"
    job = {"image_url": url, "wav_url": url, "wav_url_2": url, "person_count": "multi", "aspect_ratio": "16:9"}
    mode = load_mode("turbo").model_copy(update={"steps": 1})
    return make_plan(Request.parse(job), load_profile("miniature"), mode, FRAMES, seed=1)


def made(
    plan: Plan, models: Models, features: Tensor, masks: Tensor | None, heard: tuple[int, ...] | None = None
) -> Tensor:
    picture = Picture(np.random.default_rng(0).integers(0, 256, (96, 160, 3), np.uint8), SIZE)
    plan = replace(plan, windows=tuple(replace(window, heard=heard) for window in plan.windows))
    material = Material(picture, VoiceFeatures(features), masks)
    (part,) = generate(plan, models, material, SeededNoise(1), lambda *_: None, Stopwatch())
    return part.frames


def test_two_of_three_voices_are_a_job_of_two(models: Models, plan: Plan, features: Tensor) -> None:
    masks = person_masks(BOXES, SIZE, SIZE)
    some = made(plan, models, features, masks, (0, 2))
    alone = person_masks((BOXES[0], BOXES[2]), SIZE, SIZE)
    assert torch.equal(some, made(plan, models, features[[0, 2]], alone))
    assert not torch.equal(some, made(plan, models, features, masks, (0, 1)))


def test_windows_may_grow_again(models: Models, plan: Plan, features: Tensor) -> None:
    """Windows of 1, 1 and 5 frames."""
    windows = (Window(0, 0, 1, 0, 0, 1), Window(1, 1, 1, 0, 1, 2), Window(2, 0, 5, 1, 2, 5))
    picture = Picture(np.random.default_rng(0).integers(0, 256, (96, 160, 3), np.uint8), SIZE)
    mode = plan.mode.model_copy(update={"overlap_frames": 1, "join_fade_frames": 0})
    material = Material(picture, VoiceFeatures(features[:2]), person_masks(BOXES[:2], SIZE, SIZE))
    grown = replace(plan, windows=windows, mode=mode)
    parts = generate(grown, models, material, SeededNoise(1), lambda *_: None, Stopwatch())
    assert [part.frames.shape[1] for part in parts] == [1, 1, 3]


def test_one_voice_beside_silence_is_a_job_of_two_of_whom_one_is_silent(
    models: Models, plan: Plan, features: Tensor
) -> None:
    masks = person_masks(BOXES, SIZE, SIZE)
    some = made(plan, models, features, masks, (1, SILENCE))
    assert torch.equal(some, made(plan, models, features[[1, 3]], masks_of_window(masks, (1, SILENCE))))
    assert not torch.equal(some, made(plan, models, features[[1, 2]], masks_of_window(masks, (1, SILENCE))))


def test_the_background_hears_what_comes_third(models: Models, plan: Plan, features: Tensor) -> None:
    masks = person_masks(BOXES, SIZE, SIZE)
    silent = made(plan, models, features, masks, (0, 2, SILENCE))
    assert not torch.equal(silent, made(plan, models, features, masks, (0, 2)))
    assert not torch.equal(silent, made(plan, models, features[[0, 1, 2, 1]], masks, (0, 2, SILENCE)))
