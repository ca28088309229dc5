"""ComfyUI's files of the 14B model in full size, hollow: the formats, names, types and shapes that the real ones have.

The real files could not be opened. What is written here has the sizes that others publish of them, to within the bytes
of a header: tests/startup/test_comfyui_volume.py.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFWriter
from gguf.quants import quant_shape_to_byte_shape
from torch import nn
from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining

from benchmarks.weight_files import Kind
from infinitetalk.contract.presets import Profile
from infinitetalk.models import original
from infinitetalk.models.transformer import InfiniteTalkTransformer
from tests.support.full_size import LAYERS, lora_shapes, release_modules, shapes_of, write_hollow_safetensors
from tests.support.golden import tensors
from tests.support.original_encoders import to_original_t5
from tests.support.separator import RELEASED, released_shapes
from tests.support.umt5_tokenizer import train_sentencepiece, write_umt5_tokenizer

Shapes = dict[str, tuple[int, ...]]
SPIECE_BYTES = 4_548_313  # of google/umt5-xxl/spiece.model
FP8 = torch.float8_e4m3fn


def write_hollow_gguf(path: Path, shapes: Shapes, kind_of: Callable[[str, tuple[int, ...]], Kind]) -> int:
    """A GGUF file with tensors of these shapes, all zero and not stored. Returns its size in bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, "wan")
    size = 0
    for name, shape in shapes.items():
        kind = kind_of(name, shape)
        stored = quant_shape_to_byte_shape(shape, kind)
        writer.add_tensor_info(name, stored, np.dtype(np.uint8), int(np.prod(stored)), kind)
        size += GGUFWriter.ggml_pad(int(np.prod(stored)), writer.data_alignment)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    assert writer.fout is not None
    start = GGUFWriter.ggml_pad(writer.fout[0].tell(), writer.data_alignment)
    writer.fout[0].truncate(start + size)
    writer.close()
    return path.stat().st_size


def original_transformer_shapes(transformer: nn.Module, layers: int) -> Shapes:
    """The base in its original names."""
    shapes = shapes_of(transformer)
    names = [f"{module}.{kind}" for module in original.transformer_modules(layers) for kind in ("weight", "bias")]
    names += ["head.modulation", *(f"blocks.{block}.modulation" for block in range(layers))]
    renamed = original.transformer_names(names)
    found = {old: shapes[new] for old, new in renamed.items() if new in shapes}
    assert set(renamed.values()) >= set(shapes)
    return found


def original_vae_shapes(vae: nn.Module) -> Shapes:
    """The autoencoder in its original names, which the authors' small one has, too."""
    names = original.vae_names(tensors("vae_weights/vae"))
    return {old: shapes_of(vae)[new] for old, new in names.items()}


def original_t5_shapes(encoder: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in to_original_t5(encoder).items()}


def adapter_shapes(layers: int) -> Shapes:
    with torch.device("meta"):
        shapes = shapes_of(InfiniteTalkTransformer(num_layers=layers))
    prefix = "adapters.single."
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}


def wav2vec2_shapes() -> Shapes:
    with torch.device("meta"):
        encoder = Wav2Vec2ForPreTraining(Wav2Vec2Config())
    norm = "conv.parametrizations.weight.original"
    return {
        name.replace(f"{norm}0", "conv.weight_g").replace(f"{norm}1", "conv.weight_v"): shape
        for name, shape in shapes_of(encoder).items()
    }


def with_scales(shapes: Shapes, is_quantised: Callable[[str, tuple[int, ...]], bool]) -> Shapes:
    """With a scale for each layer that is in 8 bits, and the marker."""
    layers = [name.removesuffix(".weight") for name, shape in shapes.items() if is_quantised(name, shape)]
    return shapes | {f"{layer}.scale_weight": () for layer in layers} | {"scaled_fp8": (0,)}


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and name.endswith(".weight")


