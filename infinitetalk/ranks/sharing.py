"""Models whose passes and decoding all ranks make together."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from infinitetalk.models.compiling import CompiledFiles, compile_transformer
from infinitetalk.models.fast_vae import optimise_vae
from infinitetalk.models.lanes import LaneModel
from infinitetalk.models.opening import Models
from infinitetalk.models.split_vae import SplitDecoder
from infinitetalk.models.transformer import InfiniteTalkTransformer
from infinitetalk.models.video_transformer import AudioContext, Context, KeyValue, Rotary, TimeEmbedding
from infinitetalk.ranks.group import Ranks
from infinitetalk.ranks.joining import START_S

logger = logging.getLogger(__name__)


class RankedTransformer:
    """A `VideoTransformer` whose passes all ranks make. What does not change over the steps rank 0 computes alone."""

    def __init__(self, transformer: InfiniteTalkTransformer, lane: str, ranks: Ranks) -> None:
        self.transformer, self.lane, self.ranks = transformer, lane, ranks
        self.max_speakers = transformer.max_speakers

    @property
    def dtype(self) -> torch.dtype:
        """See `VideoTransformer.dtype`."""
        return cast(torch.dtype, self.transformer.dtype)

    def state_dict(self) -> Mapping[str, Tensor]:
        """See `VideoTransformer.state_dict`."""
        return cast(Mapping[str, Tensor], self.transformer.state_dict())

    def embed_timesteps(self, timesteps: Tensor) -> TimeEmbedding:
        """See `VideoTransformer.embed_timesteps`."""
        return self.transformer.embed_timesteps(timesteps)

    def embed_text(self, text: Tensor) -> tuple[KeyValue, ...]:
        """See `VideoTransformer.embed_text`."""
        return self.transformer.embed_text(text)

    def embed_image(self, image: Tensor) -> tuple[KeyValue, ...]:
        """See `VideoTransformer.embed_image`."""
        return self.transformer.embed_image(image)

    def adapter_for(self, speakers: int) -> str:
        """See `VideoTransformer.adapter_for`."""
        return self.transformer.adapter_for(speakers)

    def embed_audio(self, audio: Tensor, adapter: str, person_masks: Tensor | None = None) -> AudioContext:
        """See `VideoTransformer.embed_audio`."""
        return self.transformer.embed_audio(audio, adapter, person_masks)

    def rotary_embedding(self, latents: Tensor) -> Rotary:
        """See `VideoTransformer.rotary_embedding`."""
        return self.transformer.rotary_embedding(latents)

    def __call__(self, latents: Tensor, time: TimeEmbedding, context: Context) -> Tensor:
        """See `VideoTransformer.__call__`. Raises RankFailed."""
        with self.ranks.together("predict", (self.lane, latents, time, context)):
            return cast(Tensor, self.transformer(latents, time, context))


class RankedDecoder:
    """Decodes a window's latents on all ranks."""

    def __init__(self, decoder: SplitDecoder, ranks: Ranks) -> None:
        self.decoder, self.ranks = decoder, ranks

    def __call__(self, latents: Tensor) -> Tensor:
        """Video of latents, as `vae.to_video`. Raises RankFailed."""
        with self.ranks.together("decode", latents):
            return self.decoder(latents)


@torch.inference_mode()
def share_models(
    models: Models, ranks: Ranks, *, compiled: bool = False, compiled_files: CompiledFiles | None = None
) -> Models:
    """Models that all ranks run. The weights are read once, by rank 0, and handed over.

    Args:
        models: as `opening.load_models` leaves them.
        ranks: they have joined.
        compiled, compiled_files: as in `opening.make_fast`.

    Raises:
        RankFailed: a rank is lost.
        ValueError: there are more ranks than attention heads.
    """
    first = cast(InfiniteTalkTransformer, models.transformer)
    heads = first.config.num_attention_heads
    if ranks.count > heads:
        raise ValueError(f"GPUS is {ranks.count}, and the model has {heads} attention heads to spread: set it lower")
    is_gpu = models.device.type == "cuda"
    lanes = {}
    for name, lane in (models.lanes or {models.arithmetic.lane: LaneModel(models.arithmetic, first)}).items():
        transformer = cast(InfiniteTalkTransformer, lane.transformer)
        with ranks.together("adopt_transformer", (name, transformer, lane.arithmetic), START_S):
            transformer.use_shards(ranks.shards)
        if is_gpu and compiled:
            with ranks.together("compile", (name, lane.arithmetic, compiled_files), START_S):
                compile_transformer(transformer, lane.arithmetic, compiled_files)
        lanes[name] = replace(lane, transformer=RankedTransformer(transformer, name, ranks))
    with ranks.together("adopt_vae", (models.vae, compiled), START_S):
        pass
    if is_gpu:
        optimise_vae(models.vae, compiled)
    decoder = RankedDecoder(SplitDecoder(models.vae, ranks.shards), ranks)
    default = lanes[models.arithmetic.lane].transformer
    return replace(models, transformer=default, lanes=lanes, decoder=decoder, n_gpus=ranks.count, check=ranks.check)
