"""All models of one set of weights, read from their files into the device's memory, where they stay.

Of the Wan model are read: a diffusers folder (transformer/, vae/, text_encoder/, tokenizer/, image_encoder/), the
original release (shards, Wan2.1_VAE.pth, models_t5_*.pth, models_clip_*.pth, google/), and each part in one file, as
ComfyUI has them. Formats and names: docs/weights.md.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
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
from infinitetalk.models.lanes import LaneModel, make_lanes
from infinitetalk.models.separator import load_separator
from infinitetalk.models.transformer import InfiniteTalkTransformer
from infinitetalk.models.transformer_loading import load_transformer
from infinitetalk.models.vae import to_video
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
        arithmetic, transformer: of the default lane, or of a job's: the transformer, and how it computes, with the
            kernels that were chosen.
        lanes: all lanes by name.
        separator: of vocals; None if no job can isolate them.
        decoder: decodes in another way than `vae` alone does; None: it does.
        n_gpus: on how many GPUs the transformer and the decoder run. Everything else is on `device`.
        check: raises RankFailed if one of the other GPUs' processes is lost.
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
    lanes: Mapping[str, LaneModel] = field(default_factory=dict)
    decoder: Callable[[Tensor], Tensor] | None = None
    n_gpus: int = 1
    check: Callable[[], None] = lambda: None

    def to_video(self, latents: Tensor) -> Tensor:
        """Video of latents, see `vae.to_video`."""
        return to_video(self.vae, latents) if self.decoder is None else self.decoder(latents)

    def in_lane(self, name: str | None) -> "Models":
        """The same models for a job in that lane; None is the default one. Raises KeyError if it was not opened."""
        if name is None:
            return self
        lane = self.lanes[name]
        return replace(self, arithmetic=lane.arithmetic, transformer=lane.transformer)


DEFAULT = Arithmetic()


def picture_dtype(dtype: torch.dtype) -> torch.dtype:
    """The picture encoder's number format beside large models in `dtype`: for bfloat16 the authors' float16.

    It takes no more room and keeps three more bits.
    """
    return torch.float16 if dtype == torch.bfloat16 else dtype


def load_models(
    files: WeightFiles, device: torch.device, dtype: torch.dtype, arithmetics: Sequence[Arithmetic] = (DEFAULT,)
) -> Models:
    """Read the models.

    Args:
        device: where the weights go and stay. On "meta" every name and shape is checked and no tensor is read.
        dtype: the number format of the large models' weights.
        arithmetics: how the transformer computes in each lane, the default first.

    Raises:
        ModelMissing: a file is missing or cut off, or its tensors are not this model's.
        ValueError: the device cannot compute in that way.
    """
    started_s = time.monotonic()
    if any(arithmetic.fp8 for arithmetic in arithmetics):
        check_fp8(device)
        chosen = next((one.fp8_scales for one in arithmetics if one.fp8 and one.fp8_scales != AUTO), None)
        scales = chosen or choose_scales(device)
        arithmetics = [replace(one, fp8_scales=scales) if one.fp8 else one for one in arithmetics]
    audio_encoder, audio_extractor = load_audio_encoder(files.audio_encoder, device)
    transformer = load_transformer(
        files.transformer,
        files.adapters,
        files.loras,
        audio_encoder.config.num_hidden_layers,
        device,
        dtype,
        arithmetics[0].fp8_scales if all(arithmetic.fp8 for arithmetic in arithmetics) else None,
    )
    lanes = make_lanes(transformer, arithmetics)
    default = next(iter(lanes.values()))
    text_encoder, tokenizer = load_text_encoder(files.text_encoder, device, dtype, files.tokenizer)
    models = Models(
        device=device,
        dtype=dtype,
        arithmetic=default.arithmetic,
        transformer=default.transformer,
        vae=load_vae(files.vae, device, dtype),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        image_encoder=load_image_encoder(files.image_encoder, device, picture_dtype(dtype)),
        audio_encoder=audio_encoder,
        audio_extractor=audio_extractor,
        separator=None if files.separator is None else load_separator(files.separator, device),
        lanes=lanes,
    )
    if device.type == "cuda":
        torch._C._host_emptyCache()  # torch would keep the pinned memory that the weights came through
    logger.info("The models are on %s after %.1f s", device, time.monotonic() - started_s)
    return models


def make_fast(models: Models, *, compiled: bool = False, compiled_files: CompiledFiles | None = None) -> None:
    """Make models fast that are on a GPU.

    Args:
        compiled: compile the transformer's blocks and parts of the autoencoder.
        compiled_files: where what was compiled is kept for the workers that start later.
    """
    if models.device.type == "cuda":
        for lane in models.lanes.values() if compiled else ():
            compile_transformer(cast(InfiniteTalkTransformer, lane.transformer), lane.arithmetic, compiled_files)
        optimise_vae(models.vae, compiled)
