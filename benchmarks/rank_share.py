"""What one of several GPUs computes of a pass and of decoding, on a single GPU.

    python -m benchmarks.rank_share [--ranks 2 4 8] [--lane sdpa] [--layers 8] [--gb-per-s 146]

This process is rank 0 of a group whose other ranks are taken to send what it sends (`benchmarks.loopback`), and waits
for nobody. With --gb-per-s a transfer also takes the time of such a link, while the work that does not need it goes
on. What transfers really cost, `benchmarks.ranks` shows on a machine that has the GPUs. The results are meaningless;
the times are not.

Prints a table; --json FILE also writes JSON.
"""

import argparse
import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKLWan

from benchmarks import reporting
from benchmarks.loopback import Link, join
from benchmarks.random_models import random_module, random_transformer
from benchmarks.ranks import DEFAULT_SIZES, timed
from benchmarks.transformer import LANES, LANES_MINIATURE, MINIATURE, SIZES_MINIATURE, Lane, enter, inputs
from infinitetalk.models.context_parallel import Shards
from infinitetalk.models.fast_vae import optimise_vae
from infinitetalk.models.split_vae import SplitDecoder
from infinitetalk.models.vae import to_video
from infinitetalk.shapes import latent_frames

Json = dict[str, Any]
Size = tuple[int, ...]  # width, height, frames
Case = tuple[Size, int]  # and how many people speak


def shards_of(count: int, link: Link | None) -> Shards:
    """Rank 0's part among so many, of a new group."""
    return Shards() if count == 1 else Shards(0, count, join(count, link))


def passes(
    device: torch.device, sizes: Sequence[Size], link: Link | None, lane: Lane, options: argparse.Namespace
) -> Iterator[tuple[Case, int, float]]:
    """Seconds of each size's pass with so many people, for each number of ranks."""
    dtype = torch.float32 if options.miniature else torch.bfloat16
    shape = MINIATURE if options.miniature else {"num_layers": options.layers}
    transformer = random_transformer(device, dtype, **shape)
    times = transformer.embed_timesteps(torch.tensor([900.0], device=device)).step(0)
    image_tokens = 17 if options.miniature else 257
    cases = {
        (size, people): inputs(transformer, *size, people, image_tokens) for size in sizes for people in options.people
    }
    for count in (1, *options.ranks):
        transformer.use_shards(shards_of(count, link))
        enter(transformer, lane)
        for case, (latents, context) in cases.items():
            one_pass = partial(transformer, latents, times, context)
            yield case, count, timed(one_pass, device, options.repeats)[0]


def decodings(
    device: torch.device, sizes: Sequence[Size], link: Link | None, options: argparse.Namespace
) -> Iterator[tuple[Case, int, float]]:
    """Likewise of decoding, which does not depend on how many people there are."""
    vae = random_module(AutoencoderKLWan, device, torch.bfloat16)
    for count in (1, *options.ranks):
        shards, own = shards_of(count, link), copy.deepcopy(vae)
        optimise_vae(own, True)
        decode = SplitDecoder(own, shards) if count > 1 else partial(to_video, own)
        for size in sizes:
            width, height, frames = size
            latents = torch.randn(1, 16, latent_frames(frames), height // 8, width // 8, device=device)
            yield (size, 0), count, timed(partial(decode, latents), device, options.repeats)[0]


@torch.inference_mode()
def main() -> None:
    parser = reporting.options(__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", help="2, 4 and 8 if not given; 2 and 4 with --miniature")
    parser.add_argument("--lane", choices=list(LANES), default="sdpa")
    parser.add_argument("--layers", type=int, default=8, help="blocks; the time of a pass is proportional to them")
    parser.add_argument("--people", type=int, nargs="+", default=[2])
    parser.add_argument("--sizes", nargs="+", help="such as 1280x720x81")
    parser.add_argument(
        "--gb-per-s", type=float, help="10^9 bytes that a GPU sends in a second; a copy's time if not given"
    )
    parser.add_argument("--channels", type=int, default=32, help="multiprocessors that are busy with a transfer")
    parser.add_argument("--no-decoding", action="store_true")
    options = parser.parse_args()
    device = torch.device("cpu" if options.miniature else "cuda")
    options.ranks = options.ranks or ([2, 4] if options.miniature else [2, 4, 8])
    if options.miniature:
        options.lane, options.layers = "eager", MINIATURE["num_layers"]
    link = None if options.gb_per_s is None else Link(options.gb_per_s, options.channels)
    lane = (LANES_MINIATURE if options.miniature else LANES)[options.lane]
    known = ["x".join(map(str, size)) for size in SIZES_MINIATURE] if options.miniature else DEFAULT_SIZES
    sizes = [tuple(map(int, size.split("x"))) for size in options.sizes or known]
    report: Json = {**reporting.head(device), "lane": options.lane, "layers": options.layers, "rows": []}
    report["link"] = link and asdict(link)
    print(json.dumps(report), flush=True)
    kinds = {"pass": passes(device, sizes, link, lane, options)}
    if not options.no_decoding and not options.miniature:
        kinds["decode"] = decodings(device, sizes, link, options)
    for what, measured in kinds.items():
        rows: dict[Case, Json] = {}
        for case, count, seconds in measured:
            size, people = case
            if case not in rows:
                rows[case] = {"what": what, "size": "x".join(map(str, size)), "people": people, "seconds": {}}
                report["rows"].append(rows[case])
            rows[case]["seconds"][count] = round(seconds, 5)
            print(json.dumps(rows[case]), flush=True)
            reporting.save(report, options.json)
    print(table(report["rows"], options.ranks))


def table(rows: list[Json], ranks: list[int]) -> str:
    """With the speed-up in brackets."""
    heads = ["what", "size", "people", "one GPU, s", *(f"one of {count}, s" for count in ranks)]
    lines = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    for row in rows:
        spent = row["seconds"]
        shares = [f"{spent[count]:.3f} ({spent[1] / spent[count]:.2f})" for count in ranks]
        cells = [row["what"], row["size"], row["people"] or "-", f"{spent[1]:.3f}", *shares]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
