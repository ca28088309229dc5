"""Whole jobs as a worker runs them, from files to an mp4: seconds per stage, per new frame and per second of video.

    MODEL_PROFILE=infinitetalk-14b python -m benchmarks.job --json out/job.json    random weights (needs a GPU of 80 GB)
    python -m benchmarks.job --miniature --window 13                               the miniature, on any machine
    GPUS=2 ...                                                                     on so many GPUs (auto takes all)
    python -m benchmarks.plot out/job.json docs/job.svg                            draws what the first one wrote

Picture and voices are those of samples/, repeated. Settings come from the environment, as the worker's do. With random
weights times and memory are the real ones, except that the video shows noise, which H.264 takes longest for. Each job
has --windows full windows and --steps steps. From it is extrapolated what all steps of the mode would take for a video
of --seconds; the table says so.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from benchmarks.random_models import random_models
from infinitetalk.contract.presets import SpeedMode, load_mode, load_profile
from infinitetalk.contract.request import Request, Resolution, SpeedModeName
from infinitetalk.contract.settings import Settings
from infinitetalk.contract.values import LOCAL_FILES
from infinitetalk.logs import configure_logging
from infinitetalk.media.audio import load_audio
from infinitetalk.models.device import gpu_name
from infinitetalk.models.opening import Models
from infinitetalk.planning.estimate import Hardware, Work, find_hardware
from infinitetalk.planning.plan import Plan, make_plan
from infinitetalk.progress import Stage
from infinitetalk.shapes import FPS, SAMPLES_PER_FRAME
from infinitetalk.startup.calibration import Sample, run_sample, write_voice
from infinitetalk.startup.opening import open_models

ROOT = Path(__file__).parents[1]

SAMPLES = ROOT / "samples"
WARM_UP_FRAMES = 13

Json = dict[str, Any]

# What a stage's time grows with. All other stages take the same time in every job. Waiting for H.264 ("encode") is one
# of these, since H.264 goes on beside the next window, and more steps give it more time.
GROWTH: Mapping[Stage, Callable[[Plan], float]] = {
    "denoise": lambda plan: Work.of(plan).tokens,
    "decode": lambda plan: Work.of(plan).to_video,
    "color": lambda plan: Work.of(plan).to_video,
    "bytes": lambda plan: Work.of(plan).to_video,
    "condition": lambda plan: len(plan.windows),
    "overlap": lambda plan: len(plan.windows) - 1,
    "audio": lambda plan: plan.n_frames,
}
# The stages whose time a window after the first adds.
OF_A_WINDOW = ("denoise", "decode", "color", "bytes", "condition", "overlap")


def job_fields(folder: Path, speed_mode: str, resolution: str, people: int, n_frames: int) -> Json:
    """A job's input. Its voices are written to the folder: the samples' voices, repeated for so many frames."""
    names = {"wav_url": "voice.wav", "wav_url_2": "voice_2.flac"} if people == 2 else {"wav_url": "voice.wav"}
    for field, name in names.items():
        voice = load_audio(SAMPLES / name, field, None, 60.0, folder).wave
        write_voice(np.resize(voice, n_frames * SAMPLES_PER_FRAME), folder / f"{field}.wav")
    return {
        "image_url": (SAMPLES / ("two_people.png" if people == 2 else "portrait.png")).as_uri(),
        "speed_mode": speed_mode,
        "resolution": resolution,
        "aspect_ratio": "16:9",
        "person_count": "multi" if people == 2 else "single",
        "seed": 1,
        **{field: (folder / f"{field}.wav").as_uri() for field in names},
    }


def extrapolate(seconds: Mapping[str, float], run: Plan, whole: Plan) -> dict[str, float]:
    """Seconds per stage of a longer job with more steps. Each stage grows as `GROWTH` says."""
    found = {}
    for stage, spent in seconds.items():
        amount = GROWTH.get(stage, lambda _: 1)
        found[stage] = spent * amount(whole) / amount(run) if amount(run) else 0.0
    return found


def new_frame_s(seconds: Mapping[str, float], plan: Plan, steps: int) -> float:
    """Seconds that each new frame takes in a long video: those of a full window after the first, per new frame."""
    windows = len(plan.windows)
    spent = {stage: seconds.get(stage, 0.0) / windows for stage in OF_A_WINDOW}
    spent["overlap"] = seconds.get("overlap", 0.0) / max(windows - 1, 1)
    spent["denoise"] *= steps / plan.mode.steps
    return sum(spent.values()) / (plan.mode.window_frames - plan.mode.overlap_frames)


def measure(
    models: Models, settings: Settings, fields: Json, modes: tuple[SpeedMode, SpeedMode], seconds: float, folder: Path
) -> Json:
    """Run the job in the first of `modes`, and extrapolate to the second and to so many seconds of video."""
    cuda = models.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    sample, result = run_sample(fields, modes[0], models, settings, folder / "out.mp4")
    request = Request.parse(fields, LOCAL_FILES)
    profile = load_profile(settings.model_profile)
    run, whole = (
        make_plan(request, profile, mode, n_frames, seed=1)
        for mode, n_frames in zip(modes, (result.settings.frames, round(seconds * FPS)), strict=True)
    )
    hardware = find_hardware(profile.name, gpu_name(models.device), settings.hardware_file)
    seconds_ = {**sample.seconds, "other": sample.other}
    extrapolated = extrapolate(seconds_, run, whole)
    total_s = sum(extrapolated.values())
    return {
        "speed_mode": run.mode.name,
        "size": "x".join(map(str, run.size)),
        "people": run.speakers,
        "window": run.mode.window_frames,
        "overlap": run.mode.overlap_frames,
        "windows": len(run.windows),
        "steps": run.mode.steps,
        "frames": run.n_frames,
        "work": asdict(sample.work),
        "seconds": {stage: round(spent, 3) for stage, spent in seconds_.items()},
        "total_s": result.gpu_seconds,
        "estimated_s": _estimate(hardware, run, sample, models.n_gpus),
        "new_frame_s": round(new_frame_s(sample.seconds, run, whole.mode.steps), 4),
        "extrapolated": {
            "video_s": seconds,
            "windows": len(whole.windows),
            "steps": whole.mode.steps,
            "seconds": {stage: round(spent, 3) for stage, spent in extrapolated.items()},
            "total_s": round(total_s, 1),
            "estimated_s": _estimate(hardware, whole, sample, models.n_gpus),
            "outside_transformer": round(1 - extrapolated["denoise"] / total_s, 4),
        },
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1) if cuda else None,
        "reserved_gib": round(torch.cuda.memory_reserved() / 2**30, 1) if cuda else None,
    }


def _estimate(hardware: Hardware | None, plan: Plan, sample: Sample, n_gpus: int) -> float | None:
    if hardware is None or sample.arithmetic.lane not in hardware.lanes:
        return None
    return round(hardware.seconds(Work.of(plan), sample.arithmetic, n_gpus), 1)


def table(rows: list[Json]) -> str:
    """Markdown: the runs, and below them what is extrapolated."""
    stages = list(dict.fromkeys(stage for row in rows for stage in row["seconds"]))
    heads = ["mode", "size", "people", "windows", "steps", "frames", *stages, "in all", "estimated", "peak GiB"]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for row in rows:
        cells = [row[key] for key in ("speed_mode", "size", "people", "windows", "steps", "frames")]
        cells += [f"{row['seconds'].get(stage, 0.0):.2f}" for stage in stages]
        cells += [f"{row['total_s']:.1f}", row["estimated_s"], row["peak_gib"]]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    heads = ["extrapolated", "windows", "steps", "s", "estimated", "s per second of video", "outside the transformer"]
    heads += ["s per new frame", "against maximum_quality"]
    lines += ["", f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    slowest = {row["size"]: row["new_frame_s"] for row in rows if row["speed_mode"] == "maximum_quality"}
    for row in rows:
        more = row["extrapolated"]
        base = slowest.get(row["size"])
        saved = "" if base is None else f"{100 * (1 - row['new_frame_s'] / base):.1f} % less"
        cells = [f"{more['video_s']:g} s, {row['speed_mode']}, {row['size']}, {row['people']}", more["windows"]]
        cells += [more["steps"], f"{more['total_s']:.0f}", more["estimated_s"]]
        cells += [f"{more['total_s'] / more['video_s']:.2f}", f"{100 * more['outside_transformer']:.1f} %"]
        cells += [f"{row['new_frame_s']:.3f}", saved]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Run the jobs, print the table, write the JSON after each job."""
    modes = get_args(SpeedModeName)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--miniature", action="store_true")
    parser.add_argument("--speed-mode", nargs="+", choices=modes, default=modes)
    parser.add_argument("--resolution", nargs="+", choices=get_args(Resolution), default=["480p"])
    parser.add_argument("--people", type=int, choices=(1, 2), default=2)
    parser.add_argument("--windows", type=int, default=2)
    parser.add_argument("--window", type=int, help="frames, instead of the mode's, to try the script")
    parser.add_argument("--overlap", type=int, help="frames, instead of the mode's")
    parser.add_argument("--steps", type=int, help="fewer than the mode's")
    parser.add_argument("--seconds", type=float, default=80.0, help="of the video that is extrapolated to")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    settings = Settings.from_env(os.environ | ({"MODEL_PROFILE": "miniature"} if options.miniature else {}))
    configure_logging("ERROR", sys.stderr)
    started_s = time.perf_counter()
    models = open_models(settings) if options.miniature else random_models(torch.device("cuda"), settings)
    report: Json = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": gpu_name(models.device),
        "gpus": models.n_gpus,
        "torch": torch.__version__,
        "profile": settings.model_profile,
        "arithmetic": asdict(models.arithmetic),
        "load_s": round(time.perf_counter() - started_s, 1),
        "jobs": [],
    }
    print(", ".join(f"{key} {value or 'CPU'}" for key, value in report.items() if key != "jobs"), flush=True)
    changes = {"window_frames": options.window, "overlap_frames": options.overlap, "steps": options.steps}
    with tempfile.TemporaryDirectory() as name:
        for resolution in options.resolution:
            for number, speed_mode in enumerate(("turbo", *options.speed_mode)):
                mode = load_mode(speed_mode)
                given = {key: value for key, value in changes.items() if value}
                run = mode.model_copy(update=given if number else {"window_frames": WARM_UP_FRAMES, "steps": 1})
                n_frames = run.window_frames + (options.windows - 1) * (run.window_frames - run.overlap_frames)
                fields = job_fields(Path(name), speed_mode, resolution, options.people, n_frames)
                row = measure(models, settings, fields, (run, mode), options.seconds, Path(name))
                if number:  # the first one warms up: kernels are tuned and built for each size once
                    report["jobs"].append(row)
                    print(json.dumps(row), flush=True)
                if options.json:
                    options.json.write_text(json.dumps(report, indent=1), "utf-8")
    print(table(report["jobs"]))


if __name__ == "__main__":
    main()
