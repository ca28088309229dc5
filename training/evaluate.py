"""What the talker does with faces, voices and sentences that it was not trained on.

The package's own loop makes the windows (`denoise`, `plan_windows`, `make_scheduler`), many clips at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from transformers import CLIPVisionModel

from infinitetalk.contract.presets import load_mode
from infinitetalk.generation.joins import fade_in
from infinitetalk.generation.masks import person_masks
from infinitetalk.planning.windows import plan_windows
from training.conditions import Conditioner, condition_of, picture_features, with_mask
from training.data import Maker
from training.faces import Motion, Scene, face_region, measure_mouth, mouth_region
from training.log import Log
from training.train_vae import Codec, correlation, psnr


@dataclass(frozen=True)
class Case:
    """Held-out clips to be made.

    Args:
        starts: (B, P), first frame of each voice in the corpus.
        drawn: (B, 3, T, H, W), the clips as they are drawn.
    """

    scene: Scene
    size: tuple[int, int]
    starts: Tensor
    motion: Motion
    drawn: Tensor

    @property
    def frames(self) -> int:
        return self.drawn.shape[2]


def make_case(
    maker: Maker, count: int, people: int, size: tuple[int, int], frames: int, silent: bool = False, alike: float = 0.0
) -> Case:
    """Clips that begin with a reference frame.

    Args:
        alike: as in `Painter.scene`.
    """
    scene = maker.painter.scene(count, people, size, alike=alike)
    starts = maker.starts((count, people), frames, 1.0 if silent else 0.0)
    first = torch.ones(count, dtype=torch.bool, device=maker.device)
    motion = maker.motion(starts, frames, first, maker.reference(count, people))
    return Case(scene, size, starts, motion, maker.painter.draw(scene, motion))


@torch.no_grad()
def generate(
    case: Case,
    mode: str,
    conditioner: Conditioner,
    codec: Codec,
    image_encoder: CLIPVisionModel,
    audio_guidance: float = 1.0,
    seed: int = 1,
) -> tuple[Tensor, list[int]]:
    """Video (B, 3, T, H, W) in [-1, 1] of a case, and the frames at which the windows after the first begin."""
    preset = load_mode(mode)
    pictures = case.drawn[:, :, 0]
    people, device = case.starts.shape[1], pictures.device
    windows = plan_windows(case.frames, preset.window_frames, preset.overlap_frames)
    condition = with_mask(condition_of(codec, pictures, windows[0].length))
    image = picture_features(image_encoder, pictures)
    masks = None
    if people == 2:
        masks = person_masks((None, None), case.size, case.size).to(device).expand(len(pictures), -1, -1)
    generator = torch.Generator().manual_seed(seed)
    parts: list[Tensor] = []
    for window in windows:
        part = condition[:, :, : 1 + window.length // 4]
        noise = torch.randn(part[:, 4:].shape, generator=generator).to(device)
        tail = pictures[:, :, None] if not parts else parts[-1][:, :, -preset.overlap_frames :]
        motion = codec.encode(tail)
        voices = conditioner.voices(case.starts + window.start, window.length, case.starts)
        latents = conditioner.make_window(
            noise, part, motion, voices, image, masks, preset.scheduler, preset.steps, generator, audio_guidance
        )
        video = codec.decode(latents)
        if window.index:
            for clip, last_frame in zip(video, tail[:, :, -1], strict=True):
                fade_in(clip, window.overlap, last_frame, preset.join_fade_frames)
        parts.append(video[:, :, window.overlap :] if window.index else video)
    return torch.cat(parts, 2)[:, :, : case.frames], [w.keep_start for w in windows[1:]]


def _lag(measured: Tensor, wanted: Tensor) -> int:
    """The number of frames by which the measured mouth is late."""
    n = wanted.shape[-1]
    scores = {
        lag: correlation(measured[..., max(0, lag) : n + min(0, lag)], wanted[..., max(0, -lag) : n - max(0, lag)])
        .mean()
        .item()
        for lag in range(-3, 4)
    }
    return max(scores, key=lambda lag: scores[lag])


def measure(case: Case, video: Tensor, joins: list[int]) -> dict[str, float]:
    """The clips' numbers: lips, their amplitude, the other voice, still parts, colour, joins."""
    mouth, wanted = measure_mouth(case.scene, video)[..., 1:], case.motion.height[..., 1:]
    drawn = measure_mouth(case.scene, case.drawn)[..., 1:]
    scores = correlation(mouth, wanted)
    report = {
        "corr": scores.mean().item(),
        "corr_min": scores.min().item(),
        "lag": float(_lag(mouth, wanted)),
        "amplitude": (mouth.std(-1) / drawn.std(-1).clamp(min=1e-3)).mean().item(),
    }
    if mouth.shape[1] == 2:
        report["corr_other"] = (correlation(mouth, wanted.flip(1)) - correlation(wanted, wanted.flip(1))).mean().item()
    still = 1 - face_region(case.scene).amax(1)[:, None, None]
    error = ((video - case.drawn[:, :, :1].float()) / 2).square()

    def quality(mask: Tensor, part: Tensor) -> float:
        return psnr((part * mask).sum() / (mask.expand_as(part)).sum().clamp(min=1))

    report["psnr_still_first"] = quality(still, error[:, :, 1:50])
    report["psnr_still_last"] = quality(still, error[:, :, -50:])
    outside = 1 - mouth_region(case.scene).amax(1)[:, None, None]
    report["psnr_outside_mouth"] = quality(outside, ((video - case.drawn.float()) / 2).square())
    colors = video.mean((3, 4))
    report["color_drift"] = ((colors[:, :, -25:].mean(2) - colors[:, :, 0]).abs().mean() * 127.5).item()
    difference = video.diff(dim=2).abs().mean((1, 3, 4))
    if joins:
        at_joins = [join - 1 for join in joins]
        others = [i for i in range(1, difference.shape[1]) if i not in at_joins]
        median = difference[:, others].median(1).values
        report["join"] = (difference[:, at_joins].mean(1) / median).mean().item()
        report["ordinary_p95"] = (difference[:, others].quantile(0.95, dim=1) / median).mean().item()
    return {name: round(value, 3) for name, value in report.items()}


