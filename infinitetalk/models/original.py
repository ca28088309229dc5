"""Names and sizes of the original Wan2.1 files, in terms of diffusers' and transformers' models.

Source of the names: the modules of github.com/Wan-Video/Wan2.1 (t5.py, clip.py, vae.py, model.py); of the umT5
encoder's in GGUF files, gguf/constants.py of github.com/ggml-org/llama.cpp.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from math import isqrt

from diffusers.loaders.single_file_utils import (
    convert_wan_transformer_to_diffusers,
    convert_wan_vae_to_diffusers,
)
from torch import Tensor
from transformers import CLIPVisionConfig, UMT5Config, Wav2Vec2Config

from infinitetalk.models.stored import Shape

CLIP_HEAD_DIM = 80  # ViT-H: 1280 channels, 16 heads
WAV2VEC2_HEAD_DIM = 64

_T5_BLOCK = {
    "norm1": "layer.0.layer_norm",
    "attn.q": "layer.0.SelfAttention.q",
    "attn.k": "layer.0.SelfAttention.k",
    "attn.v": "layer.0.SelfAttention.v",
    "attn.o": "layer.0.SelfAttention.o",
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
    "norm2": "layer.1.layer_norm",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
    "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
}
_T5_GGUF_BLOCK = {
    "attn_norm": "norm1",
    "attn_q": "attn.q",
    "attn_k": "attn.k",
    "attn_v": "attn.v",
    "attn_o": "attn.o",
    "attn_rel_b": "pos_embedding.embedding",
    "ffn_norm": "norm2",
    "ffn_gate": "ffn.gate.0",
    "ffn_up": "ffn.fc1",
    "ffn_down": "ffn.fc2",
}
_T5_TOP = {
    "token_embedding": "shared",
    "norm": "encoder.final_layer_norm",
    "token_embd": "shared",
    "enc.output_norm": "encoder.final_layer_norm",
}

_TOP_MODULES = (
    "patch_embedding", "text_embedding.0", "text_embedding.2", "time_embedding.0", "time_embedding.2",
    "time_projection.1", "head.head", "img_emb.proj.0", "img_emb.proj.1", "img_emb.proj.3", "img_emb.proj.4",
)  # fmt: skip
_BLOCK_MODULES = (
    "self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "self_attn.norm_q", "self_attn.norm_k",
    "cross_attn.q", "cross_attn.k", "cross_attn.v", "cross_attn.o", "cross_attn.norm_q", "cross_attn.norm_k",
    "cross_attn.k_img", "cross_attn.v_img", "cross_attn.norm_k_img", "norm3", "ffn.0", "ffn.2",
)  # fmt: skip

_CLIP_BLOCK = {
    "norm1": "layer_norm1",
    "attn.proj": "self_attn.out_proj",
    "norm2": "layer_norm2",
    "mlp.0": "mlp.fc1",
    "mlp.2": "mlp.fc2",
}
_CLIP_TOP = {
    "patch_embedding.weight": "embeddings.patch_embedding.weight",
    "cls_embedding": "embeddings.class_embedding",
    "pos_embedding": "embeddings.position_embedding.weight",
    "pre_norm.weight": "pre_layrnorm.weight",
    "pre_norm.bias": "pre_layrnorm.bias",
    "post_norm.weight": "post_layernorm.weight",
    "post_norm.bias": "post_layernorm.bias",
}


def transformer_names(names: Iterable[str]) -> dict[str, str]:
    """diffusers' names of the transformer's weights by their original names."""
    renamed = convert_wan_transformer_to_diffusers({name: name for name in names})
    return {original: new for new, original in renamed.items()}


def transformer_modules(blocks: int) -> list[str]:
    """Original names of all modules of the transformer that have weights."""
    return [*_TOP_MODULES, *(f"blocks.{block}.{module}" for block in range(blocks) for module in _BLOCK_MODULES)]


def vae_names(names: Iterable[str]) -> dict[str, str]:
    """diffusers' names of the autoencoder's weights by their original names."""
    renamed = convert_wan_vae_to_diffusers({name: name for name in names})
    return {original: new for new, original in renamed.items()}


def t5_name(name: str) -> str:
    """transformers' name of a UMT5 encoder weight, from the original's or GGUF's; another name stays as it is."""
    if found := re.match(r"(?:blocks|enc\.blk)\.(\d+)\.(.+)\.weight$", name):
        module = _T5_GGUF_BLOCK.get(found[2], found[2])
        return f"encoder.block.{found[1]}.{_T5_BLOCK.get(module, module)}.weight"
    module = name.removesuffix(".weight")
    return f"{_T5_TOP.get(module, module)}.weight"


