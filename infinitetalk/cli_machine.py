"""The commands that run on this machine and need torch: generate, plan, fetch, check, calibrate.

Each takes the options and raises a JobError, ValueError, OSError or RankFailed of one sentence.
"""

import argparse
import json
import logging
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import torch

from infinitetalk.cli_display import print_plans, progress_bar
from infinitetalk.cli_options import request_of, settings_of
from infinitetalk.client.batch import Report, Stopped
from infinitetalk.client.files import check_files
from infinitetalk.client.journal import Entry, Journal
from infinitetalk.client.lines import Line
from infinitetalk.contract.presets import profile_of
from infinitetalk.contract.request import SpeedModeName
from infinitetalk.contract.result import Result
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import InvalidInput, JobError
from infinitetalk.job.control import Control
from infinitetalk.job.faults import classify_failure
from infinitetalk.job.modes import plan_modes
from infinitetalk.job.run import run_job
from infinitetalk.logs import configure_logging, log_event, places
from infinitetalk.marking.marker import Marker
from infinitetalk.models.device import gpu_name
from infinitetalk.planning.comparison import comparison
from infinitetalk.startup.calibration import calibrated, to_toml
from infinitetalk.startup.calibration import measure as measure_trials
from infinitetalk.startup.fitness import check_fits, check_shapes, worker_checks
from infinitetalk.startup.opening import open_faces, open_models
from infinitetalk.startup.weights import fetch_weights, volume_folder
from infinitetalk.transfer.exchange import check_local_output, local_exchange
from infinitetalk.transfer.output_file import check_name, check_place

Json = dict[str, Any]

logger = logging.getLogger(__name__)


def generate(options: argparse.Namespace) -> None:
    """`infinitetalk generate`."""
    request, settings = request_of(options), settings_of(options)
    check_local_output(request, options.output)
    configure_logging(settings.log_level, sys.stderr)
    for check in worker_checks(settings):
        check()
    with progress_bar() as on_progress:
        control = Control(options.output.stem, on_progress)
        exchange = local_exchange(options.output, settings.work_dir)
        result = run_job(request, open_models(settings), settings, exchange, control, faces=open_faces(settings))
    print(json.dumps(result.to_json(), indent=2))
    if isinstance(result, Result) and result.checks is not None:
        for sentence in result.checks.look_at:
            print(f"Look at it: {sentence}", file=sys.stderr)


class OnMachine:
    """A way to make a batch's jobs (`client.batch.Way`): on this machine, with models that are opened once.

    Args:
        stop: set, it ends the running job.
    """

    def __init__(self, settings: Settings, journal: Journal, stop: threading.Event) -> None:
        self._settings, self._journal, self._stop = settings, journal, stop

    def check(self, line: Line, before: Entry | None) -> None:
        """See `Way.check`."""
        if before is not None and (job := before.open_job):
            raise InvalidInput(f"its job {job.job_id} was sent to {' '.join(job.place)}: name this endpoint")
        if line.request.output is not None:
            raise InvalidInput("output says how a video comes back from an endpoint: leave it out on this machine")
        self._settings.arithmetic_of(line.request.lane)
        check_files(line.request, self._settings)

    def open(self) -> None:
        """See `Way.open`."""
        configure_logging("ERROR", sys.stderr)  # the table says what happens
        for check in worker_checks(self._settings):
            check()
        self._opened = open_models(self._settings), open_faces(self._settings), Marker.open(self._settings)

    def make(self, line: Line, before: Entry | None, target: Path, report: Report) -> Json:
        """See `Way.make`."""
        models, faces, marker = self._opened
        exchange = local_exchange(target, self._settings.work_dir, self._settings, self._stop.is_set)
        control = Control(line.name, report, self._stop.is_set)
        self._journal.add(Entry(event="begun", name=line.name, digest=line.digest))
        try:
            made = run_job(line.request, models, self._settings, exchange, control, faces=faces, marker=marker)
        except Exception as error:  # as on an endpoint: the other jobs go on
            if self._stop.is_set():  # a terminal's Ctrl-C also ends the programs that the job runs
                raise Stopped("It was stopped.") from error
            failure = error if isinstance(error, JobError) else classify_failure(error)
            if failure is not error:
                log_event(logger, logging.ERROR, "job failed", job=line.name, error=repr(error), cause=places(error))
            if failure.refresh_worker:  # this process can make no other
                self._stop.set()
            raise failure from error
        return made.to_json()


def plan(options: argparse.Namespace) -> None:
    """`infinitetalk plan`."""
    settings, request = settings_of(options), request_of(options)
    modes = [options.speed_mode] if options.speed_mode else get_args(SpeedModeName)
    runs, plans = plan_modes(request, settings, modes, open_faces(settings), options.gpus)
    print_plans(runs)
    if options.compare:
        print(comparison(plans, profile_of(settings).timing))


def fetch(options: argparse.Namespace) -> None:
    """`infinitetalk fetch`."""
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


def check(options: argparse.Namespace) -> None:
    """`infinitetalk check`."""
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


def calibrate(options: argparse.Namespace) -> None:
    """`infinitetalk calibrate`."""
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
