"""The release's diffusers layout, small: written by the classes that its own model_index.json names.

The release is Wan-AI/Wan2.1-I2V-14B-480P-Diffusers, made by `save_pretrained` of diffusers' pipeline
(scripts/convert_wan_to_diffusers.py there), with the picture encoder of laion/CLIP-ViT-H-14-laion2B-s32B-b79K.
"""

import importlib
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import WanImageToVideoPipeline
from transformers import CLIPVisionConfig, PreTrainedTokenizerFast, UMT5Config

from tests.support.umt5_tokenizer import write_umt5_tokenizer

MODEL_INDEX = {
    "image_encoder": ("transformers", "CLIPVisionModelWithProjection"),
    "image_processor": ("transformers", "CLIPImageProcessor"),
    "scheduler": ("diffusers", "UniPCMultistepScheduler"),
    "text_encoder": ("transformers", "UMT5EncoderModel"),
    "tokenizer": ("transformers", "T5TokenizerFast"),
    "transformer": ("diffusers", "WanTransformer3DModel"),
    "vae": ("diffusers", "AutoencoderKLWan"),
}
LATENT_CHANNELS = 16


def release_class(part: str) -> Any:
    """The class of a part of the release."""
    library, name = MODEL_INDEX[part]
    return getattr(importlib.import_module(library), name)


def small_parts(vocabulary: int) -> dict[str, Any]:
    """Every part but the tokenizer, with random weights."""
    torch.manual_seed(0)
    transformer = release_class("transformer")(
        in_channels=2 * LATENT_CHANNELS + 4, out_channels=LATENT_CHANNELS, num_attention_heads=2, attention_head_dim=12,
        text_dim=32, freq_dim=16, ffn_dim=48, num_layers=2, image_dim=40, added_kv_proj_dim=24,
    )  # fmt: skip
    text_config = UMT5Config(
        vocab_size=vocabulary, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,  # as google/umt5-xxl says; the encoder ties its two names of the table all the same
    )  # fmt: skip
    image_config = CLIPVisionConfig(
        hidden_size=40, intermediate_size=56, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14,
        hidden_act="gelu", projection_dim=24,
    )  # fmt: skip
    vae = release_class("vae")(
        base_dim=8, z_dim=LATENT_CHANNELS, dim_mult=[1, 2, 2, 2], num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )  # fmt: skip
    return {
        "transformer": transformer.eval(),
        "text_encoder": release_class("text_encoder")(text_config).eval(),
        "image_encoder": release_class("image_encoder")(image_config).eval(),
        "image_processor": release_class("image_processor")(),
        "scheduler": release_class("scheduler")(),
        "vae": vae.eval(),
    }


def write_diffusers_layout(folder: Path) -> dict[str, Any]:
    """The release's folder. Returns the parts that were written, by their names in model_index.json."""
    processor = write_umt5_tokenizer(folder / "tokenizer")
    parts = small_parts(processor.get_piece_size())
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
    pipeline = WanImageToVideoPipeline(tokenizer=tokenizer, **parts)
    # The release's transformer and text encoder come in shards of 5 GB.
    pipeline.save_pretrained(folder, max_shard_size="40KB")
    write_umt5_tokenizer(folder / "tokenizer")
    index = {"_class_name": "WanImageToVideoPipeline", **MODEL_INDEX}
    (folder / "model_index.json").write_text(json.dumps(index), "utf-8")
    return parts
