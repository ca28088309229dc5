"""The autoencoder: milliseconds and memory of decoding, encoding and encoding a condition, here and in diffusers.

    python -m benchmarks.vae                 the 14B profile's autoencoder with random weights (needs a GPU)
    python -m benchmarks.vae --miniature     the miniature's, on any machine

A condition is a picture followed by zeros. The difference is relative to diffusers' result. "first" is the first call,
which chooses kernels and compiles. Prints a table; --json FILE also writes JSON.
"""

import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from benchmarks import reporting
from benchmarks.random_models import MINIATURE, random_module
from benchmarks.reporting import SIZES
from infinitetalk.models.encoder_loading import load_vae
from infinitetalk.models.fast_vae import optimise_vae
from infinitetalk.models.vae import picture_then_grey_to_latents, to_latents, to_video
from infinitetalk.shapes import SPATIAL_STRIDE, latent_frames

ROOT = Path(__file__).parents[1]

SIZES_MINIATURE = {"miniature": (96, 64, 13)}


def measure(call: Callable[[], Tensor], device: torch.device, repeats: int) -> tuple[dict[str, float], Tensor]:
    """Milliseconds (median, and of the first call), GiB above those in use before, and the result."""
    times_ms = []
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    for _ in range(repeats + 1):
        result = None
        started = time.perf_counter()
        result = call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times_ms.append((time.perf_counter() - started) * 1000)
    found = {"milliseconds": round(statistics.median(times_ms[1:]), 1), "first": round(times_ms[0], 1)}
    if device.type == "cuda":
        found["peak_gib"] = round((torch.cuda.max_memory_allocated() - before) / 2**30, 2)
        found["reserved_gib"] = round(torch.cuda.memory_reserved() / 2**30, 2)
    return found, result


def compare(
    plain: AutoencoderKLWan, fast: AutoencoderKLWan, size: tuple[int, int, int], device: torch.device, repeats: int
) -> list[Any]:
    """A row for each way to use the autoencoder at a size."""
    width, height, frames = size
    generator = torch.Generator(device).manual_seed(0)
    picture = torch.rand(3, height, width, generator=generator, device=device) * 2 - 1
    video = torch.rand(1, 3, frames, height, width, generator=generator, device=device, dtype=plain.dtype) * 2 - 1
    condition = torch.zeros_like(video)
    condition[:, :, 0] = picture
    latents = torch.randn(
        (1, 16, latent_frames(frames), height // SPATIAL_STRIDE, width // SPATIAL_STRIDE),
        generator=generator,
        device=device,
    )
    ways: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
        "decode": (lambda: to_video(plain, latents), lambda: to_video(fast, latents)),
        "encode": (lambda: to_latents(plain, video), lambda: to_latents(fast, video)),
        "encode condition": (
            lambda: to_latents(plain, condition),
            lambda: picture_then_grey_to_latents(fast, picture, frames),
        ),
    }
    rows = []
    for name, (plain_way, fast_way) in ways.items():
        expected_figures, expected = measure(plain_way, device, 1)
        expected = expected.cpu()
        figures, result = measure(fast_way, device, repeats)
        difference = float((result.cpu() - expected).norm() / expected.norm())
        rows.append(
            {
                "size": f"{width}x{height}x{frames}",
                "what": name,
                **figures,
                "ms_per_megapixel_frame": round(figures["milliseconds"] / (width * height * frames / 1e6), 2),
                "difference": difference,
                "diffusers": expected_figures,
            }
        )
        del result
    return rows


def table(rows: list[Any]) -> str:
    lines = [
        "| size | what | diffusers ms | ms | first ms | ms per megapixel and frame | peak GiB | difference |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        peak = f"{row['peak_gib']:.1f} (diffusers {row['diffusers']['peak_gib']:.1f})" if "peak_gib" in row else "-"
        lines.append(
            f"| {row['size']} | {row['what']} | {row['diffusers']['milliseconds']:.0f} | {row['milliseconds']:.0f} "
            f"| {row['first']:.0f} | {row['ms_per_megapixel_frame']:.2f} | {peak} | {row['difference']:.2g} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = reporting.options(__doc__)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    options = parser.parse_args()
    if options.miniature:
        device, sizes = torch.device("cpu"), list(SIZES_MINIATURE.values())
        plain = load_vae(MINIATURE, device, torch.float32)
    else:
        device, sizes = torch.device("cuda"), [SIZES[name] for name in options.sizes]
        plain = random_module(AutoencoderKLWan, device, torch.bfloat16)
    fast = copy.deepcopy(plain)
    optimise_vae(fast, compiled=device.type == "cuda")
    report = {**reporting.head(device), "autoencoder": []}
    for size in sizes:
        report["autoencoder"] += compare(plain, fast, size, device, options.repeats)
        reporting.save(report, options.json)
    print(f"{report['device']}, torch {report['torch']}, {report['date']}")
    print(table(report["autoencoder"]))


if __name__ == "__main__":
    main()
