"""Trials of kernels on the very device that a job will use: whether they run, how far they err, how long they take.

Kernels differ by GPU, driver and package, and a package that is installed need not work. So none is used that has not
given the right numbers first. Inputs are random, in the shapes of a job; the exact result is computed in float32.
"""

import logging
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from infinitetalk.models.attention import Attention
from infinitetalk.models.device import synchronise
from infinitetalk.models.sparse_attention import BLOCK_TOKENS, choose_blocks, masked_attention, place_by_place

Found = TypeVar("Found")

SparseAttention = Callable[[Tensor, Tensor, Tensor, int, float, bool], Tensor]

# Largest relative errors (norm of the difference over that of the exact result). Rounding to bfloat16 alone makes some
# 0.003, to e4m3 some 0.05; a kernel that reads wrong tokens makes 0.5 or more.
EXACT_ERROR = 0.02
FP8_ERROR = 0.1

# Of the kernels whose time is within EQUAL_WITHIN of the fastest, the first one is taken, so that workers choose alike:
# a job that goes on where another worker stopped needs the same kernel.
EQUAL_WITHIN = 0.03

TIMED_TOKENS = 32_768
TRIED_TOKENS = 4_000  # no multiple of a kernel's blocks, as in most windows
TRIED_FRAMES = 4  # latent frames that the tried tokens belong to; voices are heard frame by frame
# Tokens that are read besides the window's own: of the prompt, of the picture, of one and two voices.
TRIED_KEYS = {"text": (1, 512), "picture": (1, 257), "a voice": (TRIED_FRAMES, 32), "two voices": (TRIED_FRAMES, 64)}

SPARSE_HEADS = 2  # of a sparse trial's result that are compared

_HEADS_AT_ONCE = 4

logger = logging.getLogger(__name__)


class TrialFailed(ValueError):
    """A kernel cannot be used on this device. The message says why."""


def check_error(found: Tensor, expected: Tensor, bound: float, what: str) -> None:
    """Raise TrialFailed if `found` errs by more than `bound`, or is not finite."""
    error = relative_error(found, expected)
    if not error <= bound:  # NaN fails as well
        raise TrialFailed(f"its relative error is {error:.2g} in {what}, over {bound:g}")


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over that of the exact result; NaN or infinite if `found` is not finite."""
    return float((found.float() - expected).norm() / expected.norm())


def exact_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q k / sqrt(D)) v over (B, N, H, D) in float32, without any fused kernel."""
    groups = (part.float().transpose(1, 2).split(_HEADS_AT_ONCE, dim=1) for part in (query, key, value))
    heads = [
        (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v for q, k, v in zip(*groups, strict=True)
    ]
    return torch.cat(heads, dim=1).transpose(1, 2)


@dataclass(frozen=True)
class AttentionTrial:
    """Trials of attention kernels in the shapes of one transformer's jobs. It holds no memory between them.

    Args:
        device: where the kernels are tried.
        heads, head_dim: of the transformer.
        dtype: the number format of query, key and value.
        tokens: of the trials for errors; a multiple of `TRIED_FRAMES`.
        timed_tokens: of the trials for time.
    """

    device: torch.device
    heads: int
    head_dim: int
    dtype: torch.dtype
    tokens: int = TRIED_TOKENS
    timed_tokens: int = TIMED_TOKENS

    def draw(self, batch: int, queries: int, keys: int) -> tuple[Tensor, Tensor, Tensor]:
        """Random query (batch, queries, H, D), key and value (batch, keys, H, D), always the same ones.

        Key and value are views of one tensor, as a fused layer gives them.
        """
        generator = torch.Generator(self.device).manual_seed(0)
        draw = partial(torch.randn, generator=generator, device=self.device)
        query = draw(batch, queries, self.heads, self.head_dim).to(self.dtype)
        both = draw(batch, keys, 2, self.heads, self.head_dim).to(self.dtype)
        key, value = both.unbind(2)
        return query, key, value

    @torch.inference_mode()
    def prove_exact(self, kernel: Attention) -> None:
        """Raise TrialFailed unless the kernel is exact, in the self-attention and for text, picture and voices."""
        self._prove_self(kernel, EXACT_ERROR)
        for what, (batch, keys) in TRIED_KEYS.items():
            parts = self.draw(batch, self.tokens // batch, keys)
            check_error(kernel(*parts), exact_attention(*parts), EXACT_ERROR, f"the attention to {what}")

    @torch.inference_mode()
    def prove_fp8(self, kernel: Attention) -> None:
        """Raise TrialFailed unless the kernel has the precision of 8 bits in the self-attention."""
        self._prove_self(kernel, FP8_ERROR)

    def _prove_self(self, kernel: Attention, bound: float) -> None:
        parts = self.draw(1, self.tokens, self.tokens)
        check_error(kernel(*parts), exact_attention(*parts), bound, "the self-attention")

    @torch.inference_mode()
    def prove_sparse(self, kernel: SparseAttention, density: float, narrow: bool) -> None:
        """Raise TrialFailed unless the kernel gives what plain PyTorch gives in float32 for the same blocks.

        Args:
            kernel: as `sparse_attention`.
            narrow: whether it is to compute in 8 bits.
        """
        parts = self.draw(1, self.tokens, self.tokens)
        found = place_by_place(kernel(*parts, TRIED_FRAMES, density, narrow)[:, :, :SPARSE_HEADS], TRIED_FRAMES)
        query, key, value = (place_by_place(part[:, :, :SPARSE_HEADS], TRIED_FRAMES) for part in parts)
        blocks = choose_blocks(query, key, density, BLOCK_TOKENS)
        expected = masked_attention(query.float(), key.float(), value.float(), blocks, BLOCK_TOKENS)
        check_error(found, expected, FP8_ERROR if narrow else EXACT_ERROR, "the sparse self-attention")

    @torch.inference_mode()
    def milliseconds(self, kernel: Attention) -> float:
        """The time of the self-attention: median of three calls after a first one."""
        parts = [part.contiguous() for part in self.draw(1, self.timed_tokens, self.timed_tokens)]
        times_ms = []
        for _ in range(4):
            synchronise(self.device)
            started_s = time.perf_counter()
            kernel(*parts)
            synchronise(self.device)
            times_ms.append((time.perf_counter() - started_s) * 1000)
        return statistics.median(times_ms[1:])


def attempted(kind: str, candidates: Mapping[str, Callable[[], Found]]) -> Iterator[tuple[str, Found]]:
    """Name and result of those candidates that raise nothing, in their order. The others get a line in the log."""
    for name, attempt in candidates.items():
        try:
            result = attempt()
        except Exception as error:  # each package has its own for what it does not support
            logger.info("%s %s is left out: %s", kind, name, first_line(error))
        else:
            yield name, result


def fastest(times_ms: Mapping[str, float]) -> str:
    """The first of those names whose times are as good as equal to the shortest."""
    limit_ms = min(times_ms.values()) * (1 + EQUAL_WITHIN)
    return next(name for name, time_ms in times_ms.items() if time_ms <= limit_ms)


def first_line(error: Exception) -> str:
    """What is wrong, in one line."""
    return next(iter(str(error).splitlines()), "")[:300] or type(error).__name__


def return_memory(device: torch.device) -> None:
    """Give back what trials have reserved."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
