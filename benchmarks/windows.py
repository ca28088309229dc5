"""Jobs without their files, on one GPU and on several: seconds per stage, the whole job's, speed-up, difference.

    python -m benchmarks.windows                 the 14B profile with random weights, on all GPUs that torch sees
    python -m benchmarks.windows --miniature     the miniature in two processes, on any machine

Voices are random features, the picture is noise. Each job has --windows full windows of --steps steps and goes through
the worker's own loop, from text and picture to bytes. From it is extrapolated, as in benchmarks/job.py, what all steps
of the mode would take for a video of --seconds. Download, reading, the video file and delivery are left out.

Prints a table; --json FILE also writes JSON. The difference is that of the frames, between 0 and 255.
"""

import copy
import json
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import Tensor

from benchmarks import reporting
from benchmarks.job import WARM_UP_FRAMES, extrapolate
from benchmarks.memory import NoisePicture
from benchmarks.random_models import assemble_random_models
from infinitetalk.contract.presets import Profile, load_mode, load_profile
from infinitetalk.contract.request import Request, Resolution, SpeedModeName
from infinitetalk.contract.settings import Settings
from infinitetalk.generation.masks import person_masks
from infinitetalk.generation.pipeline import Material, SeededNoise, VoiceFeatures, generate
from infinitetalk.generation.pixels import to_bytes
from infinitetalk.models.device import count_gpus, synchronise
from infinitetalk.models.opening import Models, load_models, make_fast
from infinitetalk.planning.plan import Plan, make_plan
from infinitetalk.progress import Stopwatch
from infinitetalk.ranks.group import Ranks
from infinitetalk.ranks.sharing import share_models
from infinitetalk.shapes import FPS
from infinitetalk.startup.weights import find_weights

Json = dict[str, Any]


def plan_for(profile: Profile, mode: str, resolution: str, n_frames: int, changes: Json) -> Plan:
    """A job of two people, its mode changed by `changes`."""
    files = dict.fromkeys(("image_url", "wav_url", "wav_url_2"), "https://example.com/file")
    job = {**files, "person_count": "multi", "speed_mode": mode, "resolution": resolution, "aspect_ratio": "16:9"}
    return make_plan(Request.parse(job), profile, load_mode(mode).model_copy(update=changes), n_frames, seed=1)


def run(models: Models, plan: Plan) -> tuple[dict[str, float], Tensor]:
    """Seconds per stage of a job, and its last window's frames (n, height, width, 3) uint8."""
    width, height = plan.size
    generator = torch.Generator().manual_seed(0)
    heard = models.audio_encoder.config
    features = torch.randn(2, plan.n_frames, heard.num_hidden_layers, heard.hidden_size, generator=generator)
    masks = person_masks((None, None), plan.size, plan.size)
    material = Material(NoisePicture(width, height), VoiceFeatures(features.to(models.device)), masks)
    watch = Stopwatch(lambda: synchronise(models.device))
    noise = SeededNoise(plan.seed)
    for part in generate(plan, models, material, noise, lambda *_: None, watch):
        with watch.stage("bytes"):
            frames = torch.from_numpy(to_bytes(part.frames))
    return {**watch.seconds, "other": watch.total() - sum(watch.seconds.values())}, frames


def main(arguments: list[str] | None = None) -> None:
    parser = reporting.options(__doc__)
    parser.add_argument("--gpus", type=int, help="all that torch sees if not given; 2 with --miniature")
    parser.add_argument("--speed-mode", nargs="+", choices=get_args(SpeedModeName), default=["balanced"])
    parser.add_argument("--resolution", choices=get_args(Resolution), default="720p")
    parser.add_argument("--windows", type=int, default=2)
    parser.add_argument("--window", type=int, help="frames, instead of the mode's, to try the script")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--layers", type=int, default=40, help="blocks of the transformer, to try the script")
    parser.add_argument("--seconds", type=float, default=80.0, help="of the video that is extrapolated to")
    options = parser.parse_args(arguments)
    device = torch.device("cpu" if options.miniature else "cuda")
    count = options.gpus or count_gpus(device, 2 if options.miniature else "auto")
    name = "miniature" if options.miniature else "infinitetalk-14b"
    profile, settings = load_profile(name), Settings(model_profile=name)
    if options.miniature:
        models = load_models(find_weights(profile, settings).files, device, torch.float32)
    else:
        models = assemble_random_models(device, settings, num_layers=options.layers)
    plans = []
    for mode in options.speed_mode:
        preset = load_mode(mode)
        changes = {"steps": options.steps, **({"window_frames": options.window} if options.window else {})}
        window = options.window or preset.window_frames
        n_frames = window + (options.windows - 1) * (window - preset.overlap_frames)
        short = plan_for(profile, mode, options.resolution, n_frames, changes)
        whole = plan_for(profile, mode, options.resolution, round(options.seconds * FPS), {})
        plans.append((mode, short, whole))
    warm_up = plan_for(
        profile, "turbo", options.resolution, WARM_UP_FRAMES, {"steps": 1, "window_frames": WARM_UP_FRAMES}
    )
    report: Json = {**reporting.head(device), "gpus": count, "attention": models.arithmetic.attention_text, "jobs": []}
    ranks = Ranks(count, device)
    plain = copy.deepcopy(models.vae)
    make_fast(models, compiled=True)
    run(models, warm_up)
    alone = {mode: run(models, short) for mode, short, _ in plans}
    torch.compiler.reset()
    ranks.join()
    shared = share_models(replace(models, vae=plain), ranks, compiled=True)
    run(shared, warm_up)
    for mode, short, whole in plans:
        one_s, expected = alone[mode]
        all_s, frames = run(shared, short)
        row = _row(mode, short, whole, one_s, all_s)
        row["difference"] = round(float((frames.float() - expected.float()).abs().mean()), 4)
        report["jobs"].append(row)
        print(json.dumps(row), flush=True)
        reporting.save(report, options.json)
    ranks.close()
    print(table(report["jobs"], options.seconds))


def _row(mode: str, short: Plan, whole: Plan, one: dict[str, float], several: dict[str, float]) -> Json:
    """Seconds of the job that ran and of the whole one, on one GPU and on several."""
    jobs = {name: extrapolate(spent, short, whole) for name, spent in (("one", one), ("all", several))}
    totals = {name: sum(spent.values()) for name, spent in jobs.items()}
    return {
        "mode": mode,
        "size": "x".join(map(str, whole.size)),
        "ran": {
            name: {stage: round(s, 3) for stage, s in spent.items()} for name, spent in (("one", one), ("all", several))
        },
        "whole": {name: {stage: round(s, 1) for stage, s in spent.items()} for name, spent in jobs.items()},
        "one_s": round(totals["one"], 1),
        "all_s": round(totals["all"], 1),
        "speed_up": round(totals["one"] / totals["all"], 3),
        "of_passes": round(one["denoise"] / several["denoise"], 3),
        "of_decoding": round(one["decode"] / several["decode"], 3),
    }


def table(rows: list[Json], seconds: float) -> str:
    heads = [
        f"{seconds:g} s, mode",
        "size",
        "one GPU, s",
        "all, s",
        "speed-up",
        "of passes",
        "of decoding",
        "difference",
    ]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    keys = ("mode", "size", "one_s", "all_s", "speed_up", "of_passes", "of_decoding", "difference")
    return "\n".join([*lines, *("| " + " | ".join(str(row[key]) for key in keys) + " |" for row in rows)])


if __name__ == "__main__":
    main()
