"""The loop: the authors' results number for number, and what a caller relies on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import infinitetalk
from infinitetalk.contract.presets import load_mode, load_profile
from infinitetalk.contract.request import Request
from infinitetalk.generation import pipeline
from infinitetalk.generation.color import match_color
from infinitetalk.generation.joins import STILL
from infinitetalk.generation.masks import person_masks
from infinitetalk.generation.pipeline import Material, SeededNoise, VoiceFeatures, generate
from infinitetalk.media.image import Picture
from infinitetalk.models.audio_encoder import embed_voice
from infinitetalk.models.compiling import compile_transformer
from infinitetalk.models.opening import Models, load_models
from infinitetalk.models.vae import to_latents
from infinitetalk.planning.plan import make_plan
from infinitetalk.planning.windows import Window
from infinitetalk.progress import Stopwatch
from infinitetalk.shapes import SAMPLES_PER_FRAME
from infinitetalk.startup.weights import Weights
from tests.support.golden import Loop, load_golden_models, loop_variants, wan_folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return load_golden_models(wan_folder(tmp_path_factory.mktemp("wan")))


@pytest.mark.parametrize(("folder", "variant"), loop_variants())
def test_loop_gives_the_authors_latents_and_video(
    folder: str, variant: str, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = Loop(folder, variant)
    loop.replace_encoders(monkeypatch, models)
    plan = loop.plan
    tolerances = loop.info["suggested_atol"]
    assert len(plan.windows) == loop.info["windows"]
    assert plan.n_frames == loop.info["output_frames"]

    def check_step(window: Window, step: int, latents: Tensor) -> None:
        stored = loop.stored[f"w{window.index}.latents"][step]
        atol = tolerances["final_latent_per_window"][window.index]
        torch.testing.assert_close(latents[0], stored, rtol=0, atol=atol, msg=lambda m: f"w{window.index}.{step} {m}")

    rendered = [part.frames for part in generate(plan, models, loop.material, loop, check_step, Stopwatch())]
    video = torch.cat(rendered, dim=1)
    assert video.shape[1] == loop.info["output_frames"]
    torch.testing.assert_close(video[..., ::4, ::4], loop.stored["video_sub4"], rtol=0, atol=tolerances["video"])
    means = video.mean(dim=(0, 2, 3))
    torch.testing.assert_close(means, loop.stored["video_frame_mean"], rtol=0, atol=tolerances["video"])
    if "video" in loop.stored:
        torch.testing.assert_close(video, loop.stored["video"], rtol=0, atol=tolerances["video"])


def is_matched_in_several_windows(loop: Loop) -> bool:
    return loop.info["windows"] > 2 and loop.settings["color_correction_strength"] > 0


def test_a_window_begins_where_the_one_before_ended_and_hands_on_faded_frames(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several windows, with colour matching; a fade over three frames."""
    cut: list[Tensor] = []  # all frames of each window, with their colours matched

    def record(frames: Tensor, reference: Tensor, strength: float) -> Tensor:
        matched = match_color(frames, reference, strength)
        cut.append(matched.clone())
        return matched

    monkeypatch.setattr(pipeline, "match_color", record)
    loop = next(loop for loop in map(Loop, *zip(*loop_variants(), strict=True)) if is_matched_in_several_windows(loop))
    loop.replace_encoders(monkeypatch, models)
    plan = replace(loop.plan, mode=loop.plan.mode.model_copy(update={"join_fade_frames": 3}))
    parts = list(generate(plan, models, loop.material, loop, lambda *_: None, Stopwatch()))
    overlap = plan.mode.overlap_frames
    assert len(parts) == len(plan.windows) > 2
    assert torch.equal(parts[0].frames, cut[0])
    assert parts[-1].handover is None
    for before, part, whole in zip(parts, parts[1:], cut[1:], strict=False):
        assert before.handover is not None
        assert torch.equal(before.handover.last_frame, before.frames[:, -1])
        gap = before.frames[:, -1] - whole[:, overlap - 1]  # of the two pictures of the same moment
        assert gap.abs().max() > 10 * STILL
        for index, left in enumerate((0.25, 0.5, 0.75)):
            # What is left of the gap separates the frame from one that follows the window before without a jump.
            expected = before.frames[:, -1] + (whole[:, overlap + index] - whole[:, overlap - 1]) - left * gap
            inside = part.frames[:, index].abs() < 1
            error = (part.frames[:, index] - expected)[inside].abs().max()
            assert error <= (1 - left) * STILL + 1e-5  # a change too small to be motion fades too
        assert torch.equal(part.frames[:, 3:], whole[:, overlap + 3 : overlap + part.frames.shape[1]])
    for part, whole in zip(parts[1:-1], cut[1:], strict=False):
        assert part.handover is not None
        finished = torch.cat([whole[:, :overlap], part.frames], dim=1)
        assert torch.equal(part.handover.motion, to_latents(models.vae, finished[None, :, -overlap:].clone()))


@pytest.mark.requires_cuda
def test_a_gpu_gives_the_cpus_video(monkeypatch: pytest.MonkeyPatch) -> None:
    """The miniature, loaded and run on both: two people, two windows, guidance, colour matching, compiled blocks."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    picture = Picture(np.random.default_rng(0).integers(0, 256, (96, 160, 3), np.uint8), (160, 96))
    waves = np.random.default_rng(1).standard_normal((2, 21 * SAMPLES_PER_FRAME)).astype(np.float32)
    request = {
        "image_url": "https://example.com/a.png",
        "wav_url": "https://example.com/a.wav",
        "wav_url_2": "https://example.com/b.wav",
        "person_count": "multi",
        "aspect_ratio": "16:9",
        "audio_guidance": 2.0,
        "color_correction": 0.5,
    }
    mode = load_mode("balanced").model_copy(update={"window_frames": 17, "overlap_frames": 9})
    profile = load_profile("miniature")
    plan = make_plan(Request.parse(request), profile, mode, 21, seed=1)
    assert len(plan.windows) == 2
    videos = []
    for device in ("cpu", "cuda"):
        files = Weights.below(Path(infinitetalk.__file__).parent, profile).files
        models = load_models(files, torch.device(device), torch.float32)
        if device == "cuda":
            compile_transformer(models.transformer, models.arithmetic)
        features = [embed_voice(models.audio_encoder, models.audio_extractor, wave, 21) for wave in waves]
        masks = person_masks((None, None), picture.source_size, plan.size)
        material = Material(picture, VoiceFeatures(torch.stack(features)), masks)
        parts = generate(plan, models, material, SeededNoise(1), lambda *_: None, Stopwatch())
        videos.append(torch.cat([part.frames.cpu() for part in parts], dim=1))
    assert videos[0].shape == (3, 21, 96, 160)
    torch.testing.assert_close(videos[1], videos[0], rtol=0, atol=0.02)
