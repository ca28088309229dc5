"""Files of the 14B model in full size that take no room: right headers over holes in the file system.

The classes are those that the release's model_index.json names (tests/support/layouts.py); the audio encoder's is that
of chinese-wav2vec2-base.
"""

import json
import os
import shutil
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import CLIPVisionConfig, UMT5Config, Wav2Vec2Config, Wav2Vec2ForPreTraining

import infinitetalk
from benchmarks.random_models import CLIP_VIT_H, UMT5_XXL
from infinitetalk.contract.presets import Profile
from infinitetalk.models.encoder_loading import CLIP_FILE, T5_FILE, TOKENIZER_FOLDER, VAE_FILE
from infinitetalk.models.transformer import InfiniteTalkTransformer
from infinitetalk.startup.release import KnownFile
from tests.support.layouts import release_class
from tests.support.separator import RELEASED, released_shapes
from tests.support.umt5_tokenizer import write_umt5_tokenizer

MINIATURE = Path(infinitetalk.__file__).parent / "miniature"
FORMAT_NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.uint8: "U8",
}
LORA_RANK = 64
SHARDS, ORIGINAL_SHARDS = 14, 7
LAYERS = {"transformer": 40, "text_encoder": 24, "image_encoder": 32}

Shapes = Mapping[str, tuple[int, ...]]


def write_hollow_safetensors(
    path: Path,
    shapes: Shapes,
    dtype: torch.dtype | Callable[[str, tuple[int, ...]], torch.dtype] = torch.bfloat16,
) -> int:
    """A safetensors file with tensors of these shapes, all zero and not stored. Returns its size in bytes.

    dtype: of all, or of each by its name and shape.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        kind = dtype if isinstance(dtype, torch.dtype) else dtype(name, shape)
        start, end = end, end + kind.itemsize * torch.Size(shape).numel()
        header[name] = {"dtype": FORMAT_NAMES[kind], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return path.stat().st_size


def write_hollow_pickle(path: Path, shapes: Shapes, dtype: torch.dtype = torch.float32) -> int:
    """What torch.save writes of tensors of these shapes, all zero and not stored. Returns its size in bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FakeTensorMode():
        state = {name: torch.empty(shape, dtype=dtype) for name, shape in shapes.items()}
    with torch.serialization.skip_data(materialize_fake_tensors=True):
        torch.save(state, path)
    return path.stat().st_size


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def release_modules(layers: int | None = None) -> dict[str, nn.Module]:
    """The parts of the diffusers release that have weights, on the meta device.

    layers: of the transformer and the text and picture encoders; all if not given.
    """
    count = {part: layers or full for part, full in LAYERS.items()}
    text_config = UMT5Config(
        **UMT5_XXL | {"num_layers": count["text_encoder"]}, feed_forward_proj="gated-gelu", tie_word_embeddings=False
    )
    image_config = CLIPVisionConfig(**CLIP_VIT_H | {"num_hidden_layers": count["image_encoder"]}, projection_dim=1024)
    with torch.device("meta"):
        return {
            "transformer": release_class("transformer")(
                in_channels=36, image_dim=1280, added_kv_proj_dim=5120, num_layers=count["transformer"]
            ),
            "vae": release_class("vae")(),
            "text_encoder": release_class("text_encoder")(text_config),
            "image_encoder": release_class("image_encoder")(image_config),
        }


def write_full_size_weights(profile: Profile, folder: Path, layers: int | None = None) -> int:
    """All files of the 14B profile, in diffusers' layout. Returns their size in bytes.

    For `layers` see `release_modules`.
    """
    base = folder / profile.files.base
    modules = release_modules(layers)
    size = sum(_write_part(base / part, module) for part, module in modules.items())
    shutil.copytree(MINIATURE / "tokenizer", base / "tokenizer")
    size += _write_adapters(profile, folder, layers or LAYERS["transformer"])
    size += _write_audio_encoder(folder / profile.files.audio_encoder)
    size += write_hollow_safetensors(folder / profile.files.separator, released_shapes(**RELEASED), torch.float16)
    for lora in profile.loras:
        size += write_hollow_safetensors(folder / lora.file, lora_shapes(shapes_of(modules["transformer"])))
    return size


