"""What one of several GPUs computes of a pass and of decoding, on a single GPU: a bound of the speed-up.

    python -m benchmarks.rank_share [--ranks 2 4 8] [--lane sdpa] [--layers 8]

This process is rank 0 of a group in which each rank is taken to send what this one does. So it computes its own part
of every pass, on numbers like the real ones (a GPU multiplies zeros faster), and waits for nobody. What transfers cost,
`benchmarks.ranks` shows on a machine that has the GPUs. The results are meaningless; the times are not.

Prints a table; --json FILE also writes JSON.
"""

import argparse
import copy
import json
from collections.abc import Iterator, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as distributed
from diffusers import AutoencoderKLWan
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from benchmarks import reporting
from benchmarks.random_models import random_module, random_transformer
from benchmarks.ranks import DEFAULT_SIZES, timed
from benchmarks.transformer import LANES, LANES_MINIATURE, MINIATURE, SIZES_MINIATURE, Lane, enter, inputs
from infinitetalk.models import context_parallel
from infinitetalk.models.context_parallel import Shards
from infinitetalk.models.fast_vae import optimise_vae
from infinitetalk.models.split_vae import SplitDecoder
from infinitetalk.models.vae import to_video
from infinitetalk.shapes import latent_frames

Json = dict[str, Any]
Size = tuple[int, ...]  # width, height, frames


@torch.library.custom_op("benchmarks::echo", mutates_args=())
def echo(given: Tensor, received: list[int], _sent: list[int], _group: str) -> Tensor:
    """What an exchange would bring if every rank sent what this one sends: as many rows, filled with its own."""
    output = given.new_empty(sum(received), *given.shape[1:])
    flat, own = output.view(-1), given.reshape(-1)
    for start in range(0, flat.numel(), own.numel()):
        part = flat[start : start + own.numel()]
        part.copy_(own[: part.numel()])
    return output


@echo.register_fake
def _(given: Tensor, received: list[int], _sent: list[int], _group: str) -> Tensor:
    return given.new_empty(sum(received), *given.shape[1:])


def _with_echo() -> SimpleNamespace:
    """torch's operators between ranks, with exchanges that stay here."""
    real = torch.ops._c10d_functional
    return SimpleNamespace(all_to_all_single=echo, wait_tensor=real.wait_tensor, all_reduce=real.all_reduce)


def shards_of(count: int) -> Shards:
    """Rank 0's part among so many, of a new group."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
    if count == 1:
        return Shards()
    distributed.init_process_group("fake", rank=0, world_size=count, store=FakeStore())
    assert distributed.group.WORLD is not None
    return Shards(0, count, distributed.group.WORLD.group_name)


def passes(
    device: torch.device, sizes: Sequence[Size], ranks: Sequence[int], lane: Lane, options: argparse.Namespace
) -> Iterator[tuple[Size, int, float]]:
    """Seconds of each size's pass, for each number of ranks."""
    dtype = torch.float32 if options.miniature else torch.bfloat16
    shape = MINIATURE if options.miniature else {"num_layers": options.layers}
    transformer = random_transformer(device, dtype, **shape)
    times = transformer.embed_timesteps(torch.tensor([900.0], device=device)).step(0)
    cases = {size: inputs(transformer, *size, options.people, 17 if options.miniature else 257) for size in sizes}
    for count in ranks:
        transformer.use_shards(shards_of(count))
        enter(transformer, lane)
        for size, (latents, context) in cases.items():
            one_pass = partial(transformer, latents, times, context)
            yield size, count, timed(one_pass, device, options.repeats)[0]


def decodings(
    device: torch.device, sizes: Sequence[Size], ranks: Sequence[int], repeats: int
) -> Iterator[tuple[Size, int, float]]:
    """Likewise of decoding."""
    vae = random_module(AutoencoderKLWan, device, torch.bfloat16)
    for count in ranks:
        shards, own = shards_of(count), copy.deepcopy(vae)
        optimise_vae(own, True)
        decode = SplitDecoder(own, shards) if count > 1 else partial(to_video, own)
        for size in sizes:
            width, height, frames = size
            latents = torch.randn(1, 16, latent_frames(frames), height // 8, width // 8, device=device)
            yield size, count, timed(partial(decode, latents), device, repeats)[0]


@torch.inference_mode()
def main() -> None:
    context_parallel._OPERATORS = _with_echo()  # type: ignore[assignment]
    parser = reporting.options(__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--lane", choices=list(LANES), default="sdpa")
    parser.add_argument("--layers", type=int, default=8, help="blocks; the time of a pass is proportional to them")
    parser.add_argument("--people", type=int, default=2)
    parser.add_argument("--sizes", nargs="+", help="such as 1280x720x81")
    parser.add_argument("--no-decoding", action="store_true")
    options = parser.parse_args()
    device = torch.device("cpu" if options.miniature else "cuda")
    lane = LANES_MINIATURE["eager"] if options.miniature else LANES[options.lane]
    known = ["x".join(map(str, size)) for size in SIZES_MINIATURE] if options.miniature else DEFAULT_SIZES
    sizes = [tuple(map(int, size.split("x"))) for size in options.sizes or known]
    report: Json = {**reporting.head(device), "lane": options.lane, "layers": options.layers, "rows": []}
    print(json.dumps(report), flush=True)
    counts = (1, *options.ranks)
    kinds = {"pass": passes(device, sizes, counts, lane, options)}
    if not options.no_decoding and not options.miniature:
        kinds["decode"] = decodings(device, sizes, counts, options.repeats)
    for what, measured in kinds.items():
        spent: dict[Size, dict[int, float]] = {size: {} for size in sizes}
        for size, count, seconds in measured:
            spent[size][count] = seconds
        for size, by_count in spent.items():
            row: Json = {"what": what, "size": "x".join(map(str, size))}
            row["seconds"] = {count: round(seconds, 3) for count, seconds in by_count.items()}
            row["speed_up_at_most"] = {n: round(by_count[1] / seconds, 2) for n, seconds in by_count.items() if n > 1}
            report["rows"].append(row)
            print(json.dumps(row), flush=True)
        reporting.save(report, options.json)
    print(table(report["rows"], options.ranks))


def table(rows: list[Json], ranks: list[int]) -> str:
    heads = ["what", "size", "one GPU, s", *(f"one of {count}, s (at most)" for count in ranks)]
    lines = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    for row in rows:
        shares = [f"{row['seconds'][count]} ({row['speed_up_at_most'][count]})" for count in ranks]
        lines.append(f"| {row['what']} | {row['size']} | {row['seconds'][1]} | {' | '.join(shares)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