def contact_sheet(case: Case, video: Tensor, joins: list[int], clips: int, columns: int = 12) -> np.ndarray:
    """The worst clips: made frames above drawn ones, and below them the mouths (wanted green, made red, joins blue)."""
    rows = []
    times = np.linspace(0, case.frames - 1, columns).round().astype(int)
    mouths = measure_mouth(case.scene, video).clamp(-0.1, 1.2)
    scores = correlation(mouths[..., 1:], case.motion.height[..., 1:]).amin(1)
    for clip in scores.argsort()[:clips].tolist():
        for source in (video, case.drawn):
            frames = (
                ((source[clip][:, times].float() + 1) * 127.5).clamp(0, 255).byte().permute(1, 2, 3, 0).cpu().numpy()
            )
            rows.append(np.concatenate(list(frames), 1))
        width = rows[-1].shape[1]
        for person in range(mouths.shape[1]):
            graph = Image.new("RGB", (width, 48), "white")
            draw = ImageDraw.Draw(graph)
            for join in joins:
                draw.line([(join / case.frames * width, 0), (join / case.frames * width, 48)], fill=(150, 150, 255))
            for track, color in ((case.motion.height, (0, 140, 0)), (mouths, (210, 0, 0))):
                values = track[clip, person].tolist()
                draw.line([(i / case.frames * width, 44 - 36 * v) for i, v in enumerate(values)], fill=color)
            rows.append(np.asarray(graph))
    return np.concatenate(rows)


def evaluate(
    conditioner: Conditioner,
    codec: Codec,
    image_encoder: CLIPVisionModel,
    maker: Maker,
    log: Log,
    folder: Path,
    deadline_s: float,
    clips: int,
    frames: int,
    long_frames: int,
    save: Callable[[dict[str, dict[str, float]]], None],
) -> None:
    """Measure until `deadline_s` of the log's clock, the most telling cases first. Every result is saved at once."""
    results: dict[str, dict[str, float]] = {}
    sheets: list[np.ndarray] = []

    def run(name: str, case: Case, mode: str, sheet: int = 0, guidance: float = 1.0, silent: bool = False) -> None:
        if log.elapsed_s > deadline_s - 4:
            return
        began_s = log.elapsed_s
        video, joins = generate(case, mode, conditioner, codec, image_encoder, guidance)
        if silent:
            made, drawn = (measure_mouth(case.scene, v)[..., 8:] for v in (video, case.drawn))
            results[name] = {
                "silent_above_drawn": round((made - drawn).mean().item(), 3),
                "max": round((made - drawn).max().item(), 3),
            }
        else:
            results[name] = measure(case, video, joins)
        log(f"{name}: {' '.join(f'{k} {v:g}' for k, v in results[name].items())} ({log.elapsed_s - began_s:.1f} s)")
        save(results)
        if sheet:
            picture = contact_sheet(case, video, joins, sheet)
            sheets.append(picture)
            width = max(s.shape[1] for s in sheets)
            Image.fromarray(
                np.concatenate(
                    [np.pad(s, ((0, 6), (0, width - s.shape[1]), (0, 0)), constant_values=255) for s in sheets]
                )
            ).save(folder / "sheet.png", optimize=True)

    wide, tall = (160, 96), (96, 160)
    one = make_case(maker, clips, 1, tall, frames)
    two = make_case(maker, clips, 2, wide, frames)
    run("turbo one", one, "turbo", 3)
    run("turbo two", two, "turbo", 3)
    run("balanced one", one, "balanced")
    run("balanced two", two, "balanced")
    run("turbo one silent", make_case(maker, clips, 1, wide, min(frames, 129), silent=True), "turbo", silent=True)
    run("turbo two silent", make_case(maker, clips, 2, wide, min(frames, 129), silent=True), "turbo", silent=True)
    run("turbo one minute", make_case(maker, max(2, clips // 4), 1, tall, long_frames), "turbo", 1)
    run("maximum_quality one", one, "maximum_quality")
    run("maximum_quality two", two, "maximum_quality")
    run("fast one", one, "fast")
    run("fast two", two, "fast")
    run("turbo one guided", one, "turbo", guidance=2.0)
    run("turbo two guided", two, "turbo", guidance=2.0)
    run("turbo one wide", make_case(maker, clips, 1, wide, frames), "turbo")
    run("turbo two tall", make_case(maker, clips, 2, tall, frames), "turbo", 2)
    run("turbo one 720p", make_case(maker, max(2, clips // 2), 1, (128, 224), min(frames, 129)), "turbo", 1)
    run("turbo two 720p", make_case(maker, max(2, clips // 2), 2, (224, 128), min(frames, 129)), "turbo", 1)
    run("turbo one tall alike", make_case(maker, clips, 1, tall, frames, alike=1.0), "turbo", 2)
    run("turbo two tall alike", make_case(maker, clips, 2, tall, frames, alike=1.0), "turbo", 3)
