"""Which attention kernels a transformer uses: those of an `Arithmetic`, proven on its device, and measured if it leaves
the choice open.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from infinitetalk.arithmetic import AUTO, NATIVE, SPARSE, Arithmetic
from infinitetalk.models.attention import FP8_KERNELS, MEASURED, Attention, find_kernel
from infinitetalk.models.sparse_attention import sparse_attention
from infinitetalk.models.trials import (
    EQUAL_WITHIN,
    AttentionTrial,
    attempted,
    fastest,
    first_line,
    return_memory,
)

# Self-attention over the tokens of a window, whose number of latent frames is the last argument.
SelfAttention = Callable[[Tensor, Tensor, Tensor, int], Tensor]

Makers = Mapping[str, Callable[[], Attention]]
"""Kernels by name; calling one loads it."""

EXACT: Makers = {name: partial(find_kernel, name) for name in MEASURED}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kernels:
    """The attention kernels of a transformer's blocks.

    Args:
        attention: for what the tokens read besides themselves: text, image, voices. Always exact.
        self_attention: for the tokens among themselves.
        in_order: whether the self-attention goes by the tokens' places, so that it needs them frame by frame.
    """

    attention: Attention
    self_attention: SelfAttention
    in_order: bool = False

    @classmethod
    def exact(cls, attention: Attention) -> "Kernels":
        """One kernel for everything."""
        return cls(attention, _self_attention(attention))


@dataclass(frozen=True)
class Candidates:
    """The kernels that may be taken, in the order in which equally fast ones are.

    Args:
        exact: tried if the choice is left open.
        fallback: the exact one that is taken where none of these passes.
        fp8: 8-bit kernels of the self-attention, each under the name of its exact one.
    """

    exact: Makers
    fallback: str
    fp8: Makers


INSTALLED = Candidates(EXACT, NATIVE, FP8_KERNELS)


def choose_kernels(
    transformer: Any,  # noqa: ANN401
    arithmetic: Arithmetic,
    candidates: Candidates = INSTALLED,
    trial: AttentionTrial | None = None,
) -> tuple[Kernels, Arithmetic]:
    """The kernels for an arithmetic, and the arithmetic itself, with what was chosen in place of `AUTO`.

    On a GPU every kernel is tried first, in some two seconds.

    Args:
        transformer: a diffusers model. Kernels are tried with its heads, dtype and device.
        candidates: what may be chosen; what is installed by default.
        trial: how they are tried; on a GPU by default. On a CPU and on "meta" nothing is tried by default.

    Raises:
        ValueError: the kernel that the arithmetic names is unknown, not installed or fails its trial, or no kernel
            passes.
    """
    if trial is None and transformer.device.type == "cuda":
        config = transformer.config
        trial = AttentionTrial(
            transformer.device, config.num_attention_heads, config.attention_head_dim, transformer.dtype
        )
    try:
        name, attention = _choose_exact(transformer, arithmetic.attention, candidates, trial)
        chosen = replace(arithmetic, attention=name)
        if chosen.density is not None:
            name_in_8_bits, sparse = _choose_sparse(chosen, chosen.density, trial)
            if chosen.fp8:
                chosen = replace(chosen, fp8_attention=name_in_8_bits)
            return Kernels(attention, sparse, in_order=True), chosen
        if chosen.fp8:
            fp8_name, self_attention = _choose_fp8(arithmetic, attention, candidates.fp8, trial)
            chosen = replace(chosen, fp8_attention=fp8_name)
            return Kernels(attention, _self_attention(self_attention)), chosen
        return Kernels.exact(attention), chosen
    finally:
        return_memory(transformer.device)


def _choose_exact(
    transformer: Any,  # noqa: ANN401
    name: str,
    candidates: Candidates,
    trial: AttentionTrial | None,
) -> tuple[str, Attention]:
    """The kernel of that name, or for `AUTO` the fastest, by name and as a function."""
    if name == AUTO and trial is not None:
        passed = _passed("attention kernel", candidates.exact, trial.prove_exact, trial)
        if passed:
            name = fastest({name: time_ms for name, (_, time_ms) in passed.items()})
            return name, passed[name][0]
    if name == AUTO:
        name = candidates.fallback
    try:
        if name not in candidates.exact:
            transformer.set_attention_backend(name)  # checks that its package is installed
        kernel = candidates.exact[name]() if name in candidates.exact else find_kernel(name)
        if trial is not None:
            trial.prove_exact(kernel)
    except Exception as error:  # each package has its own for what it does not support
        raise ValueError(f"the attention backend {name!r} cannot be used: {first_line(error)}") from error
    return name, kernel


def _choose_fp8(
    arithmetic: Arithmetic, exact: Attention, makers: Makers, trial: AttentionTrial | None
) -> tuple[str | None, Attention]:
    """The fastest 8-bit kernel of the self-attention by name, or None and the exact one if none is faster.

    Where the arithmetic names the exact kernel, only that one's own 8-bit kernel is tried. A choice that has been made,
    for example by another GPU of the same job, is kept.
    """
    if arithmetic.fp8_attention != AUTO:
        return _chosen_fp8(arithmetic.fp8_attention, exact, makers, trial)
    if arithmetic.attention != AUTO:
        makers = {name: make for name, make in makers.items() if name == arithmetic.attention}
    if trial is None or not makers:
        return None, exact
    passed = _passed("8-bit attention kernel", makers, trial.prove_fp8, trial)
    times_ms = {name: time_ms for name, (_, time_ms) in passed.items()}
    if not times_ms or min(times_ms.values()) > trial.milliseconds(exact) * (1 - EQUAL_WITHIN):
        logger.info("the self-attention stays exact: no 8-bit kernel is right and faster")
        return None, exact
    name = fastest(times_ms)
    return name, passed[name][0]


def _chosen_fp8(
    name: str | None, exact: Attention, makers: Makers, trial: AttentionTrial | None
) -> tuple[str | None, Attention]:
    if name is None:
        return None, exact
    try:
        kernel = makers[name]()
        if trial is not None:
            trial.prove_fp8(kernel)
    except Exception as error:  # each package has its own for what it does not support
        raise ValueError(f"the 8-bit attention kernel {name!r} cannot be used: {first_line(error)}") from error
    return name, kernel


def _passed(
    kind: str, makers: Makers, prove: Callable[[Attention], None], trial: AttentionTrial
) -> dict[str, tuple[Attention, float]]:
    """The kernels that load and prove themselves, with their milliseconds."""

    def attempt(make: Callable[[], Attention]) -> tuple[Attention, float]:
        kernel = make()
        prove(kernel)
        return kernel, trial.milliseconds(kernel)

    passed = dict(attempted(kind, {name: partial(attempt, make) for name, make in makers.items()}))
    logger.info("%ss in ms: %s", kind, {name: round(time_ms, 1) for name, (_, time_ms) in passed.items()})
    return passed


def _choose_sparse(
    arithmetic: Arithmetic, density: float, trial: AttentionTrial | None
) -> tuple[str | None, SelfAttention]:
    """The sparse self-attention, in 8 bits if the arithmetic allows it and they are right on this device.

    A choice that has been made is kept.

    Raises:
        ValueError: it fails its trial.
    """
    may_be_narrow = arithmetic.fp8 and arithmetic.fp8_attention is not None
    if trial is None:
        return (SPARSE if may_be_narrow else None), _sparse_attention(density, may_be_narrow)
    if may_be_narrow:
        try:
            trial.prove_sparse(sparse_attention, density, narrow=True)
        except Exception as error:  # Triton has many
            if arithmetic.fp8_attention == SPARSE:
                raise ValueError(f"sparse attention in 8 bits cannot be used: {first_line(error)}") from error
            logger.info("the sparse self-attention is not in 8 bits: %s", first_line(error))
        else:
            return SPARSE, _sparse_attention(density, narrow=True)
    try:
        trial.prove_sparse(sparse_attention, density, narrow=False)
    except Exception as error:
        raise ValueError(f"sparse attention cannot be used on this device: {first_line(error)}") from error
    return None, _sparse_attention(density, narrow=False)


def _sparse_attention(density: float, narrow: bool) -> SelfAttention:
    def attend(query: Tensor, key: Tensor, value: Tensor, n_latent_frames: int) -> Tensor:
        return sparse_attention(query, key, value, n_latent_frames, density, narrow)

    return attend


def _self_attention(attention: Attention) -> SelfAttention:
    """A kernel for which it does not matter which frame a token belongs to."""

    def attend(query: Tensor, key: Tensor, value: Tensor, _n_latent_frames: int) -> Tensor:
        return attention(query, key, value)

    return attend
