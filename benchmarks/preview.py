"""What a window of the preview costs: processor time, time and bytes.

    python -m benchmarks.preview VIDEO [--frames 81] [--size 1280x720]

The frames of VIDEO, fitted to the size, stand in for a window that has been made. Prints one line of figures each for
the HLS part and for the contact sheet.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import numpy as np
import soundfile

from infinitetalk.media.audio import Track, load_audio, write_soundtrack
from infinitetalk.media.encode import VideoWriter
from infinitetalk.media.hls import HEADER, HlsParts
from infinitetalk.media.sheet import contact_sheet
from infinitetalk.media.video import SourceVideo
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


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("video", type=Path, metavar="VIDEO")
    parser.add_argument("--frames", type=int, default=81)
    parser.add_argument("--size", default="1280x720", metavar="WIDTHxHEIGHT")
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


if __name__ == "__main__":
    main()
