"""What the model is told besides the noise: prompt, reference frame, voices. Each is computed only when it changes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infinitetalk.generation.guidance import Drop
from infinitetalk.generation.pixels import to_picture
from infinitetalk.models.image_encoder import embed_picture
from infinitetalk.models.opening import Models
from infinitetalk.models.text_encoder import embed_prompt
from infinitetalk.models.vae import picture_then_grey_to_latents, to_latents
from infinitetalk.models.video_transformer import Context, KeyValue
from infinitetalk.shapes import TEMPORAL_STRIDE


@dataclass(frozen=True)
class Conditions:
    """What the steps of one window are told.

    Args:
        latents: (1, 4 + 16, T, h, w), mask and condition latents.
        motion: (1, 16, m, h, w), the latents at which the first m latent frames are held.
        contexts: one for each forward pass that guidance needs.
    """

    latents: Tensor
    motion: Tensor
    contexts: Mapping[Drop, Context]


@dataclass(frozen=True)
class Reference:
    """One reference frame, encoded.

    Args:
        picture: (3, height, width) in [-1, 1].
        motion: (1, 16, 1, h, w), the latents of the still picture. The first window holds them as its first latent
            frame.
        image: per block, keys and values of its CLIP features.
    """

    picture: Tensor
    motion: Tensor
    image: tuple[KeyValue, ...]


def embed_reference(models: Models, frame: NDArray[np.uint8]) -> Reference:
    """Latents and features of a reference frame of RGB bytes (height, width, 3)."""
    picture = to_picture(frame, models.device)
    features = embed_picture(models.image_encoder, picture).to(models.dtype)
    return Reference(
        picture=picture,
        motion=to_latents(models.vae, picture.view(1, 3, 1, *picture.shape[1:])),
        image=models.transformer.embed_image(features),
    )


def condition_latents(models: Models, reference: Reference, n_frames: int) -> Tensor:
    """Mask and condition latents (1, 4 + 16, T, h, w) of a window of n_frames: the reference frame, then zeros.

    The mask has four channels, one for each video frame that a latent frame can stand for. They are 1 in the first
    latent frame.
    """
    latents = picture_then_grey_to_latents(models.vae, reference.picture, n_frames)
    mask = latents.new_zeros(1, TEMPORAL_STRIDE, *latents.shape[2:])
    mask[:, :, 0] = 1
    return torch.cat((mask, latents), dim=1)


class Prompts:
    """A job's prompt, and its negative prompt where text guidance needs one, as keys and values per block."""

    def __init__(self, models: Models, prompt: str, negative_prompt: str | None) -> None:
        self.positive = self._embed(models, prompt)
        self.negative = self._embed(models, negative_prompt) if negative_prompt is not None else None

    @staticmethod
    def _embed(models: Models, prompt: str) -> tuple[KeyValue, ...]:
        embeddings = embed_prompt(models.text_encoder, models.tokenizer, prompt)
        return models.transformer.embed_text(embeddings.to(models.dtype))

    def of(self, drop: Drop) -> tuple[KeyValue, ...]:
        """The text that a forward pass sees."""
        if drop not in (Drop.TEXT, Drop.BOTH):
            return self.positive
        if self.negative is None:
            raise ValueError("text guidance needs a negative prompt")
        return self.negative


def window_contexts(
    models: Models,
    drops: Sequence[Drop],
    prompts: Prompts,
    reference: Reference,
    audio: Tensor,
    person_masks: Tensor | None,
    latents: Tensor,
) -> Mapping[Drop, Context]:
    """The context of each forward pass that the steps of a window need.

    Args:
        audio: (P, 4T-3+4, layers, channels), or one voice more, which the background hears. A pass without audio hears
            one person's silence: zeros, and no masks.
        person_masks: (1, P + 1, S) with several people, see `masks.person_masks`; None with one.
        latents: the window's latents; only their shape counts.
    """
    transformer = models.transformer
    people = 1 if person_masks is None else person_masks.shape[1] - 1
    adapter = transformer.adapter_for(people)  # silence is heard through the same adapter
    audio = audio.unsqueeze(0).to(models.dtype)
    heard = transformer.embed_audio(audio, adapter, person_masks)
    silence = heard
    if set(drops) & {Drop.AUDIO, Drop.BOTH}:
        silence = transformer.embed_audio(torch.zeros_like(audio[:, :1]), adapter)
    rotary = transformer.rotary_embedding(latents)
    voices = {Drop.NOTHING: heard, Drop.TEXT: heard, Drop.AUDIO: silence, Drop.BOTH: silence}
    return {drop: Context(prompts.of(drop), reference.image, voices[drop], rotary) for drop in drops}
