"""The autoencoder and the encoders of text, picture and voice, from folders of either layout or from single files."""

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
from infinitetalk.models import layouts, original
from infinitetalk.models.checkpoint import Checkpoint, Shapes, check_shapes, listed, read_config, weight_files
from infinitetalk.models.tokenizer import tokenizer_from_spiece
from infinitetalk.models.transformer_loading import PREFETCH_BLOCKS, read_ahead
from infinitetalk.models.weight_file import META

T5_FILE = "models_t5_umt5-xxl-enc-bf16.pth"
CLIP_FILE = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
VAE_FILE = "Wan2.1_VAE.pth"
TOKENIZER_FOLDER = "google/umt5-xxl"

# What files hold beside the model that is used here. A CLIP vision tower comes with its projection into the space that
# pictures share with text, and from older versions of transformers with the numbers of its positions; wav2vec2 with
# what only its pretraining used, by the beginnings of names; ComfyUI's text encoders with their sentencepiece model.
CLIP_UNUSED = ("visual_projection.weight", "vision_model.embeddings.position_ids")
SPIECE = "spiece_model"
PRETRAINING_HEADS = ("quantizer.", "project_q.", "project_hid.")
# What TencentGameMate/chinese-wav2vec2-base/preprocessor_config.json says, which has this sha256:
# c1707926644954affc391ab09ccfaf470ccd80af218d11350991090711441c09
CHINESE_WAV2VEC2_EXTRACTOR: dict[str, Any] = {
    "do_normalize": False,
    "feature_size": 1,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": False,
    "sampling_rate": 16000,
}
T5_TABLE = ("shared.weight", "encoder.embed_tokens.weight")  # one table under two names; files have either or both

# From a tensor in a file, by name, to what the model has in its place.
Place = Callable[[str, Tensor], Iterable[tuple[str, Tensor]]]


def load_vae(base: Path, device: torch.device, dtype: torch.dtype) -> AutoencoderKLWan:
    """The Wan video autoencoder, never tiled.

    Args:
        base: folder of the Wan model, or the autoencoder's own file.
    """
    folder = base / "vae"
    if (folder / "config.json").is_file():
        checkpoint = Checkpoint(weight_files(folder, "diffusion_pytorch_model"))
        vae = _empty(folder, lambda: AutoencoderKLWan.from_config(read_config(folder / "config.json")))
        return _fill(vae, checkpoint, _same, device, dtype)
    file = base if base.is_file() else base / VAE_FILE
    checkpoint = Checkpoint([file])
    names = layouts.vae_names(checkpoint.shapes)

    def place(name: str, tensor: Tensor) -> Iterable[tuple[str, Tensor]]:
        return [(names[name], tensor)]

    shapes = _shapes(checkpoint, place)
    sizes = {"base_dim": shapes["decoder.norm_out.gamma"][0], "z_dim": shapes["post_quant_conv.weight"][0]}
    vae = _empty(file, lambda: AutoencoderKLWan(**sizes))
    return _fill(vae, checkpoint, place, device, dtype)


def load_text_encoder(
    base: Path, device: torch.device, dtype: torch.dtype, tokenizer_folder: Path | None = None
) -> tuple[UMT5EncoderModel, PreTrainedTokenizerBase]:
    """The umT5 encoder and its tokenizer.

    Args:
        base: folder of the Wan model, or the encoder's own file.
        tokenizer_folder: of an own file that has no tokenizer in it; a Wan model's folder has one.
    """
    folder = base / "text_encoder"
    if folder.is_dir():
        checkpoint = Checkpoint(weight_files(folder, "model"))
        encoder = _empty(folder, lambda: UMT5EncoderModel(_settings(UMT5Config, folder)))
        tokenizer = partial(load_tokenizer, base / "tokenizer")
    else:
        file = base if base.is_file() else base / T5_FILE
        checkpoint = Checkpoint([file])
        config = original.t5_config(_shapes(checkpoint, _t5_places))
        encoder = _empty(file, lambda: UMT5EncoderModel(config))
        own = tokenizer_folder if base.is_file() else base / TOKENIZER_FOLDER
        tokenizer = partial(_tokenizer_of, checkpoint, own)
    encoder = _fill(encoder, checkpoint, _t5_places, device, dtype)
    encoder.tie_weights()
    return encoder, tokenizer()


