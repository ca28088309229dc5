"""The command line: arguments become a Request, and what comes back becomes text. The rooms do the work."""

# ruff: noqa: E402  one thing comes first

from infinitetalk.temporary_folder import require_temporary_folder

require_temporary_folder()

import argparse
import json
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from io import TextIOWrapper
from typing import get_args

import torch
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from infinitetalk.cli_measures import Output, faces, inspect, quality
from infinitetalk.cli_options import make_parser, request_of, settings_of
from infinitetalk.contract.presets import load_mode, profile_of
from infinitetalk.contract.request import Request, SpeedModeName
from infinitetalk.contract.result import DryRun
from infinitetalk.errors import JobError
from infinitetalk.job.control import Control
from infinitetalk.job.folder import job_folder
from infinitetalk.job.forecast import dry_run, forecast
from infinitetalk.job.read import read_job
from infinitetalk.job.resume import KeptWindows
from infinitetalk.job.run import run_job
from infinitetalk.logs import configure_logging
from infinitetalk.models.device import choose_device, gpu_name
from infinitetalk.planning.comparison import comparison
from infinitetalk.planning.plan import Plan, make_plan
from infinitetalk.progress import Progress as JobProgress
from infinitetalk.ranks.group import RankFailed
from infinitetalk.startup.calibration import calibrated, to_toml
from infinitetalk.startup.calibration import measure as measure_trials
from infinitetalk.startup.fitness import check_fits, check_shapes, worker_checks
from infinitetalk.startup.opening import open_faces, open_models
from infinitetalk.startup.weights import fetch_weights, volume_folder
from infinitetalk.transfer.exchange import check_local_output, local_exchange, local_files
from infinitetalk.transfer.output_file import check_name, check_place

READER_LEFT = 128 + signal.SIGPIPE  # the exit status that shells know


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command `infinitetalk`."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # names of files need not be text
    with _while_somebody_reads():
        options = make_parser(COMMANDS).parse_args(arguments)
        try:
            options.run(options)
        except (JobError, ValueError, OSError, RankFailed) as error:
            if isinstance(error, BrokenPipeError) and _nobody_reads():
                raise
            sys.exit(f"infinitetalk: {' '.join(str(error).split())}")
        except KeyboardInterrupt:
            sys.exit("infinitetalk: stopped")


