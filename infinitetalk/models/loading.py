"""All models of a profile, read from their files into the device's memory, where they stay.

Two layouts of the Wan base are read: a diffusers folder (transformer/, vae/, text_encoder/, tokenizer/,
image_encoder/) and the original release (shards, Wan2.1_VAE.pth, models_t5_*.pth, models_clip_*.pth, google/).
"""

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from diffusers import AutoencoderKLWan
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    CLIPVisionModel,
    PreTrainedTokenizerBase,
    UMT5EncoderModel,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from infinitetalk.contract.presets import CONSTANTS, Profile
from infinitetalk.contract.settings import AUTO
from infinitetalk.errors import ModelMissing
from infinitetalk.models import original
from infinitetalk.models.attention import FLASH_3, fastest_kernel, find_kernel, flash_3_fp8_attention
from infinitetalk.models.checkpoint import LISTED, Checkpoint, check_shapes, weight_files
from infinitetalk.models.fp8 import check_fp8, quantise_block
from infinitetalk.models.lora import LoraSet
from infinitetalk.models.transformer import InfiniteTalkTransformer
from infinitetalk.startup.weights import Weights

T5_FILE = "models_t5_umt5-xxl-enc-bf16.pth"
CLIP_FILE = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
VAE_FILE = "Wan2.1_VAE.pth"
TOKENIZER_FOLDER = "google/umt5-xxl"
# transformers then reports misshaped weights by name, and _from_pretrained refuses them; otherwise it names none.
LIST_MISFITS = {"ignore_mismatched_sizes": True}

# One thread waits for the disk, or copies, at a fraction of what the disk and the memory give.
READERS = 4

OUTSIDE = -1  # the number of the block for what belongs to none

# wav2vec2 files may hold what only its pretraining used.
PRETRAINING_HEADS = ("quantizer.", "project_q.", "project_hid.")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Models:
    """Everything a job needs, resident on one device."""

    profile: Profile
    device: torch.device
    dtype: torch.dtype
    transformer: InfiniteTalkTransformer
    vae: AutoencoderKLWan
    text_encoder: UMT5EncoderModel
    tokenizer: PreTrainedTokenizerBase
    image_encoder: CLIPVisionModel
    audio_encoder: Wav2Vec2Model
    audio_extractor: Wav2Vec2FeatureExtractor


def load_models(
    profile: Profile,
    weights: Weights,
    device: torch.device,
    attention_backend: str = AUTO,
    fp8: bool = False,
    sparse_density: float | None = None,
) -> Models:
    """Load a profile's models.

    Args:
        weights: where the profile's files lie.
        device: where the weights go and stay. On "meta" every name and shape is checked and no tensor is read.
        attention_backend, fp8, sparse_density: see `set_attention_backend`; fp8 also makes large linear layers 8-bit.

    Raises:
        ModelMissing: a file is missing or cut off, or its tensors are not this model's.
        ValueError: the device cannot do what the last three ask for.
    """
    if fp8:
        check_fp8(device)
    dtype = getattr(torch, profile.dtype)
    base = weights.path(profile.files.base)
    adapters = {
        "single": weights.path(profile.files.adapter_single),
        "multi": weights.path(profile.files.adapter_multi),
    }
    loras = [(weights.path(lora.file), lora.scale) for lora in profile.loras]
    started_s = time.monotonic()
    audio_encoder, audio_extractor = load_audio_encoder(weights.path(profile.files.audio_encoder), device)
    transformer = load_transformer(base, adapters, loras, audio_encoder.config.num_hidden_layers, device, dtype, fp8)
    set_attention_backend(transformer, attention_backend, fp8, sparse_density)
    text_encoder, tokenizer = load_text_encoder(base, device, dtype)
    models = Models(
        profile=profile,
        device=device,
        dtype=dtype,
        transformer=transformer,
        vae=load_vae(base, device, dtype),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        image_encoder=load_image_encoder(base, device, dtype),
        audio_encoder=audio_encoder,
        audio_extractor=audio_extractor,
    )
    if device.type == "cuda":
        torch._C._host_emptyCache()  # torch would keep the pinned memory that the weights came through
    if device.type != "meta":
        logger.info("%s is on %s after %.1f s", profile.name, device, time.monotonic() - started_s)
    return models


