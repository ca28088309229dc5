"""What the transformer is told besides the noise (pictures, masks, voices, prompts), and windows that it makes."""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPVisionModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from infinitetalk.contract.presets import SchedulerName
from infinitetalk.generation.conditioning import Conditions
from infinitetalk.generation.denoise import Steps, denoise
from infinitetalk.generation.guidance import Drop, Guide, drops
from infinitetalk.generation.schedule import make_scheduler
from infinitetalk.models.transformer import InfiniteTalkTransformer
from infinitetalk.models.video_transformer import AudioContext, Context, KeyValue
from infinitetalk.shapes import TEMPORAL_STRIDE
from training.train_vae import Codec, autocast

SHIFT = 11.0


def picture_features(encoder: CLIPVisionModel, pictures: Tensor) -> Tensor:
    """What `embed_picture` computes, for a batch (B, 3, H, W)."""
    side = encoder.config.image_size
    square = F.interpolate(pictures.float(), size=(side, side), mode="bicubic", align_corners=False)
    mean, std = (square.new_tensor(v).view(1, 3, 1, 1) for v in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return encoder((square * 0.5 + 0.5 - mean) / std, output_hidden_states=True).hidden_states[-2]


def condition_of(codec: Codec, pictures: Tensor, frames: int) -> Tensor:
    """Condition latents (B, 16, T, h, w) of reference pictures (B, 3, H, W): the picture, then zeros."""
    video = pictures.new_zeros(len(pictures), 3, frames, *pictures.shape[2:])
    video[:, :, 0] = pictures
    return codec.encode(video)


def with_mask(latents: Tensor) -> Tensor:
    """Mask and condition latents (B, 4 + 16, T, h, w)."""
    mask = torch.zeros_like(latents[:, :TEMPORAL_STRIDE])
    mask[:, :, 0] = 1
    return torch.cat((mask, latents), 1)


class Conditioner:
    """Builds the transformer's `Context` for batches, from tables of voice features and prompt embeddings."""

    def __init__(self, transformer: InfiniteTalkTransformer, features: Tensor, prompts: Tensor) -> None:
        self.transformer, self.features, self.prompts = transformer, features, prompts

    def voices(self, starts: Tensor, frames: int, clip_starts: Tensor | None = None) -> Tensor:
        """(B, P, frames + 4, layers, channels) of voices from `starts` (B, P) on.

        Args:
            clip_starts: (B, P), first frames of the clips; for earlier frames this first one is heard.
        """
        index = starts[..., None] + torch.arange(-2, frames + 2, device=starts.device)
        if clip_starts is not None:
            index = torch.maximum(index, clip_starts[..., None])
        return self.features[index.clamp(0, len(self.features) - 1)]

    def context(self, audio: AudioContext, image: Tensor, prompt: Tensor, latents: Tensor) -> Context:
        """The context of a pass over `latents`. All pictures of the batch have the same prompt (1, tokens, C)."""
        size = len(image)
        text = self.transformer.embed_text(prompt)
        text = tuple(KeyValue(kv.key.expand(size, -1, -1, -1), kv.value.expand(size, -1, -1, -1)) for kv in text)
        return Context(text, self.transformer.embed_image(image), audio, self.transformer.rotary_embedding(latents))

    @torch.no_grad()
    def make_window(
        self,
        noise: Tensor,
        condition: Tensor,
        motion: Tensor,
        voices: Tensor,
        image: Tensor,
        masks: Tensor | None,
        scheduler: SchedulerName,
        steps: int,
        generator: torch.Generator | None = None,
        audio_guidance: float = 1.0,
    ) -> Tensor:
        """Latents (B, 16, T, h, w) of a window, by the package's own loop.

        Args:
            noise: (B, 16, T, h, w).
            condition: (B, 4 + 16, T, h, w).
            motion: (B, 16, 1 or 3, h, w).
            voices: from `voices`.
        """
        device, people = noise.device, voices.shape[1]
        noise_levels = make_scheduler(scheduler, steps, SHIFT)
        with autocast(device):
            contexts = {}
            for drop in drops(1.0, audio_guidance):
                heard, shown = (voices, masks) if drop is Drop.NOTHING else (torch.zeros_like(voices[:, :1]), None)
                audio = self.transformer.embed_audio(heard, self.transformer.adapter_for(people), shown)
                contexts[drop] = self.context(audio, image, self.prompts[:1], noise)
            times = self.transformer.embed_timesteps(noise_levels.timesteps.to(device))
            return denoise(
                self.transformer,
                Steps(noise_levels, times),
                noise,
                Conditions(condition, motion, contexts),
                Guide(1.0, audio_guidance),
                generator,
                on_step=lambda _step, _latents: None,
            ).clone()