def _t5_places(name: str, tensor: Tensor) -> Iterable[tuple[str, Tensor]]:
    new = original.t5_name(name)
    if new in T5_TABLE:
        return [(table, tensor) for table in T5_TABLE]
    return [] if name == SPIECE else [(new, tensor)]


def _tokenizer_of(checkpoint: Checkpoint, folder: Path | None) -> PreTrainedTokenizerBase:
    file = checkpoint.files[0]
    if SPIECE in checkpoint.shapes:
        return tokenizer_from_spiece(file, bytes(checkpoint.read(SPIECE).numpy()))
    if folder is None:
        raise ModelMissing(
            f"{file} has no tokenizer in it ({SPIECE}) and none is named: set files.tokenizer in the profile to a "
            "folder with umT5's tokenizer.json."
        )
    return load_tokenizer(folder)


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
    """The CLIP vision tower.

    Args:
        base: folder of the Wan model, or the tower's own file.
    """
    folder = base / "image_encoder"
    if folder.is_dir():
        checkpoint = Checkpoint(weight_files(folder, "model"))
        encoder = _empty(folder, lambda: CLIPVisionModel(_settings(CLIPVisionConfig, folder)))
    else:
        file = base if base.is_file() else base / CLIP_FILE
        checkpoint = Checkpoint([file])
        config = original.clip_config(_shapes(checkpoint, _clip_places))
        encoder = _empty(file, lambda: CLIPVisionModel(config))
    # Versions of transformers differ in the prefix of the tower's own names.
    prefix = "vision_model." if any(name.startswith("vision_model.") for name in encoder.state_dict()) else ""

    def place(name: str, tensor: Tensor) -> Iterable[tuple[str, Tensor]]:
        return [(prefix + new, part) for new, part in _clip_places(name, tensor)]

    return _fill(encoder, checkpoint, place, device, dtype)


def _clip_places(name: str, tensor: Tensor) -> Iterable[tuple[str, Tensor]]:
    """In the original file, `visual.` begins the names of what is used; the rest is the text half of CLIP."""
    if name.startswith("visual."):
        return original.clip_tensors(name, tensor)
    is_unused = name in CLIP_UNUSED or name.startswith(("textual.", "log_scale"))
    return [] if is_unused else [(name.removeprefix("vision_model."), tensor)]