def set_attention_backend(
    transformer: InfiniteTalkTransformer, name: str, fp8: bool = False, sparse_density: float | None = None
) -> None:
    """Choose the attention kernels.

    Args:
        name: by diffusers' name; "auto" measures which is fastest.
        fp8: the self-attention in 8 bits, where FlashAttention-3 is the kernel.
        sparse_density: experimental, the part of the self-attention that is computed; see `sparse_attention`.

    Raises:
        ValueError: the kernel is unknown or not installed.
    """
    if name == AUTO:
        config = transformer.config
        name = fastest_kernel(
            transformer.device, config.num_attention_heads, config.attention_head_dim, transformer.dtype
        )
    try:
        if name != FLASH_3:
            transformer.set_attention_backend(name)  # checks that it is installed
        attention = find_kernel(name)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the attention backend {name!r} cannot be used: {error}") from error
    self_attention, names = None, name
    if sparse_density is not None:
        names = f"{100 * sparse_density:g} % of the self-attention by FlexAttention, {name}"
    elif fp8 and name == FLASH_3:
        self_attention, names = flash_3_fp8_attention(), f"{name} (self-attention in 8 bits)"
    for block in transformer.blocks:
        block.attention = attention  # type: ignore[assignment]
        block.self_attention = self_attention  # type: ignore[assignment]
        block.self_attention_density = sparse_density  # type: ignore[assignment]
    transformer.attention_names = names


# --- transformer ---------------------------------------------------------------------------------------------


def load_transformer(
    base: Path,
    adapters: Mapping[str, Path],
    loras: Iterable[tuple[Path, float]],
    audio_layers: int,
    device: torch.device,
    dtype: torch.dtype,
    fp8: bool = False,
) -> InfiniteTalkTransformer:
    """The transformer with its adapters, LoRAs merged.

    Args:
        base: folder of the Wan model in either layout.
        adapters: adapter files by name.
        loras: files and their scales.
        audio_layers: layers that the audio encoder hands over.
        fp8: large linear layers in 8 bits, quantised block by block as they come.

    Raises:
        ModelMissing: see `load_models`.
    """
    is_diffusers = (base / "transformer" / "config.json").is_file()
    weights = base / "transformer" if is_diffusers else base
    config = _read_config(weights / "config.json")
    checkpoint = Checkpoint(weight_files(weights, "diffusion_pytorch_model"))
    names = (
        {name: name for name in checkpoint.shapes} if is_diffusers else original.transformer_names(checkpoint.shapes)
    )
    sources = {new: (checkpoint, name) for name, new in names.items()}

    adapter_files = {name: Checkpoint([path]) for name, path in adapters.items()}
    sizes = {}
    for name, file in adapter_files.items():
        sizes[name] = _adapter_sizes(adapters[name], file, audio_layers)
        sources |= {f"adapters.{name}.{key}": (file, key) for key in file.shapes}
    with init_empty_weights():
        transformer = InfiniteTalkTransformer(
            **_transformer_config(config, checkpoint, names),
            **next(iter(sizes.values())),
            adapter_names=list(adapters),
        )
    expected = {name: tuple(parameter.shape) for name, parameter in transformer.state_dict().items()}
    found = {new: source.shapes[name] for new, (source, name) in sources.items()}
    check_shapes(f"{base.name} with {' and '.join(path.name for path in adapters.values())}", expected, found)

    changes = LoraSet()
    for path, scale in loras:
        changes.add(path, scale, lambda name: _lora_targets(name, tuple(adapters)), expected.keys())
    keep_float32 = set(transformer._keep_in_fp32_modules)

    def read(group: list[str]) -> dict[str, Tensor]:
        tensors = {name: sources[name][0].read(sources[name][1]) for name in group}
        if device.type == "meta":
            return {name: tensor.to(device) for name, tensor in tensors.items()}
        # Memory-mapped until here; the copy is what reads the disk. Pinned, it goes to the GPU at full speed.
        return {name: t.pin_memory() if device.type == "cuda" else t.clone() for name, t in tensors.items()}

    groups = _by_block(sources)
    for index, tensors in zip(groups, _read_ahead(groups.values(), read, CONSTANTS.prefetch_blocks), strict=True):
        for name, tensor in tensors.items():
            target = torch.float32 if keep_float32 & set(name.split(".")) else dtype
            merged = changes.merge(name, tensor.to(device, non_blocking=True))
            set_module_tensor_to_device(transformer, name, device, value=merged, dtype=target)
        if fp8 and index != OUTSIDE:
            quantise_block(transformer, index)
    transformer.to(device).eval().requires_grad_(False)
    return cast(InfiniteTalkTransformer, transformer)


