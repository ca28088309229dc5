"""What a window of the preview costs: processor time, time and bytes.

    python -m benchmarks.preview VIDEO [--frames 81] [--size 1280x720] [--beside]

The frames of VIDEO, fitted to the size, stand in for a window that has been made. Prints one line of figures each for
the HLS part and for the contact sheet. With `--beside`, on a GPU, also how much slower steps of the 14B model (720p,
random weights) are while a thread makes parts without a pause; a job makes one a window.
"""

import argparse
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import numpy as np
import soundfile
import torch

from benchmarks.random_models import assemble_random_models
from benchmarks.windows import plan_for, run
from infinitetalk.contract.presets import load_profile
from infinitetalk.contract.settings import Settings
from infinitetalk.media.audio import Track, load_audio, write_soundtrack
from infinitetalk.media.encode import VideoWriter
from infinitetalk.media.hls import HEADER, HlsParts
from infinitetalk.media.sheet import contact_sheet
from infinitetalk.media.video import SourceVideo
from infinitetalk.models.opening import make_fast
from infinitetalk.shapes import FPS, SAMPLE_RATE_HZ

T = TypeVar("T")


def _timed(work: Callable[[], T]) -> tuple[T, str]:
    """What the work makes, and what it took."""

    def used_s() -> float:
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    before, begun = used_s(), time.perf_counter()
    made = work()
    return made, f"{used_s() - before:.2f} s of one core, {time.perf_counter() - begun:.2f} s"


def beside(make_part: Callable[[], object], n_windows: int = 3) -> str:
    """How long the steps of some windows take, alone and while parts are made in a thread, in turns."""
    device, profile = torch.device("cuda"), load_profile("infinitetalk-14b")
    models = assemble_random_models(device, Settings())
    plan = plan_for(profile, "fast", "720p", 61 * n_windows, {"steps": 2})
    make_fast(models, compiled=True)
    run(models, plan)
    seconds: dict[str, list[float]] = {"alone": [], "beside parts": []}
    n_parts = 0
    for kind in ("alone", "beside parts", "beside parts", "alone"):
        is_over = threading.Event()

        def work(is_over: threading.Event = is_over) -> None:
            nonlocal n_parts
            while not is_over.is_set():
                make_part()
                n_parts += 1

        thread = threading.Thread(target=work)
        if kind != "alone":
            thread.start()
        seconds[kind].append(run(models, plan)[0]["denoise"])
        is_over.set()
        if kind != "alone":
            thread.join()
    alone, slowed = map(sum, seconds.values())
    return f"steps, s: {seconds}; {n_parts} parts; slower by {slowed / alone - 1:.2%}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("video", type=Path, metavar="VIDEO")
    parser.add_argument("--frames", type=int, default=81)
    parser.add_argument("--size", default="1280x720", metavar="WIDTHxHEIGHT")
    parser.add_argument("--beside", action="store_true")
    options = parser.parse_args(arguments)
    width, height = map(int, options.size.split("x"))
    frames = SourceVideo.open(options.video, "video", width, height).clip(0, options.frames)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        duration_s = options.frames / FPS
        voice = np.random.default_rng(0).uniform(-0.1, 0.1, round(duration_s * SAMPLE_RATE_HZ))
        soundfile.write(folder / "voice.wav", voice, SAMPLE_RATE_HZ)
        sound = load_audio(folder / "voice.wav", "voice", None, 600.0, folder).sound
        write_soundtrack((Track(sound, 0.0, duration_s),), duration_s, folder / "sound.m4a")
        with VideoWriter(folder / "unused.mp4", width, height) as writer:
            (folder / "piece").write_bytes(writer.pack(frames))
            writer.give_up()
        parts = HlsParts(folder, folder / "sound.m4a", (width, height), Fraction(FPS))
        part, cost = _timed(lambda: parts.add(0, folder / "piece"))
        assert part is not None
        size = (folder / part.name).stat().st_size + (folder / HEADER).stat().st_size
        print(f"HLS part of {options.frames} frames: {cost}, {size / 1e3:.0f} kB")
        sheet, cost = _timed(lambda: contact_sheet(folder / "piece", (width, height)))
        print(f"contact sheet: {cost}, {len(sheet) / 1e3:.1f} kB of text")
        if options.beside:
            print(beside(lambda: parts.add(1, folder / "piece")))


if __name__ == "__main__":
    main()
