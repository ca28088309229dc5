"""Train the miniature, on one GPU, in one run.

    python -m training.run --out OUT

This writes OUT/miniature.tar (the files of infinitetalk/miniature/), OUT/log.txt, OUT/metrics.json and OUT/sheet.png.
The archive is written after each phase and every minute. To go on after a cut, or to train longer, add `--resume
OUT/miniature.tar` (or a folder of those files). A phase of 0 seconds is left out; with all three left out, the
miniature is only measured. `--smoke` rehearses every phase in about two minutes on a CPU.
"""

import argparse
import json
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from infinitetalk.models.text_encoder import embed_prompt
from training.compiling import allow_many_sizes, compile_norms
from training.conditions import Conditioner
from training.data import Maker
from training.evaluate import evaluate
from training.export import PROMPTS, Parts, export, load_parts, make_parts, make_tokenizer, pack
from training.log import Log
from training.speech import load_corpus
from training.train_talker import KINDS, keep_residuals_in_float32, train_talker
from training.train_vae import Codec, evaluate_vae, measure_latents, train_vae
from training.train_voice import corpus_features, train_voice

SEED = 2025


@dataclass(frozen=True)
class Scale:
    """How much of everything there is. All else is the same in a rehearsal."""

    speech_s: float = 1e9
    max_steps: int = 10**9
    voice_batch: int = 64
    vae_batch_share: float = 1.0
    vae_measure: int = 8
    talker_tokens: int = 32_000
    pool_scenes: int = 4000
    fill_scenes: int = 20
    frames_limit: int = 121
    kinds: tuple[tuple[int, int, float], ...] = KINDS
    latest_s: float = 1e9
    clips: int = 12
    frames: int = 249
    long_frames: int = 1500


SMOKE = Scale(
    speech_s=30,
    max_steps=5,
    voice_batch=2,
    vae_batch_share=0.01,
    vae_measure=1,
    talker_tokens=1600,
    pool_scenes=2,
    fill_scenes=1,
    frames_limit=13,
    kinds=((0, 1, 0.5), (0, 2, 0.5)),
    latest_s=100,
    clips=1,
    frames=57,
    long_frames=57,
)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--voice-seconds", type=float, default=30, help="of training the audio encoder")
    parser.add_argument("--vae-seconds", type=float, default=560, help="of training the autoencoder")
    parser.add_argument("--talker-seconds", type=float, default=900, help="of training the transformer")
    parser.add_argument(
        "--total-seconds", type=float, default=1420, help="end of the evaluation; training ends 45 s before"
    )
    parser.add_argument("--resume", type=Path, help="miniature.tar of an earlier run, or a folder of its files")
    parser.add_argument("--smoke", action="store_true", help="a few steps of everything")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    scale = SMOKE if options.smoke else Scale()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    options.out.mkdir(parents=True, exist_ok=True)
    log = Log(options.out / "log.txt", 20, options.smoke)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    log(f"torch {torch.__version__} on {gpu}; {vars(options)}")

    parts = make_parts(SEED)
    if options.resume:
        resume(options.resume, parts)
        log(f"going on from {options.resume}")
    trained = bool(parts.transformer.proj_out.weight.any())
    for module in parts.modules().values():
        module.to(device)
    sizes = {name: sum(p.numel() for p in m.parameters()) / 1e6 for name, m in parts.modules().items()}
    log("million weights: " + ", ".join(f"{name} {size:.2f}" for name, size in sizes.items()))

    saved_s = [0.0]

    def save() -> None:
        with tempfile.TemporaryDirectory() as folder:
            written = export(parts, Path(folder) / "miniature")
            pack(Path(folder) / "miniature", options.out / "miniature.new")
        (options.out / "miniature.new").replace(options.out / "miniature.tar")
        saved_s[0] = log.elapsed_s
        log(f"miniature.tar: {written / 1e6:.2f} MB of files")

    def save_now_and_then() -> None:
        if log.elapsed_s > saved_s[0] + 60:
            save()

    def left_s(wanted_s: float) -> float:
        """The phase's seconds, or fewer if the total does not leave as many."""
        return max(1.0, min(wanted_s, options.total_seconds - 45 - log.elapsed_s))

    train, held_out = (load_corpus(part, limit_s=scale.speech_s) for part in ("train", "held_out"))
    log(f"speech with pauses: {train.speech_frames / 25:.0f} s, held out {held_out.speech_frames / 25:.0f} s")
    maker, examiner = Maker(train, device, SEED), Maker(held_out, device, SEED + 1)
    if device.type == "cuda":
        allow_many_sizes()

    if options.voice_seconds > 0:
        train_voice(
            parts.voice_encoder, train, device, left_s(options.voice_seconds), log, scale.voice_batch, scale.max_steps
        )
        if options.vae_seconds > 0 or options.talker_seconds > 0:
            save()
    parts.voice_encoder.eval().requires_grad_(False)
    if options.vae_seconds > 0:
        if device.type == "cuda":
            compile_norms(parts.vae)
        train_vae(
            parts.vae,
            maker,
            left_s(options.vae_seconds),
            log,
            scale.vae_batch_share,
            scale.max_steps,
            save_now_and_then,
            options.resume is not None,
            trained,
        )
        if not trained:
            measure_latents(parts.vae, maker, scale.vae_measure, 2 * scale.vae_measure)
        save()
    parts.vae.eval().requires_grad_(False)
    codec = Codec(parts.vae, device)
    quality = {}
    if options.vae_seconds > 0:
        quality = evaluate_vae(codec, examiner, scale.clips, min(65, scale.frames_limit))
        log("autoencoder, held out: " + " ".join(f"{name} {value:.3f}" for name, value in quality.items()))

    with torch.no_grad():
        prompts = torch.cat([embed_prompt(parts.text_encoder, make_tokenizer(), prompt) for prompt in PROMPTS]).clone()
        train_features, features = (corpus_features(parts.voice_encoder, c, device) for c in (train, held_out))
    keep_residuals_in_float32(parts.transformer)
    if options.talker_seconds > 0:
        train_talker(
            parts.transformer,
            Conditioner(parts.transformer, train_features, prompts),
            maker,
            codec,
            parts.image_encoder,
            left_s(options.talker_seconds),
            log,
            scale.talker_tokens,
            scale.pool_scenes,
            scale.fill_scenes,
            scale.frames_limit,
            scale.kinds,
            scale.max_steps,
            save_now_and_then,
            trained,
        )
        save()
    parts.transformer.eval().requires_grad_(False)

    def save_results(results: dict[str, dict[str, float]]) -> None:
        report = {
            "autoencoder": quality,
            "million_weights": sizes,
            "talker": results,
            "seconds": round(log.elapsed_s, 1),
        }
        (options.out / "metrics.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")

    if options.talker_seconds <= 0 and (options.voice_seconds > 0 or options.vae_seconds > 0):
        log("done: the transformer is as it was")
        return
    conditioner = Conditioner(parts.transformer, features, prompts)
    evaluate(
        conditioner,
        codec,
        parts.image_encoder,
        examiner,
        log,
        options.out,
        min(options.total_seconds, scale.latest_s),
        scale.clips,
        scale.frames,
        scale.long_frames,
        save_results,
    )
    log("done")


def resume(source: Path, parts: Parts) -> None:
    """Load the weights of an archive or folder that `save` wrote."""
    if source.is_dir():
        load_parts(parts, source)
        return
    with tempfile.TemporaryDirectory() as folder, tarfile.open(source) as tar:
        tar.extractall(folder, filter="data")
        load_parts(parts, Path(folder) / "miniature")


if __name__ == "__main__":
    main()
