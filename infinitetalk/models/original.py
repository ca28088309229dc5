"""Names and sizes of the original Wan2.1 files, in terms of diffusers' and transformers' models.

Source of the names: the modules of github.com/Wan-Video/Wan2.1 (t5.py, clip.py, vae.py, model.py).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from math import isqrt

from diffusers.loaders.single_file_utils import (
    convert_wan_transformer_to_diffusers,
    convert_wan_vae_to_diffusers,
)
from torch import Tensor
from transformers import CLIPVisionConfig, UMT5Config

from infinitetalk.models.weight_file import Shape

CLIP_HEAD_DIM = 80  # ViT-H: 1280 channels, 16 heads

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
_T5_TOP = {"token_embedding": "shared", "norm": "encoder.final_layer_norm"}

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


def vae_names(names: Iterable[str]) -> dict[str, str]:
    """diffusers' names of the autoencoder's weights by their original names."""
    renamed = convert_wan_vae_to_diffusers({name: name for name in names})
    return {original: new for new, original in renamed.items()}


def t5_name(name: str) -> str:
    """transformers' name of a UMT5 encoder weight; an unknown name stays as it is."""
    if found := re.match(r"blocks\.(\d+)\.(.+)\.weight$", name):
        return f"encoder.block.{found[1]}.{_T5_BLOCK.get(found[2], found[2])}.weight"
    module = name.removesuffix(".weight")
    return f"{_T5_TOP.get(module, module)}.weight"


def t5_config(shapes: Mapping[str, Shape]) -> UMT5Config:
    """The UMT5 encoder that tensors of these shapes belong to."""
    vocabulary, dim = shapes["token_embedding.weight"]
    buckets, heads = shapes["blocks.0.pos_embedding.embedding.weight"]
    return UMT5Config(
        vocab_size=vocabulary,
        d_model=dim,
        d_kv=shapes["blocks.0.attn.q.weight"][0] // heads,
        d_ff=shapes["blocks.0.ffn.fc1.weight"][0],
        num_layers=len({name.split(".")[1] for name in shapes if name.startswith("blocks.")}),
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
    elif name != "head":  # the projection into the space shared with text; the features are taken before it
        yield _CLIP_TOP.get(name, name), tensor


def clip_config(shapes: Mapping[str, Shape]) -> CLIPVisionConfig:
    """The CLIP vision tower that tensors of these shapes belong to."""
    dim, _, patch, _ = shapes["visual.patch_embedding.weight"]
    positions = shapes["visual.pos_embedding"][1]
    return CLIPVisionConfig(
        hidden_size=dim,
        intermediate_size=shapes["visual.transformer.0.mlp.0.weight"][0],
        num_hidden_layers=len({name.split(".")[2] for name in shapes if name.startswith("visual.transformer.")}),
        num_attention_heads=dim // CLIP_HEAD_DIM,
        image_size=isqrt(positions - 1) * patch,
        patch_size=patch,
        hidden_act="gelu",
    )
