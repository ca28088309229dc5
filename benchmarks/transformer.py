"""One forward pass of the transformer: milliseconds, TFLOP/s, share of this GPU's ceilings, memory and error.

It is measured in every lane of the transformer's arithmetic, at the sizes that jobs run.

    python -m benchmarks.transformer                 the 14B network with random weights (needs a GPU of 80 GB)
    python -m benchmarks.transformer --miniature     a small one, on any machine

Lanes: `eager` (not compiled), `sdpa` (cuDNN), `flash_3` (where FlashAttention-3 is installed), `sparse_20` (20 % of the
self-attention), `fp8`, and `fp8_sparse_20` and `fp8_sparse_15`. Prints a table; --json FILE also writes JSON.
"""

import copy
import json
import statistics
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks import reporting
from benchmarks.attention import milliseconds
from benchmarks.random_models import random_transformer
from benchmarks.reporting import SIZES
from infinitetalk.arithmetic import FLASH_3, NATIVE, ROWS, Arithmetic
from infinitetalk.generation.masks import person_masks
from infinitetalk.models.attention import find_kernel, flash_3_module
from infinitetalk.models.compiling import compile_transformer
from infinitetalk.models.e4m3 import FP8
from infinitetalk.models.fp8 import choose_scales, quantise_block
from infinitetalk.models.kernels import choose_kernels
from infinitetalk.models.transformer import InfiniteTalkTransformer
from infinitetalk.models.video_transformer import TEXT_TOKENS, Context
from infinitetalk.shapes import latent_frames, token_count

SIZES_MINIATURE = [(160, 96, 49)]
ERROR_SIZE_14B, ERROR_SIZE_MINIATURE, ERROR_BLOCKS = (848, 480, 33), (160, 96, 17), 4
MINIATURE = {
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "text_dim": 64,
    "ffn_dim": 384,
    "num_layers": 3,
    "image_dim": 64,
    "audio_layers": 4,
    "audio_channels": 64,
    "audio_hidden": 64,
    "audio_tokens": 8,
    "audio_dim": 64,
}
CEILING_SIDE = 16_384  # of the square matrices whose product is the ceiling of the linear layers


@dataclass(frozen=True)
class Lane:
    """How a pass is computed."""

    arithmetic: Arithmetic
    compiled: bool = True


LANES = {
    "eager": Lane(Arithmetic("_native_cudnn"), compiled=False),
    "sdpa": Lane(Arithmetic("_native_cudnn")),
    "flash_3": Lane(Arithmetic(FLASH_3)),
    "sparse_20": Lane(Arithmetic("_native_cudnn", density=0.2)),
    "fp8": Lane(Arithmetic(fp8=True)),
    "fp8_sparse_20": Lane(Arithmetic(fp8=True, density=0.2)),
    "fp8_sparse_15": Lane(Arithmetic(fp8=True, density=0.15)),
}
LANES_MINIATURE = {
    "eager": Lane(Arithmetic(NATIVE), compiled=False),
    "sparse_20": Lane(Arithmetic(NATIVE, density=0.2), compiled=False),
    "fp8": Lane(Arithmetic(NATIVE, fp8=True), compiled=False),
    "fp8_sparse_20": Lane(Arithmetic(NATIVE, fp8=True, density=0.2), compiled=False),
}


def enter(transformer: InfiniteTalkTransformer, lane: Lane) -> Arithmetic:
    """Bring the transformer into that lane. Returns the arithmetic with the kernel that was chosen.

    What is quantised stays quantised, so fp8 lanes come last.
    """
    arithmetic = lane.arithmetic
    if arithmetic.fp8:
        scales = choose_scales(transformer.device) if transformer.device.type == "cuda" else ROWS
        arithmetic = replace(arithmetic, fp8_scales=scales)
    if arithmetic.fp8 and not is_quantised(transformer):
        for index in range(len(transformer.blocks)):
            quantise_block(transformer, index, arithmetic.fp8_scales)
    kernels, arithmetic = choose_kernels(transformer, arithmetic)
    transformer.use_kernels(kernels)
    if lane.compiled:
        torch.compiler.reset()  # forgets what the lane before compiled
        compile_transformer(transformer, arithmetic)
    return arithmetic


def is_quantised(transformer: InfiniteTalkTransformer) -> bool:
    return any(tensor.dtype == FP8 for tensor in transformer.blocks[0].buffers())


