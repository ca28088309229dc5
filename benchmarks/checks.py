"""Whether the checks of finished videos find what is wrong, and nothing where nothing is.

    python -m benchmarks.checks --out OUT [--for-s 150] [--time]

Sixty held-out jobs of the miniature are made (`clean_jobs`) and looked at; faults are planted in some of their videos
(`planted`), and these are looked at, too. OUT keeps the videos, and beside each what was found, so that a run that was
cut off goes on. Prints Markdown tables. `--time` says instead how long 80 s of 720p take.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.clean_jobs import SETTINGS, make_all, tasks
from benchmarks.planted import FAULTS, planted
from infinitetalk.checking.check import check_video
from infinitetalk.checking.expected import Expected, Stretch, Voice
from infinitetalk.checking.thresholds import load_thresholds
from infinitetalk.contract.presets import load_mode, load_profile
from infinitetalk.contract.request import LOCAL_FILES, Request
from infinitetalk.contract.result import LOOK_AT_IT, Checks
from infinitetalk.faces.finder import FaceFinder
from infinitetalk.job.checks import expected_of
from infinitetalk.job.read import read_job
from infinitetalk.media.ffmpeg import run
from infinitetalk.shapes import FPS
from infinitetalk.startup.opening import open_faces, open_models
from infinitetalk.transfer.exchange import local_files
from tests.support.miniature import quicken
from training.speech import load_corpus

LIMIT_S = 120.0  # for one video: nothing is left out
VIDEOS_A_FAULT = 6
LONG_S, LONG_SIZE, WINDOW = 80, (1280, 720), 76
Row = dict[str, Any]


def expected_in(folder: Path, faces: FaceFinder | None) -> Expected:
    """What the video in a folder should hold, by its job and its media, which stay in a folder of their own in it."""
    request = Request.parse(json.loads((folder / "job.json").read_text("utf-8")), LOCAL_FILES)
    read = folder / "read"  # frames of films are read from it later on
    shutil.rmtree(read, ignore_errors=True)
    read.mkdir()
    files, mode = local_files(request, read), load_mode(request.speed_mode)
    job = read_job(request, files, load_profile("miniature"), SETTINGS, mode, request.seed or 0, faces)
    return expected_of(job, job.waves, request)


def as_row(checks: Checks) -> Row:
    """What is kept of it."""
    return checks.model_dump(mode="json")


def look(out: Path, faces: FaceFinder | None, until_s: float) -> bool:
    """Look at every clean video, then plant faults in some. Returns whether all is done."""
    counts: Counter[str] = Counter()
    for is_planted in (False, True):
        for task in tasks():
            folder = out / task.name
            if not (folder / "job.json").is_file():
                return False
            rows_file = folder / "checks.json"
            rows = json.loads(rows_file.read_text("utf-8")) if rows_file.is_file() else {}
            wanted = [name for name in FAULTS if counts[name] < VIDEOS_A_FAULT] if is_planted else ["clean"]
            todo = [name for name in wanted if name not in rows]
            expected = expected_in(folder, faces) if todo and time.monotonic() < until_s else None
            for name in todo:
                if expected is None or time.monotonic() > until_s:
                    return False
                rows[name] = looked(name, folder, expected, faces)
                rows_file.write_text(json.dumps(rows, indent=1), "utf-8")
                print(task.name, name, rows[name] and rows[name]["look_at"], file=sys.stderr, flush=True)
            counts.update(name for name in wanted if rows.get(name) is not None)
    return True


def looked(name: str, folder: Path, expected: Expected, faces: FaceFinder | None) -> Row | None:
    """The checks of a clean video, or of one with that fault; None where it cannot have it."""
    video = folder / "video.mp4"
    if name == "clean":
        return as_row(check_video(video, expected, faces, LIMIT_S))
    with tempfile.TemporaryDirectory() as place:
        target = Path(place, "planted.mp4")
        for known in planted(name, video, expected, target):
            finder = faces if FAULTS[name].needs_faces else None
            return as_row(check_video(target, known, finder, LIMIT_S))
    return None


def found(row: Row, name: str) -> list[Row]:
    """The checks that found a fault, of those that should."""
    return [one for one in row["details"] if one["name"] in FAULTS[name].found_by and one["outcome"] == LOOK_AT_IT]


def tables(out: Path) -> str:
    """Markdown: the faults, and the clean videos by kind and by check."""
    rows: dict[str, Mapping[str, Row | None]] = {
        path.parent.name: json.loads(path.read_text("utf-8")) for path in sorted(out.glob("*/checks.json"))
    }
    lines = ["| fault | videos | found | by | others that also found something |", "| --- | --- | --- | --- | --- |"]
    for name, fault in FAULTS.items():
        having = [row for one in rows.values() if (row := one.get(name)) is not None]
        hits = [row for row in having if found(row, name)]
        others = Counter(
            d["name"]
            for row in having
            for d in row["details"]
            if d["outcome"] == LOOK_AT_IT and d["name"] not in fault.found_by
        )
        also = ", ".join(f"{what} {n}" for what, n in others.most_common()) or "-"
        lines.append(f"| {name} | {len(having)} | {len(hits)} | {', '.join(fault.found_by)} | {also} |")
    clean = {name: one["clean"] for name, one in rows.items() if one.get("clean")}
    kinds: dict[str, list[Row]] = {}
    for name, row in clean.items():
        kinds.setdefault(name.partition("-")[2].removesuffix("-hold"), []).append(row)  # type: ignore[arg-type]
    lines += ["", "| jobs | videos | one to look at | seconds, mean |", "| --- | --- | --- | --- |"]
    for kind, group in sorted(kinds.items()):
        alarms = sum(row["verdict"] == LOOK_AT_IT for row in group)
        lines.append(f"| {kind} | {len(group)} | {alarms} | {np.mean([row['seconds'] for row in group]):.1f} |")
    lines += ["", "| check | limit | measured | worst clean | undecided | not measured |", "| --- " * 6 + "|"]
    lines += list(_by_check([row for row in clean.values() if row]))
    return "\n".join(lines)


def _by_check(clean: Sequence[Row]) -> Iterator[str]:
    details = [detail for row in clean for detail in row["details"]]
    not_measured = Counter(d["name"] for d in details if d["outcome"] == "not measured")
    for name, unit in dict.fromkeys((d["name"], d["unit"]) for d in details if d["value"] is not None):
        of_it = [d for d in details if (d["name"], d["unit"]) == (name, unit) and d["value"] is not None]
        values = sorted(d["value"] for d in of_it)
        limit = ", ".join(f"{value:g}" for value in sorted({d["limit"] for d in of_it}))
        outcomes = Counter(d["outcome"] for d in of_it)
        measured = outcomes["ok"] + outcomes[LOOK_AT_IT]
        span = f"{values[0]:g} to {values[-1]:g}"
        numbers = f"{measured} | {span} | {outcomes['undecided']} | {not_measured[name]}"
        yield f"| {name}, {unit} | {limit} | {numbers} |"


def long_video(folder: Path, target: Path, faces: FaceFinder | None) -> Expected:
    """A clean video over and over for 80 s at 720p, and what it should hold."""
    known = expected_in(folder, faces)
    width, height = LONG_SIZE
    again = ["-stream_loop", "-1", "-i", f"file:{folder / 'video.mp4'}", "-t", str(LONG_S)]
    video = ["-vf", f"scale={width}:{height}", "-c:v", "libx264", "-preset", "medium", "-crf", "18"]
    run(*again, *video, "-pix_fmt", "yuv420p", "-c:a", "aac", "-b:a", "192k", f"file:{target}", time_limit_s=550)
    n_frames, times = LONG_S * FPS, -(-LONG_S * FPS // known.n_frames)
    starts = range(0, n_frames, WINDOW)
    return replace(
        known,
        n_frames=n_frames,
        size=LONG_SIZE,
        windows=tuple(Stretch(start, min(start + WINDOW, n_frames), start > 0) for start in starts),
        sound=np.tile(known.sound, times)[: LONG_S * len(known.sound) * FPS // known.n_frames],
        voices=[Voice(voice.name, np.tile(voice.loud, times)[:n_frames]) for voice in known.voices],
        moving=np.tile(known.moving, times)[:n_frames],
        compared=(Stretch(0, n_frames),),
    )


def print_times(out: Path, faces: FaceFinder | None) -> None:
    """How long 80 s of 720p take with one face and with two, and without."""
    for task in tasks():
        if task.name.endswith("-picture") and task.size[0] > task.size[1] and (out / task.name / "job.json").is_file():
            target = out / f"long-{task.people}.mp4"
            if target.exists():
                continue
            expected = long_video(out / task.name, target, faces)
            for finder, limit_s in ((None, LIMIT_S), (faces, LIMIT_S), (faces, 32.0), (faces, 10.0)):
                checks = check_video(target, expected, finder, limit_s)
                notes = {d.note for d in checks.details if d.note and "no time" in d.note}
                who = "no faces" if finder is None else f"{task.people} followed"
                print(f"80 s of 720p, {who}, at most {limit_s:g} s: {checks.seconds:.1f} s {notes or ''}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the videos, and of what was found")
    parser.add_argument("--for-s", type=float, default=1e9, help="begin nothing new after so many seconds")
    parser.add_argument("--again", action="store_true", help="look again at what was looked at")
    parser.add_argument("--time", action="store_true", help="how long 80 s of 720p take, instead")
    options = parser.parse_args(arguments)
    until_s, faces = time.monotonic() + options.for_s, open_faces(SETTINGS)
    load_thresholds()
    if options.time:
        print_times(options.out, faces)
        return
    if options.again:
        for path in options.out.glob("*/checks.json"):
            path.unlink()
    todo = list(tasks())
    if not all((options.out / task.name / "job.json").is_file() for task in todo):
        models = open_models(SETTINGS)
        if models.device.type == "cpu":
            quicken(models.vae)
        if not make_all(todo, load_corpus("held_out"), options.out, models, faces, until_s):
            sys.exit("Not all videos are made yet: run it again.")
    if not look(options.out, faces, until_s):
        sys.exit("Not all videos are looked at yet: run it again.")
    print(tables(options.out))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
