"""How well the miniature talks: held-out jobs in all speed modes, made by the worker's own loop and measured.

    python -m benchmarks.quality --out OUT [--jobs 20] [--seconds 10] [--minute 2] [--people 2]
    python -m benchmarks.quality --out OUT --sizes 128x128 144x112 [--modes turbo]

Half of the jobs are of one person and half of two, tall and wide or of the sizes asked for, with faces, voices and
sentences that no training has seen. OUT keeps the videos, so that a run that was cut off can go on; `--only-make` and
`--only-measure` may run on different machines. Prints Markdown tables and writes OUT/quality.json.
"""

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from infinitetalk.contract.presets import load_mode
from infinitetalk.contract.request import SpeedModeName
from infinitetalk.contract.settings import Settings
from infinitetalk.models.opening import Models
from infinitetalk.quality.measures import joins_of, stillness
from infinitetalk.quality.report import Measured, measure, read_frames
from infinitetalk.quality.similarity import similarity
from infinitetalk.quality.tracking import track_mouths
from infinitetalk.shapes import FPS
from infinitetalk.startup.calibration import run_sample
from infinitetalk.startup.opening import open_models
from training.held_out import HeldOutJob, held_out_job
from training.speech import Corpus, load_corpus

ROOT = Path(__file__).parents[1]

MODES: tuple[str, ...] = get_args(SpeedModeName)
REFERENCE = "maximum_quality"
SIZES = ((160, 96), (96, 160))
SILENT_S = 4.0
MINUTE_S = 60.0


@dataclass(frozen=True)
class Task:
    """One video to make: held-out job `number` in a speed mode."""

    name: str
    number: int
    people: int
    size: tuple[int, int]
    seconds: float
    mode: str
    silent: bool = False

    def job(self, corpus: Corpus) -> HeldOutJob:
        return held_out_job(corpus, self.number, self.people, self.size, round(self.seconds * FPS), self.silent)


def tasks(
    jobs: int,
    seconds: float,
    minutes: int,
    silent: int = 20,
    sizes: Sequence[tuple[int, int]] = SIZES,
    modes: Sequence[str] = MODES,
) -> Iterable[Task]:
    """All videos: each job in each mode, some with silent sound, some of a minute."""
    kinds = [(people, size) for size in sizes for people in (1, 2)]
    for number in range(jobs):
        people, size = kinds[number % len(kinds)]
        for mode in modes:
            yield Task(f"{number:02}-{mode}", number, people, size, seconds, mode)
    for number in range(100, 100 + silent):
        people, size = kinds[number % len(kinds)]
        yield Task(f"{number}-silent", number, people, size, SILENT_S, "turbo", True)
    for number in range(200, 200 + minutes):
        people, size = kinds[number % 2]
        yield Task(f"{number}-minute", number, people, size, MINUTE_S, "turbo")


def make(task: Task, job: HeldOutJob, models: Models, settings: Settings, folder: Path, **fields: Any) -> Path:  # noqa: ANN401
    """Make the task's video, in `folder`, beside its inputs and its result.json; returns its path."""
    video = folder / "video.mp4"
    wanted = {**job.write(folder), "speed_mode": task.mode, "seed": 1, **fields}
    _, result = run_sample(wanted, load_mode(task.mode), models, settings, video)
    (folder / "result.json").write_text(json.dumps(result.model_dump(mode="json")), "utf-8")
    return video


def read(video: Path, job: HeldOutJob) -> Measured:
    """All measures of a made video, against its voices and joins."""
    settings = json.loads((video.parent / "result.json").read_text("utf-8"))["settings"]
    voices = job.write_voices(video.parent)
    return measure(video, audio=voices, people=len(voices), joins=joins_of(settings))


def above_shut(video: Path, job: HeldOutJob) -> list[float]:
    """How much further mouths are open with silent sound than the drawn shut mouths, from left to right.

    The list is empty if the faces cannot be followed, in the video or in the drawing.
    """
    people = len(job.waves)
    made, drawn = (track_mouths(frames, people).mouths for frames in (read_frames(video, "video")[0], job.drawn))
    if not len(made) == len(drawn) == people:
        return []
    silence = np.zeros(len(job.drawn), np.float32)
    values = []
    for mouth, truth in zip(made, drawn, strict=True):
        shut = float(np.median(truth.openness[FPS:]))
        above = stillness(mouth.openness[FPS:], silence[FPS:], shut).above_shut
        assert above is not None
        values.append(above)
    return values


