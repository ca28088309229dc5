"""Vocals out of songs by Mel-Band RoFormer (arXiv 2310.01809), the network being the class of the package bs-roformer.

The released vocal model is Kimberley Jensen's, as the file that ComfyUI's graphs use holds it: float16, computed in
float32, as there.
"""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import init_empty_weights
from numpy.typing import NDArray
from torch import Tensor, nn

from infinitetalk.errors import ModelMissing
from infinitetalk.models.checkpoint import Checkpoint, Shapes, check_shapes
from infinitetalk.shapes import (
    SEPARATOR_CHUNK_SAMPLES,
    SEPARATOR_RATE_HZ,
    SEPARATOR_STEP_SAMPLES,
    separator_chunk_starts,
)

Separator = Callable[[Tensor], Tensor]
"""Sound (1, 2, samples) at 44.1 kHz to the vocals in it, of the same shape."""

# Of the released model's configuration, what no weight tells: windows of the spectrum, in samples.
SPECTRUM = {"sample_rate": SEPARATOR_RATE_HZ, "stft_n_fft": 2048, "stft_win_length": 2048, "stft_hop_length": 441}
# Over which a chunk comes in and goes out, as in the released model's own code.
FADE_SAMPLES = SEPARATOR_CHUNK_SAMPLES // 10


def new_separator(**sizes: int) -> nn.Module:
    """A network with new weights. sizes: those of MelBandRoformer's arguments that `sizes_of` gives."""
    # Takes seconds to import, which only a worker with a separator spends.
    from bs_roformer import MelBandRoformer
    from bs_roformer.attend import Attend

    # Later versions of the class than the released model's have parts that it lacks.
    as_released = {"linear_transformer_depth": 0, "num_residual_streams": 1, "add_value_residual": False}
    separator: nn.Module = MelBandRoformer(
        **sizes,
        **SPECTRUM,
        **as_released,
        stereo=True,
        attn_dropout=0.0,
        ff_dropout=0.0,
        flash_attn=False,
        match_input_audio_length=True,
    )
    for module in separator.modules():
        # Its own way would hold all pairs of times in memory, or choose the kernel by what torch is about to remove.
        if isinstance(module, Attend):
            module.forward = F.scaled_dot_product_attention
    return separator.eval().requires_grad_(False)


def load_separator(file: Path, device: torch.device) -> nn.Module:
    """The separator in a file, in float32; a `Separator`.

    Raises ModelMissing where the file is missing or cut off, or its tensors are not such a network's.
    """
    checkpoint = Checkpoint([file])
    try:
        with init_empty_weights():
            separator = new_separator(**sizes_of(checkpoint.shapes))
    # What the shapes of another network lead to, here and in the class.
    except (ArithmeticError, LookupError, ValueError, TypeError, RuntimeError, AssertionError) as error:
        raise ModelMissing(
            f"{file} holds no Mel-Band RoFormer; put the separator's file there, or fetch it again."
        ) from error
    names = {name: released_name(name) for name in separator.state_dict()}
    expected = {names[name]: tuple(tensor.shape) for name, tensor in separator.state_dict().items()}
    check_shapes(str(file), expected, checkpoint.shapes)
    weights = {
        name: checkpoint.decode(released, checkpoint.read(released, device).to(device)).float()
        for name, released in names.items()
    }
    separator.load_state_dict(weights, assign=True)
    return separator.to(device).requires_grad_(False)


def sizes_of(shapes: Shapes) -> dict[str, int]:
    """MelBandRoformer's arguments, read off its weights' released names and shapes.

    Raises ModelMissing, or IndexError, ZeroDivisionError or ValueError by the shapes of another network.
    """

    def count(pattern: str) -> int:
        return sum(re.fullmatch(pattern, name) is not None for name in shapes)

    heads = shapes["layers.0.0.layers.0.0.to_gates.weight"][0]
    sizes = {
        "dim": shapes["band_split.to_features.0.1.weight"][0],
        "depth": count(r"layers\.\d+\.0\.norm\.gamma"),
        "time_transformer_depth": count(r"layers\.0\.0\.layers\.\d+\.0\.norm\.gamma"),
        "freq_transformer_depth": count(r"layers\.0\.1\.layers\.\d+\.0\.norm\.gamma"),
        "num_bands": count(r"band_split\.to_features\.\d+\.1\.weight"),
        "heads": heads,
        "dim_head": shapes["layers.0.0.layers.0.0.to_out.0.weight"][1] // heads,
        "mask_estimator_depth": count(r"mask_estimators\.0\.to_freqs\.0\.0\.\d+\.weight") - 1,
    }
    if min(sizes.values()) < 1:
        raise ValueError(f"sizes of a network are 1 or more, not {sizes}")
    return sizes


def released_name(name: str) -> str:
    """A weight's name in released files, by its name in bs-roformer.

    There a layer has a place for linear attention before those for time and frequency, and a wrapper around each part.
    """
    name = re.sub(r"^layers\.(\d+)\.(\d+)", lambda match: f"layers.{match[1]}.{int(match[2]) - 1}", name)
    return name.replace(".branch.", ".")


@torch.inference_mode()
def isolate_vocals(
    separator: Separator, song: NDArray[np.float32], device: torch.device, check: Callable[[], None]
) -> NDArray[np.float32]:
    """The vocals of a song: mono, sample by sample in time with it.

    The song goes through the separator in chunks of 8 s that overlap by half, so that memory does not grow with its
    length on the device. Every moment is the weighted mean of two chunks, neither of which counts at its own ends.
    Before the song's beginning and after its end it is continued in reverse.

    Args:
        song: (samples, 2) at 44.1 kHz, in host memory.
        device: the separator's.
        check: called before each chunk; what it raises ends the work.

    Returns (samples,).
    """
    weights = chunk_weights().to(device)
    vocals = np.zeros(len(song), np.float32)
    for start in separator_chunk_starts(len(song)):
        check()
        stop = start + SEPARATOR_CHUNK_SAMPLES
        chunk = song[_mirrored(np.arange(start, stop), len(song))]
        separated = separator(torch.from_numpy(chunk.T.copy())[None].to(device))
        weighted = (separated[0].mean(0) * weights).cpu().numpy()
        inside = slice(max(start, 0), min(stop, len(song)))
        vocals[inside] += weighted[inside.start - start : inside.stop - start]
    return vocals


def chunk_weights() -> Tensor:
    """How much each sample of a chunk counts, (samples,): with that of the chunk half a chunk away it makes 1."""
    ramp = torch.linspace(0, 1, FADE_SAMPLES)
    window = torch.ones(SEPARATOR_CHUNK_SAMPLES)
    window[:FADE_SAMPLES], window[-FADE_SAMPLES:] = ramp, ramp.flip(0)
    return window / (window + window.roll(SEPARATOR_STEP_SAMPLES))


def _mirrored(positions: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Positions on an endless line, brought into 0..length-1 as if there were mirrors at both ends."""
    period = max(2 * (length - 1), 1)
    positions = np.abs(positions) % period
    return np.minimum(positions, period - positions)
