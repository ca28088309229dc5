"""Voice features against the authors' numbers."""

import pytest
import torch

from infinitetalk.models.audio_encoder import embed_voice
from infinitetalk.models.encoder_loading import load_audio_encoder
from tests.support.golden import CPU, GOLDEN, tensors
from tests.support.reference_schedule import reference_audio_frames

ATOL = 5e-4


STORED = tensors("audio_encoder/reference")


@pytest.mark.parametrize("case", [name.removeprefix("audio_emb") for name in STORED if name.startswith("audio_emb")])
def test_features_of_all_layers_are_met(case: str) -> None:
    stored = STORED
    encoder, extractor = load_audio_encoder(GOLDEN / "audio_encoder", CPU)
    expected, wave = stored[f"audio_emb{case}"], stored[f"wave{case}"].numpy()
    features = embed_voice(encoder, extractor, wave, reference_audio_frames(len(wave)))
    torch.testing.assert_close(features, expected, rtol=0, atol=ATOL)


def test_there_is_one_entry_per_video_frame_however_short_the_voice() -> None:
    encoder, extractor = load_audio_encoder(GOLDEN / "audio_encoder", CPU)
    wave = tensors("audio_encoder/reference")["wave1"].numpy()
    layers, channels = encoder.config.num_hidden_layers, encoder.config.hidden_size
    assert embed_voice(encoder, extractor, wave[:640], 1).shape == (1, layers, channels)
    assert embed_voice(encoder, extractor, wave[:12_800], 20).shape == (20, layers, channels)
