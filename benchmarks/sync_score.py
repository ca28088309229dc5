"""How clearly a filmed mouth follows its own sound, and how seldom another voice.

    python -m benchmarks.sync_score VIDEO [--audio FILE ...]

Scores (`quality.measures.sync_score`) of the largest face of VIDEO with its own sound, with pieces of 8 s of it, with
other sounds, and with every piece of held-out speech that is as long as the video, from two seconds to two seconds.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from infinitetalk.faces.finder import FaceFinder
from infinitetalk.media.audio import Wave, load_audio
from infinitetalk.media.speech import loudness
from infinitetalk.quality.landmarks import follow_mouths
from infinitetalk.quality.measures import sync_score
from infinitetalk.quality.report import read_frames
from infinitetalk.shapes import FPS, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from training.speech import load_corpus

PIECE_FRAMES, STEP_S = 8 * FPS, 2


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("video", type=Path, metavar="VIDEO")
    parser.add_argument("--audio", type=Path, action="append", default=[], metavar="FILE")
    options = parser.parse_args(arguments)
    tracked = follow_mouths(read_frames(options.video, "video")[0], FaceFinder.open(torch.device("cpu")), 1)
    if tracked.reason:
        raise SystemExit(tracked.reason)
    mouth = tracked.mouths[0].openness

    def score(wave: Wave, first: int = 0, n_frames: int = len(mouth)) -> float | None:
        n_frames = min(n_frames, len(wave) // SAMPLES_PER_FRAME, len(mouth) - first)
        return sync_score(mouth[first : first + n_frames], loudness(wave, n_frames))

    def shown(values: Sequence[float | None]) -> str:
        known = sorted(value for value in values if value is not None)
        return f"{len(known)} scores, mean {np.mean(known):.2f}, largest {[round(value, 1) for value in known[-3:]]}"

    with tempfile.TemporaryDirectory() as folder:
        own, *others = (
            load_audio(path, "audio", None, 600, Path(folder)).wave for path in (options.video, *options.audio)
        )
    print(f"its own sound: {score(own)}")
    starts = range(0, len(mouth) - PIECE_FRAMES + 1, FPS)
    pieces = [score(own[t * SAMPLES_PER_FRAME :], t, PIECE_FRAMES) for t in starts]
    print(f"pieces of 8 s of it: {[None if piece is None else round(piece, 1) for piece in pieces]}")
    for path, wave in zip(options.audio, others, strict=True):
        print(f"{path.name}: {score(wave)}")
    speech = load_corpus("held_out").sound
    length, step = len(mouth) * SAMPLES_PER_FRAME, STEP_S * SAMPLE_RATE_HZ
    foreign = [score(speech[start : start + length]) for start in range(0, len(speech) - length, step)]
    print(f"held-out speech: {shown(foreign)}")


if __name__ == "__main__":
    main()
