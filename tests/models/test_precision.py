"""Number formats: which part has which, and that no convolution of the audio encoder is rounded to TF32."""

from pathlib import Path

import pytest
import torch

import infinitetalk
from infinitetalk.contract.presets import load_profile
from infinitetalk.models.audio_encoder import embed_voice
from infinitetalk.models.encoder_loading import load_audio_encoder
from infinitetalk.models.image_encoder import embed_picture
from infinitetalk.models.opening import load_models
from infinitetalk.startup.weights import Weights
from tests.support.golden import CPU, GOLDEN, tensors

PACKAGE = Path(infinitetalk.__file__).parent
WAVE = torch.randn(12_800, generator=torch.Generator().manual_seed(0)).numpy()


@pytest.mark.parametrize(
    ("large", "picture"), [(torch.bfloat16, torch.float16), (torch.float32, torch.float32)], ids=["bfloat16", "float32"]
)
def test_pictures_are_seen_in_float16_and_voices_heard_in_float32(large: torch.dtype, picture: torch.dtype) -> None:
    files = Weights.below(PACKAGE, load_profile("miniature")).files
    models = load_models(files, torch.device("cpu"), large)
    assert models.dtype == models.transformer.dtype == models.text_encoder.dtype == models.vae.dtype == large
    assert models.image_encoder.dtype == picture
    assert models.audio_encoder.dtype == torch.float32
    features = embed_picture(models.image_encoder, torch.rand(3, 40, 60) * 2 - 1)
    assert features.dtype == picture
    assert features.isfinite().all()


def test_convolutions_of_a_voice_are_exact_and_the_setting_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, extractor = load_audio_encoder(GOLDEN / "audio_encoder", CPU)
    seen: list[bool] = []
    for module in encoder.modules():
        if isinstance(module, torch.nn.Conv1d):
            module.register_forward_pre_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    for allowed in (True, False):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
        embed_voice(encoder, extractor, WAVE, 20)
        assert torch.backends.cudnn.allow_tf32 is allowed
    assert seen
    assert not any(seen)

    def fail(*_: object) -> None:
        raise RuntimeError("lost")

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    encoder.encoder.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="lost"):
        embed_voice(encoder, extractor, WAVE, 20)
    assert torch.backends.cudnn.allow_tf32


@pytest.mark.requires_cuda
def test_a_gpu_hears_what_a_cpu_hears() -> None:
    wave = tensors("audio_encoder/reference")["wave1"].numpy()
    features = []
    for device in ("cpu", "cuda"):
        encoder, extractor = load_audio_encoder(GOLDEN / "audio_encoder", torch.device(device))
        features.append(embed_voice(encoder, extractor, wave, 20).cpu())
    # Float32 rounds by about 1e-5 here (against float64, in the set's info.json), TF32 by 5e-4 a product.
    assert (features[1] - features[0]).norm() < 1e-4 * features[0].norm()
