"""Windows of a whole job at the 14B profile's real size with random weights: seconds per stage and peak memory.

    python benchmarks/job.py --speed-mode turbo --resolution 480p --people 1 --windows 2

Everything on the GPU is real: prompt, picture, voices, steps, autoencoder, bytes. Not in it: reading files,
downloading, H.264, delivery. Needs a GPU of 80 GB.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from random_models import random_encoders, random_transformer
from transformers import AutoTokenizer, Wav2Vec2FeatureExtractor

from infinitetalk.masks import person_masks
from infinitetalk.media.image import Picture
from infinitetalk.models.audio_encoder import embed_voice
from infinitetalk.models.compiling import compile_transformer
from infinitetalk.models.loading import Models, set_attention_backend
from infinitetalk.pipeline import Noise, Voices, generate
from infinitetalk.pixels import to_bytes
from infinitetalk.plan import Plan, make_plan
from infinitetalk.presets import load_mode, load_profile
from infinitetalk.progress import Stopwatch
from infinitetalk.request import Request
from infinitetalk.shapes import SAMPLES_PER_FRAME

MINIATURE = Path(__file__).parents[1] / "infinitetalk" / "miniature"


def random_models(device: torch.device, attention: str, compiled: bool) -> Models:
    """The 14B profile with random weights; the miniature's tokenizer stands in for umT5's."""
    profile = load_profile("infinitetalk-14b")
    transformer = random_transformer(device, torch.bfloat16)
    set_attention_backend(transformer, attention)
    if compiled:
        compile_transformer(transformer)
    vae, text_encoder, image_encoder, audio_encoder = random_encoders(device, torch.bfloat16)
    return Models(
        profile=profile,
        device=device,
        dtype=torch.bfloat16,
        transformer=transformer,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=AutoTokenizer.from_pretrained(MINIATURE / "tokenizer"),
        image_encoder=image_encoder,
        audio_encoder=audio_encoder,
        audio_extractor=Wav2Vec2FeatureExtractor(),
    )


def plan_job(speed_mode: str, resolution: str, people: int, windows: int) -> Plan:
    """A plan of that many full windows."""
    mode, profile = load_mode(speed_mode), load_profile("infinitetalk-14b")
    fields: dict[str, Any] = {"person_count": "multi", "wav_url_2": "https://example.com/b.wav"} if people == 2 else {}
    request = Request.parse(
        {
            "image_url": "https://example.com/face.png",
            "wav_url": "https://example.com/a.wav",
            "speed_mode": speed_mode,
            "resolution": resolution,
            "aspect_ratio": "16:9",
            **fields,
        }
    )
    n_frames = mode.window_frames + (windows - 1) * (mode.window_frames - mode.overlap_frames)
    return make_plan(request, profile, mode, n_frames, seed=1)


def measure(models: Models, plan: Plan) -> dict[str, Any]:
    """Seconds per stage of the job, and the memory it took."""
    generator = np.random.default_rng(0)
    picture = Picture(generator.integers(0, 256, (plan.height, plan.width, 3), np.uint8), (plan.width, plan.height))
    waves = [
        generator.standard_normal(plan.n_frames * SAMPLES_PER_FRAME).astype(np.float32) for _ in range(plan.speakers)
    ]
    masks = person_masks(None, picture.source_size, picture.source_size) if plan.speakers == 2 else None
    watch = Stopwatch(models.device)
    torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    with watch.stage("condition"), torch.inference_mode():
        encoder, extractor = models.audio_encoder, models.audio_extractor
        voices = Voices(torch.stack([embed_voice(encoder, extractor, wave, plan.n_frames) for wave in waves]))
    frames = 0
    for part in generate(plan, models, picture, voices, masks, Noise(1), lambda *_: None, watch):
        with watch.stage("to_bytes"):
            frames += len(to_bytes(part.frames))
    return {
        "speed_mode": plan.speed_mode,
        "size": f"{plan.width}x{plan.height}",
        "people": plan.speakers,
        "windows": len(plan.windows),
        "steps": plan.steps,
        "frames": frames,
        "total_s": round(time.perf_counter() - started, 2),
        **{f"{name}_s": round(seconds, 2) for name, seconds in watch.seconds.items()},
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1),
        "reserved_gib": round(torch.cuda.memory_reserved() / 2**30, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed-mode", nargs="+", default=["turbo"])
    parser.add_argument("--resolution", default="480p")
    parser.add_argument("--people", type=int, default=1)
    parser.add_argument("--windows", type=int, default=2)
    parser.add_argument("--steps", type=int, help="fewer steps than the mode's, to measure memory quickly")
    parser.add_argument("--attention", default="native")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    options = parser.parse_args()
    models = random_models(torch.device("cuda"), options.attention, not options.eager)
    print(f"resident: {torch.cuda.memory_allocated() / 2**30:.1f} GiB on {torch.cuda.get_device_name()}", flush=True)
    for mode in options.speed_mode:
        plan = plan_job(mode, options.resolution, options.people, options.windows)
        if options.steps:
            plan = replace(plan, steps=options.steps)
        print(json.dumps(measure(models, plan)), flush=True)


if __name__ == "__main__":
    main()
