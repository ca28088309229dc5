"""The command line: arguments become a Request, what comes back becomes text. The work is `job`'s."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from infinitetalk import __version__
from infinitetalk.assets import job_folder
from infinitetalk.errors import JobError
from infinitetalk.exchange import LocalExchange, local_files
from infinitetalk.job import choose_device, dry_run, open_models, read_job, run_job
from infinitetalk.logs import configure_logging
from infinitetalk.plan import make_plan
from infinitetalk.presets import load_mode, load_profile
from infinitetalk.progress import Progress as JobProgress
from infinitetalk.request import (
    LOCAL_FILES,
    AspectRatio,
    Request,
    Resolution,
    SpeakerOrder,
    SpeedModeName,
)
from infinitetalk.result import DryRun
from infinitetalk.settings import Settings

FILES = {"image": "image_url", "video": "video_url", "audio": "wav_url", "audio_2": "wav_url_2"}
OPTIONS = {
    "prompt": str,
    "negative_prompt": str,
    "seed": int,
    "text_guidance": float,
    "audio_guidance": float,
    "max_duration_s": float,
    "color_correction": float,
    "video_strength": float,
    "speaker_boxes": json.loads,
}
CHOICES = {
    "speed_mode": SpeedModeName,
    "aspect_ratio": AspectRatio,
    "resolution": Resolution,
    "speaker_order": SpeakerOrder,
}


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
    for command in (generate, plan):
        _add_job_options(command)
    return parser


def _add_job_options(command: argparse.ArgumentParser) -> None:
    described = {name: field.description for name, field in Request.model_fields.items()}

    def add(name: str, **kwargs: Any) -> None:  # noqa: ANN401
        command.add_argument(f"--{name.replace('_', '-')}", **kwargs)

    for name, field in FILES.items():
        add(name, type=Path, required=name == "audio", metavar="FILE", help=described[field])
    for name, kind in CHOICES.items():
        add(name, choices=get_args(kind), help=described[name])
    for name, convert in OPTIONS.items():
        add(name, type=convert, metavar="JSON" if name == "speaker_boxes" else "VALUE", help=described[name])
    add("profile", metavar="NAME", help="model profile; instead of MODEL_PROFILE")
    add("models_dir", type=Path, metavar="FOLDER", help="folder of the model files; instead of MODELS_DIR")
    add("device", choices=("auto", "cuda", "cpu"), help="where the model runs; instead of DEVICE")


def _request(options: argparse.Namespace, **fixed: object) -> Request:
    given = {name: getattr(options, name) for name in (*OPTIONS, *CHOICES)}
    files = {field: getattr(options, name) for name, field in FILES.items()}
    job = {name: value for name, value in given.items() if value is not None} | fixed
    job |= {field: path.resolve().as_uri() for field, path in files.items() if path is not None}
    job["input_type"] = "video" if options.video else "image"
    job["person_count"] = "multi" if options.audio_2 else "single"
    return Request.parse(job, LOCAL_FILES)


def _settings(options: argparse.Namespace) -> Settings:
    given = {"MODEL_PROFILE": options.profile, "MODELS_DIR": options.models_dir, "DEVICE": options.device}
    return Settings.from_env(os.environ | {name: str(value) for name, value in given.items() if value is not None})


def _generate(options: argparse.Namespace) -> None:
    request, settings = _request(options), _settings(options)
    configure_logging(settings.log_level, sys.stderr)
    with _progress_bar() as on_progress:
        result = run_job(
            request,
            job_id=options.output.stem,
            models=open_models(settings),
            settings=settings,
            on_progress=on_progress,
            should_stop=lambda: False,
            exchange=LocalExchange(options.output),
        )
    print(json.dumps(result.to_json(), indent=2))


def _plan(options: argparse.Namespace) -> None:
    settings = _settings(options)
    modes = [options.speed_mode] if options.speed_mode else list(get_args(SpeedModeName))
    profile, device = load_profile(settings.model_profile), choose_device(settings)
    request = _request(options)
    with job_folder(settings.work_dir, "plan") as folder:
        job = read_job(request, local_files(request, folder), profile, settings)
    runs = {}
    for mode in modes:
        asked = request.model_copy(update={"speed_mode": mode})
        plan = make_plan(asked, profile, load_mode(mode), job.plan.n_frames, job.plan.seed)
        runs[mode] = dry_run(plan, profile, device, settings, list(job.warnings))
    _print_plans(runs)


def _schema(_options: argparse.Namespace) -> None:
    print(json.dumps(Request.json_schema(), indent=2))


@contextmanager
def _progress_bar() -> Iterator[Callable[[JobProgress], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("load models", total=100)

        def show(progress: JobProgress) -> None:
            where = progress.stage
            if progress.window:
                where = f"window {progress.window}/{progress.windows} step {progress.step}/{progress.steps}"
            bar.update(task, description=where, completed=progress.percent)

        yield show


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
        "estimated time": lambda run: f"{run.estimate.seconds:.1f} s",
        "estimated price": lambda run: f"${run.estimate.cost_usd:.4f}",
    }
    for name, shown in rows.items():
        table.add_row(name, *map(shown, runs.values()))
    console = Console()
    console.print(table)
    for warning in first.warnings:
        console.print(f"Note: {warning}")


if __name__ == "__main__":
    main()
