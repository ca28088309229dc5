"""Vocals out of a song: seconds for each chunk of 8 s and for a minute of sound, and the memory that it takes.

    python -m benchmarks.separate [--seconds 60]     the released model's sizes, on the GPU if there is one
    python -m benchmarks.separate --miniature        a small network, on the CPU

Random weights, and noise for a song: neither changes the time. The seconds for a chunk, of which a minute has 16, are
`separate_s_per_chunk` of a hardware file. Peak memory is above the weights: on a GPU what torch allocated, on the CPU
what the process took.
"""

import resource
import statistics
import time
from typing import Any

import numpy as np
import torch

from benchmarks import reporting
from benchmarks.random_models import MEL_BAND_ROFORMER, random_separator
from infinitetalk.models.separator import isolate_vocals
from infinitetalk.shapes import SEPARATOR_RATE_HZ, separator_chunk_starts

SIZES_MINIATURE = MEL_BAND_ROFORMER | {"dim": 4, "depth": 1, "heads": 1, "dim_head": 4}


def peak_bytes(device: torch.device) -> int:
    """The most memory so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(seconds: float, device: torch.device, repeats: int, sizes: dict[str, int]) -> dict[str, Any]:
    """Times and memory of a song of so many seconds; on a GPU after a first one that is not counted."""
    separator = random_separator(device, **sizes)
    weights_bytes = sum(tensor.numel() * tensor.element_size() for tensor in separator.parameters())
    generator = np.random.default_rng(0)
    song = generator.standard_normal((round(seconds * SEPARATOR_RATE_HZ), 2), np.float32) * np.float32(0.1)
    before = peak_bytes(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        isolate_vocals(separator, song[:1], device, lambda: None)
    times_s = []
    for _ in range(repeats):
        started = time.perf_counter()
        isolate_vocals(separator, song, device, lambda: None)
        times_s.append(time.perf_counter() - started)
    chunks = len(separator_chunk_starts(len(song)))
    spent = statistics.median(times_s)
    return {
        "song_s": seconds,
        "chunks": chunks,
        "seconds": round(spent, 3),
        "s_per_chunk": round(spent / chunks, 4),
        "s_per_minute": round(spent / chunks * len(separator_chunk_starts(60 * SEPARATOR_RATE_HZ)), 2),
        "weights_gib": round(weights_bytes / 2**30, 2),
        "peak_gib": round((peak_bytes(device) - before) / 2**30, 2),
    }


def main() -> None:
    parser = reporting.options(__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    on_gpu = torch.cuda.is_available() and not options.miniature
    device = torch.device("cuda" if on_gpu else "cpu")
    sizes = SIZES_MINIATURE if options.miniature else MEL_BAND_ROFORMER
    report = {**reporting.head(device), "separator": measure(options.seconds, device, options.repeats, sizes)}
    reporting.save(report, options.json)
    row = report["separator"]
    print(f"{report['device']}, torch {report['torch']}, {report['date']}")
    print("| song | chunks | s | s per chunk | s per minute of song | weights GiB | peak GiB above them |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    print(
        f"| {row['song_s']:g} s | {row['chunks']} | {row['seconds']:.2f} | {row['s_per_chunk']:.4f} "
        f"| {row['s_per_minute']:.2f} | {row['weights_gib']:.2f} | {row['peak_gib']:.2f} |"
    )


if __name__ == "__main__":
    main()
