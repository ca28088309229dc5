"""One forward pass of the transformer: milliseconds, TFLOP/s and memory, at the sizes that jobs run.

    python benchmarks/transformer.py                 the 14B network with random weights (needs a GPU of 80 GB)
    python benchmarks/transformer.py --miniature     a small one, on any machine
    python benchmarks/transformer.py --errors        how far bfloat16 is from float32, eager and compiled

Writes a table, and JSON with --json FILE.
"""

import argparse
import copy
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from random_models import random_transformer

from infinitetalk.masks import person_masks
from infinitetalk.models.compiling import compile_transformer
from infinitetalk.models.loading import set_attention_backend
from infinitetalk.models.transformer import TEXT_TOKENS, Context, InfiniteTalkTransformer
from infinitetalk.shapes import latent_frames, token_count

SIZES_14B = [(848, 480, 81), (1280, 720, 81), (1280, 720, 121)]
SIZES_MINIATURE = [(160, 96, 49), (160, 96, 81)]
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


def flop(config: Any, tokens: int, people: int, frames: int) -> float:  # noqa: ANN401
    """Multiply-adds of one pass, counted as two operations each, constant keys and values left out."""
    dim = config.num_attention_heads * config.attention_head_dim
    linear = 2 * tokens * (4 * dim**2 + 2 * dim**2 + 2 * dim**2 + 2 * dim * config.ffn_dim)
    attention = 4 * tokens * dim * (tokens + TEXT_TOKENS + 257 + people * config.audio_tokens)
    if people == 2:  # the map of the people: queries by the first frame's keys, values of eight columns
        first = tokens // frames
        attention += 2 * tokens * first * (dim + 8 * config.num_attention_heads)
    return float(config.num_layers * (linear + attention))


def inputs(
    transformer: InfiniteTalkTransformer, width: int, height: int, frames: int, people: int, image_tokens: int
) -> tuple[torch.Tensor, Context]:
    """Random latents and context of a window, the same for every dtype."""
    config, generator = transformer.config, torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(transformer.device, transformer.dtype)

    latents = draw(1, config.in_channels, latent_frames(frames), height // 8, width // 8)
    audio = draw(1, people, frames + 4, config.audio_layers, config.audio_channels)
    masks = person_masks(None, (width, height), (width, height)).to(transformer.device) if people == 2 else None
    context = Context(
        transformer.embed_text(draw(1, TEXT_TOKENS, config.text_dim)),
        transformer.embed_image(draw(1, image_tokens, config.image_dim)),
        transformer.embed_audio(audio, "multi" if people == 2 else "single", masks),
        transformer.rotary_embedding(latents),
    )
    return latents, context


@torch.inference_mode()
def errors(device: torch.device, sizes: dict[str, int]) -> dict[str, float]:
    """Relative errors of bfloat16, eager and compiled, against float32 with the same weights; four blocks."""
    coarse = random_transformer(device, torch.bfloat16, **{**sizes, "num_layers": 4})
    exact = copy.deepcopy(coarse).float()

    def run(transformer: InfiniteTalkTransformer) -> torch.Tensor:
        latents, context = inputs(transformer, 320, 192, 17, 2, 17)
        time_ = transformer.embed_timesteps(torch.tensor([900.0], device=device))
        return transformer(latents, time_.step(0), context).float()

    expected = run(exact)
    found = {"eager": run(coarse)}
    compile_transformer(coarse)
    found["compiled"] = run(coarse)
    return {name: float((value - expected).norm() / expected.norm()) for name, value in found.items()}


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
    for _ in range(repeats + 1):  # the first one warms up, and compiles
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
    work = flop(transformer.config, tokens, people, latent_frames(frames))
    return {
        "width": width,
        "height": height,
        "frames": frames,
        "people": people,
        "tokens": tokens,
        "milliseconds": round(median_s * 1000, 1),
        "spread_ms": round((max(seconds[1:]) - min(seconds[1:])) * 1000, 1),
        "pflop": round(work / 1e15, 3),
        "tflop_per_s": round(work / median_s / 1e12, 1),
        "first_s": round(seconds[0], 1),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1) if cuda else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--miniature", action="store_true")
    parser.add_argument("--attention", nargs="+", default=["native"], help="kernels by diffusers' names")
    parser.add_argument("--people", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--eager", action="store_true", help="without torch.compile, as on a CPU")
    parser.add_argument("--errors", action="store_true", help="only compare results with float32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() and not options.miniature else "cpu")
    dtype = torch.float32 if options.miniature else torch.bfloat16
    sizes = MINIATURE if options.miniature else {}
    if options.errors:
        print(json.dumps({"relative errors against float32": errors(device, sizes)}))
        return
    transformer = random_transformer(device, dtype, **sizes)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    rows = []
    if device.type == "cuda" and not options.eager:
        compile_transformer(transformer)
    print(f"{name}, torch {torch.__version__}, {dtype}")
    print("| attention | size | frames | people | tokens | ms | spread | PFLOP | TFLOP/s | first pass s | peak GiB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for backend in options.attention:
        set_attention_backend(transformer, backend)
        for width, height, frames in SIZES_MINIATURE if options.miniature else SIZES_14B:
            for people in options.people:
                row = measure(transformer, width, height, frames, people, options.repeats)
                rows.append({"attention": backend, **row})
                size = f"{width}x{height}"
                cells = [backend, size, *(row[key] for key in list(row)[2:])]
                print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    if options.json:
        report = {"device": name, "torch": torch.__version__, "dtype": str(dtype), "passes": rows}
        options.json.write_text(json.dumps(report, indent=1), "utf-8")


if __name__ == "__main__":
    main()