def _lora_targets(name: str, adapters: tuple[str, ...]) -> list[str]:
    """The transformer's names of a weight that a LoRA calls `name`: its own, or the original one."""
    if ".audio_cross_attn." in name or ".norm_x." in name or name.startswith("audio_proj."):
        return [f"adapters.{adapter}.{name}" for adapter in adapters]
    return [name, original.transformer_names([name])[name]]


def _transformer_config(config: Mapping[str, Any], checkpoint: Checkpoint, names: Mapping[str, str]) -> dict[str, Any]:
    """Constructor arguments, from the config file of either layout and, where it is silent, the tensors' shapes."""
    shapes = {new: checkpoint.shapes[name] for name, new in names.items()}
    try:
        heads = config["num_attention_heads"] if "num_attention_heads" in config else config["num_heads"]
        dim, in_channels, *patch = shapes["patch_embedding.weight"]
        return {
            "patch_size": tuple(patch),
            "num_attention_heads": heads,
            "attention_head_dim": dim // heads,
            "in_channels": in_channels,
            "out_channels": config.get("out_channels", config.get("out_dim", 16)),
            "text_dim": shapes["condition_embedder.text_embedder.linear_1.weight"][1],
            "freq_dim": shapes["condition_embedder.time_embedder.linear_1.weight"][1],
            "ffn_dim": shapes["blocks.0.ffn.net.0.proj.weight"][0],
            "num_layers": len({name.split(".")[1] for name in shapes if name.startswith("blocks.")}),
            "eps": config.get("eps", 1e-6),
            "image_dim": shapes["condition_embedder.image_embedder.norm1.weight"][0],
        }
    except KeyError as error:
        raise ModelMissing(
            f"{checkpoint.files[0].parent}: no {error.args[0]}; this is not a Wan2.1 image-to-video transformer."
        ) from error


def _adapter_sizes(path: Path, file: Checkpoint, audio_layers: int) -> dict[str, int]:
    hidden, first_slots = file.shapes["audio_proj.proj1.weight"]
    audio_dim = file.shapes["audio_proj.norm.weight"][0]
    tokens = file.shapes["audio_proj.proj3.weight"][0] // audio_dim
    channels, rest = divmod(first_slots, 5 * audio_layers)
    if rest:
        raise ModelMissing(f"{path.name}: made for another audio encoder than the {audio_layers} layers of this one.")
    return {
        "audio_layers": audio_layers,
        "audio_channels": channels,
        "audio_hidden": hidden,
        "audio_tokens": tokens,
        "audio_dim": audio_dim,
    }


def _by_block(names: Iterable[str]) -> dict[int, list[str]]:
    """Names by transformer block (a block's adapters with it), in order; what is `OUTSIDE` of them comes first."""
    groups: dict[int, list[str]] = {}
    for name in names:
        parts = name.split(".")
        block = int(parts[parts.index("blocks") + 1]) if "blocks" in parts else OUTSIDE
        groups.setdefault(block, []).append(name)
    return dict(sorted(groups.items()))


def _read_ahead(
    groups: Iterable[list[str]], read: Callable[[list[str]], dict[str, Tensor]], ahead: int
) -> Iterator[dict[str, Tensor]]:
    """Read groups in threads and give them in order, at most `ahead` of them before they are taken."""
    with ThreadPoolExecutor(READERS, "weights") as executor:
        pending: deque[Future[dict[str, Tensor]]] = deque()
        for group in groups:
            pending.append(executor.submit(read, group))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


# --- encoders and autoencoder --------------------------------------------------------------------------------


def load_vae(base: Path, device: torch.device, dtype: torch.dtype) -> AutoencoderKLWan:
    """The Wan video autoencoder, never tiled."""
    if (base / "vae" / "config.json").is_file():
        vae = _from_pretrained(AutoencoderKLWan, base / "vae", device, torch_dtype=dtype)
    else:
        checkpoint = Checkpoint([base / VAE_FILE])
        names = original.vae_names(checkpoint.shapes)
        with init_empty_weights():
            vae = AutoencoderKLWan(
                base_dim=checkpoint.shapes["decoder.head.0.gamma"][0],
                z_dim=checkpoint.shapes["conv2.weight"][0],
            )
        _assign(vae, VAE_FILE, {new: checkpoint.read(name) for name, new in names.items()}, device, dtype)
    return vae.to(device).eval().requires_grad_(False)


