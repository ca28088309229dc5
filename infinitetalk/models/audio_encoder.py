"""A voice as wav2vec2 features, one entry per video frame."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model

from infinitetalk.shapes import SAMPLE_RATE_HZ


@torch.inference_mode()
def embed_voice(
    encoder: Wav2Vec2Model, extractor: Wav2Vec2FeatureExtractor, wave: NDArray[np.float32], n_frames: int
) -> Tensor:
    """Features (n_frames, layers, channels) of a voice at the video's frame rate.

    The convolutional features are stretched to one per video frame before the transformer layers, so that
    every layer works at 25 entries a second; the outputs of all layers are kept (MultiTalk, section 3.2). On a GPU too
    everything is computed in full float32, as in the authors' code, which hears on the CPU.

    Args:
        encoder: wav2vec2; its dtype and device are used.
        extractor: brings the wave to zero mean and unit variance.
        wave: (samples,) at 16 kHz.
        n_frames: video frames that the wave lasts.
    """
    inputs = extractor(wave, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt").input_values
    outputs: list[Tensor] = []

    # The inner encoder, called directly, returns its last layer only. Hooks see every layer's output.
    def keep(_module: nn.Module, _args: Any, output: Any) -> None:  # noqa: ANN401
        outputs.append(output[0] if isinstance(output, tuple) else output)

    hooks = [layer.register_forward_hook(keep) for layer in encoder.encoder.layers]
    try:
        with exact_convolutions():
            convolved = encoder.feature_extractor(inputs.to(encoder.device, encoder.dtype))
            stretched = F.interpolate(convolved, size=n_frames, mode="linear", align_corners=True)
            projected, _ = encoder.feature_projection(stretched.transpose(1, 2))
            encoder.encoder(projected)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(outputs).transpose(0, 1)


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Convolutions of float32 in float32. Otherwise cuDNN takes TF32, which has the 10 bits of a float16."""
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = allowed