def load_audio_encoder(folder: Path, device: torch.device) -> tuple[Wav2Vec2Model, Wav2Vec2FeatureExtractor]:
    """wav2vec2 in float32 (it is small, and lips follow it), and its feature extractor.

    transformers itself places the weights: it knows the spellings that such files have had.

    Args:
        folder: in transformers' layout; or one file with chinese-wav2vec2-base.
    """
    if folder.is_file():
        checkpoint = Checkpoint([folder])
    elif folder.is_dir():
        pickled = folder / "pytorch_model.bin"
        is_pickled = pickled.is_file() and not any(folder.glob("model*.safetensors"))
        checkpoint = Checkpoint([pickled] if is_pickled else weight_files(folder, "model"))
    else:
        raise ModelMissing(f"{folder} is missing; fetch the model again.")
    state = {name: checkpoint.decode(name, checkpoint.read(name, device)) for name in checkpoint.shapes}
    try:
        config, extractor = _chinese_wav2vec2(checkpoint) if folder.is_file() else _wav2vec2_in(folder)
        encoder, info = Wav2Vec2Model.from_pretrained(
            None,
            config=config,
            state_dict=state,
            dtype=torch.float32,
            device_map={"": device},
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # transformers then names them, and they are refused below
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise ModelMissing(f"{folder} cannot be loaded ({error}); fetch the model again.") from error
    misshaped = [f"{name} {list(found)} for {list(shape)}" for name, found, shape in info["mismatched_keys"]]
    extra = [name for name in sorted(info["unexpected_keys"]) if not name.startswith(PRETRAINING_HEADS)]
    wrong = [*sorted(info["missing_keys"]), *misshaped, *extra]
    if wrong:
        raise ModelMissing(f"{folder}: weights missing, of another shape or not of this model: {listed(wrong)}.")
    return encoder.to(device).eval().requires_grad_(False), extractor


def _wav2vec2_in(folder: Path) -> tuple[Wav2Vec2Config, Wav2Vec2FeatureExtractor]:
    extractor = _settings(Wav2Vec2FeatureExtractor, folder, "preprocessor_config.json")
    return _settings(Wav2Vec2Config, folder), extractor


def _chinese_wav2vec2(checkpoint: Checkpoint) -> tuple[Wav2Vec2Config, Wav2Vec2FeatureExtractor]:
    """The settings of chinese-wav2vec2-base, which its file alone does not say."""
    shapes = Shapes(checkpoint.files[0])
    shapes |= {name.removeprefix("wav2vec2."): shape for name, shape in checkpoint.shapes.items()}
    if "feature_extractor.conv_layers.1.layer_norm.weight" in shapes:
        raise ModelMissing(
            f"{shapes.file} is a wav2vec2 of the large kind, whose settings it does not say; put "
            "chinese-wav2vec2-base there, or name the folder of another one, with its config.json."
        )
    return original.wav2vec2_config(shapes), Wav2Vec2FeatureExtractor(**CHINESE_WAV2VEC2_EXTRACTOR)


def _settings(kind: Any, folder: Path, file: str = "config.json") -> Any:  # noqa: ANN401
    """What a class of transformers makes of a folder's settings. Raises ModelMissing, and what the class raises."""
    read_config(folder / file)  # transformers itself takes no care of files that hold no settings
    return kind.from_pretrained(folder, local_files_only=True)


def _same(name: str, tensor: Tensor) -> Iterable[tuple[str, Tensor]]:
    return [(name, tensor)]


def _empty(where: Path, make: Callable[[], Any]) -> Any:  # noqa: ANN401
    """A model without its weights. Raises ModelMissing where its settings are missing or no model's."""
    try:
        with init_empty_weights():
            return make()
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelMissing(f"{where}: its settings are no model's ({error}); fetch the model again.") from error


def _shapes(checkpoint: Checkpoint, place: Place) -> Shapes:
    """Shapes of what the model has in the place of a checkpoint's tensors."""
    shapes = Shapes(checkpoint.files[0])
    for name in checkpoint.shapes:
        shapes |= {new: tuple(tensor.shape) for new, tensor in place(name, checkpoint.read(name, META))}
    return shapes


def _fill(model: nn.Module, checkpoint: Checkpoint, place: Place, device: torch.device, dtype: torch.dtype) -> Any:  # noqa: ANN401
    """The model with a checkpoint's weights, on the device; each of them goes there as soon as it is read."""
    expected = {name: tuple(parameter.shape) for name, parameter in model.state_dict().items()}
    check_shapes(str(checkpoint.files[0]), expected, _shapes(checkpoint, place))

    def read(group: list[str]) -> dict[str, Tensor]:
        return {name: checkpoint.read(name, device) for name in group}

    for tensors in read_ahead([[name] for name in checkpoint.shapes], read, PREFETCH_BLOCKS):
        for name, raw in tensors.items():
            for new, part in place(name, checkpoint.decode(name, raw.to(device, non_blocking=True))):
                set_module_tensor_to_device(model, new, device, value=part, dtype=dtype)
    return model.to(device).eval().requires_grad_(False)
