"""Host memory of long jobs: peak resident memory of a two-minute miniature job beside a twenty-second one.

    python benchmarks/memory.py [--seconds 20 120] [--speed-mode turbo]

Each job runs in a process of its own; what is printed is the operating system's own account of it.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from infinitetalk.shapes import SAMPLE_RATE_HZ

RATE_HZ = SAMPLE_RATE_HZ


def write_voice(path: Path, seconds: float) -> None:
    """Noise that swells and fades like speech."""
    generator = np.random.default_rng(0)
    times = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    loudness = np.abs(np.sin(2 * np.pi * 1.5 * times)) * 0.2
    soundfile.write(path, (generator.standard_normal(len(times)) * loudness).astype(np.float32), RATE_HZ)


def run(seconds: float, speed_mode: str, picture: Path, folder: Path) -> None:
    """Run one job in this process and print its peak memory as JSON."""
    from infinitetalk.cli import main

    voice = folder / "voice.wav"
    write_voice(voice, seconds)
    started = time.perf_counter()
    output = folder / "out.mp4"
    arguments = ["--image", picture, "--audio", voice, "--speed-mode", speed_mode, "--seed", "1", "-o", output]
    main(["generate", "--profile", "miniature", *map(str, arguments)])
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"audio_s": seconds, "wall_s": round(time.perf_counter() - started, 1), "peak_mib": peak_mib}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs="+", default=[20.0, 120.0])
    parser.add_argument("--speed-mode", default="turbo")
    parser.add_argument("--picture", type=Path, default=Path(__file__).parents[1] / "samples" / "portrait.png")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run(options.seconds[0], options.speed_mode, options.picture, options.child)
        return
    peaks = []
    for seconds in options.seconds:
        with tempfile.TemporaryDirectory() as folder:
            arguments = ["--seconds", str(seconds), "--speed-mode", options.speed_mode]
            command = [sys.executable, __file__, *arguments, "--picture", str(options.picture), "--child", folder]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        figures = json.loads(done.stdout.splitlines()[-1])
        peaks.append(figures["peak_mib"])
        print(f"{seconds:g} s of sound: {figures['wall_s']} s, peak {figures['peak_mib']:.0f} MiB", flush=True)
    print(f"longest against shortest: {peaks[-1] / peaks[0]:.3f}x")


if __name__ == "__main__":
    main()
