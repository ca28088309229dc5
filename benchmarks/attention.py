"""Attention kernels at the transformer's shapes: milliseconds, TFLOP/s and error, exact ones and approximate ones.

    python -m benchmarks.attention                   40 heads of 128 (needs a GPU)
    python -m benchmarks.attention --miniature       small, on any machine

Prints a table; --json FILE also writes JSON. The error is relative to float32, over some of the heads and queries.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from benchmarks import reporting
from benchmarks.reporting import SIZES
from infinitetalk.arithmetic import NATIVE
from infinitetalk.models.attention import FP8_KERNELS, MEASURED, Attention, find_kernel
from infinitetalk.models.sparse_attention import sparse_attention
from infinitetalk.models.video_transformer import TEXT_TOKENS
from infinitetalk.shapes import latent_frames, token_count

SIZES_MINIATURE = {"miniature": (160, 96, 49)}
HEADS, HEAD_DIM, IMAGE_TOKENS, AUDIO_TOKENS = 40, 128, 257, 64
DENSITIES = (0.2, 0.15)
CHECKED_HEADS, CHECKED_QUERIES = 2, 512


def milliseconds(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median of `repeats` calls after a first one, which warms up and compiles."""
    times = []
    for _ in range(repeats + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times[1:])


def in_float32(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of some heads and queries, without any fused kernel."""
    query, key, value = (part[:, :, :CHECKED_HEADS].float().transpose(1, 2) for part in (query, key, value))
    weights = query[:, :, :CHECKED_QUERIES] @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    return (weights.softmax(-1) @ value).transpose(1, 2)


def kernels(device: torch.device, frames: int) -> Iterator[tuple[str, Callable[[], Attention], float]]:
    """Name, maker and computed share of each kernel of the self-attention."""
    for name in MEASURED if device.type == "cuda" else (NATIVE,):
        yield name, partial(find_kernel, name), 1.0
    if device.type == "cuda":  # compiled as it is in a block, where its conversions are fused
        for name, make in FP8_KERNELS.items():
            yield f"{name} in 8 bits", lambda make=make: torch.compile(make(), dynamic=True), 1.0
    for density, bits in product(DENSITIES, ("", " in 8 bits")):
        kernel = partial(sparse_attention, frames=frames, density=density, narrow=bool(bits))
        yield f"sparse {density:g}{bits}", lambda kernel=kernel: kernel, density


def measure(size: tuple[int, int, int], device: torch.device, heads: int, head_dim: int, repeats: int) -> list[Any]:
    """Rows for the self-attention of a window, and for the attentions to text, picture and voices."""
    width, height, frames = size
    tokens, latents = token_count(frames, width, height), latent_frames(frames)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    generator = torch.Generator(device).manual_seed(0)

    def draw(batch: int, count: int) -> Tensor:
        return torch.randn(batch, count, heads, head_dim, generator=generator, device=device).to(dtype)

    def row(what: str, name: str, make: Callable[[], Attention], part: float, parts: list[Tensor]) -> dict[str, Any]:
        found = {"size": f"{width}x{height}x{frames}", "attention": what, "kernel": name, "density": part}
        try:
            kernel = make()
            spent_ms = milliseconds(lambda: kernel(*parts), device, repeats)
            output, expected = kernel(*parts), in_float32(*parts)
        except Exception as error:  # not installed, or not for this device: each package has its own
            return found | {"unavailable": str(error).split("\n")[0][:120]}
        output = output[:, :CHECKED_QUERIES, :CHECKED_HEADS].float()
        work = 4 * parts[0].shape[0] * parts[0].shape[1] * parts[1].shape[1] * heads * head_dim * part
        return found | {
            "milliseconds": round(spent_ms, 3),
            "tflop_per_s": round(work / spent_ms / 1e9, 1),
            "error": float((output - expected).norm() / expected.norm()),
        }

    parts = [draw(1, tokens) for _ in range(3)]
    rows = [row("self", name, make, part, parts) for name, make, part in kernels(device, latents)]
    shapes = {
        "text": (1, tokens, TEXT_TOKENS),
        "picture": (1, tokens, IMAGE_TOKENS),
        "voices": (latents, tokens // latents, AUDIO_TOKENS),
    }
    for what, (batch, queries, keys) in shapes.items():
        others = [draw(batch, queries), draw(batch, keys), draw(batch, keys)]
        for name in MEASURED if device.type == "cuda" else (NATIVE,):
            rows.append(row(what, name, partial(find_kernel, name), 1.0, others))
    return rows


@torch.inference_mode()
def main() -> None:
    parser = reporting.options(__doc__)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    options = parser.parse_args()
    device = torch.device("cpu" if options.miniature else "cuda")
    sizes = list(SIZES_MINIATURE.values()) if options.miniature else [SIZES[name] for name in options.sizes]
    heads, head_dim = (4, 32) if options.miniature else (HEADS, HEAD_DIM)
    report = {**reporting.head(device), "kernels": []}
    for size in sizes:
        report["kernels"] += measure(size, device, heads, head_dim, options.repeats)
        reporting.save(report, options.json)
    print(f"{report['device']}, torch {report['torch']}, {report['date']}")
    print(reporting.kernel_table(report["kernels"], ("size", "attention", "kernel")))


if __name__ == "__main__":
    main()
