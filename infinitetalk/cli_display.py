"""What the command line shows: progress, plans, and a console that knows when its reader has left."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from threading import Lock
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from infinitetalk.client.batch import Ended, Show, State
from infinitetalk.client.following import JobView
from infinitetalk.client.lines import Line
from infinitetalk.contract.result import DryRun
from infinitetalk.progress import Progress as JobProgress


def tell(text: str) -> None:
    """Print a sentence beside what the command puts out; above a bar, if one is shown."""
    print(text, file=sys.stderr)


class Output(Console):
    """What goes to whoever reads the output; where that one has left, the command line sees to the end."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


@contextmanager
def progress_bar() -> Iterator[Callable[[JobProgress], None]]:
    """A bar for a job of this machine; what it gives is called with the job's progress."""
    with _bar("load models") as (bar, task):
        told: list[str] = []

        def show(progress: JobProgress) -> None:
            path = progress.preview.preview_path
            if path is not None and path not in told:
                told.append(path)
                bar.console.print(f"Preview: {path}", soft_wrap=True, markup=False, highlight=False)
            bar.update(task, **_position(progress))

        yield show


@contextmanager
def watch_bar() -> Iterator[Callable[[JobView], None]]:
    """A bar for a job at an endpoint; what it gives is called with what is known of the job."""
    with _bar("sent") as (bar, task):
        told: set[str | None] = {None}

        def add_line(text: str | None) -> None:
            if text not in told:
                told.add(text)
                bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

        def show(view: JobView) -> None:
            bar.update(task, **view_fields(view))
            add_line(None if view.preview is None else f"Preview: {view.preview}")
            if not bar.console.is_terminal:  # a log gets a line for each part of the way
                add_line(_milestone(view))

        yield show


@contextmanager
def _bar(first: str) -> Iterator[tuple[Progress, TaskID]]:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    more = (TextColumn("{task.fields[left]}"), TextColumn("{task.fields[cost]}"))
    with Progress(*columns, *more, console=Console(stderr=True)) as bar:
        yield bar, bar.add_task(first, total=100, left="", cost="")


@contextmanager
def batch_table(lines: Sequence[Line]) -> Iterator[Show]:
    """A table of a batch's jobs; what it gives is called with a job's name, its state and where it is.

    A log gets a line for each change of a state. If the terminal has too few rows, those of the running jobs are shown.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.fields[name]}", markup=False), TextColumn("{task.description}", markup=False))
    more = (BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[left]}"), TextColumn("{task.fields[cost]}"))
    with Progress(*columns, *more, console=console, disable=not console.is_terminal) as bars:
        total = bars.add_task("", name="all", total=len(lines), left="", cost="")
        fits = len(lines) < console.height - 2
        start: dict[str, Any] = {"total": 100, "left": "", "cost": "", "visible": fits}
        tasks = {line.name: bars.add_task("waiting", name=line.name, **start) for line in lines}
        states: dict[str, str] = {line.name: "waiting" for line in lines}
        lock = Lock()

        def show(name: str, state: State, view: JobView | JobProgress | None) -> None:
            shown = _position(view) if isinstance(view, JobProgress) else {} if view is None else view_fields(view)
            with lock:
                if view is None:
                    shown = {"description": state, "left": "", "visible": fits or state == "running"}
                    if state in ("done", "kept"):
                        shown["completed"] = 100
                    states[name] = state
                    if not console.is_terminal:
                        console.print(f"{name}: {state}", markup=False, highlight=False)
                bars.update(tasks[name], **shown)
                counts = Counter(states.values())
                counted = ", ".join(f"{count} {word}" for word, count in counts.items())
                ended = sum(counts[state] for state in ("done", "kept", "failed"))
                bars.update(total, description=counted, completed=ended)

        yield show


def print_summary(ends: Sequence[Ended]) -> None:
    """Print how each job of a batch ended, with the worker's seconds and dollars, their sums, and what is wrong."""
    table = Table("job", "state", "seconds", "dollars", box=box.SIMPLE)
    seconds = dollars = 0.0
    for ended in ends:
        result = ended.result or {}
        took, cost = result.get("gpu_seconds"), result.get("cost_usd")
        numbers = (_figure("{:.1f}", took), _figure("{:.4f}", cost)) if result else ("", "")
        table.add_row(Text(ended.line.name), ended.state, *numbers)
        if ended.state == "done":
            seconds, dollars = seconds + (took or 0), dollars + (cost or 0)
    table.add_section()
    table.add_row(f"made now: {sum(ended.state == 'done' for ended in ends)}", "", f"{seconds:.1f}", f"{dollars:.4f}")
    console = Output(highlight=False, soft_wrap=True)
    console.print(table)
    for ended in ends:
        if ended.problem is not None:
            console.print(f"{ended.line.name}: {' '.join(ended.problem.split())}", markup=False)
        for sentence in look_at(ended.result or {}):
            console.print(f"Look at {ended.line.name}: {sentence}", markup=False)


