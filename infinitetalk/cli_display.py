"""What the command line shows: progress, plans, and a console that knows when its reader has left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from infinitetalk.contract.result import DryRun
from infinitetalk.progress import Progress as JobProgress


class Output(Console):
    """What goes to whoever reads the output; where that one has left, the command line sees to the end."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


@contextmanager
def progress_bar() -> Iterator[Callable[[JobProgress], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("load models", total=100)

        def show(progress: JobProgress) -> None:
            where: str = progress.stage
            if progress.window:
                where = f"window {progress.window}/{progress.windows} step {progress.step}/{progress.steps}"
            bar.update(task, description=where, completed=progress.percent)

        yield show


def _figure(form: str, value: float | None) -> str:
    return "unknown" if value is None else form.format(value)


def print_plans(runs: dict[str, DryRun]) -> None:
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
