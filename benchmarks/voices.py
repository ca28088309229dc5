"""split_voices: how much of the speech in made-up conversations goes to the right speaker, and how alike voices are.

    python -m benchmarks.voices                              the repository's samples and voices of espeak-ng
    python -m benchmarks.voices --speaker FOLDER_OR_FILE     also a speaker's own recordings; once for each speaker
    python -m benchmarks.voices --no-espeak ...              without espeak-ng's (or where it is not installed)

Two speakers hold a conversation of 12 turns, cut from their recordings: at their own pauses, with 0.25 s of silence
between turns, or anywhere, without a pause. It counts, of the 10 ms frames in which somebody speaks, those that go to
whoever does: a frame speaks where it is at most 30 dB below its turn's loudest. Alike are the two groups' mean voices,
in a conversation and in stretches of one speaker alone. Above a likeness of 0.75 a job is refused.
"""

import argparse
import random
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import reporting
from infinitetalk.job.conversation import MAX_LIKENESS, listen, speech_stretches
from infinitetalk.media.audio import load_audio
from infinitetalk.models.voices import VoiceModels
from infinitetalk.shapes import SAMPLE_RATE_HZ

Floats = NDArray[np.float32]

SAMPLES = Path(__file__).parent.parent / "samples"
ESPEAK = ("en-us+m3", "en-gb+f2", "en-us+f4", "en-gb-scotland+m7")
TEXT = (
    "Good morning, how was the journey? It took four hours. The train stood still near the river, and nobody knew why. "
    "Did you bring the photographs? I left them on the kitchen table. We can look at them tomorrow, if you like. "
    "My sister wants to see the old harbour. She has not been there since the summer before last. That is a pity. "
    "Perhaps we should take the boat, it leaves at half past ten. I would rather walk, the weather is fine today. "
    "Then let us meet at the corner shop. Do not forget the umbrella! Yes, you are right. I never do."
)
# (name, seconds of a turn, seconds of silence between turns; None: cut without looking for a pause)
CASES: tuple[tuple[str, tuple[float, float], float | None], ...] = (
    ("pauses of 0.25 s, turns of 1 to 4 s", (1.0, 4.0), 0.25),
    ("pauses of 0.25 s, turns of 0.5 to 2 s", (0.5, 2.0), 0.25),
    ("no pause, turns of 2.5 to 4 s", (2.5, 4.0), None),
    ("no pause, turns of 1.2 to 2 s", (1.2, 2.0), None),
    ("no pause, turns of 0.6 to 1 s", (0.6, 1.0), None),
)
ALONE_S = (5, 10, 30)
TURNS = 12
FRAME = SAMPLE_RATE_HZ // 100


def recordings(path: Path) -> Floats:
    """All that a speaker's file or folder holds, one after the other, mono at 16 kHz."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    with tempfile.TemporaryDirectory() as folder:
        return np.concatenate([load_audio(file, file.name, None, 600.0, Path(folder)).wave for file in files])


def espeak(voice: str) -> Floats:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "voice.wav")
        subprocess.run(["espeak-ng", "-v", voice, "-w", path, TEXT], check=True)
        return recordings(path)


def pieces(wave: Floats, models: VoiceModels, length_s: tuple[float, float], at_pauses: bool) -> list[Floats]:
    """A speaker's turns: stretches between pauses joined up to a length, or cut off speech at any place."""
    stretches = speech_stretches(models.speech(wave), len(wave))
    low, high = (round(seconds * SAMPLE_RATE_HZ) for seconds in length_s)
    if not at_pauses:
        spoken = np.concatenate([wave[start:stop] for start, stop in stretches])
        lengths = np.random.default_rng(0).integers(low, high, TURNS)
        ends = np.cumsum(lengths)
        return [spoken[end - length : end] for end, length in zip(ends, lengths, strict=True) if end <= len(spoken)]
    found: list[Floats] = []
    begin = None
    for start, stop in stretches:
        if begin is None or stop - begin > high:
            begin = start
        if low <= stop - begin <= high:
            found.append(wave[begin:stop])
            begin = None
    return found


