"""Models of the 14B profile's real sizes with random weights. Times and memory are real, pictures are noise."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKLWan
from torch import nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from infinitetalk.contract.settings import Settings
from infinitetalk.models.device import count_gpus
from infinitetalk.models.fp8 import choose_scales, quantise_block
from infinitetalk.models.kernels import choose_kernels
from infinitetalk.models.lanes import LaneModel
from infinitetalk.models.opening import Models, make_fast, picture_dtype
from infinitetalk.models.separator import new_separator
from infinitetalk.models.transformer import InfiniteTalkTransformer
from infinitetalk.ranks.group import Ranks
from infinitetalk.ranks.sharing import share_models

MINIATURE = Path(__file__).parents[1] / "infinitetalk" / "miniature"
UMT5_XXL = {"vocab_size": 256384, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
CLIP_VIT_H = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
}
# The vocal separator's arguments, as `separator.sizes_of` reads them off the released file.
MEL_BAND_ROFORMER = {
    "dim": 384,
    "depth": 6,
    "time_transformer_depth": 1,
    "freq_transformer_depth": 1,
    "num_bands": 60,
    "heads": 8,
    "dim_head": 64,
    "mask_estimator_depth": 2,
}

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def random_module(make: Callable[[], ModuleT], device: torch.device, dtype: torch.dtype) -> ModuleT:
    """A module with weights drawn on the device itself: matrices with deviation 1/sqrt(inputs), vectors near one."""
    with torch.device("meta"):
        module = make()
    keep_float32 = set(getattr(module, "_keep_in_fp32_modules", None) or ())
    buffers = {name: buffer for name, buffer in module.named_buffers() if not buffer.is_meta}
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(False)
        if not keep_float32 & set(name.split(".")):
            parameter.data = parameter.data.to(dtype)
    module.to_empty(device=device)
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=(parameter[0].numel()) ** -0.5)
        else:
            parameter.normal_(std=0.02)
            if name.endswith("weight"):
                parameter.add_(1)
    for name, buffer in buffers.items():
        module.get_buffer(name).copy_(buffer)
    return module.eval()


def random_transformer(device: torch.device, dtype: torch.dtype, **sizes: Any) -> InfiniteTalkTransformer:  # noqa: ANN401
    """The transformer, 14B unless `sizes` says otherwise."""
    transformer = random_module(lambda: InfiniteTalkTransformer(**sizes), device, dtype)
    rope = type(transformer.rope)(
        transformer.config.attention_head_dim, transformer.config.patch_size, transformer.config.rope_max_seq_len
    )
    transformer.rope = rope.to(device)  # tables, not weights
    return transformer


def random_image_encoder(device: torch.device, dtype: torch.dtype) -> CLIPVisionModel:
    """CLIP ViT-H's vision tower."""
    encoder = random_module(lambda: CLIPVisionModel(CLIPVisionConfig(**CLIP_VIT_H)), device, dtype)
    for module in encoder.modules():  # an index table, not a weight
        if hasattr(module, "position_ids"):
            module.position_ids = torch.arange(module.num_positions, device=device).unsqueeze(0)
    return encoder


def random_encoders(
    device: torch.device, dtype: torch.dtype
) -> tuple[AutoencoderKLWan, UMT5EncoderModel, CLIPVisionModel, Wav2Vec2Model]:
    """Autoencoder, text, image and audio encoder."""
    return (
        random_module(AutoencoderKLWan, device, dtype),
        random_module(lambda: UMT5EncoderModel(UMT5Config(**UMT5_XXL, feed_forward_proj="gated-gelu")), device, dtype),
        random_image_encoder(device, picture_dtype(dtype)),
        random_module(lambda: Wav2Vec2Model(Wav2Vec2Config()), device, torch.float32),
    )


def random_separator(device: torch.device, **sizes: int) -> nn.Module:
    """The separator of vocals with the weights that PyTorch draws for new layers; of the released sizes by default."""
    return new_separator(**(sizes or MEL_BAND_ROFORMER)).to(device)


def random_models(device: torch.device, settings: Settings, **sizes: Any) -> Models:  # noqa: ANN401
    """The 14B profile as a worker opens it, on as many GPUs. `sizes` change its transformer."""
    n_gpus = count_gpus(device, settings.gpus)
    ranks = Ranks(n_gpus, device) if n_gpus > 1 else None
    models = assemble_random_models(device, settings, **sizes)
    if ranks is None:
        make_fast(models, compiled=settings.compile)
        return models
    ranks.join()
    return share_models(models, ranks, compiled=settings.compile)


def assemble_random_models(device: torch.device, settings: Settings, **sizes: Any) -> Models:  # noqa: ANN401
    """The 14B profile on one device, as `opening.load_models` leaves it. `sizes` change its transformer.

    The miniature's tokenizer stands in for umT5's.
    """
    transformer = random_transformer(device, torch.bfloat16, **sizes)
    arithmetic = settings.arithmetic
    if arithmetic.fp8:
        arithmetic = replace(arithmetic, fp8_scales=choose_scales(device))
        for index in range(len(transformer.blocks)):
            quantise_block(transformer, index, arithmetic.fp8_scales)
    kernels, arithmetic = choose_kernels(transformer, arithmetic)
    transformer.use_kernels(kernels)
    vae, text_encoder, image_encoder, audio_encoder = random_encoders(device, torch.bfloat16)
    return Models(
        device=device,
        dtype=torch.bfloat16,
        arithmetic=arithmetic,
        transformer=transformer,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=PreTrainedTokenizerFast.from_pretrained(MINIATURE / "tokenizer"),
        image_encoder=image_encoder,
        audio_encoder=audio_encoder,
        audio_extractor=Wav2Vec2FeatureExtractor(),
        separator=random_separator(device),
        lanes={arithmetic.lane: LaneModel(arithmetic, transformer)},
    )