def load_text_encoder(
    base: Path, device: torch.device, dtype: torch.dtype
) -> tuple[UMT5EncoderModel, PreTrainedTokenizerBase]:
    """The umT5 encoder and its tokenizer."""
    if (base / "text_encoder").is_dir():
        encoder = _from_pretrained(UMT5EncoderModel, base / "text_encoder", device, dtype=dtype, **LIST_MISFITS)
        tokenizer_folder = base / "tokenizer"
    else:
        checkpoint = Checkpoint([base / T5_FILE])
        with init_empty_weights():
            encoder = UMT5EncoderModel(original.t5_config(checkpoint.shapes))
        tensors = {original.t5_name(name): checkpoint.read(name) for name in checkpoint.shapes}
        tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"]
        _assign(encoder, T5_FILE, tensors, device, dtype)
        encoder.tie_weights()
        tokenizer_folder = base / TOKENIZER_FOLDER
    try:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelMissing(f"{tokenizer_folder}: no tokenizer ({error}); fetch the model again.") from error
    return encoder.to(device).eval().requires_grad_(False), tokenizer


def load_image_encoder(base: Path, device: torch.device, dtype: torch.dtype) -> CLIPVisionModel:
    """The CLIP vision tower."""
    if (base / "image_encoder").is_dir():
        encoder = _from_pretrained(CLIPVisionModel, base / "image_encoder", device, dtype=dtype, **LIST_MISFITS)
    else:
        checkpoint = Checkpoint([base / CLIP_FILE])
        with init_empty_weights():
            encoder = CLIPVisionModel(original.clip_config(checkpoint.shapes))
        prefix = "vision_model." if any(name.startswith("vision_model.") for name in encoder.state_dict()) else ""
        tensors = {
            prefix + new: tensor
            for name in checkpoint.shapes
            if name.startswith("visual.")  # the text half of CLIP is not used
            for new, tensor in original.clip_tensors(name, checkpoint.read(name))
        }
        _assign(encoder, CLIP_FILE, tensors, device, dtype)
    return encoder.to(device).eval().requires_grad_(False)


def load_audio_encoder(folder: Path, device: torch.device) -> tuple[Wav2Vec2Model, Wav2Vec2FeatureExtractor]:
    """wav2vec2 in float32 (it is small, and lips follow it), and its feature extractor."""
    encoder = _from_pretrained(Wav2Vec2Model, folder, device, dtype=torch.float32, **LIST_MISFITS)
    try:
        extractor = Wav2Vec2FeatureExtractor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelMissing(f"{folder}: no feature extractor ({error}); fetch the model again.") from error
    return encoder.to(device).eval().requires_grad_(False), extractor


def _assign(
    model: nn.Module, what: str, tensors: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
) -> None:
    expected = {name: tuple(parameter.shape) for name, parameter in model.state_dict().items()}
    check_shapes(what, expected, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    for name, tensor in tensors.items():
        set_module_tensor_to_device(model, name, device, value=tensor, dtype=dtype)


def _from_pretrained(kind: Any, folder: Path, device: torch.device, **options: Any) -> Any:  # noqa: ANN401
    """`kind.from_pretrained(folder)`, straight to the device, that accepts no missing and no misshaped weight."""
    if not folder.is_dir():
        raise ModelMissing(f"{folder} is missing; fetch the model again.")
    options |= {"local_files_only": True, "output_loading_info": True, "device_map": {"": device}}
    try:
        model, info = kind.from_pretrained(folder, **options)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ModelMissing(f"{folder} cannot be loaded ({error}); fetch the model again.") from error
    misshaped = [f"{name} {list(found)} for {list(shape)}" for name, found, shape in info["mismatched_keys"]]
    extra = [name for name in sorted(info["unexpected_keys"]) if not name.startswith(PRETRAINING_HEADS)]
    wrong = [*sorted(info["missing_keys"]), *misshaped, *extra]
    if wrong:
        more = f" and {len(wrong) - LISTED} more" if len(wrong) > LISTED else ""
        raise ModelMissing(
            f"{folder}: weights missing, of another shape or not of this model: {', '.join(wrong[:LISTED])}{more}."
        )
    return model


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ModelMissing(f"{path} is missing; fetch the model again.") from error
    except ValueError as error:
        raise ModelMissing(f"{path} is not valid JSON; fetch the model again.") from error
    if not isinstance(config, dict):
        raise ModelMissing(f"{path} holds no settings; fetch the model again.")
    return config
