"""The command line: arguments become a Request, and what comes back becomes text. The rooms do the work."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import torch
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from infinitetalk import __version__
from infinitetalk.contract.presets import load_mode, profile_of
from infinitetalk.contract.request import MEDIA, Request, SpeakerOrder, SpeedModeName
from infinitetalk.contract.result import DryRun
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import JobError
from infinitetalk.job.control import Control
from infinitetalk.job.folder import job_folder
from infinitetalk.job.forecast import dry_run, forecast
from infinitetalk.job.read import read_job
from infinitetalk.job.resume import KeptWindows
from infinitetalk.job.run import run_job
from infinitetalk.logs import configure_logging
from infinitetalk.models.device import choose_device, gpu_name
from infinitetalk.planning.plan import make_plan
from infinitetalk.progress import Progress as JobProgress
from infinitetalk.startup.calibration import calibrated, to_toml
from infinitetalk.startup.calibration import measure as measure_trials
from infinitetalk.startup.fitness import check_shapes, worker_checks
from infinitetalk.startup.opening import open_models
from infinitetalk.startup.weights import fetch_weights, volume_folder
from infinitetalk.transfer.exchange import local_exchange, local_files

FROM_FILES = ("input_type", "person_count")  # fields of a job that follow from the other options
NOT_HERE = ("output", "dry_run")  # fields that mean nothing on the command line


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command `infinitetalk`."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (JobError, ValueError, OSError) as error:
        sys.exit(f"infinitetalk: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit("infinitetalk: stopped")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="infinitetalk", description="Make a picture or a video talk.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    generate = commands.add_parser("generate", help="make a video")
    generate.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.mp4")
    generate.set_defaults(run=_generate)
    plan = commands.add_parser("plan", help="show what would run, how long it would take and cost; loads no model")
    plan.set_defaults(run=_plan)
    schema = commands.add_parser("schema", help="print the JSON schema of a job's input")
    schema.set_defaults(run=_schema)
    fetch = commands.add_parser("fetch", help="download a profile's weights, for example onto a network volume")
    fetch.add_argument(
        "folder", type=Path, nargs="?", metavar="FOLDER", help="where to; VOLUME_DIR/models if not given"
    )
    fetch.set_defaults(run=_fetch)
    check = commands.add_parser("check", help="check GPU, ffmpeg, disk, and the weights' files and shapes; runs no job")
    check.set_defaults(run=_check)
    calibrate = commands.add_parser(
        "calibrate", help="measure this GPU by short jobs, for HARDWARE_FILE; takes minutes"
    )
    calibrate.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.toml")
    calibrate.set_defaults(run=_calibrate)
    quality = commands.add_parser("quality", help="measure a video: lip sync, stillness, seams, drift, identity")
    _add_quality_options(quality)
    quality.set_defaults(run=_quality)
    for command in (generate, plan):
        _add_job_options(command)
    for command in (generate, plan, check, fetch, calibrate):
        command.add_argument("--profile", metavar="NAME", help="the model profile, instead of MODEL_PROFILE")
    for command in (generate, plan, check, calibrate):
        command.add_argument(
            "--models-dir", type=Path, metavar="FOLDER", help="where the weights are, instead of MODELS_DIR"
        )
        command.add_argument(
            "--device", choices=("auto", "cuda", "cpu"), help="where the model runs, instead of DEVICE"
        )
    return parser


def _add_job_options(command: argparse.ArgumentParser) -> None:
    """The job's fields as options: files in place of URLs, the others with their kinds and choices."""
    properties = Request.json_schema()["properties"]
    for field, media in MEDIA.items():
        about = properties[field]["description"]
        _add(command, media.option, type=Path, required=media.option == "audio", metavar="FILE", help=about)
    for name in _plain_fields():
        schema = properties[name]
        schema |= next((part for part in schema.get("anyOf", ()) if part["type"] != "null"), {})
        if schema.get("type") == "boolean":
            _add(command, name, action=argparse.BooleanOptionalAction, help=schema["description"])
        elif "enum" in schema:
            _add(command, name, choices=schema["enum"], help=schema["description"])
        elif schema["type"] == "array":
            _add(command, name, type=json.loads, metavar="JSON", help=schema["description"])
        else:
            kind = {"integer": int, "number": float, "string": str}[schema["type"]]
            _add(command, name, type=kind, metavar="VALUE", help=schema["description"])


def _add(command: argparse.ArgumentParser, name: str, **kwargs: Any) -> None:  # noqa: ANN401
    command.add_argument(f"--{name.replace('_', '-')}", **kwargs)


def _plain_fields() -> list[str]:
    """The job's fields that are options of the same name."""
    return [name for name in Request.model_fields if name not in (*MEDIA, *FROM_FILES, *NOT_HERE)]


def _add_quality_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("video", type=Path, metavar="VIDEO")
    command.add_argument("--against", type=Path, metavar="VIDEO", help="another rendering of the same job")
    voice = "a voice, instead of the video's own sound; give it twice for two people, the left one's first"
    command.add_argument("--audio", type=Path, action="append", default=[], metavar="FILE", help=voice)
    command.add_argument(
        "--speaker-order", choices=get_args(SpeakerOrder), default="together", help="how two voices follow each other"
    )
    command.add_argument(
        "--people", type=int, choices=(1, 2), help="how many the video shows; if not given, those found"
    )
    joins = command.add_mutually_exclusive_group()
    joins.add_argument("--result", type=Path, metavar="FILE.json", help="what the job printed; says where windows join")
    joins.add_argument(
        "--joins", type=_frame_numbers, default=(), metavar="49,89", help="first frames of the later windows"
    )
    command.add_argument(
        "--picture", type=Path, metavar="FILE.png", help="where the picture goes; VIDEO.quality.png if not given"
    )
    command.add_argument("--json", action="store_true", help="print the numbers as JSON")


