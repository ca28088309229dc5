"""All models of one set of weights, read from their files into the device's memory, where they stay.

Of the Wan model are read: a diffusers folder (transformer/, vae/, text_encoder/, tokenizer/, image_encoder/), the
original release (shards, Wan2.1_VAE.pth, models_t5_*.pth, models_clip_*.pth, google/), and each part in one file, as
ComfyUI has them. Formats and names: docs/weights.md.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from diffusers import AutoencoderKLWan
from torch import nn
from transformers import (
    CLIPVisionModel,
    PreTrainedTokenizerBase,
    UMT5EncoderModel,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from infinitetalk.arithmetic import AUTO, Arithmetic
from infinitetalk.models.compiling import CompiledFiles, compile_transformer
from infinitetalk.models.encoder_loading import load_audio_encoder, load_image_encoder, load_text_encoder, load_vae
from infinitetalk.models.fast_vae import optimise_vae
from infinitetalk.models.fp8 import check_fp8, choose_scales
from infinitetalk.models.kernels import choose_kernels
from infinitetalk.models.separator import load_separator
from infinitetalk.models.transformer import InfiniteTalkTransformer
from infinitetalk.models.transformer_loading import load_transformer
from infinitetalk.models.video_transformer import VideoTransformer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WeightFiles:
    """Where the files of one set of weights lie.

    Args:
        transformer, text_encoder, image_encoder, vae: folder of a Wan model, or a file with that part.
        audio_encoder: folder of wav2vec2, or its file.
        tokenizer: folder; of a text encoder in a file that has no tokenizer in it.
        adapters: adapter files by name, see `transformer.ADAPTERS`.
        loras: files and their scales.
        separator: of vocals; None: no job isolates them.
    """

    transformer: Path
    text_encoder: Path
    image_encoder: Path
    vae: Path
    audio_encoder: Path
    adapters: Mapping[str, Path]
    tokenizer: Path | None = None
    loras: tuple[tuple[Path, float], ...] = ()
    separator: Path | None = None


@dataclass(frozen=True)
class Models:
    """Everything that a job needs, resident on one device: nothing is swapped, offloaded or tiled.

    Args:
        dtype: the number format of the large models' weights: transformer, text encoder and autoencoder. The audio
            encoder and the separator have float32, the picture encoder what `picture_dtype` says.
        arithmetic: how the transformer computes, with the kernel that was chosen.
        separator: of vocals; None if no job can isolate them.
    """

    device: torch.device
    dtype: torch.dtype
    arithmetic: Arithmetic
    transformer: VideoTransformer
    vae: AutoencoderKLWan
    text_encoder: UMT5EncoderModel
    tokenizer: PreTrainedTokenizerBase
    image_encoder: CLIPVisionModel
    audio_encoder: Wav2Vec2Model
    audio_extractor: Wav2Vec2FeatureExtractor
    separator: nn.Module | None = None


DEFAULT = Arithmetic()


def picture_dtype(dtype: torch.dtype) -> torch.dtype:
    """The picture encoder's number format beside large models in `dtype`: for bfloat16 the authors' float16.

    It takes no more room and keeps three more bits.
    """
    return torch.float16 if dtype == torch.bfloat16 else dtype


def load_models(
    files: WeightFiles, device: torch.device, dtype: torch.dtype, arithmetic: Arithmetic = DEFAULT
) -> Models:
    """Read the models.

    Args:
        device: where the weights go and stay. On "meta" every name and shape is checked and no tensor is read.
        dtype: the number format of the large models' weights.
        arithmetic: how the transformer computes.

    Raises:
        ModelMissing: a file is missing or cut off, or its tensors are not this model's.
        ValueError: the device cannot compute in that way.
    """
    if arithmetic.fp8:
        check_fp8(device)
        if arithmetic.fp8_scales == AUTO:
            arithmetic = replace(arithmetic, fp8_scales=choose_scales(device))
    audio_encoder, audio_extractor = load_audio_encoder(files.audio_encoder, device)
    transformer = load_transformer(
        files.transformer,
        files.adapters,
        files.loras,
        audio_encoder.config.num_hidden_layers,
        device,
        dtype,
        arithmetic.fp8_scales if arithmetic.fp8 else None,
    )
    kernels, arithmetic = choose_kernels(transformer, arithmetic)
    transformer.use_kernels(kernels)
    text_encoder, tokenizer = load_text_encoder(files.text_encoder, device, dtype, files.tokenizer)
    models = Models(
        device=device,
        dtype=dtype,
        arithmetic=arithmetic,
        transformer=transformer,
        vae=load_vae(files.vae, device, dtype),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        image_encoder=load_image_encoder(files.image_encoder, device, picture_dtype(dtype)),
        audio_encoder=audio_encoder,
        audio_extractor=audio_extractor,
        separator=None if files.separator is None else load_separator(files.separator, device),
    )
    if device.type == "cuda":
        torch._C._host_emptyCache()  # torch would keep the pinned memory that the weights came through
    return models


def open_models(
    files: WeightFiles,
    device: torch.device,
    dtype: torch.dtype,
    arithmetic: Arithmetic = DEFAULT,
    *,
    compiled: bool = False,
    compiled_files: CompiledFiles | None = None,
) -> Models:
    """Read the models and make them fast. The first arguments and the errors are those of `load_models`.

    Args:
        compiled: on a GPU, compile the transformer's blocks and parts of the autoencoder.
        compiled_files: where what was compiled is kept for the workers that start later.
    """
    started_s = time.monotonic()
    models = load_models(files, device, dtype, arithmetic)
    logger.info("The models are on %s after %.1f s", device, time.monotonic() - started_s)
    if device.type == "cuda":
        if compiled:
            compile_transformer(cast(InfiniteTalkTransformer, models.transformer), models.arithmetic, compiled_files)
        optimise_vae(models.vae, compiled)
    return models
