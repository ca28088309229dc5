"""The autoencoder and the encoders of text, picture and voice, from either layout of their files."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from infinitetalk.errors import ModelMissing
from infinitetalk.models import original
from infinitetalk.models.checkpoint import Checkpoint, check_shapes, listed, read_config, weight_files
from infinitetalk.models.transformer_loading import PREFETCH_BLOCKS, read_ahead
from infinitetalk.models.weight_file import META

T5_FILE = "models_t5_umt5-xxl-enc-bf16.pth"
CLIP_FILE = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
VAE_FILE = "Wan2.1_VAE.pth"
TOKENIZER_FOLDER = "google/umt5-xxl"

# What the release's files hold beside the model that is used here, by the beginnings of names. A CLIP vision tower
# comes with its projection into the space that pictures share with text, wav2vec2 with what only its pretraining used.
CLIP_PROJECTION = "visual_projection.weight"
PRETRAINING_HEADS = ("quantizer.", "project_q.", "project_hid.")
T5_TABLE = ("shared.weight", "encoder.embed_tokens.weight")  # one table under two names; files have either or both

# From a tensor in a file, by name, to what the model has in its place.
Place = Callable[[str, Tensor], Iterable[tuple[str, Tensor]]]


def load_vae(base: Path, device: torch.device, dtype: torch.dtype) -> AutoencoderKLWan:
    """The Wan video autoencoder, never tiled."""
    folder = base / "vae"
    if (folder / "config.json").is_file():
        checkpoint = Checkpoint(weight_files(folder, "diffusion_pytorch_model"))
        vae = _empty(folder, lambda: AutoencoderKLWan.from_config(read_config(folder / "config.json")))
        return _fill(vae, checkpoint, _same, device, dtype)
    checkpoint = Checkpoint([base / VAE_FILE])
    names = original.vae_names(checkpoint.shapes)
    sizes = {
        "base_dim": checkpoint.shapes["decoder.head.0.gamma"][0],
        "z_dim": checkpoint.shapes["conv2.weight"][0],
    }
    vae = _empty(base / VAE_FILE, lambda: AutoencoderKLWan(**sizes))
    return _fill(vae, checkpoint, lambda name, tensor: [(names[name], tensor)], device, dtype)


def load_text_encoder(
    base: Path, device: torch.device, dtype: torch.dtype
) -> tuple[UMT5EncoderModel, PreTrainedTokenizerBase]:
    """The umT5 encoder and its tokenizer."""
    folder = base / "text_encoder"
    rename: Callable[[str], str]
    if folder.is_dir():
        checkpoint = Checkpoint(weight_files(folder, "model"))
        read_settings = partial(UMT5Config.from_pretrained, folder, local_files_only=True)
        encoder = _empty(folder, lambda: UMT5EncoderModel(read_settings()))
        rename, tokenizer_folder = str, base / "tokenizer"
    else:
        checkpoint = Checkpoint([base / T5_FILE])
        config = original.t5_config(checkpoint.shapes)
        encoder = _empty(base / T5_FILE, lambda: UMT5EncoderModel(config))
        rename, tokenizer_folder = original.t5_name, base / TOKENIZER_FOLDER

    def place(name: str, tensor: Tensor) -> Iterable[tuple[str, Tensor]]:
        new = rename(name)
        return [(other, tensor) for other in (T5_TABLE if new in T5_TABLE else (new,))]

    encoder = _fill(encoder, checkpoint, place, device, dtype)
    encoder.tie_weights()
    return encoder, load_tokenizer(tokenizer_folder)


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
    folder = base / "image_encoder"
    names: Place
    if folder.is_dir():
        checkpoint = Checkpoint(weight_files(folder, "model"))
        encoder = _empty(
            folder, lambda: CLIPVisionModel(CLIPVisionConfig.from_pretrained(folder, local_files_only=True))
        )

        def names(name: str, tensor: Tensor) -> Iterable[tuple[str, Tensor]]:
            return [] if name == CLIP_PROJECTION else [(name.removeprefix("vision_model."), tensor)]
    else:
        checkpoint = Checkpoint([base / CLIP_FILE])
        config = original.clip_config(checkpoint.shapes)
        encoder = _empty(base / CLIP_FILE, lambda: CLIPVisionModel(config))

        def names(name: str, tensor: Tensor) -> Iterable[tuple[str, Tensor]]:
            # the text half of CLIP is not used
            return original.clip_tensors(name, tensor) if name.startswith("visual.") else []

    # Versions of transformers differ in the prefix of the tower's own names.
    prefix = "vision_model." if any(name.startswith("vision_model.") for name in encoder.state_dict()) else ""

    def place(name: str, tensor: Tensor) -> Iterable[tuple[str, Tensor]]:
        return [(prefix + new, part) for new, part in names(name, tensor)]

    return _fill(encoder, checkpoint, place, device, dtype)


def load_audio_encoder(folder: Path, device: torch.device) -> tuple[Wav2Vec2Model, Wav2Vec2FeatureExtractor]:
    """wav2vec2 in float32 (it is small, and lips follow it), and its feature extractor.

    transformers itself places the weights: it knows the spellings that such files have had.
    """
    if not folder.is_dir():
        raise ModelMissing(f"{folder} is missing; fetch the model again.")
    pickled = folder / "pytorch_model.bin"
    is_pickled = pickled.is_file() and not any(folder.glob("model*.safetensors"))
    checkpoint = Checkpoint([pickled] if is_pickled else weight_files(folder, "model"))
    state = {name: checkpoint.read(name, device) for name in checkpoint.shapes}
    try:
        encoder, info = Wav2Vec2Model.from_pretrained(
            None,
            config=Wav2Vec2Config.from_pretrained(folder, local_files_only=True),
            state_dict=state,
            dtype=torch.float32,
            device_map={"": device},
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # transformers then names them, and they are refused below
        )
        extractor = Wav2Vec2FeatureExtractor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelMissing(f"{folder} cannot be loaded ({error}); fetch the model again.") from error
    misshaped = [f"{name} {list(found)} for {list(shape)}" for name, found, shape in info["mismatched_keys"]]
    extra = [name for name in sorted(info["unexpected_keys"]) if not name.startswith(PRETRAINING_HEADS)]
    wrong = [*sorted(info["missing_keys"]), *misshaped, *extra]
    if wrong:
        raise ModelMissing(f"{folder}: weights missing, of another shape or not of this model: {listed(wrong)}.")
    return encoder.to(device).eval().requires_grad_(False), extractor


def _same(name: str, tensor: Tensor) -> Iterable[tuple[str, Tensor]]:
    return [(name, tensor)]


def _empty(where: Path, make: Callable[[], Any]) -> Any:  # noqa: ANN401
    """A model without its weights. Raises ModelMissing where its settings are missing or no model's."""
    try:
        with init_empty_weights():
            return make()
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelMissing(f"{where}: its settings are no model's ({error}); fetch the model again.") from error


def _fill(model: nn.Module, checkpoint: Checkpoint, place: Place, device: torch.device, dtype: torch.dtype) -> Any:  # noqa: ANN401
    """The model with a checkpoint's weights, on the device; each of them goes there as soon as it is read."""
    expected = {name: tuple(parameter.shape) for name, parameter in model.state_dict().items()}
    found = {
        new: tuple(tensor.shape)
        for name in checkpoint.shapes
        for new, tensor in place(name, checkpoint.read(name, META))
    }
    check_shapes(str(checkpoint.files[0]), expected, found)

    def read(group: list[str]) -> dict[str, Tensor]:
        return {name: checkpoint.read(name, device) for name in group}

    for tensors in read_ahead([[name] for name in checkpoint.shapes], read, PREFETCH_BLOCKS):
        for name, tensor in tensors.items():
            for new, part in place(name, tensor.to(device, non_blocking=True)):
                set_module_tensor_to_device(model, new, device, value=part, dtype=dtype)
    return model.to(device).eval().requires_grad_(False)
