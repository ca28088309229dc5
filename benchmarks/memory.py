"""Memory over a long job: the host's for longer and longer sound, or the GPU's after each window.

    python -m benchmarks.memory [--seconds 20 120] [--speed-mode turbo]     whole jobs of the miniature
    python -m benchmarks.memory --seconds 20 600 --grey                     the same, but all frames are grey
    python -m benchmarks.memory --windows 30 [--layers 2] [--json FILE]     one job of the 14B's sizes (needs a GPU)
    python -m benchmarks.memory --hear --seconds 30 120 600                 the 14B profile's audio encoder (needs a
    GPU)

Each host job runs in a process of its own, whose peak memory is what the operating system counted. Grey jobs do
everything but denoise and decode: they read the sound, make its features, write each window and join the windows. The
job on the GPU has random weights and fewer layers in the transformer. More layers would take more memory, but no more
from window to window. Its windows have 81 frames and two steps.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from transformers import Wav2Vec2FeatureExtractor

from benchmarks.random_models import random_encoders, random_models
from infinitetalk import cli
from infinitetalk.contract.presets import load_mode, load_profile
from infinitetalk.contract.request import Request
from infinitetalk.contract.settings import Settings
from infinitetalk.generation.pipeline import Material, Rendered, SeededNoise, VoiceFeatures, generate
from infinitetalk.generation.pixels import to_bytes
from infinitetalk.models.audio_encoder import embed_voice
from infinitetalk.planning.plan import Plan, make_plan
from infinitetalk.progress import Stopwatch
from infinitetalk.shapes import FPS, SAMPLE_RATE_HZ

ROOT = Path(__file__).parents[1]

WINDOW_FRAMES, OVERLAP_FRAMES = 81, 9
AUDIO_LAYERS, AUDIO_CHANNELS = 12, 768


def make_voice(seconds: float) -> NDArray[np.float32]:
    """Noise that swells and fades like speech."""
    generator = np.random.default_rng(0)
    times = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    loudness = np.abs(np.sin(2 * np.pi * 1.5 * times)) * 0.2
    return (generator.standard_normal(len(times)) * loudness).astype(np.float32)


def host_peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def grey_windows(plan: Plan, *_: object) -> Iterator[Rendered]:
    """What `generate` yields, but grey and without the model."""
    for window in plan.windows:
        frames = window.keep_stop - window.keep_start
        yield Rendered(window, torch.zeros(3, frames, *reversed(plan.size)), None)


def run(seconds: float, speed_mode: str, picture: Path, folder: Path, grey: bool) -> None:
    """Run one job in this process and print its peak memory as JSON."""
    voice = folder / "voice.wav"
    soundfile.write(voice, make_voice(seconds), SAMPLE_RATE_HZ)
    started = time.perf_counter()
    output = folder / "out.mp4"
    arguments = ["--image", picture, "--audio", voice, "--speed-mode", speed_mode, "--seed", "1", "-o", output]
    with mock.patch("infinitetalk.job.render.generate", grey_windows) if grey else nullcontext():
        cli.main(["generate", "--profile", "miniature", *map(str, arguments)])
    wall_s = round(time.perf_counter() - started, 1)
    print(json.dumps({"audio_s": seconds, "wall_s": wall_s, "peak_mib": host_peak_mib()}))


def host_memory(options: argparse.Namespace) -> None:
    """Peak resident memory of jobs of each length."""
    peaks = []
    for seconds in options.seconds:
        with tempfile.TemporaryDirectory() as folder:
            arguments = ["--seconds", str(seconds), "--speed-mode", options.speed_mode, *["--grey"] * options.grey]
            command = [
                sys.executable,
                "-m",
                "benchmarks.memory",
                *arguments,
                "--picture",
                str(options.picture),
                "--child",
                folder,
            ]
            done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        figures = json.loads(done.stdout.splitlines()[-1])
        peaks.append(figures["peak_mib"])
        print(f"{seconds:g} s of sound: {figures['wall_s']} s, peak {figures['peak_mib']:.0f} MiB", flush=True)
    print(f"longest against shortest: {peaks[-1] / peaks[0]:.3f}x")


class NoisePicture:
    """Footage: one picture of noise, which is shown in every window."""

    is_still = True

    def __init__(self, width: int, height: int) -> None:
        self.source_size = (width, height)
        self.picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)

    def frame(self, _index: int) -> NDArray[np.uint8]:
        return self.picture

    def clip(self, _start: int, n_frames: int) -> NDArray[np.uint8]:
        return np.repeat(self.picture[None], n_frames, axis=0)


def plan_of(n_windows: int, resolution: str) -> Plan:
    n_frames = WINDOW_FRAMES + (WINDOW_FRAMES - OVERLAP_FRAMES) * (n_windows - 1)
    sizes = {"steps": 2, "window_frames": WINDOW_FRAMES, "overlap_frames": OVERLAP_FRAMES}
    fields = {"image_url": "https://example.com/a.png", "wav_url": "https://example.com/a.wav"}
    request = Request.parse({**fields, "resolution": resolution, "aspect_ratio": "16:9", "speed_mode": "turbo"})
    mode = load_mode("turbo").model_copy(update=sizes)
    return make_plan(request, load_profile("infinitetalk-14b"), mode, n_frames, seed=1)


def gpu_memory(n_windows: int, layers: int, resolution: str, report: Path | None) -> None:
    """Allocated, peak and reserved GPU memory, and the host's peak, after each window of one job."""
    device = torch.device("cuda")
    models = random_models(device, Settings(attention_backend="_native_cudnn"), num_layers=layers)
    plan = plan_of(n_windows, resolution)
    voices = VoiceFeatures(torch.randn(1, plan.n_frames, AUDIO_LAYERS, AUDIO_CHANNELS, device=device))
    material, noise = Material(NoisePicture(*plan.size), voices, None), SeededNoise(plan.seed)
    rows: list[dict[str, Any]] = []
    started = time.perf_counter()
    for part in generate(plan, models, material, noise, lambda *_: None, Stopwatch(torch.cuda.synchronize)):
        to_bytes(part.frames)
        row = {
            "window": part.window.index,
            "seconds": round(time.perf_counter() - started, 1),
            "allocated_gib": round(torch.cuda.memory_allocated() / 2**30, 3),
            "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 3),
            "reserved_gib": round(torch.cuda.memory_reserved() / 2**30, 3),
            "host_peak_mib": round(host_peak_mib()),
        }
        del part
        torch.cuda.reset_peak_memory_stats()
        rows.append(row)
        print(*(f"{name} {value:g}" for name, value in row.items()), sep=", ", flush=True)
        if report:
            report.write_text(json.dumps(rows, indent=1), "utf-8")