@contextmanager
def _while_somebody_reads() -> Iterator[None]:
    """End without a word where whoever read the output has left: `infinitetalk schema | head`."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed at exit
        sys.exit(READER_LEFT)


def _nobody_reads() -> bool:
    """Whether the pipe that the output goes to has lost its reader."""
    pipe = select.poll()
    pipe.register(sys.stdout, 0)
    return any(events & select.POLLERR for _, events in pipe.poll(0))


def _generate(options: argparse.Namespace) -> None:
    request, settings = request_of(options), settings_of(options)
    check_local_output(request, options.output)
    configure_logging(settings.log_level, sys.stderr)
    for check in worker_checks(settings):
        check()
    with _progress_bar() as on_progress:
        control = Control(options.output.stem, on_progress)
        exchange = local_exchange(options.output, settings.work_dir)
        result = run_job(request, open_models(settings), settings, exchange, control, faces=open_faces(settings))
    print(json.dumps(result.to_json(), indent=2))


def _plan(options: argparse.Namespace) -> None:
    settings, request = settings_of(options), request_of(options)
    profile, device = profile_of(settings), choose_device(settings.device)
    arithmetic = settings.arithmetic_of(request.lane)
    n_gpus = options.gpus or (1 if settings.gpus == "auto" else settings.gpus)
    with job_folder(settings.work_dir, "plan") as folder:
        files, seed = local_files(request, folder), KeptWindows().seed(request.seed)
        job = read_job(request, files, profile, settings, load_mode(request.speed_mode), seed, open_faces(settings))
    runs: dict[str, DryRun] = {}
    plans: dict[str, Plan] = {}
    for mode in [options.speed_mode] if options.speed_mode else get_args(SpeedModeName):
        read = job.plan
        media = (read.n_frames, seed, read.separated_chunks, job.turns, read.conversation, read.cuts)
        plan = replace(make_plan(request, profile, load_mode(mode), *media), kept=read.kept)
        expected = forecast(plan, profile, device, settings, arithmetic, n_gpus)
        runs[mode] = dry_run(plan, mode, profile, expected, arithmetic, job.warnings(plan), n_gpus, job.people)
        plans[mode] = plan
    _print_plans(runs)
    if options.compare:
        print(comparison(plans, profile.timing))


def _fetch(options: argparse.Namespace) -> None:
    settings = settings_of(options)
    configure_logging(settings.log_level, sys.stderr)
    profile = profile_of(settings)
    if profile.is_embedded:
        raise ValueError(f"the weights of {profile.name} are part of the package; name another with --profile")
    folder = options.folder or volume_folder(settings)
    if options.folder is None and not settings.volume_dir.is_dir():
        raise ValueError(f"there is no volume at {settings.volume_dir}; name a folder to download to")
    fetch_weights(profile, folder)
    print(f"The weights of {profile.name} are in {folder}")


def _check(options: argparse.Namespace) -> None:
    settings = settings_of(options)
    configure_logging("WARNING", sys.stderr)  # what is found is printed
    profile = profile_of(settings)

    def shapes() -> str:
        return check_shapes(profile, settings)

    def fits() -> str:
        return check_fits(profile, settings)

    failed = 0
    for check in (*worker_checks(settings), shapes, fits):
        try:
            outcome = f"ok      {check()}"
        except (JobError, ValueError, OSError) as error:
            outcome = f"FAILED  {' '.join(str(error).split())}"
            failed += 1
        print(f"{check.__name__:12}{outcome}")
    if failed:
        raise ValueError(f"{failed} of the checks failed: this worker would not start.")


def _calibrate(options: argparse.Namespace) -> None:
    settings = settings_of(options)
    configure_logging("WARNING", sys.stderr)
    check_name(options.output, ".toml", {})
    check_place(options.output)
    models, samples = open_models(settings.model_copy(update={"gpus": 1})), []  # a hardware file has the times of one
    for trial, sample in measure_trials(models, settings):
        samples.append(sample)
        people = "one person" if trial.speakers == 1 else "two people"
        frames = f"{trial.windows} x {trial.window_frames} frames"
        print(f"{sample.arithmetic.lane}, {trial.resolution}, {people}, {frames}: {sample.total:.1f} s", flush=True)
    when = f"{datetime.now(UTC).date().isoformat()}, torch {torch.__version__}"
    gpu = gpu_name(models.device)
    profile = profile_of(settings)
    hardware = calibrated(options.output.stem, samples, profile, gpu, when, "infinitetalk calibrate")
    options.output.write_text(to_toml(hardware), "utf-8")
    print(f"The figures are in {options.output}; set HARDWARE_FILE to this path to use them")


def _schema(_options: argparse.Namespace) -> None:
    print(json.dumps(Request.json_schema(), indent=2))


@contextmanager
def _progress_bar() -> Iterator[Callable[[JobProgress], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("load models", total=100)

        told: list[str] = []

        def show(progress: JobProgress) -> None:
            path = progress.preview.preview_path
            if path is not None and path not in told:
                told.append(path)
                bar.console.print(f"Preview: {path}", soft_wrap=True, markup=False, highlight=False)
            where: str = progress.stage
            if progress.window:
                where = f"window {progress.window}/{progress.windows} step {progress.step}/{progress.steps}"
            bar.update(task, description=where, completed=progress.percent)

        yield show


def _figure(form: str, value: float | None) -> str:
    return "unknown" if value is None else form.format(value)


def _print_plans(runs: dict[str, DryRun]) -> None:
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


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "generate": _generate,
    "plan": _plan,
    "schema": _schema,
    "fetch": _fetch,
    "check": _check,
    "calibrate": _calibrate,
    "faces": faces,
    "inspect": inspect,
    "quality": quality,
}


if __name__ == "__main__":
    main()