def t5_config(shapes: Mapping[str, Shape]) -> UMT5Config:
    """The UMT5 encoder that tensors of these shapes belong to, by transformers' names."""
    vocabulary, dim = shapes["shared.weight"]
    first = "encoder.block.0.layer"
    buckets, heads = shapes[f"{first}.0.SelfAttention.relative_attention_bias.weight"]
    return UMT5Config(
        vocab_size=vocabulary,
        d_model=dim,
        d_kv=shapes[f"{first}.0.SelfAttention.q.weight"][0] // heads,
        d_ff=shapes[f"{first}.1.DenseReluDense.wi_1.weight"][0],
        num_layers=len({name.split(".")[2] for name in shapes if name.startswith("encoder.block.")}),
        num_heads=heads,
        relative_attention_num_buckets=buckets,
        feed_forward_proj="gated-gelu",
    )


def clip_tensors(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """transformers' CLIP vision weights from one original tensor whose name starts with `visual.`."""
    name = name.removeprefix("visual.")
    if found := re.match(r"transformer\.(\d+)\.(.+)\.(weight|bias)$", name):
        block, module, kind = found.groups()
        prefix = f"encoder.layers.{block}"
        if module == "attn.to_qkv":
            for part, chunk in zip("qkv", tensor.chunk(3), strict=True):
                yield f"{prefix}.self_attn.{part}_proj.{kind}", chunk
        else:
            yield f"{prefix}.{_CLIP_BLOCK.get(module, module)}.{kind}", tensor
    elif name == "cls_embedding":
        yield _CLIP_TOP[name], tensor.flatten()
    elif name == "pos_embedding":
        yield _CLIP_TOP[name], tensor.squeeze(0)
    elif name != "head":  # the projection into the space shared with text; features are taken before it
        yield _CLIP_TOP.get(name, name), tensor


def clip_config(shapes: Mapping[str, Shape]) -> CLIPVisionConfig:
    """The CLIP vision tower that tensors of these shapes belong to, by transformers' names."""
    dim, _, patch, _ = shapes["embeddings.patch_embedding.weight"]
    positions = shapes["embeddings.position_embedding.weight"][0]
    return CLIPVisionConfig(
        hidden_size=dim,
        intermediate_size=shapes["encoder.layers.0.mlp.fc1.weight"][0],
        num_hidden_layers=len({name.split(".")[2] for name in shapes if name.startswith("encoder.layers.")}),
        num_attention_heads=dim // CLIP_HEAD_DIM,
        image_size=isqrt(positions - 1) * patch,
        patch_size=patch,
        hidden_act="gelu",
    )


def wav2vec2_config(shapes: Mapping[str, Shape]) -> Wav2Vec2Config:
    """The wav2vec2 of the base kind that tensors of these shapes belong to, by names without `wav2vec2.` in front."""
    hidden = shapes["encoder.layers.0.attention.q_proj.weight"][0]
    position = "encoder.pos_conv_embed.conv."
    older, newer = f"{position}weight_v", f"{position}parametrizations.weight.original1"
    _, group_width, width = shapes[older if older in shapes else newer]
    convolutions = [shape for name, shape in shapes.items() if re.match(r"feature_extractor\..+\.conv\.weight$", name)]
    masking = {} if "masked_spec_embed" in shapes else {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}
    return Wav2Vec2Config(
        hidden_size=hidden,
        num_hidden_layers=len({name.split(".")[2] for name in shapes if name.startswith("encoder.layers.")}),
        num_attention_heads=hidden // WAV2VEC2_HEAD_DIM,
        intermediate_size=shapes["encoder.layers.0.feed_forward.intermediate_dense.weight"][0],
        conv_dim=tuple(shape[0] for shape in convolutions),
        conv_kernel=tuple(shape[2] for shape in convolutions),
        num_conv_pos_embeddings=width,
        num_conv_pos_embedding_groups=hidden // group_width,
        **masking,
    )
