"""The transformer in several lanes at once (`Arithmetic.lane`), which share their weights.

Lanes in 8 bits have large linear layers of their own beside the others'. All else is in memory once: embedders, norms,
and the layers that only text, picture and voices pass.
"""

import copy
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from infinitetalk.arithmetic import Arithmetic
from infinitetalk.models.fp8 import quantise_block
from infinitetalk.models.kernels import choose_kernels
from infinitetalk.models.transformer import InfiniteTalkTransformer
from infinitetalk.models.video_transformer import VideoTransformer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LaneModel:
    """The transformer as it computes in one lane.

    Args:
        arithmetic: how it computes, with the kernels that were chosen.
    """

    arithmetic: Arithmetic
    transformer: VideoTransformer


def make_lanes(transformer: InfiniteTalkTransformer, arithmetics: Sequence[Arithmetic]) -> dict[str, LaneModel]:
    """A transformer for each arithmetic, by its lane, in that order.

    Args:
        transformer: the loaded one. Its large layers are in 8 bits already if all lanes are; otherwise none is.

    Raises:
        ValueError: the device cannot compute in one of these ways.
    """
    narrow = next((arithmetic for arithmetic in arithmetics if arithmetic.fp8), None)
    sets = {bool(narrow): transformer}
    if narrow is not None and not all(arithmetic.fp8 for arithmetic in arithmetics):
        sets = {False: transformer, True: _in_8_bits(transformer, narrow.fp8_scales)}
    lanes = {}
    for arithmetic in arithmetics:
        model = sharing_copy(sets[arithmetic.fp8]) if len(arithmetics) > 1 else transformer
        started_s = time.monotonic()
        kernels, chosen = choose_kernels(model, arithmetic)
        logger.info("lane %s: %s, chosen in %.1f s", chosen.lane, chosen.attention_text, time.monotonic() - started_s)
        model.use_kernels(kernels)
        lanes[chosen.lane] = LaneModel(chosen, model)
    return lanes


def sharing_copy(transformer: InfiniteTalkTransformer) -> InfiniteTalkTransformer:
    """Modules of its own around the same tensors."""
    tensors = chain(transformer.parameters(), transformer.buffers())
    return copy.deepcopy(transformer, {id(tensor): tensor for tensor in tensors})


def _in_8_bits(transformer: InfiniteTalkTransformer, scales: str) -> InfiniteTalkTransformer:
    """A copy whose large layers are in 8 bits; it shares all else."""
    narrow = sharing_copy(transformer)
    for index in range(len(narrow.blocks)):
        quantise_block(narrow, index, scales)
    return narrow
