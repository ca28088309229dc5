"""What `keep: speakers` keeps: real videos, and in place of the model's frames the source itself, changed.

    python -m benchmarks.keep [--video FILE ...] [--late 2] [--pictures FOLDER]

The stand-in is the source made smaller, brighter and warmer, and encoded at crf 26. It is blended back as a job would
blend the model's frames. With --late N it also runs N frames behind its source, so that heads do not meet.
Prints a Markdown table:

- kept: the share of values that are the decoded source's, outside the faces' outlines and a margin of 3 % of a face,
  and PSNR there in the finished file;
- border: gradients within 3 pixels of the border, and the change from frame to frame in the feathered ring, both
  against the source's own;
- color: how far the face is from the source's in colour, before and after;
- lip sync: correlation of the mouth with the sound, in the stand-in and in the result;
- whole: the share of frames that were generated as a whole, and the mismatch of the heads, median and 95th percentile.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.signal import butter, sosfiltfilt

from infinitetalk.blending import keeper as keeping
from infinitetalk.blending.geometry import Warp, depth_inside, face_outline, face_size
from infinitetalk.blending.keeper import Keeper
from infinitetalk.blending.tracks import follow_speakers
from infinitetalk.faces.finder import Face, FaceFinder
from infinitetalk.job.keep import KeptVideo
from infinitetalk.media.audio import load_audio
from infinitetalk.media.encode import VideoWriter
from infinitetalk.media.ffmpeg import run
from infinitetalk.media.original import Original
from infinitetalk.media.speech import loudness
from infinitetalk.media.video import SourceVideo
from infinitetalk.planning.windows import plan_windows
from infinitetalk.shapes import FPS, cover_crop

ROOT = Path(__file__).parents[1]
SAMPLES = (ROOT / "samples" / "talking_head.mp4", ROOT / "samples" / "two_people.mp4")
CPU = torch.device("cpu")
SHIFT = (13, 11, 7)  # levels of red, green and blue
HEIGHT = 400  # pixels of the stand-in
WINDOW, OVERLAP = 81, 5
EDGE_PX = 3.0
MARGIN = 0.03  # in faces; so far a generated face may reach beyond the source's outline
LIPS = ((13, 14), (82, 87), (312, 317))
EYES = (33, 263)

Frame = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass
class Sums:
    """What is added up over frames."""

    outside: int = 0
    touched: int = 0
    squares: float = 0.0
    edges: list[float] = field(default_factory=list)
    own_edges: list[float] = field(default_factory=list)
    changes: list[float] = field(default_factory=list)
    own_changes: list[float] = field(default_factory=list)
    colors: list[float] = field(default_factory=list)


def stand_in(video: SourceVideo, late: int, folder: Path) -> SourceVideo:
    """The source at another size, in other colours, encoded anew; `late` frames behind."""
    width, height = video.source_size
    size = (round(width * HEIGHT / height / 2) * 2, HEIGHT)
    red, green, blue = (f"clip(val+{level},0,255)" for level in SHIFT)
    filters = f"fps={FPS},scale={size[0]}:{size[1]},format=rgb24,lutrgb=r='{red}':g='{green}':b='{blue}',format=yuv420p"
    if late:
        filters += f",tpad=start={late}:start_mode=clone"
    out = folder / "stand_in.mp4"
    run("-i", f"file:{video.path}", "-an", "-vf", filters, "-c:v", "libx264", "-crf", "26", f"file:{out}")
    return SourceVideo.open(out, "video", *size)


def measure(path: Path, late: int, finder: FaceFinder, folder: Path, pictures: Path | None) -> dict[str, Any]:
    """All figures of one video."""
    video = SourceVideo.open(path, "video", 16, 16)
    original = Original.of(video)
    source = KeptVideo(original, lambda: None)
    people = len(finder.find(next(original.pictures(1, original.size, lambda: None))))

    def choose(_scene: int, found: Sequence[Face], _size: tuple[int, int]) -> Sequence[Face | None]:
        return [*found[:people], *[None] * (people - len(found))]

    begun = time.perf_counter()
    frames = original.pictures(original.n_frames, original.size, lambda: None)
    tracks = follow_speakers(frames, original.n_frames, 1.0, (0,), people, finder, choose, float(original.rate))
    followed_s = time.perf_counter() - begun
    generated = stand_in(video, late, folder)
    n_clip = generated.n_frames if not late else generated.n_frames - late
    windows = plan_windows(n_clip, WINDOW, OVERLAP)
    keeper = Keeper(source, tracks, finder, cover_crop(original.size, generated.size), windows, CPU)
    mismatches: list[float] = []
    measured = keeping.mismatch

    def mismatch(start: Floats, goal: Floats, warp: Warp) -> float:
        mismatches.append(measured(start, goal, warp))
        return mismatches[-1]

    keeping.mismatch = mismatch
    sums = Sums()
    out = folder / "kept.mp4"
    begun = time.perf_counter()
    with VideoWriter(out, *original.size, original.rate, colors=original.colors) as writer:
        own = original.planes(0, keeper.n_frames, lambda: None)
        index, before = 0, None
        for window in windows:
            made = []
            for frame in keeper.frames(generated.clip(window.keep_start, window.keep_stop - window.keep_start)):
                before = _compare(next(own), frame, before, original.size, tracks.points[index], sums)
                made.append(frame)
                index += 1
            writer.append(writer.pack_planes(made))
        writer.finish(index)
    blended_s = time.perf_counter() - begun
    keeping.mismatch = measured
    kept = Original.of(SourceVideo.open(out, "kept", 16, 16))
    whole = sum(stop - start for start, stop in keeper.whole_s) * float(original.rate) / keeper.n_frames
    shown = SourceVideo.open(generated.path, "video", *original.size)
    sync = {name: _sync(one, path, finder) for name, one in (("before", shown), ("after", kept))}
    if pictures is not None:
        _draw(original, kept, pictures / f"{path.stem}_{late}.png")
    return {
        "video": path.stem,
        "late": late,
        "people": people,
        "kept": 1 - sums.touched / max(sums.outside, 1),
        "psnr_db": _psnr(original, kept, tracks.points, keeper.n_frames),
        "border": float(np.mean(sums.edges) / np.mean(sums.own_edges)),
        "change": float(np.mean(sums.changes) / np.mean(sums.own_changes)),
        "color": float(np.mean(sums.colors)),
        "sync": sync,
        "whole": whole,
        "mismatch": [float(np.percentile(mismatches, share)) for share in (50, 95)] if mismatches else None,
        "ms_follow": 1000 * followed_s / original.n_frames,
        "ms_blend": 1000 * blended_s / keeper.n_frames,
    }


def _depth(points: Floats, size: tuple[int, int]) -> Floats:
    """How deep inside any of the regions each pixel lies."""
    depth = np.full((size[1], size[0]), -np.inf, np.float32)
    for face in points[np.isfinite(points[:, 0, 0])]:
        np.maximum(depth, depth_inside(face_outline(face), 0, 0, *size), out=depth)
    return depth


def _compare(
    own: Frame, made: Frame, before: tuple[Floats, Floats] | None, size: tuple[int, int], points: Floats, sums: Sums
) -> tuple[Floats, Floats]:
    """Add up what one frame tells. Returns its luma, the source's and the result's."""
    depth = _depth(points, size)
    a, b = (planes[: size[1]].astype(np.float32) for planes in (own, made))
    sizes = [face_size(face) for face in points if np.isfinite(face[0, 0])]
    outside = depth <= -MARGIN * max(sizes, default=0)
    sums.outside += int(outside.sum())
    sums.touched += int((a != b)[outside].sum())
    edge = np.abs(depth) < EDGE_PX
    ring = (depth > 0) & (depth < 0.08 * max(sizes, default=0))
    if not ring.any():
        return a, b
    for luma, edges in ((a, sums.own_edges), (b, sums.edges)):
        edges.append(float(np.hypot(*np.gradient(luma))[edge].mean()))
    sums.colors.append(float((b - a)[depth > 0].mean()))
    if before is not None:
        sums.own_changes.append(float(np.abs(a - before[0])[ring].mean()))
        sums.changes.append(float(np.abs(b - before[1])[ring].mean()))
    return a, b


def _psnr(original: Original, kept: Original, points: Floats, n_frames: int) -> float:
    """Of luma outside the regions, in the finished file."""
    squares, count = 0.0, 0
    pairs = zip(*(one.planes(0, n_frames, lambda: None) for one in (original, kept)), strict=True)
    for index, (own, made) in enumerate(pairs):
        outside = _depth(points[index], original.size) <= 0
        apart = (own[: original.size[1]].astype(np.float32) - made[: original.size[1]])[outside]
        squares += float((apart**2).sum())
        count += apart.size
    return float(10 * np.log10(255**2 * count / max(squares, 1e-9)))


def _sync(video: SourceVideo | Original, sound: Path, finder: FaceFinder) -> float | None:
    """The best correlation, within 4 frames, of the first mouth with the sound, both from 0.7 to 7 Hz."""
    if isinstance(video, Original):
        video = SourceVideo.open(video.video.path, "kept", *video.size)
    frames = video.clip(0, video.n_frames)
    found = finder.find(frames[0])
    openness = np.array([_openness(faces[0]) for faces in finder.follow(frames, found[:1])], np.float64)
    try:
        wave = load_audio(sound, "video", None, 600.0, Path(tempfile.gettempdir())).wave
    except Exception:  # a film without sound
        return None
    loud = np.asarray(loudness(wave, len(openness)), np.float64)
    band = butter(2, (0.7, 7), "bandpass", fs=FPS, output="sos")
    a, b = (sosfiltfilt(band, np.nan_to_num(values, nan=np.nanmean(values))) for values in (openness, loud))
    a, b = ((values - values.mean()) / values.std() for values in (a, b))
    return float(max(np.roll(b, lag) @ a / len(a) for lag in range(-4, 5)))


def _openness(face: Face | None) -> float:
    if face is None:
        return float("nan")
    gaps = [np.linalg.norm(face.points[i] - face.points[j]) for i, j in LIPS]
    return float(np.mean(gaps) / np.linalg.norm(face.points[EYES[0]] - face.points[EYES[1]]))


def _draw(original: Original, kept: Original, path: Path) -> None:
    """Four moments, the source above the result."""
    places = np.linspace(0, min(original.n_frames, kept.n_frames) - 1, 4).astype(int)

    def shown(one: Original) -> Iterator[Frame]:
        video = SourceVideo.open(one.video.path, "video", *one.size)
        return (video.frame(int(place * FPS / one.rate)) for place in places)

    rows = [np.concatenate(list(shown(one)), axis=1) for one in (original, kept)]
    Image.fromarray(np.concatenate(rows)).save(path)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| video | late | people | kept outside | PSNR in the file, dB | border | change | face's colour "
        "| lip sync before | after | whole | mismatch 50 % / 95 % | ms to follow / to blend |",
        "|" + " --- |" * 13,
    ]
    for row in rows:
        sync = [f"{value:.3f}" if value is not None else "-" for value in row["sync"].values()]
        apart = " / ".join(f"{value:.3f}" for value in row["mismatch"] or [])
        lines.append(
            f"| {row['video']} | {row['late']} | {row['people']} | {row['kept']:.4%} | {row['psnr_db']:.1f} "
            f"| {row['border']:.3f} | {row['change']:.3f} | {row['color']:+.1f} | {sync[0]} | {sync[1]} "
            f"| {row['whole']:.0%} | {apart} | {row['ms_follow']:.0f} / {row['ms_blend']:.0f} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, nargs="+", default=list(SAMPLES), metavar="FILE")
    parser.add_argument("--late", type=int, nargs="+", default=[0, 2], metavar="FRAMES")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="four moments of each, as pictures")
    parser.add_argument("--json", type=Path, help="also write what was measured")
    options = parser.parse_args(arguments)
    finder = FaceFinder.open(CPU)
    rows = []
    for path in options.video:
        for late in options.late:
            with tempfile.TemporaryDirectory() as folder:
                rows.append(measure(path, late, finder, Path(folder), options.pictures))
            print(json.dumps(rows[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1), "utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
