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
    CLIPVisionModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
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
# transformers then reports misshaped weights by name, and _from_pretrained refuses them; otherwise it names none.
LIST_MISFITS: dict[str, Any] = {"ignore_mismatched_sizes": True}

# What the release's files hold beside the model that is used here, by the beginnings of names. A CLIP vision tower
# comes with its projection into the space that pictures share with text, wav2vec2 with what only its pretraining used.
CLIP_PROJECTION = ("visual_projection.weight",)
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
    return encoder.to(device).eval().requires_grad_(False), load_tokenizer(tokenizer_folder)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder's tokenizer.json, as it is, with the special tokens of its tokenizer_config.json.

    Not by AutoTokenizer, which builds a T5 tokenizer anew from its pieces and takes piece 2 for the unknown one: in
    umT5 that is <s>, and the unknown one is 3. Raises ModelMissing.
    """
    if not (folder / "tokenizer.json").is_file():
        raise ModelMissing(f"{folder / 'tokenizer.json'} is missing; fetch the model again.")
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # tokenizers raises bare Exception for a file that it cannot parse
        raise ModelMissing(f"{folder}: no tokenizer ({error}); fetch the model again.") from error
    if tokenizer.pad_token is None:
        raise ModelMissing(
            f"{folder / 'tokenizer_config.json'} is missing or names no pad_token; fetch the model again."
        )
    return tokenizer


def load_image_encoder(base: Path, device: torch.device, dtype: torch.dtype) -> CLIPVisionModel:
    """The CLIP vision tower."""
    if (base / "image_encoder").is_dir():
        folder = base / "image_encoder"
        encoder = _from_pretrained(CLIPVisionModel, folder, device, CLIP_PROJECTION, dtype=dtype, **LIST_MISFITS)
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
    encoder = _from_pretrained(Wav2Vec2Model, folder, device, PRETRAINING_HEADS, dtype=torch.float32, **LIST_MISFITS)
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


def _from_pretrained(
    kind: Any,  # noqa: ANN401
    folder: Path,
    device: torch.device,
    unused: tuple[str, ...] = (),
    **options: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """`kind.from_pretrained(folder)`, straight to the device, that accepts no missing and no misshaped weight.

    unused: beginnings of the names of weights that the folder may hold besides.
    """
    if not folder.is_dir():
        raise ModelMissing(f"{folder} is missing; fetch the model again.")
    options |= {"local_files_only": True, "output_loading_info": True, "device_map": {"": device}}
    try:
        model, info = kind.from_pretrained(folder, **options)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ModelMissing(f"{folder} cannot be loaded ({error}); fetch the model again.") from error
    misshaped = [f"{name} {list(found)} for {list(shape)}" for name, found, shape in info["mismatched_keys"]]
    extra = [name for name in sorted(info["unexpected_keys"]) if not name.startswith(unused)]
    wrong = [*sorted(info["missing_keys"]), *misshaped, *extra]
    if wrong:
        raise ModelMissing(f"{folder}: weights missing, of another shape or not of this model: {listed(wrong)}.")
    return model
