"""Files in the released vocal separator's format, written from its published configuration; one of known effect.

The configuration is that of github.com/KimberleyJensen/Mel-Band-Roformer-Vocal-Model: dim 384, depth 6, 60 bands, 8
heads of 64, two hidden layers in a mask estimator, spectra of 2048 samples at 44.1 kHz in stereo. It makes 228,203,172
numbers, the 456 and 913 MB of the published float16 and float32 files.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file
from torch import Tensor, nn

Shapes = dict[str, tuple[int, ...]]

# Spectral lines in each of the 60 bands, as the released file's `band_split` has them.
BANDS = (
    7, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 7, 7, 7, 9, 9, 9, 10, 10, 11, 13, 13, 13, 15, 16, 17, 19, 20, 20, 22,
    24, 26, 28, 29, 31, 33, 36, 39, 41, 44, 47, 50, 54, 57, 61, 66, 71, 76, 80, 86, 93, 99, 105, 113, 122, 130,
)  # fmt: skip
RELEASED = {"dim": 384, "depth": 6, "heads": 8, "dim_head": 64}
TINY = {"dim": 4, "depth": 1, "heads": 1, "dim_head": 4}


def released_shapes(dim: int, depth: int, heads: int, dim_head: int) -> Shapes:
    """Shapes of the weights by their names in the released file."""
    shapes: Shapes = {}
    inner, wide = heads * dim_head, 4 * dim
    for layer in (f"layers.{index}.{axis}" for index in range(depth) for axis in (0, 1)):  # over time, over bands
        attention, feed = f"{layer}.layers.0.0", f"{layer}.layers.0.1.net"
        shapes |= {
            f"{attention}.rotary_embed.freqs": (dim_head // 2,),
            f"{attention}.norm.gamma": (dim,),
            f"{attention}.to_qkv.weight": (3 * inner, dim),
            f"{attention}.to_gates.weight": (heads, dim),
            f"{attention}.to_gates.bias": (heads,),
            f"{attention}.to_out.0.weight": (dim, inner),
            f"{feed}.0.gamma": (dim,),
            f"{feed}.1.weight": (wide, dim),
            f"{feed}.1.bias": (wide,),
            f"{feed}.4.weight": (dim, wide),
            f"{feed}.4.bias": (dim,),
            f"{layer}.norm.gamma": (dim,),
        }
    for band, lines in enumerate(BANDS):
        split, mask = f"band_split.to_features.{band}", f"mask_estimators.0.to_freqs.{band}.0"
        numbers = 4 * lines  # real and imaginary parts of two channels
        shapes |= {f"{split}.0.gamma": (numbers,), f"{split}.1.weight": (dim, numbers), f"{split}.1.bias": (dim,)}
        sizes = (dim, wide, wide, 2 * numbers)  # twice, for the gates
        for layer_index in range(3):
            rows, columns = sizes[layer_index + 1], sizes[layer_index]
            shapes |= {
                f"{mask}.{2 * layer_index}.weight": (rows, columns),
                f"{mask}.{2 * layer_index}.bias": (rows,),
            }
    return shapes


def write_separator(path: Path, seed: int = 0) -> Path:
    """A tiny separator with random weights, in float16 as the released file. The same bytes for the same seed."""
    generator = np.random.RandomState(seed)  # whose numbers numpy never changes
    weights = {}
    for name, shape in released_shapes(**TINY).items():
        if name.endswith("freqs"):
            drawn = 10_000.0 ** -(np.arange(shape[0]) / shape[0])
        else:
            drawn = generator.standard_normal(shape) * (shape[-1] ** -0.5 if len(shape) > 1 else 0.3)
            drawn += name.endswith("gamma")
        weights[name] = drawn.astype(np.float16)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)
    return path


def song(samples: int, seed: int = 0) -> np.ndarray:
    """Noise in stereo, (samples, 2) float32, the same for the same seed."""
    return (np.random.RandomState(seed).standard_normal((samples, 2)) * 0.1).astype(np.float32)


class LowPass(nn.Module):
    """A separator that keeps what is below 1 kHz, in phase: a filter of 1023 taps, the same at all times."""

    def __init__(self) -> None:
        super().__init__()
        times = torch.arange(-511, 512, dtype=torch.float64)
        taps = torch.hann_window(1023, periodic=False, dtype=torch.float64) * torch.sinc(2 * 1000 / 44_100 * times)
        self.register_buffer("taps", (taps / taps.sum()).float())
        self.lengths: list[int] = []

    def forward(self, sound: Tensor) -> Tensor:
        self.lengths.append(sound.shape[-1])
        length = sound.shape[-1] + len(self.taps) - 1
        spectrum = torch.fft.rfft(sound, length) * torch.fft.rfft(self.taps, length)
        return F.pad(torch.fft.irfft(spectrum, length), (-511, -511))
