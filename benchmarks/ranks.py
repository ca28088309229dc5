"""Passes and decoding on one GPU and on several: seconds, speed-up, difference, memory, and what a start takes.

    python -m benchmarks.ranks                   the 14B network with random weights, on all GPUs that torch sees
    python -m benchmarks.ranks --miniature       a small one in two processes, on any machine

Prints a table; --json FILE also writes JSON. The difference is relative to the result of one GPU.
"""

import copy
import json
import statistics
import time
from collections.abc import Callable
from typing import Any, cast

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from benchmarks import reporting
from benchmarks.random_models import MINIATURE as MINIATURE_WEIGHTS
from benchmarks.random_models import random_module, random_transformer
from benchmarks.transformer import LANES, LANES_MINIATURE, MINIATURE, SIZES_MINIATURE, enter, inputs
from infinitetalk.arithmetic import Arithmetic
from infinitetalk.models.encoder_loading import load_vae
from infinitetalk.models.fast_vae import optimise_vae
from infinitetalk.models.opening import Models
from infinitetalk.models.transformer import InfiniteTalkTransformer
from infinitetalk.models.vae import to_video
from infinitetalk.ranks.group import Ranks
from infinitetalk.ranks.sharing import share_models
from infinitetalk.shapes import latent_frames

Json = dict[str, Any]
DEFAULT_SIZES = ["848x480x81", "1280x720x81", "1280x720x121"]


def timed(call: Callable[[], Tensor], device: torch.device, repeats: int) -> tuple[float, Tensor]:
    """Median seconds after a first call, and the result."""
    seconds = []
    for _ in range(repeats + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        result = call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:]), result


def difference(result: Tensor, expected: Tensor) -> float:
    """Relative to `expected`."""
    return float((result.float() - expected.float()).norm() / expected.float().norm())


@torch.inference_mode()
def main() -> None:
    parser = reporting.options(__doc__)
    parser.add_argument("--gpus", type=int, help="all that torch sees if not given; 2 with --miniature")
    parser.add_argument("--lane", choices=list(LANES), default="sdpa")
    parser.add_argument("--layers", type=int, default=40, help="blocks; the time of a pass is proportional to them")
    parser.add_argument("--people", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--sizes", nargs="+", help="such as 1280x720x81")
    parser.add_argument("--no-decoding", action="store_true")
    options = parser.parse_args()
    device = torch.device("cpu" if options.miniature else "cuda")
    count = options.gpus or (2 if options.miniature else torch.cuda.device_count())
    dtype = torch.float32 if options.miniature else torch.bfloat16
    known = ["x".join(map(str, size)) for size in SIZES_MINIATURE] if options.miniature else DEFAULT_SIZES
    sizes = [tuple(map(int, size.split("x"))) for size in options.sizes or known]
    if options.miniature:
        options.layers = MINIATURE["num_layers"]
    lane = LANES_MINIATURE["eager"] if options.miniature else LANES[options.lane]
    report: Json = {**reporting.head(device), "gpus": count, "lane": options.lane, "layers": options.layers}

    transformer = random_transformer(
        device, dtype, **{**(MINIATURE if options.miniature else {}), "num_layers": options.layers}
    )
    arithmetic = enter(transformer, lane)
    vae = (
        load_vae(MINIATURE_WEIGHTS, device, dtype)
        if options.miniature
        else random_module(AutoencoderKLWan, device, dtype)
    )
    times = transformer.embed_timesteps(torch.tensor([900.0], device=device)).step(0)
    cases = {}
    for size in sizes:
        for people in options.people:
            latents, context = inputs(transformer, *size, people, 17 if options.miniature else 257)
            cases[size, people] = (
                latents,
                context,
                *timed(
                    lambda latents=latents, context=context: transformer(latents, times, context),
                    device,
                    options.repeats,
                ),
            )
    decodings = {}
    if not options.no_decoding:
        alone = copy.deepcopy(vae)
        if device.type == "cuda":
            optimise_vae(alone, lane.compiled)
        for size in sizes:
            width, height, frames = size
            latents = torch.randn(1, 16, latent_frames(frames), height // 8, width // 8, device=device)
            decodings[size] = latents, *timed(lambda latents=latents: to_video(alone, latents), device, options.repeats)
    started = time.perf_counter()
    ranks = Ranks(count, device)
    ranks.join()
    report["join_s"] = round(time.perf_counter() - started, 1)
    torch.compiler.reset()
    started = time.perf_counter()
    models = share_models(_models(transformer, vae, arithmetic, device, dtype), ranks, compiled=lane.compiled)
    report["share_s"] = round(time.perf_counter() - started, 1)
    print(json.dumps(report), flush=True)
    rows = []
    for (size, people), (latents, context, one_s, expected) in cases.items():
        spent_s, result = timed(
            lambda latents=latents, context=context: models.transformer(latents, times, context),
            device,
            options.repeats,
        )
        rows.append(_row("pass", size, people, one_s, spent_s, difference(result, expected)))
        print(json.dumps(rows[-1]), flush=True)
        reporting.save({**report, "rows": rows}, options.json)
    for size, (latents, one_s, expected) in decodings.items():
        spent_s, result = timed(lambda latents=latents: models.to_video(latents), device, options.repeats)
        rows.append(_row("decode", size, 0, one_s, spent_s, difference(result, expected)))
        print(json.dumps(rows[-1]), flush=True)
    report["rows"] = rows
    if device.type == "cuda":
        report["free_gib"] = [round(torch.cuda.mem_get_info(gpu)[0] / 2**30, 1) for gpu in range(count)]
    reporting.save(report, options.json)
    ranks.close()
    print(json.dumps({key: value for key, value in report.items() if key != "rows"}))
    print(table(rows))


def _row(what: str, size: tuple[int, ...], people: int, one_s: float, ranks_s: float, error: float) -> Json:
    return {
        "what": what,
        "size": "x".join(map(str, size)),
        "people": people,
        "one_s": round(one_s, 3),
        "ranks_s": round(ranks_s, 3),
        "speed_up": round(one_s / ranks_s, 3),
        "difference": error,
    }


def table(rows: list[Json]) -> str:
    lines = ["| what | size | people | one GPU, s | all, s | speed-up | difference |", "|" + " --- |" * 7]
    for row in rows:
        cells = [*row.values()][:-1]
        lines.append("| " + " | ".join(map(str, cells)) + f" | {row['difference']:.2g} |")
    return "\n".join(lines)


def _models(
    transformer: InfiniteTalkTransformer,
    vae: AutoencoderKLWan,
    arithmetic: Arithmetic,
    device: torch.device,
    dtype: torch.dtype,
) -> Models:
    """Models without the encoders, which run on one GPU."""
    nothing = cast(Any, None)
    return Models(device, dtype, arithmetic, transformer, vae, nothing, nothing, nothing, nothing, nothing)


if __name__ == "__main__":
    main()
