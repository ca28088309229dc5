"""What the loops know of the transformer: how it is called, and the values that go in.

Everything that stays the same over the denoising steps is computed once, outside the pass, and handed in as a
`Context`.

Axes in shapes: B batch, P people, T latent frames, S tokens of a latent frame, N = T*S tokens, H heads,
D channels of a head, C = H*D.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

TEXT_TOKENS = 512


@dataclass(frozen=True)
class KeyValue:
    """Keys and values of one attention, each (batch, tokens, H, D)."""

    key: Tensor
    value: Tensor


@dataclass(frozen=True)
class TimeEmbedding:
    """What the timesteps contribute: `head` (steps, C) and `blocks` (steps, 6, C), both float32."""

    head: Tensor
    blocks: Tensor

    def step(self, index: int) -> "TimeEmbedding":
        """The embedding of one step, as a batch of one."""
        return TimeEmbedding(self.head[index : index + 1], self.blocks[index : index + 1])


@dataclass(frozen=True)
class Rotary:
    """Cosines and sines of the 3-D rotary embedding, each (1, N, 1, D) float32, as `rotate_pairs` takes them."""

    cos: Tensor
    sin: Tensor


@dataclass(frozen=True)
class AudioContext:
    """The voices of one window, as every block attends to them.

    Args:
        adapter: the adapter through which they are heard.
        layers: per block, keys and values of (B*T, P*audio_tokens, H, D).
        person_masks: (B, P + 1, S) ones where each person and, last, the background are in the first latent frame;
            None for one person.
    """

    adapter: str
    layers: tuple[KeyValue, ...]
    person_masks: Tensor | None


@dataclass(frozen=True)
class Context:
    """Everything but the noisy latents and the time that one forward pass depends on."""

    text: tuple[KeyValue, ...]
    image: tuple[KeyValue, ...]
    audio: AudioContext
    rotary: Rotary


class VideoTransformer(Protocol):
    """Predicts the flow velocity of a window of video latents from text, a reference picture and voices."""

    max_speakers: int  # how many voices the weights can bind to people in the picture

    @property
    def dtype(self) -> torch.dtype:
        """The number format of its large layers, and of what goes in."""
        ...

    def state_dict(self) -> Mapping[str, Tensor]:
        """All its weights by name."""
        ...

    def embed_timesteps(self, timesteps: Tensor) -> TimeEmbedding:
        """Embeddings of the timesteps (steps,), each from 0 to 1000."""
        ...

    def embed_text(self, text: Tensor) -> tuple[KeyValue, ...]:
        """Per block, keys and values of the text embeddings (B, 512, text_dim), zero beyond the prompt's end."""
        ...

    def embed_image(self, image: Tensor) -> tuple[KeyValue, ...]:
        """Per block, keys and values of the image features (B, image tokens, image_dim)."""
        ...

    def adapter_for(self, speakers: int) -> str:
        """The adapter of a job with that many speakers. Raises ValueError beyond `max_speakers`."""
        ...

    def embed_audio(self, audio: Tensor, adapter: str, person_masks: Tensor | None = None) -> AudioContext:
        """The voices of a window of 4T-3 video frames.

        Args:
            audio: (B, P, 4T-3+4, layers, channels), two frames more before the first and after the last. A third voice
                beside two people is what the background hears.
            adapter: the adapter through which they are heard, from `adapter_for`.
            person_masks: (B, P + 1, S), needed with several people and only then; see `AudioContext`.

        Raises:
            ValueError: masks are missing, or given for one person.
        """
        ...

    def rotary_embedding(self, latents: Tensor) -> Rotary:
        """The rotary table for latents of (B, channels, T, height, width)."""
        ...

    def __call__(self, latents: Tensor, time: TimeEmbedding, context: Context) -> Tensor:
        """The velocity (B, out_channels, T, height, width).

        Args:
            latents: (B, in_channels, T, height, width): noisy latents, mask and condition latents, in this order.
            time: embedding of one timestep, (1 or B, ...).
            context: text, image, voices and rotary table.
        """
        ...
