"""Files of the 14B model in full size that take no room: right headers over holes in the file system."""

import json
import shutil
import struct
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel, Wav2Vec2Config, Wav2Vec2Model

import infinitetalk
from infinitetalk.contract.presets import Profile
from infinitetalk.models.transformer import InfiniteTalkTransformer
from tests.support.separator import RELEASED, released_shapes

MINIATURE = Path(infinitetalk.__file__).parent / "miniature"
BF16_BYTES = 2
LORA_RANK = 64
SHARDS = 7

Shapes = dict[str, tuple[int, ...]]


def write_hollow_safetensors(path: Path, shapes: Shapes) -> int:
    """A safetensors file with bfloat16 tensors of these shapes, all zero and not stored. Returns its size in bytes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + BF16_BYTES * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return path.stat().st_size


def shapes_of(module: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def write_full_size_weights(profile: Profile, folder: Path, layers: int | None = None) -> int:
    """All files of the 14B profile, in diffusers' layout. Returns their size in bytes.

    layers: of the transformer and the text and picture encoders; all if not given.
    """
    with torch.device("meta"):
        transformer = shapes_of(InfiniteTalkTransformer(num_layers=layers or 40))
        vae = AutoencoderKLWan()
        text_config = UMT5Config(
            vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=layers or 24, num_heads=64,
            feed_forward_proj="gated-gelu",
        )  # fmt: skip
        text_encoder = UMT5EncoderModel(text_config)
        image_config = CLIPVisionConfig(
            hidden_size=1280, intermediate_size=5120, num_hidden_layers=layers or 32, num_attention_heads=16,
            image_size=224, patch_size=14, hidden_act="gelu",
        )  # fmt: skip
        image_encoder = CLIPVisionModel(image_config)
        audio_encoder = Wav2Vec2Model(Wav2Vec2Config())
    base = folder / profile.files.base
    size = 0
    for kind, path in (("single", profile.files.adapter_single), ("multi", profile.files.adapter_multi)):
        prefix = f"adapters.{kind}."
        adapter = {name.removeprefix(prefix): shape for name, shape in transformer.items() if name.startswith(prefix)}
        size += write_hollow_safetensors(folder / path, adapter)
    wan = {name: shape for name, shape in transformer.items() if not name.startswith("adapters.")}
    for shard in range(SHARDS):
        part = dict(list(wan.items())[shard::SHARDS])
        name = f"diffusion_pytorch_model-{shard + 1:05d}-of-{SHARDS:05d}.safetensors"
        size += write_hollow_safetensors(base / "transformer" / name, part)
    config = {"_class_name": "WanTransformer3DModel", "num_attention_heads": 40, "out_channels": 16, "eps": 1e-6}
    (base / "transformer" / "config.json").write_text(json.dumps(config), "utf-8")
    size += write_hollow_safetensors(base / "vae" / "diffusion_pytorch_model.safetensors", shapes_of(vae))
    vae.save_config(base / "vae")
    shapes = shapes_of(text_encoder)
    del shapes["encoder.embed_tokens.weight"]  # the same tensor as shared.weight, stored once
    size += write_hollow_safetensors(base / "text_encoder" / "model.safetensors", shapes)
    text_config.save_pretrained(base / "text_encoder")
    shutil.copytree(MINIATURE / "tokenizer", base / "tokenizer")
    size += write_hollow_safetensors(base / "image_encoder" / "model.safetensors", shapes_of(image_encoder))
    image_config.save_pretrained(base / "image_encoder")
    audio = folder / profile.files.audio_encoder
    size += write_hollow_safetensors(audio / "model.safetensors", shapes_of(audio_encoder))
    audio_encoder.config.save_pretrained(audio)
    shutil.copy(MINIATURE / "audio_encoder" / "preprocessor_config.json", audio)
    if profile.files.separator is not None:
        size += write_hollow_safetensors(folder / profile.files.separator, released_shapes(**RELEASED))
    for lora in profile.loras:
        pairs: Shapes = {}
        for name, shape in wan.items():
            if name.startswith("blocks.") and name.endswith((".to_q.weight", ".to_out.0.weight", ".proj.weight")):
                module = f"diffusion_model.{name.removesuffix('.weight')}"
                pairs |= {f"{module}.lora_down.weight": (LORA_RANK, shape[1])}
                pairs |= {f"{module}.lora_up.weight": (shape[0], LORA_RANK)}
        size += write_hollow_safetensors(folder / lora.file, pairs)
    return size