def flop(config: Any, tokens: int, people: int, frames: int) -> tuple[float, float]:  # noqa: ANN401
    """Operations of one pass in linear layers and in attention, two for each multiply-add.

    The keys and values of text, picture and voices are left out, since they are computed outside the pass.
    """
    dim = config.num_attention_heads * config.attention_head_dim
    linear = 2 * tokens * (4 * dim**2 + 2 * dim**2 + 2 * dim**2 + 2 * dim * config.ffn_dim)
    attention = 4 * tokens * dim * (tokens + TEXT_TOKENS + 257 + people * config.audio_tokens)
    if people == 2:  # the map of the people: queries times the first frame's keys, values of eight columns
        first = tokens // frames
        attention += 2 * tokens * first * (dim + 8 * config.num_attention_heads)
    return float(config.num_layers * linear), float(config.num_layers * attention)


@torch.inference_mode()
def ceilings() -> dict[str, float]:
    """TFLOP/s that this GPU reaches in bf16 and fp8 products of large matrices, and in the fastest exact attention."""
    cuda, side = torch.device("cuda"), CEILING_SIDE
    left, right = (torch.randn(side, side, device=cuda, dtype=torch.bfloat16) for _ in range(2))
    found = {"bf16": 2 * side**3 / milliseconds(lambda: left @ right, cuda, 5) / 1e9}
    if torch.cuda.get_device_capability() >= (8, 9):
        small, one = (left.to(FP8), right.to(FP8).t()), torch.ones((), device=cuda)
        spent_ms = milliseconds(
            lambda: torch._scaled_mm(*small, one, one, out_dtype=torch.bfloat16, use_fast_accum=True), cuda, 5
        )
        found["fp8"] = 2 * side**3 / spent_ms / 1e9
    parts = [torch.randn(1, 65_536, 40, 128, device=cuda, dtype=torch.bfloat16) for _ in range(3)]
    kernel = find_kernel(FLASH_3 if flash_3_module() else "_native_cudnn")
    found["attention"] = 4 * 65_536**2 * 40 * 128 / milliseconds(lambda: kernel(*parts), cuda, 3) / 1e9
    return {name: round(value, 1) for name, value in found.items()}


def inputs(
    transformer: InfiniteTalkTransformer, width: int, height: int, frames: int, people: int, image_tokens: int
) -> tuple[Tensor, Context]:
    """Random latents and context of a window, the same for every dtype."""
    config, generator = transformer.config, torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(transformer.device, transformer.dtype)

    latents = draw(1, config.in_channels, latent_frames(frames), height // 8, width // 8)
    audio = draw(1, people, frames + 4, config.audio_layers, config.audio_channels)
    masks = None
    if people == 2:
        masks = person_masks((None, None), (width, height), (width, height)).to(transformer.device)
    context = Context(
        transformer.embed_text(draw(1, TEXT_TOKENS, config.text_dim)),
        transformer.embed_image(draw(1, image_tokens, config.image_dim)),
        transformer.embed_audio(audio, transformer.adapter_for(people), masks),
        transformer.rotary_embedding(latents),
    )
    return latents, context


@torch.inference_mode()
def errors(device: torch.device, sizes: dict[str, int], lanes: dict[str, Lane]) -> dict[str, Any]:
    """Relative errors of four blocks in every lane, with the same weights, against float32 and against eager bf16."""
    coarse = random_transformer(device, torch.bfloat16, **{**sizes, "num_layers": ERROR_BLOCKS})
    exact = copy.deepcopy(coarse).float()
    size = ERROR_SIZE_MINIATURE if sizes else ERROR_SIZE_14B

    def run(transformer: InfiniteTalkTransformer) -> Tensor:
        latents, context = inputs(transformer, *size, 2, 17)
        time_ = transformer.embed_timesteps(torch.tensor([900.0], device=device))
        return transformer(latents, time_.step(0), context).float()

    expected = run(exact)
    del exact
    eager, found = run(coarse), {}
    for name, lane in lanes.items():
        try:
            enter(coarse, lane)
        except ValueError as error:
            found[name] = str(error)
            continue
        value = run(coarse)
        found[name] = {
            what: float((value - other).norm() / other.norm())
            for what, other in (("float32", expected), ("eager bfloat16", eager))
        }
    return found


@torch.inference_mode()
def measure(
    transformer: InfiniteTalkTransformer, width: int, height: int, frames: int, people: int, repeats: int
) -> dict[str, Any]:
    """Median milliseconds of a pass, and what follows from them."""
    cuda = transformer.device.type == "cuda"
    latents, context = inputs(transformer, width, height, frames, people, 257 if cuda else 17)
    times = transformer.embed_timesteps(torch.tensor([900.0], device=transformer.device))
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeats + 1):  # the first one warms up
        if cuda:
            torch.cuda.synchronize()
        started = time.perf_counter()
        output = transformer(latents, times.step(0), context)
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    if not output.isfinite().all():
        raise RuntimeError("the pass gave numbers that are not finite")
    tokens = token_count(frames, width, height)
    median_s = statistics.median(seconds[1:])
    linear, attention = flop(transformer.config, tokens, people, latent_frames(frames))
    return {
        "width": width,
        "height": height,
        "frames": frames,
        "people": people,
        "tokens": tokens,
        "milliseconds": round(median_s * 1000, 1),
        "spread_ms": round((max(seconds[1:]) - min(seconds[1:])) * 1000, 1),
        "first_ms": round(seconds[0] * 1000, 1),
        "linear_pflop": round(linear / 1e15, 3),
        "attention_pflop": round(attention / 1e15, 3),
        "tflop_per_s": round((linear + attention) / median_s / 1e12, 1),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1) if cuda else None,
    }