def look_at(result: Mapping[str, Any]) -> Sequence[str]:
    """What a result's checks have found in its video, in sentences."""
    checks = result.get("checks")
    found = checks.get("look_at") if isinstance(checks, dict) else None
    return [str(sentence) for sentence in found] if isinstance(found, list) else []


def view_fields(view: JobView) -> dict[str, Any]:
    """What a bar shows of a job at an endpoint: description, completed, left, cost."""
    progress = view.progress
    shown = {} if progress is None else _position(progress)
    if view.is_final:
        done = {"completed": 100.0} if view.status == "COMPLETED" else {}
        return shown | done | {"description": view.status.lower().replace("_", " "), "left": ""}
    if view.trouble is not None:
        return shown | {"description": f"no answer ({view.trouble}), asking again"}
    if progress is None:
        waits = "in queue" if view.status == "IN_QUEUE" else view.status.lower().replace("_", " ")
        return {"description": waits if view.queue is None else f"{waits} ({view.queue})"}
    return shown


def _position(progress: JobProgress) -> dict[str, Any]:
    where = progress.stage.replace("_", " ")
    if progress.window:
        where = f"window {progress.window}/{progress.windows} step {progress.step}/{progress.steps}"
    left = "" if progress.seconds_left is None else f"{timedelta(seconds=round(progress.seconds_left))} left"
    return {"description": where, "completed": progress.percent, "left": left, "cost": _cost(progress)}


def _cost(progress: JobProgress) -> str:
    if progress.cost_usd is None:
        return ""
    estimated = progress.estimated_cost_usd
    return f"${progress.cost_usd:.4f}" + ("" if estimated is None else f" of about ${estimated:.4f}")


def _milestone(view: JobView) -> str:
    progress = view.progress
    if view.is_final or view.trouble is not None or progress is None or not progress.window:
        return str(view_fields(view)["description"])
    return f"window {progress.window}/{progress.windows}"


def _figure(form: str, value: float | None) -> str:
    return "unknown" if value is None else form.format(value)


def print_plans(runs: dict[str, DryRun]) -> None:
    """Print what a job would do in each of some modes, by their names."""
    first = next(iter(runs.values()))
    common = first.settings
    table = Table(
        "",
        *runs,
        title=f"{common.profile}: {common.width}x{common.height}, {common.frames} frames, {common.duration_s:.2f} s",
        caption=first.estimate.basis,
        box=box.SIMPLE,
    )
    rows: dict[str, Callable[[DryRun], str]] = {
        "windows": lambda run: str(run.settings.windows),
        "window frames": lambda run: str(run.settings.window),
        "overlap frames": lambda run: str(run.settings.overlap),
        "steps": lambda run: str(run.settings.steps),
        "scheduler": lambda run: run.settings.scheduler,
        "shift": lambda run: f"{run.settings.shift:g}",
        "lane": lambda run: run.settings.lane,
        "forwards": lambda run: str(run.settings.forwards),
        "GPUs": lambda run: str(run.settings.gpus),
        "estimated time": lambda run: _figure("{:.1f} s", run.estimate.seconds),
        "estimated price": lambda run: _figure("${:.4f}", run.estimate.cost_usd),
    }
    for name, shown in rows.items():
        table.add_row(name, *map(shown, runs.values()))
    console = Output()
    console.print(table)
    for person in first.people or ():
        edges, voice = ", ".join(f"{edge:.2f}" for edge in person.box), person.voice or "no voice"
        console.print(f"Face {person.index}: box ({edges}), {person.width}x{person.height} pixels, {voice}")
    for turn in first.turns or ():
        console.print(f"Speaker {turn.speaker}: {turn.start_s:.2f} to {turn.end_s:.2f} s")
    for warning in dict.fromkeys(warning for run in runs.values() for warning in run.warnings):
        modes = [mode for mode, run in runs.items() if warning in run.warnings]
        of = "" if len(modes) == len(runs) else f" ({', '.join(modes)})"
        console.print(f"Note{of}: {warning}")