def hearing_memory(lengths_s: list[float]) -> None:
    """GPU memory that the features of a voice take, above the models', and the host's peak, for each length."""
    encoder = random_encoders(torch.device("cuda"), torch.bfloat16)[-1]
    for seconds in lengths_s:
        torch.cuda.reset_peak_memory_stats()
        before, started = torch.cuda.memory_allocated(), time.perf_counter()
        features = embed_voice(encoder, Wav2Vec2FeatureExtractor(), make_voice(seconds), round(seconds * FPS))
        torch.cuda.synchronize()
        row = {
            "audio_s": seconds,
            "seconds": round(time.perf_counter() - started, 1),
            "peak_gib": round((torch.cuda.max_memory_allocated() - before) / 2**30, 2),
            "features_gib": round((torch.cuda.memory_allocated() - before) / 2**30, 2),
            "host_peak_mib": round(host_peak_mib()),
        }
        del features
        print(*(f"{name} {value:g}" for name, value in row.items()), sep=", ", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs="+", default=[20.0, 120.0])
    parser.add_argument("--grey", action="store_true")
    parser.add_argument("--hear", action="store_true")
    parser.add_argument("--speed-mode", default="turbo")
    parser.add_argument("--picture", type=Path, default=ROOT / "samples" / "portrait.png")
    parser.add_argument("--windows", type=int)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--resolution", choices=["480p", "720p"], default="480p")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run(options.seconds[0], options.speed_mode, options.picture, options.child, options.grey)
    elif options.hear:
        hearing_memory(options.seconds)
    elif options.windows:
        gpu_memory(options.windows, options.layers, options.resolution, options.json)
    else:
        host_memory(options)


if __name__ == "__main__":
    main()
