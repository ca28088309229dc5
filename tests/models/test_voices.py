"""Speech and voices: the networks against the packages' own, and what they say of the samples."""

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from infinitetalk.errors import ModelMissing
from infinitetalk.models import voices
from infinitetalk.models.voices import SPEECH_STEP, VoiceModels

CPU = torch.device("cpu")
SAMPLES = Path(__file__).parents[2] / "samples"


def sample(name: str) -> np.ndarray:
    wave, _ = soundfile.read(SAMPLES / name, dtype="float32")
    return wave


@pytest.fixture(scope="module")
def models() -> VoiceModels:
    return VoiceModels.open(CPU)


def test_the_detector_is_silero_vads_network() -> None:
    """The package's own program, with the weights in it, gives the same probabilities, step by step."""
    spec = find_spec("silero_vad")
    assert spec is not None and spec.origin is not None
    with pytest.warns(DeprecationWarning):
        program = torch.jit.load(Path(spec.origin).parent / "data" / "silero_vad.jit")
    theirs = {name.removeprefix("_model."): tensor for name, tensor in program.state_dict().items()}
    names = {"stft_conv.weight": "stft.forward_basis_buffer"}
    names |= {f"final_conv.{kind}": f"decoder.decoder.2.{kind}" for kind in ("weight", "bias")}
    for kind in ("weight", "bias"):
        names |= {f"conv{i + 1}.{kind}": f"encoder.{i}.reparam_conv.{kind}" for i in range(4)}
        names |= {f"lstm_cell.{kind}_{part}": f"decoder.rnn.{kind}_{part}" for part in ("ih", "hh")}
    models = VoiceModels.open(CPU)
    models.detector.load_state_dict({ours: theirs[name] for ours, name in names.items()})
    wave = sample("voice.wav")[: 100 * SPEECH_STEP]
    expected = [program(torch.from_numpy(step), 16_000).item() for step in wave.reshape(-1, SPEECH_STEP)]
    assert models.speech(wave) == pytest.approx(expected, abs=1e-4)


def test_speech_is_found_where_it_is(models: VoiceModels) -> None:
    silence = np.zeros(50 * SPEECH_STEP, np.float32)
    probabilities = models.speech(np.concatenate([silence, sample("voice.wav")[: 60 * SPEECH_STEP], silence[:100]]))
    assert len(probabilities) == 111
    assert probabilities[:48].max() < 0.35 and np.median(probabilities[52:108]) > 0.9


def test_blocks_do_not_change_what_is_found(models: VoiceModels, monkeypatch: pytest.MonkeyPatch) -> None:
    wave = sample("voice.wav")
    stretches = [(start, start + 19_200) for start in range(0, 50_000, 10_000)]
    speech, found = models.speech(wave), models.voices(wave, stretches)
    monkeypatch.setattr(voices, "_SPEECH_BLOCK", 7)
    monkeypatch.setattr(voices, "_VOICE_BLOCK", 2)
    assert models.speech(wave) == pytest.approx(speech, abs=1e-5)
    assert models.voices(wave, stretches) == pytest.approx(found, abs=1e-4)


def test_a_voice_is_more_like_itself_than_like_another(models: VoiceModels) -> None:
    stretches = [(1000, 20_200), (40_000, 59_200)]
    woman, man = (models.voices(sample(name), stretches) for name in ("voice.wav", "voice_2.flac"))
    assert np.linalg.norm(woman, axis=1) == pytest.approx(1, abs=1e-5)
    assert min(woman[0] @ woman[1], man[0] @ man[1]) > (woman @ man.T).max() + 0.05


def test_a_quiet_voice_is_the_same_voice(models: VoiceModels) -> None:
    wave = sample("voice.wav")
    loud, quiet = (models.voices(wave * level, [(1000, 20_200)])[0] for level in (1.0, 0.01))
    assert loud @ quiet > 0.999


def test_a_stop_ends_the_work() -> None:
    class Stopped(Exception):
        pass

    def check() -> None:
        raise Stopped

    models = VoiceModels.open(CPU, check)
    with pytest.raises(Stopped):
        models.speech(np.zeros(1000, np.float32))
    with pytest.raises(Stopped):
        models.voices(np.zeros(1000, np.float32), [(0, 1000)])


@pytest.mark.parametrize("missing", ["silero_vad", "resemblyzer"])
def test_a_missing_package_is_named_with_the_command_that_brings_it(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voices, "find_spec", lambda name: None if name == missing else find_spec(name))
    with pytest.raises(ModelMissing, match=f"the package {missing}.*pip install.*wav_url_2"):
        VoiceModels.open(CPU)


def test_the_packages_are_not_imported(models: VoiceModels) -> None:
    assert not {"silero_vad", "resemblyzer"} & set(sys.modules)
