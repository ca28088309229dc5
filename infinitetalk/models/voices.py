"""Where a sound has speech, and what its voice is like: two small networks out of installed packages.

Speech is found by silero-vad (MIT). Voices are told apart by Resemblyzer's encoder (Apache-2.0), the network of
"Generalized End-to-End Loss for Speaker Verification" (arXiv 1710.10467). Both weights lie in the packages' wheels and
are read from there. The packages are not imported: silero-vad's import sets torch's number of threads for the whole
process, its loader needs torch.jit, which torch gives up, and Resemblyzer's import needs a compiler for webrtcvad.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import librosa
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from infinitetalk.errors import ModelMissing
from infinitetalk.shapes import SAMPLE_RATE_HZ

Floats = NDArray[np.float32]

INSTALL = "pip install --no-deps silero-vad==6.2.3 resemblyzer==0.1.4"
SPEECH_STEP = 512  # samples, 32 ms: for each of these the detector gives one probability
VOICE_WINDOW = round(1.2 * SAMPLE_RATE_HZ)

_SPEECH_CONTEXT = 64  # samples before each step that the detector hears once more
_SPEECH_BLOCK = 2048  # steps at once, 65 s: memory does not grow with the sound's length
_VOICE_BLOCK = 64  # windows at once
_MELS, _MEL_WINDOW, _MEL_STEP = 40, SAMPLE_RATE_HZ // 40, SAMPLE_RATE_HZ // 100
_VOICE_LEVEL = 10 ** (-25 / 20)  # root mean square of every window; -30 to -15 dB tell voices apart equally well


class SpeechDetector(nn.Module):
    """silero-vad's network for 16 kHz, with the names of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(129, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm_cell = nn.LSTMCell(128, 128)
        self.final_conv = nn.Conv1d(128, 1, 1)

    def forward(self, steps: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Probabilities of speech (N,) in steps (N, 576) that follow each other, and the state for the next ones."""
        real, imaginary = self.stft_conv(F.pad(steps[:, None], (0, 64), "reflect")).chunk(2, 1)
        x = torch.hypot(real, imaginary)
        for convolution in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = F.relu(convolution(x))
        hidden = []
        for step in x[:, :, 0]:
            state = self.lstm_cell(step[None], None if state is None else (state[0], state[1]))
            hidden.append(state[0])
        assert state is not None
        return torch.sigmoid(self.final_conv(F.relu(torch.cat(hidden))[:, :, None]))[:, 0, 0], state


class VoiceEncoder(nn.Module):
    """Resemblyzer's network, with the names of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(_MELS, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, mels: Tensor) -> Tensor:
        """Voices (B, 256) of length 1, of mel spectra (B, T, 40)."""
        _, (hidden, _) = self.lstm(mels)
        return F.normalize(F.relu(self.linear(hidden[-1])), dim=1)


@dataclass(frozen=True)
class VoiceModels:
    """Both networks on one device.

    Args:
        check: called between blocks of work; what it raises ends the work.
    """

    detector: SpeechDetector
    encoder: VoiceEncoder
    device: torch.device
    check: Callable[[], None]

    @classmethod
    def open(cls, device: torch.device, check: Callable[[], None] = lambda: None) -> "VoiceModels":
        """The networks out of the installed packages.

        Raises ModelMissing, with the command that brings them, where a package is missing.
        """
        detector, encoder = SpeechDetector(), VoiceEncoder()
        detector.load_state_dict(load_file(_in_package("silero_vad", "data/silero_vad_16k.safetensors")))
        weights = torch.load(_in_package("resemblyzer", "pretrained.pt"), map_location="cpu", weights_only=True)
        # Beside the network's the file has two weights that only its training used.
        encoder.load_state_dict({name: weights["model_state"][name] for name in encoder.state_dict()})
        return cls(
            detector.eval().requires_grad_(False), encoder.to(device).eval().requires_grad_(False), device, check
        )

    @torch.inference_mode()
    def speech(self, wave: Floats) -> Floats:
        """The probability of speech in each step of 512 samples of a 16 kHz wave, (ceil(samples / 512),)."""
        n_steps = -(-len(wave) // SPEECH_STEP)
        padded = torch.from_numpy(np.pad(wave, (_SPEECH_CONTEXT, n_steps * SPEECH_STEP - len(wave))))
        steps = padded.unfold(0, SPEECH_STEP + _SPEECH_CONTEXT, SPEECH_STEP)
        state, found = None, []
        for block in steps.split(_SPEECH_BLOCK):
            self.check()
            probabilities, state = self.detector(block, state)
            found.append(probabilities.numpy())
        return np.concatenate(found)

    @torch.inference_mode()
    def voices(self, wave: Floats, stretches: Sequence[tuple[int, int]]) -> Floats:
        """What the voice is like in each stretch of a 16 kHz wave: vectors of length 1, (stretches, 256).

        Args:
            stretches: first sample, and the one behind the last, at most 1.2 s; a shorter one is repeated to that.
        """
        found = [np.zeros((0, 256), np.float32)]
        for start in range(0, len(stretches), _VOICE_BLOCK):
            self.check()
            block = [np.resize(wave[a:b], VOICE_WINDOW) for a, b in stretches[start : start + _VOICE_BLOCK]]
            found.append(self.encoder(torch.from_numpy(_mels(np.stack(block))).to(self.device)).cpu().numpy())
        return np.concatenate(found)


def _mels(windows: Floats) -> Floats:
    """Mel spectra (B, T, 40) of windows (B, samples): powers, 100 a second."""
    level = np.sqrt(np.square(windows).mean(1, keepdims=True))
    windows = windows * (_VOICE_LEVEL / np.maximum(level, 1e-6))
    mels = librosa.feature.melspectrogram(
        y=windows, sr=SAMPLE_RATE_HZ, n_fft=_MEL_WINDOW, hop_length=_MEL_STEP, n_mels=_MELS
    )
    return np.ascontiguousarray(mels.transpose(0, 2, 1), np.float32)


def _in_package(package: str, file: str) -> Path:
    """A file of an installed package, which is not imported."""
    spec = find_spec(package)
    path = Path(spec.origin).parent / file if spec is not None and spec.origin is not None else None
    if path is None or not path.is_file():
        raise ModelMissing(
            f"split_voices needs the package {package}, which this worker does not have: `{INSTALL}` brings it; or "
            "send each voice as a file of its own, wav_url and wav_url_2."
        )
    return path