def write_comfyui_volume(profile: Profile, models: Path, layers: int | None = None) -> dict[str, int]:
    """All files of infinitetalk-14b-gguf or -fp8, in ComfyUI's folders. Returns their sizes in bytes by their names.

    layers: of the transformer and the text and picture encoders, and a tokenizer that can be read; if not given, all,
        and a hollow one.
    """
    modules, count = release_modules(layers), layers or LAYERS["transformer"]
    base, adapter = original_transformer_shapes(modules["transformer"], count), adapter_shapes(count)
    files, sizes = profile.files, {}

    def write(path: str | None, size_of: Callable[[Path], int]) -> None:
        assert path is not None
        sizes[Path(path).name] = size_of(models / path)

    def safetensors(shapes: Shapes, dtype: torch.dtype | Callable[[str, tuple[int, ...]], torch.dtype]):
        return lambda path: write_hollow_safetensors(path, shapes, dtype)

    if profile.name.endswith("gguf"):
        write(files.transformer, lambda path: write_hollow_gguf(path, base, _wan_q8_0))
        for path in (files.adapter_single, files.adapter_multi):
            write(path, lambda path: write_hollow_gguf(path, adapter, _adapter_q8_0))
        write(files.text_encoder, safetensors(original_t5_shapes(modules["text_encoder"]), torch.bfloat16))
        assert files.tokenizer is not None
        write_umt5_tokenizer(models / files.tokenizer)
    else:
        write(files.transformer, safetensors(base, lambda n, s: FP8 if is_matrix(n, s) else torch.float16))
        for path in (files.adapter_single, files.adapter_multi):
            write(path, safetensors(with_scales(adapter, _adapter_is_fp8), _adapter_fp8))
        text = shapes_of(modules["text_encoder"])
        del text["encoder.embed_tokens.weight"]  # the same tensor as shared.weight, stored once
        spiece = b"" if layers is None else train_sentencepiece()
        text = with_scales(text, _text_is_fp8) | {"spiece_model": (len(spiece) or SPIECE_BYTES,)}
        write(files.text_encoder, safetensors(text, _text_fp8))
        with (models / files.part("text_encoder")).open("r+b") as file:  # its last tensor
            file.seek(-len(spiece), 2)
            file.write(spiece)
    write(files.image_encoder, safetensors(shapes_of(modules["image_encoder"]), torch.float16))
    write(files.vae, safetensors(original_vae_shapes(modules["vae"]), torch.bfloat16))
    write(files.audio_encoder, safetensors(wav2vec2_shapes(), torch.float16))
    write(files.separator, safetensors(released_shapes(**RELEASED), torch.float16))
    write(profile.loras[0].file, safetensors(dict(lora_shapes(shapes_of(modules["transformer"]))), torch.bfloat16))
    return sizes


def _wan_q8_0(name: str, shape: tuple[int, ...]) -> Kind:
    if not is_matrix(name, shape):
        return Kind.F32
    return Kind.Q8_0 if name.startswith("blocks.") else Kind.F16


def _adapter_q8_0(name: str, shape: tuple[int, ...]) -> Kind:
    return Kind.Q8_0 if is_matrix(name, shape) else Kind.F32


def _adapter_is_fp8(name: str, shape: tuple[int, ...]) -> bool:
    return is_matrix(name, shape) and name.startswith("blocks.")


def _adapter_fp8(name: str, shape: tuple[int, ...]) -> torch.dtype:
    return FP8 if _adapter_is_fp8(name, shape) or name == "scaled_fp8" else torch.float32


def _text_is_fp8(name: str, shape: tuple[int, ...]) -> bool:
    return is_matrix(name, shape) and name.startswith("encoder.block.") and "relative" not in name


def _text_fp8(name: str, shape: tuple[int, ...]) -> torch.dtype:
    if name == "spiece_model":
        return torch.uint8
    if name.endswith("scale_weight"):
        return torch.float32
    return FP8 if _text_is_fp8(name, shape) or name == "scaled_fp8" else torch.float16