def row(values: Sequence[float | None], style: str = ".3f") -> str:
    """A table's cell: mean ± standard deviation (smallest to largest)."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    spread = f" ± {statistics.stdev(known):{style}}" if len(known) > 1 else ""
    return f"{statistics.mean(known):{style}}{spread} ({min(known):{style}} to {max(known):{style}})"


def measure_all(todo: Sequence[Task], out: Path, corpus: Corpus) -> list[dict[str, Any]]:
    """One flat row per made video."""
    rows: list[dict[str, Any]] = []
    for task in todo:
        video = out / task.name / "video.mp4"
        if not video.is_file():
            continue
        job = task.job(corpus)
        flat: dict[str, Any] = {"task": task.name, "mode": task.mode, "people": task.people, "seconds": task.seconds}
        flat["size"] = "{}x{}".format(*task.size)
        if task.silent:
            flat["above_shut"] = above_shut(video, job)
        else:
            report = read(video, job).report
            syncs = [person.lip_sync for person in report.people]
            flat |= {
                "correlation": [None if sync is None else sync.correlation for sync in syncs],
                "lag_frames": [None if sync is None else sync.lag_frames for sync in syncs],
                "other_voice": [p.other_voice for p in report.people if p.other_voice is not None],
                "still_first_db": report.identity and report.identity.still_first_db,
                "still_end_db": report.identity and report.identity.still_end_db,
                "color_worst": report.drift.color_worst,
                "notes": report.notes,
            }
            if report.seams:
                joins = np.array(report.seams.at_joins)
                flat |= {
                    "join_ratio": float(joins.mean() / report.seams.median),
                    "worst_join_ratio": report.seams.worst_ratio,
                    "percentile_95_ratio": report.seams.percentile_95 / report.seams.median,
                }
            reference = out / f"{task.number:02}-{REFERENCE}" / "video.mp4"
            if task.mode != REFERENCE and reference.is_file():
                frames = [read_frames(path, "video")[0] for path in (video, reference)]
                flat |= {"similarity": vars(similarity(*frames))}
        rows.append(flat)
        print(json.dumps(flat), file=sys.stderr, flush=True)
    return rows


def tables(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: the jobs by mode and people, in silence and over a minute, and the modes against maximum_quality."""
    lines = [
        "| mode, people | videos | correlation with own voice | lag, frames | with the other's, beyond shared "
        "| still parts, dB | joins / median | 95th percentile / median |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    groups: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for entry in rows:
        if "correlation" in entry:
            kind = "turbo, 60 s" if entry["seconds"] == MINUTE_S else entry["mode"]
            groups[kind, entry["people"]].append(entry)
    for (kind, people), group in groups.items():
        lags = [lag for entry in group for lag in entry["lag_frames"] if lag is not None]
        end = f"; end {row([entry['still_end_db'] for entry in group], '.1f')}"
        cells = [
            f"{kind}, {people}",
            str(len(group)),
            row([value for entry in group for value in entry["correlation"]]),
            f"{min(lags)} to {max(lags)}" if lags else "-",
            row([value for entry in group for value in entry["other_voice"]]),
            row([entry["still_first_db"] for entry in group], ".1f") + (end if kind == "turbo, 60 s" else ""),
            row([entry.get("join_ratio") for entry in group], ".2f"),
            row([entry.get("percentile_95_ratio") for entry in group], ".2f"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| size, people | videos | correlation with own voice | still parts, dB |", "| --- " * 4 + "|"]
    by_size: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for entry in rows:
        if "correlation" in entry:
            by_size[entry["size"], entry["people"]].append(entry)
    for (size, people), group in by_size.items():
        synced = row([value for entry in group for value in entry["correlation"]])
        still = row([entry["still_first_db"] for entry in group], ".1f")
        lines.append(f"| {size}, {people} | {len(group)} | {synced} | {still} |")
    lines.append("")
    for people in (1, 2):
        silent = [entry["above_shut"] for entry in rows if "above_shut" in entry and entry["people"] == people]
        values = [value for mouths in silent for value in mouths]
        lines.append(
            f"Mouth with silent sound, {people} in the picture, above the drawn shut mouth's reading: {row(values)}; "
            f"followed in {sum(map(bool, silent))} of {len(silent)} jobs"
        )
    minutes = [entry["color_worst"] for entry in rows if entry["seconds"] == MINUTE_S]
    lines += [f"Colour drift over 60 s, worst second, of 255: {row(minutes, '.2f')}", ""]
    lines.append("| mode | jobs | temporal consistency | detail | structure | overall |")
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for mode in MODES:
        found = [entry["similarity"] for entry in rows if entry["mode"] == mode and "similarity" in entry]
        if found:
            names = ("temporal_consistency", "detail", "structure", "overall")
            cells = [row([100 * entry[name] for entry in found], ".1f") for name in names]
            lines.append(f"| {mode} | {len(found)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the videos and of quality.json")
    parser.add_argument("--jobs", type=int, default=20, help="held-out jobs, each in all modes")
    parser.add_argument("--seconds", type=float, default=10, help="of each")
    parser.add_argument("--minute", type=int, default=2, help="clips of a minute, in turbo")
    parser.add_argument("--silent", type=int, default=20, help="clips with silent sound, in turbo")
    parser.add_argument("--people", type=int, choices=(1, 2), help="only the jobs of so many people")
    parser.add_argument(
        "--sizes", nargs="+", default=["{}x{}".format(*size) for size in SIZES], help="of the pictures, in turn"
    )
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--only-make", action="store_true")
    parser.add_argument("--only-measure", action="store_true")
    options = parser.parse_args(arguments)
    corpus = load_corpus("held_out")
    sizes = [(int(width), int(height)) for width, height in (size.split("x") for size in options.sizes)]
    todo = list(tasks(options.jobs, options.seconds, options.minute, options.silent, sizes, options.modes))
    if options.people is not None:
        todo = [task for task in todo if task.people == options.people]
    if not options.only_measure:
        settings = Settings()
        models = open_models(settings)
        for task in todo:
            if not (options.out / task.name / "result.json").is_file():
                make(task, task.job(corpus), models, settings, options.out / task.name)
                print(task.name, file=sys.stderr, flush=True)
    if not options.only_make:
        rows = measure_all(todo, options.out, corpus)
        (options.out / "quality.json").write_text(json.dumps(rows, indent=1), "utf-8")
        print(tables(rows))


if __name__ == "__main__":
    main()