def _frame_numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def _request(options: argparse.Namespace) -> Request:
    files = {media.option: getattr(options, media.option) for media in MEDIA.values()}
    given = {name: getattr(options, name) for name in _plain_fields()}
    return Request.of_files(**files, **{name: value for name, value in given.items() if value is not None})


def _settings(options: argparse.Namespace) -> Settings:
    names = {"profile": "MODEL_PROFILE", "models_dir": "MODELS_DIR", "device": "DEVICE"}
    given = {variable: getattr(options, name, None) for name, variable in names.items()}
    return Settings.from_env(os.environ | {name: str(value) for name, value in given.items() if value is not None})


def _generate(options: argparse.Namespace) -> None:
    request, settings = _request(options), _settings(options)
    configure_logging(settings.log_level, sys.stderr)
    for check in worker_checks(settings):
        check()
    with _progress_bar() as on_progress:
        control = Control(options.output.stem, on_progress)
        result = run_job(request, open_models(settings), settings, local_exchange(options.output), control)
    print(json.dumps(result.to_json(), indent=2))


def _plan(options: argparse.Namespace) -> None:
    settings, request = _settings(options), _request(options)
    profile, device = profile_of(settings), choose_device(settings.device)
    with job_folder(settings.work_dir, "plan") as folder:
        files, seed = local_files(request, folder), KeptWindows().seed(request.seed)
        job = read_job(request, files, profile, settings, load_mode(request.speed_mode), seed)
    runs: dict[str, DryRun] = {}
    for mode in [options.speed_mode] if options.speed_mode else get_args(SpeedModeName):
        plan = make_plan(request, profile, load_mode(mode), job.plan.n_frames, seed, job.plan.separated_chunks)
        expected = forecast(plan, profile, device, settings, settings.arithmetic)
        runs[mode] = dry_run(plan, mode, profile, expected, settings.arithmetic, list(job.warnings))
    _print_plans(runs)


def _fetch(options: argparse.Namespace) -> None:
    settings = _settings(options)
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
    settings = _settings(options)
    configure_logging("WARNING", sys.stderr)  # what is found is printed
    profile = profile_of(settings)

    def shapes() -> str:
        return check_shapes(profile, settings)

    failed = 0
    for check in (*worker_checks(settings), shapes):
        try:
            outcome = f"ok      {check()}"
        except (JobError, ValueError, OSError) as error:
            outcome = f"FAILED  {' '.join(str(error).split())}"
            failed += 1
        print(f"{check.__name__:12}{outcome}")
    if failed:
        raise ValueError(f"{failed} of the checks failed: this worker would not start.")


def _calibrate(options: argparse.Namespace) -> None:
    settings = _settings(options)
    configure_logging("WARNING", sys.stderr)
    models, samples = open_models(settings), []
    for trial, sample in measure_trials(models, settings):
        samples.append(sample)
        people = "one person" if trial.speakers == 1 else "two people"
        frames = f"{trial.windows} x {trial.window_frames} frames"
        print(f"{trial.resolution}, {people}, {frames}: {sample.total:.1f} s", flush=True)
    when = f"{datetime.now(UTC).date().isoformat()}, torch {torch.__version__}"
    gpu = gpu_name(models.device)
    profile = profile_of(settings)
    hardware = calibrated(options.output.stem, samples, profile, gpu, when, "infinitetalk calibrate")
    options.output.write_text(to_toml(hardware), "utf-8")
    print(f"The figures are in {options.output}; set HARDWARE_FILE to this path to use them")


def _quality(options: argparse.Namespace) -> None:
    # scikit-image and scipy are slow to import, and only these measures need them.
    try:
        from infinitetalk.quality.measures import joins_of
        from infinitetalk.quality.report import measure, picture, table

        joins = options.joins
        if options.result:
            result = json.loads(options.result.read_text("utf-8"))
            joins = joins_of(result.get("output", result).get("settings", {}))
        measured = measure(
            options.video,
            against=options.against,
            audio=options.audio,
            order=options.speaker_order,
            people=options.people,
            joins=joins,
        )
    except ImportError as error:
        sys.exit(f"infinitetalk: {error}")
    path = options.picture or options.video.with_suffix(".quality.png")
    picture(measured).save(path, "PNG")
    if options.json:
        print(json.dumps(measured.report.to_json(), indent=2))
        return
    console = Console()
    console.print(table(measured.report))
    for note in measured.report.notes:
        console.print(f"Note: {note}")
    console.print(f"Picture: {path}")


def _schema(_options: argparse.Namespace) -> None:
    print(json.dumps(Request.json_schema(), indent=2))


@contextmanager
def _progress_bar() -> Iterator[Callable[[JobProgress], None]]:
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
        "forwards": lambda run: str(run.settings.forwards),
        "estimated time": lambda run: _figure("{:.1f} s", run.estimate.seconds),
        "estimated price": lambda run: _figure("${:.4f}", run.estimate.cost_usd),
    }
    for name, shown in rows.items():
        table.add_row(name, *map(shown, runs.values()))
    console = Console()
    console.print(table)
    for warning in first.warnings:
        console.print(f"Note: {warning}")


if __name__ == "__main__":
    main()
