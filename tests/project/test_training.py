"""The training's parts do what the package does, and its drawings do what they are told."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2FeatureExtractor

from infinitetalk.models.audio_encoder import embed_voice
from infinitetalk.planning.windows import Window, audio_frames_read
from infinitetalk.shapes import SAMPLES_PER_FRAME
from training import train_vae
from training.compiling import compile_norms
from training.data import OVERLAP, Maker
from training.export import export, load_parts, make_parts
from training.faces import LIPS, Motion, Painter, measure_mouth, mouth_region, small_head_weight
from training.optim import Trainer
from training.pool import follow
from training.speech import FOLDER, Corpus, compress, expand, load_corpus, mouth_tracks, running_mean
from training.train_talker import Conditioner, draw_sigmas
from training.train_vae import (
    BEFORE,
    Lesson,
    correlation,
    decode_clip,
    encode_clip,
    make_vae,
    once,
    reconstruction_loss,
)
from training.train_voice import make_voice_encoder, voice_features

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus("held_out", limit_s=12)


def test_compressed_speech_comes_back() -> None:
    rate = np.arange(40_000) / 16_000
    sound = (0.3 * np.sin(2 * np.pi * 300 * rate) * np.sin(2 * np.pi * rate) ** 2).astype(np.float32)
    again = expand(compress(sound))[: len(sound)]
    assert 10 * np.log10((sound**2).sum() / ((again - sound) ** 2).sum()) > 20


def test_speech_files_are_small_enough_for_the_repository() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 8e6


def test_mouth_follows_loudness_and_shuts_in_silence() -> None:
    noise = np.random.default_rng(0).standard_normal(50 * SAMPLES_PER_FRAME).astype(np.float32)
    swell = np.repeat(np.linspace(0, 0.1, 50, dtype=np.float32), SAMPLES_PER_FRAME)
    tracks = mouth_tracks(noise * swell)
    assert np.corrcoef(tracks.height, np.linspace(0, 1, 50))[0, 1] > 0.9
    silent = mouth_tracks(np.zeros(50 * SAMPLES_PER_FRAME, np.float32))
    assert silent.height.max() == 0
    assert np.allclose(silent.width, 0.5, atol=1e-3)


def test_eyes_close_when_speech_pauses(corpus: Corpus) -> None:
    tracks = corpus.tracks
    (closed,) = np.nonzero(tracks.blink > 0.9)
    assert len(closed)
    # A pause of four frames has begun by then.
    assert tracks.height[np.clip(closed - 4, 0, None)].max() < 0.2


def test_head_pose_is_told_by_an_earlier_pose_and_the_sound_since() -> None:
    track = np.random.default_rng(0).random(60).astype(np.float32)
    whole, part = running_mean(track, 6), running_mean(track[20:], 6)
    decay = np.exp(-np.arange(1, 41) / 6)
    assert np.allclose(whole[20:], part + whole[19] * decay, atol=1e-5)


@pytest.mark.parametrize(("people", "size"), [(1, (160, 96)), (1, (96, 160)), (2, (160, 96)), (2, (96, 160))])
def test_measured_mouth_is_the_drawn_one(people: int, size: tuple[int, int]) -> None:
    painter = Painter(CPU, 5)
    scene = painter.scene(3, people, size)
    height = torch.linspace(0, 1, 6).expand(3, people, 6)
    rest = torch.zeros_like(height)
    video = painter.draw(scene, Motion(height, rest + 0.5, rest + 1, rest, rest))
    assert video.shape == (3, 3, 6, size[1], size[0])
    assert correlation(measure_mouth(scene, video), height).min() > 0.97


def test_some_people_are_drawn_in_nearly_one_colour() -> None:
    plain, alike = (Painter(CPU, 5).scene(200, 2, (96, 160), alike=share) for share in (0.0, 0.5))
    differences = [(scene.hair - scene.skin).abs().amax(-1) for scene in (plain, alike)]
    few, many = ((difference <= 0.12).float().mean() for difference in differences)
    assert few < 0.15 and 0.4 < many < 0.65


def test_mouths_of_small_heads_weigh_more() -> None:
    small, large = (Painter(CPU, 5).scene(20, people, (96, 160)) for people in (2, 1))
    for scene in (small, large):
        area = mouth_region(scene).sum((-2, -1)) * small_head_weight(scene)[..., 0, 0]
        # What counts is the area that it would have in a large head.
        assert (area > 0.8 * mouth_region(large).sum((-2, -1)).min()).all()
    assert small_head_weight(small).min() > 2 and small_head_weight(large).min() == 1


def test_first_window_begins_with_its_reference(corpus: Corpus) -> None:
    maker = Maker(corpus, CPU, 1)
    reference = maker.reference(2, 1)
    motion = maker.motion(maker.starts((2, 1), 20), 20, torch.tensor([True, False]), reference)
    assert motion.height[0, 0, 0] == reference[0][0, 0]
    assert motion.eyes[0, 0, 0] == 1
    assert motion.shift_x[0, 0, 0] == motion.shift_y[0, 0, 0] == 0
    assert motion.shift_y[0].abs().max() > 0


@pytest.mark.parametrize("frames", [1, 9, 13])
def test_whole_clips_are_coded_as_piece_by_piece(frames: int) -> None:
    torch.manual_seed(0)
    vae = make_vae().eval()
    video = torch.randn(1, 3, frames, 32, 48)
    with torch.no_grad():
        latents = vae.encode(video).latent_dist.mode()
        assert torch.allclose(encode_clip(vae, video).chunk(2, 1)[0], latents, atol=1e-5)
        expected = vae.decode(latents).sample
        assert torch.allclose(decode_clip(vae, latents).clamp(-1, 1), expected, atol=1e-5)
    assert latents.shape == (1, 16, (frames + 3) // 4, 4, 6)


def test_voice_features_are_the_packages_own(corpus: Corpus) -> None:
    torch.manual_seed(0)
    encoder = make_voice_encoder().eval()
    wave = corpus.sound[: 60 * SAMPLES_PER_FRAME]
    expected = embed_voice(encoder, Wav2Vec2FeatureExtractor(do_normalize=False), wave, 60)
    with torch.no_grad():
        features = voice_features(encoder, torch.from_numpy(wave)[None])[0]
        assert torch.allclose(features, expected, atol=1e-5)
        # Far from its ends, a longer sound is heard the same.
        longer = voice_features(encoder, torch.from_numpy(corpus.sound[: 120 * SAMPLES_PER_FRAME])[None])[0]
    assert torch.allclose(longer[:40], features[:40], atol=1e-4)


def test_windows_hear_the_frames_that_the_pipeline_reads() -> None:
    features = torch.arange(100.0).view(100, 1, 1)
    conditioner = Conditioner(torch.nn.Identity(), features, torch.zeros(1))  # type: ignore[arg-type]
    starts = torch.tensor([[0]])
    for window in (Window(0, 0, 13, 0, 0, 13), Window(1, 40, 13, 9, 49, 53)):
        heard = conditioner.voices(starts + window.start, window.length, starts).flatten()
        assert heard.tolist() == list(audio_frames_read(window, 100))


def test_a_clip_goes_on_from_the_frames_handed_on_and_their_error_fades() -> None:
    painter = Painter(CPU, 5)
    scene = painter.scene(2, 1, (160, 96))
    still = torch.full((2, 1, 40), 0.4)
    drawn = painter.draw(scene, Motion(still, still, still + 0.6, 0 * still, 0 * still)).float() * 0.5
    handed = drawn[:, :, :OVERLAP] + 0.1
    error = follow(handed, drawn, scene) - drawn
    assert torch.equal(follow(handed, drawn, scene)[:, :, :OVERLAP], handed)
    mouth = mouth_region(scene, 0.0).amax(1)[:, None].expand(-1, 3, -1, -1).bool()
    after = error[:, :, OVERLAP:]
    assert after[:, :, 0][mouth].abs().max() < 1e-6
    corner = after[:, :, :, 0, 0]
    assert corner[..., 0].min() > 0.08 and corner[..., 0].max() < 0.1
    assert (corner.diff(dim=-1) < 0).all() and corner[..., -1].max() < 0.03


def test_what_is_wrong_in_a_clips_first_frame_costs_the_autoencoder_more() -> None:
    vae, video, weight = make_vae(), torch.zeros(1, 3, 9, 32, 48), torch.ones(1, 32, 48)

    def loss(frame: int) -> float:
        torch.manual_seed(0)
        target = video.clone()
        target[:, :, frame] = 3
        return reconstruction_loss(vae, video, target, weight)[0].item()

    assert loss(0) > 3 * max(loss(frame) for frame in range(1, 9))


def test_half_of_the_clips_go_on_from_frames_that_were_coded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    vae, video, weight = make_vae(), torch.rand(4, 3, BEFORE + 17, 32, 32) - 0.5, torch.rand(4, 32, 32)
    seen = {}

    def see(_vae: object, shown: torch.Tensor, target: torch.Tensor, *others: torch.Tensor) -> tuple[torch.Tensor, ...]:
        seen.update(shown=shown, target=target, weight=others[0], followed=others[2])
        return vae.encoder.conv_in.weight.sum(), torch.zeros(())

    monkeypatch.setattr(train_vae, "reconstruction_loss", see)
    Lesson(vae, None)(True, {"video": video, "weight": weight})
    coded = once(vae, video[::2])[:, :, BEFORE:]
    assert torch.equal(seen["target"], video[[0, 2, 1, 3], :, BEFORE:])
    assert torch.equal(seen["weight"], weight[[0, 2, 1, 3]])
    assert torch.allclose(seen["followed"], coded, atol=1e-5)
    assert torch.allclose(seen["shown"][:2, :, :OVERLAP], coded[:, :, :OVERLAP], atol=1e-5)
    assert torch.equal(seen["shown"][:2, :, OVERLAP:], video[::2, :, BEFORE + OVERLAP :])
    assert torch.equal(seen["shown"][2:], video[1::2, :, BEFORE:])
    assert vae.encoder.conv_in.weight.grad is not None


def test_fused_norms_compute_what_the_autoencoder_does() -> None:
    plain, fused = make_vae(), make_vae()
    fused.load_state_dict(plain.state_dict())
    compile_norms(fused)
    video = torch.rand(1, 3, 9, 32, 48)
    with torch.no_grad():
        assert torch.allclose(encode_clip(plain, video), encode_clip(fused, video), atol=1e-5)


def test_constants_are_sent_to_the_device_once() -> None:
    painter = Painter(CPU, 5)
    assert painter.constant(LIPS) is painter.constant(LIPS)
    assert painter.constant(LIPS).tolist() == pytest.approx(LIPS)


def test_sigmas_cover_what_few_steps_at_shift_11_visit() -> None:
    sigmas = draw_sigmas(4000, torch.ones(()), torch.Generator().manual_seed(0))
    assert ((sigmas > 0) & (sigmas <= 1)).all()
    assert (sigmas > 0.8).float().mean() > 0.3
    assert (sigmas < 0.6).float().mean() > 0.1


def test_trainer_learns_and_averages() -> None:
    torch.manual_seed(0)
    model, target = torch.nn.Linear(8, 8), torch.randn(8, 8)
    trainer = Trainer(
        {"m": model}, 0.05, 100, 0.9, muon_lr=0.05, is_muon=lambda _n, t: t.ndim > 1, max_steps=200, warmup_steps=5
    )
    loss = torch.ones(())
    while trainer.spent < 1:
        loss = (model.weight - target).square().mean()
        trainer.step(loss)
    assert loss < 0.2
    last = model.weight.detach().clone()
    trainer.swap()
    assert not torch.equal(model.weight, last)
    assert torch.allclose(model.weight, last, atol=0.1)


def test_exported_weights_are_small_and_load_again(tmp_path: Path) -> None:
    parts, others = make_parts(1), make_parts(2)
    # As the training on a GPU leaves it.
    for module in parts.vae.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
    assert export(parts, tmp_path) < 16e6
    load_parts(others, tmp_path)
    for name, module in parts.modules().items():
        for key, tensor in module.state_dict().items():
            assert torch.equal(tensor.half(), others.modules()[name].state_dict()[key].half()), f"{name}.{key}"
