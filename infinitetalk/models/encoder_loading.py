"""The autoencoder and the encoders of text, picture and voice, from either layout of their files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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

from infinitetalk.errors import ModelMissing
from infinitetalk.models import original
from infinitetalk.models.checkpoint import Checkpoint, check_shapes, listed

T5_FILE = "models_t5_umt5-xxl-enc-bf16.pth"
CLIP_FILE = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
VAE_FILE = "Wan2.1_VAE.pth"
TOKENIZER_FOLDER = "google/umt5-xxl"
# With this option transformers reports misshaped weights by name, and _from_pretrained refuses them. Without it
# transformers names none.
LIST_MISFITS = {"ignore_mismatched_sizes": True}

# wav2vec2 files may hold what only its pretraining used.
PRETRAINING_HEADS = ("quantizer.", "project_q.", "project_hid.")


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
    """wav2vec2 and its feature extractor. It runs in float32: it is small, and lips depend on it."""
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
    """`kind.from_pretrained(folder)`, straight to the device. It accepts no missing, misshaped or unknown weight."""
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
        raise ModelMissing(f"{folder}: weights missing, of another shape or not of this model: {listed(wrong)}.")
    return model
