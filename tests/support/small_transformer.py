"""A transformer of two blocks in the number formats of the large one: bfloat16, norms and modulation in float32."""

import torch

from infinitetalk.models.transformer import InfiniteTalkTransformer

SIZES = {"num_attention_heads": 2, "attention_head_dim": 48, "text_dim": 16, "freq_dim": 16, "ffn_dim": 64}
AUDIO = {"audio_layers": 3, "audio_channels": 4, "audio_hidden": 8, "audio_tokens": 2, "audio_dim": 16}


def small_bfloat16_transformer() -> InfiniteTalkTransformer:
    """The same weights at every call."""
    torch.manual_seed(0)
    made = InfiniteTalkTransformer(**SIZES, **AUDIO, num_layers=2, image_dim=16).eval().requires_grad_(False)
    for name, parameter in made.named_parameters():
        if not set(made._keep_in_fp32_modules) & set(name.split(".")):
            parameter.data = parameter.data.bfloat16()
    return made