def floor_s(row: dict[str, Any], lane: Lane, limits: dict[str, float]) -> float:
    """Seconds that the products alone take at the measured ceilings. Attention counts as exact attention."""
    linear = limits["fp8" if lane.arithmetic.fp8 else "bf16"]
    part = 1.0 if lane.arithmetic.density is None else lane.arithmetic.density
    return (row["linear_pflop"] / linear + row["attention_pflop"] * part / limits["attention"]) * 1000


def main() -> None:
    parser = reporting.options(__doc__)
    parser.add_argument("--lanes", nargs="+", choices=list(LANES), help="in this order; those in fp8 must come last")
    parser.add_argument("--people", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--sizes", nargs="+", help="such as 1280x720x81")
    parser.add_argument("--no-errors", action="store_true", help="do not compare results with float32")
    options = parser.parse_args()
    device = torch.device("cpu" if options.miniature else "cuda")
    shapes = MINIATURE if options.miniature else {}
    known = LANES_MINIATURE if options.miniature else LANES
    lanes = {name: known[name] for name in options.lanes or known}
    sizes = SIZES_MINIATURE if options.miniature else list(SIZES.values())
    if options.sizes:
        sizes = [tuple(map(int, size.split("x"))) for size in options.sizes]
    report: dict[str, Any] = {
        **reporting.head(device),
        "ceilings": {} if options.miniature else ceilings(),
        "passes": [],
    }
    print(", ".join(f"{key} {value}" for key, value in report.items() if key != "passes"), flush=True)
    if not options.no_errors:
        report["errors"] = errors(device, shapes, lanes)
        print(json.dumps({"relative errors of four blocks": report["errors"]}), flush=True)
    transformer = random_transformer(device, torch.bfloat16, **shapes)
    print("| lane | attention | size | frames | people | tokens | ms | spread | TFLOP/s | share of floor | peak GiB |")
    print("|" + " --- |" * 11)
    for name, lane in lanes.items():
        started = time.perf_counter()
        try:
            arithmetic = enter(transformer, lane)
        except ValueError as error:  # FlashAttention-3 is not installed
            print(f"| {name} | {error} |" + " |" * 9, flush=True)
            continue
        start_s = round(time.perf_counter() - started, 1)
        for width, height, frames in sizes:
            for people in options.people:
                row = measure(transformer, width, height, frames, people, options.repeats)
                row = {"lane": name, "arithmetic": asdict(arithmetic), "start_s": start_s, **row}
                share = ""
                if report["ceilings"]:
                    row["floor_ms"] = round(1000 * floor_s(row, lane, report["ceilings"]), 1)
                    share = f"{100 * row['floor_ms'] / row['milliseconds']:.0f} %"
                report["passes"].append(row)
                cells = [name, arithmetic.attention_text, f"{width}x{height}", frames, people]
                cells += [row[key] for key in ("tokens", "milliseconds", "spread_ms", "tflop_per_s")]
                print("| " + " | ".join(map(str, [*cells, share, row["peak_gib"]])) + " |", flush=True)
                reporting.save(report, options.json)


if __name__ == "__main__":
    main()
