"""Which voice belongs to which face of a video: how often it is told, and how often wrongly.

    python -m benchmarks.matching                      drawn people who speak held-out sentences, two in a picture
    python -m benchmarks.matching --video FILE.mp4     also a real person, twice, one of them half the film late

From each clip windows of several lengths are taken at random. "told": the given order is the wrong one and is
exchanged, as it should be. "harmed": it is the right one and is exchanged. "unrelated": the voices say something else
than the mouths (they are shifted by seconds against them), so that an exchange is as good as none; how often there is
one.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import reporting
from infinitetalk.faces.finder import FaceFinder
from infinitetalk.faces.matching import match_voices
from infinitetalk.faces.mouths import following, openness_curve
from infinitetalk.media.audio import load_audio
from infinitetalk.media.speech import loudness
from infinitetalk.media.video import SourceVideo
from infinitetalk.shapes import FPS
from training.data import SIZES
from training.held_out import held_out_job
from training.speech import load_corpus

Floats = NDArray[np.float32]

LENGTHS_S = (4, 6, 8, 10, 15)
WINDOWS = 300
APART = 3 * FPS  # frames by which unrelated voices are shifted at least
CHUNK = 50


@dataclass(frozen=True)
class Pair:
    """Two people's mouths and voices, (T,) each."""

    mouths: tuple[Floats, Floats]
    loud: tuple[Floats, Floats]


def drawn_pair(finder: FaceFinder, number: int, corpus: object, frames: int) -> Pair | None:
    """A drawn job's people; None where their faces are not found."""
    job = held_out_job(corpus, number, 2, SIZES[2], frames, wander=True)  # type: ignore[arg-type]
    first = finder.find(job.drawn[0])
    if len(first) != 2:
        return None
    followed = zip(*finder.follow(iter(job.drawn), first), strict=True)
    mouths = [openness_curve(None if face is None else face.points for face in faces) for faces in followed]
    loud = [loudness(wave, frames) for wave in job.waves]
    return Pair((mouths[0], mouths[1]), (loud[0], loud[1]))


def filmed_pair(finder: FaceFinder, path: Path) -> Pair:
    """The first person of a video, and the same half the video later."""
    video = SourceVideo.open(path, "video", *SourceVideo.look(path, "video", 16, 16).source_size)
    frames = int(video.duration_s * FPS)
    first = finder.find(video.frame(0))[:1]
    pictures = (frame for start in range(0, frames, CHUNK) for frame in video.clip(start, min(CHUNK, frames - start)))
    mouth = openness_curve(faces[0].points if faces[0] else None for faces in finder.follow(pictures, first))
    with tempfile.TemporaryDirectory() as folder:
        loud = loudness(load_audio(path, "video", None, 600.0, Path(folder)).wave, frames)
    alone = following(mouth, loud)
    print(f"{path.name}: {frames} frames, {np.isfinite(mouth).sum()} followed, {alone}")
    return Pair((mouth, np.roll(mouth, frames // 2)), (loud, np.roll(loud, frames // 2)))


def windows(pair: Pair, length: int, rng: np.random.Generator) -> dict[str, bool]:
    """What comes of one window: the same stretch of both mouths, with voices of three kinds."""
    frames = len(pair.loud[0])
    start = int(rng.integers(0, frames - length + 1))
    part = slice(start, start + length)
    mouths, loud = [mouth[part] for mouth in pair.mouths], [voice[part] for voice in pair.loud]
    shifts = rng.integers(APART, frames - APART, 2)
    unrelated = [np.roll(voice, shift)[part] for voice, shift in zip(pair.loud, shifts, strict=True)]

    def is_exchanged(voices: list[Floats]) -> bool:
        match = match_voices(mouths, voices)
        return match is not None and match.is_certain and match.faces == (1, 0)

    return {"told": is_exchanged(loud[::-1]), "harmed": is_exchanged(loud), "unrelated": is_exchanged(unrelated)}


def table(name: str, pairs: list[Pair], lengths_s: tuple[int, ...]) -> str:
    lines = [f"| {name} | told | harmed | unrelated |", "| --- | --- | --- | --- |"]
    rng = np.random.default_rng(0)
    for seconds in lengths_s:
        fitting = [pair for pair in pairs if len(pair.loud[0]) >= seconds * FPS]
        found = [windows(fitting[i % len(fitting)], seconds * FPS, rng) for i in range(WINDOWS)] if fitting else []
        shares = [f"{np.mean([one[kind] for one in found]):.3f}" for kind in ("told", "harmed", "unrelated")]
        lines.append(f"| {seconds} s | {' | '.join(shares)} |")
    return "\n".join(lines)


def main() -> None:
    parser = reporting.options(__doc__)
    parser.add_argument("--video", type=Path, action="append", default=[], metavar="FILE")
    parser.add_argument("--jobs", type=int, default=8, help="drawn pairs")
    options = parser.parse_args()
    finder = FaceFinder.open(torch.device("cpu"))
    corpus = load_corpus("held_out")
    drawn = [drawn_pair(finder, 700 + number, corpus, 20 * FPS) for number in range(options.jobs)]
    pairs = [pair for pair in drawn if pair is not None]
    print(f"{len(pairs)} of {options.jobs} drawn pairs followed")
    print(table("drawn pairs", pairs, LENGTHS_S))
    for path in options.video:
        print(table(path.name, [filmed_pair(finder, path)], LENGTHS_S[:-1]))


if __name__ == "__main__":
    main()