def conversation(
    turns: Sequence[Sequence[Floats]], pause_s: float, n_turns: int = TURNS
) -> tuple[Floats, NDArray[np.int64]]:
    """A recording, and who speaks in each 10 ms of it: 1, 2, or 0."""
    rng = np.random.default_rng(1)
    silence = round(pause_s * SAMPLE_RATE_HZ)
    parts, truth = [], []
    for turn in range(min(n_turns, 2 * min(map(len, turns)))):
        piece = turns[turn % 2][turn // 2]
        piece = piece[: len(piece) // FRAME * FRAME] / max(np.abs(piece).max(), 1e-6) * 0.5
        level = np.sqrt(np.square(piece).reshape(-1, FRAME).mean(1))
        parts += [piece, np.zeros(silence // FRAME * FRAME, np.float32)]
        truth += [np.where(level > level.max() / 10**1.5, turn % 2 + 1, 0), np.zeros(silence // FRAME, int)]
    wave = np.concatenate(parts)
    noise = rng.standard_normal(len(wave)).astype(np.float32) * 1e-4
    return (wave + noise).astype(np.float32), np.concatenate(truth)


def measure_pair(a: Sequence[Floats], b: Sequence[Floats], pause_s: float, models: VoiceModels) -> dict[str, float]:
    wave, truth = conversation((a, b), pause_s)
    found = listen(wave, models)
    assert found is not None
    heard = np.zeros(len(truth), int)
    for turn in found.turns:
        heard[round(turn.start_s * 100) : round(turn.end_s * 100)] = turn.speaker
    spoken = truth > 0
    return {
        "right": float((heard[spoken] == truth[spoken]).mean()),
        "wrong": float((heard[spoken] == 3 - truth[spoken]).mean()),
        "alike": found.likeness,
        "changes": len(found.turns),
        "turns": int((np.diff(truth[spoken]) != 0).sum()) + 1,
    }


def table(rows: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: of each kind of conversation how many are refused, and how right the others come apart."""
    lines = [
        "| conversations | number | alike: from | to | refused | of the others right: mean | worst | to the other |"
    ]
    lines.append("|" + " --- |" * 8)
    for name, pairs in rows.items():
        alike = [pair["alike"] for pair in pairs]
        taken = [pair for pair in pairs if pair["alike"] <= MAX_LIKENESS]
        right = [pair["right"] for pair in taken]
        wrong = [pair["wrong"] for pair in taken]
        figures = f"{np.mean(right):.3f} | {min(right):.3f} | {np.mean(wrong):.3f}" if taken else "- | - | -"
        lines.append(
            f"| {name} | {len(pairs)} | {min(alike):.2f} | {max(alike):.2f} | {len(pairs) - len(taken)} | {figures} |"
        )
    return "\n".join(lines)


def measure_alone(speakers: dict[str, Floats], seconds: int, models: VoiceModels) -> list[float]:
    """How alike two groups are in stretches of one speaker's recordings."""
    length = seconds * SAMPLE_RATE_HZ
    stretches = [
        wave[start : start + length]
        for wave in speakers.values()
        for start in range(0, min(len(wave), 4 * length) - length + 1, length)
    ]
    found = [listen(stretch, models) for stretch in stretches]
    return [one.likeness for one in found if one is not None]


def speakers_of(options: argparse.Namespace) -> dict[str, Floats]:
    speakers = {name: recordings(SAMPLES / name) for name in ("voice.wav", "voice_2.flac")}
    if not options.no_espeak and shutil.which("espeak-ng"):
        speakers |= {f"espeak-ng {voice}": espeak(voice) for voice in ESPEAK}
    return speakers | {path.name: recordings(path) for path in options.speaker}


def main() -> None:
    parser = reporting.options(__doc__)
    parser.add_argument("--speaker", type=Path, action="append", default=[], metavar="PATH")
    parser.add_argument("--no-espeak", action="store_true")
    parser.add_argument("--pairs", type=int, default=12, metavar="N", help="conversations of each kind")
    options = parser.parse_args()
    models = VoiceModels.open(torch.device("cpu"))
    speakers = speakers_of(options)
    rows: dict[str, list[dict[str, Any]]] = {}
    for name, length_s, pause_s in CASES:
        cut = {who: pieces(wave, models, length_s, pause_s is not None) for who, wave in speakers.items()}
        pairs = [pair for pair in combinations(cut, 2) if min(len(cut[who]) for who in pair) >= 2]
        pairs = random.Random(0).sample(pairs, min(options.pairs, len(pairs)))
        rows[name] = [measure_pair(cut[a], cut[b], pause_s or 0.0, models) | {"speakers": [a, b]} for a, b in pairs]
    began = time.process_time()
    alone = {seconds: measure_alone(speakers, seconds, models) for seconds in ALONE_S}
    heard_s = sum(seconds * len(found) for seconds, found in alone.items())
    cpu_s = (time.process_time() - began) / heard_s
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    report = reporting.head(torch.device("cpu")) | {"rows": rows, "alone": alone, "cpu_s_per_s": cpu_s, "mb": peak_mb}
    reporting.save(report, options.json)
    print(f"torch {report['torch']}, {report['date']}, {cpu_s:.3f} s of CPU for each second, {peak_mb:.0f} MB in all")
    print(table({name: pairs for name, pairs in rows.items() if pairs}))
    print("\n| one speaker alone, for | number | alike: from | to | refused |\n| --- | --- | --- | --- | --- |")
    for seconds, found in alone.items():
        refused = sum(value > MAX_LIKENESS for value in found)
        print(f"| {seconds} s | {len(found)} | {min(found):.2f} | {max(found):.2f} | {refused} |")


if __name__ == "__main__":
    main()