def _write_part(folder: Path, module: nn.Module) -> int:
    """A part of the pipeline, as `save_pretrained` lays it out; the transformer in as many shards as the release's."""
    shapes = shapes_of(module)
    if hasattr(module, "save_config"):  # diffusers
        stem = "diffusion_pytorch_model"
        module.save_config(folder)
    else:
        stem = "model"
        module.config.save_pretrained(folder)
        shapes.pop("encoder.embed_tokens.weight", None)  # the same tensor as shared.weight, stored once
    if folder.name != "transformer":
        return write_hollow_safetensors(folder / f"{stem}.safetensors", shapes)
    names, size = list(shapes), 0
    for shard in range(SHARDS):
        part = {name: shapes[name] for name in names[shard::SHARDS]}
        size += write_hollow_safetensors(folder / f"{stem}-{shard + 1:05d}-of-{SHARDS:05d}.safetensors", part)
    return size


def _write_adapters(profile: Profile, folder: Path, layers: int) -> int:
    with torch.device("meta"):
        shapes = shapes_of(InfiniteTalkTransformer(num_layers=layers))
    size = 0
    for kind, path in (("single", profile.files.adapter_single), ("multi", profile.files.adapter_multi)):
        prefix = f"adapters.{kind}."
        adapter = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
        size += write_hollow_safetensors(folder / path, adapter)
    mark(folder / profile.files.adapter_multi)
    return size


def mark(path: Path) -> None:
    """Give a hollow file's last tensor another last byte: two files of the same shapes then differ."""
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x3f")


def write_release(profile: Profile, folder: Path, known: Sequence[KnownFile]) -> int:
    """All files of the 14B profile in the original layout, by the table of the release. Returns their size in bytes."""
    parts = {file.part: file for file in known if file.layout != "diffusers"}
    base = folder / profile.files.base
    types = {name: dtype for dtype, name in FORMAT_NAMES.items()}
    size = 0
    for part, name in (("text_encoder", T5_FILE), ("image_encoder", CLIP_FILE), ("vae", VAE_FILE)):
        size += write_hollow_pickle(base / name, parts[part].shapes, types[parts[part].dtype])
    transformer, index = list(parts["transformer"].shapes.items()), {}
    for shard in range(ORIGINAL_SHARDS):
        name = f"diffusion_pytorch_model-{shard + 1:05d}-of-{ORIGINAL_SHARDS:05d}.safetensors"
        part = dict(transformer[shard::ORIGINAL_SHARDS])
        size += write_hollow_safetensors(base / name, part, torch.float32)
        index |= dict.fromkeys(part, name)
    (base / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": index}), "utf-8")
    (base / "config.json").write_text(json.dumps({"num_heads": 40, "out_dim": 16, "eps": 1e-6}), "utf-8")
    write_umt5_tokenizer(base / TOKENIZER_FOLDER)
    for path in (profile.files.adapter_single, profile.files.adapter_multi):
        size += write_hollow_safetensors(folder / path, parts["adapter"].shapes, torch.float32)
    mark(folder / profile.files.adapter_multi)
    size += _write_audio_encoder(folder / profile.files.audio_encoder)
    size += write_hollow_safetensors(folder / profile.files.separator, released_shapes(**RELEASED), torch.float16)
    for lora in profile.loras:
        wan = next(file.shapes for file in known if (file.part, file.layout) == ("transformer", "diffusers"))
        size += write_hollow_safetensors(folder / lora.file, lora_shapes(wan))
    for source in profile.sources:  # settings that no check reads
        for file in source.files:
            (folder / source.name / file).touch()
    return size


def _write_audio_encoder(folder: Path) -> int:
    """chinese-wav2vec2-base: a pickle of the pretraining class, whose weight norm has the older names."""
    with torch.device("meta"):
        encoder = Wav2Vec2ForPreTraining(Wav2Vec2Config())
    norm = "conv.parametrizations.weight.original"
    shapes = {
        name.replace(f"{norm}0", "conv.weight_g").replace(f"{norm}1", "conv.weight_v"): shape
        for name, shape in shapes_of(encoder).items()
    }
    size = write_hollow_pickle(folder / "pytorch_model.bin", shapes)
    encoder.config.save_pretrained(folder)
    shutil.copy(MINIATURE / "audio_encoder" / "preprocessor_config.json", folder)
    return size


def lora_shapes(wan: Shapes) -> Shapes:
    pairs = {}
    for name, shape in wan.items():
        if name.startswith("blocks.") and name.endswith((".to_q.weight", ".to_out.0.weight", ".proj.weight")):
            module = f"diffusion_model.{name.removesuffix('.weight')}"
            pairs[f"{module}.lora_down.weight"] = (LORA_RANK, shape[1])
            pairs[f"{module}.lora_up.weight"] = (shape[0], LORA_RANK)
    return pairs
