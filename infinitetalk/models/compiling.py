"""torch.compile for the transformer: its blocks' norms, gates, rotations and activations in fused kernels."""

import logging
import time

import torch

from infinitetalk.models.transformer import TEXT_TOKENS, Context, InfiniteTalkTransformer

# The warm-up's window: 25 video frames, 7 latent frames of 8x22 latents. Sizes that are equal while torch.compile looks
# on are taken to be always equal, so all of these differ, from one another and from the three rows of the masks.
_FRAMES, _LATENT_FRAMES, _HEIGHT, _WIDTH, _IMAGE_TOKENS = 25, 7, 8, 22, 13

logger = logging.getLogger(__name__)


@torch.inference_mode()
def compile_transformer(transformer: InfiniteTalkTransformer) -> None:
    """Compile the blocks for one person and for two, once for windows of all sizes and lengths.

    One graph serves all blocks (they differ in weights only). It is compiled here, in a small pass, so that no job
    waits for it.
    """
    started_s = time.monotonic()
    transformer.compile_repeated_blocks(fullgraph=True, dynamic=True)
    config, place = transformer.config, {"device": transformer.device, "dtype": transformer.dtype}
    latents = torch.randn(1, config.in_channels, _LATENT_FRAMES, _HEIGHT, _WIDTH, **place)
    text = transformer.embed_text(torch.randn(1, TEXT_TOKENS, config.text_dim, **place))
    image = transformer.embed_image(torch.randn(1, _IMAGE_TOKENS, config.image_dim, **place))
    time_embedding = transformer.embed_timesteps(torch.tensor([500.0], device=transformer.device))
    tokens = _HEIGHT * _WIDTH // 4
    for people, adapter in ((1, "single"), (2, "multi")):
        audio = torch.randn(1, people, _FRAMES + 4, config.audio_layers, config.audio_channels, **place)
        masks = torch.eye(3, tokens, device=transformer.device).unsqueeze(0) if people == 2 else None
        voices = transformer.embed_audio(audio, adapter, masks)
        transformer(latents, time_embedding, Context(text, image, voices, transformer.rotary_embedding(latents)))
    logger.info("transformer compiled in %.1f s", time.monotonic() - started_s)
