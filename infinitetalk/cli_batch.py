"""`infinitetalk batch`: many jobs, on an endpoint or on this machine. Needs torch for the latter only."""

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event
from types import FrameType

from rich.console import Console

from infinitetalk.cli_display import batch_table, print_summary, tell
from infinitetalk.cli_options import plain_fields_of, settings_of
from infinitetalk.cli_submit import INTERRUPTED, endpoint_of
from infinitetalk.client.batch import Batch, Ended, Way
from infinitetalk.client.batch_endpoint import OnEndpoint
from infinitetalk.client.endpoint import EndpointFailed
from infinitetalk.client.files import caller_bucket
from infinitetalk.client.journal import FILE, Journal
from infinitetalk.client.lines import BadLines, Line, read_lines, read_pairs
from infinitetalk.contract.caller import CallerSettings
from infinitetalk.errors import InvalidInput

AT_ONCE = 4  # jobs on an endpoint, if it is not said


def batch(options: argparse.Namespace) -> None:
    """`infinitetalk batch`. Raises a JobError, ValueError or OSError of one sentence."""
    on_endpoint = options.endpoint is not None or options.url is not None
    _check_options(options, on_endpoint)
    folder: Path = options.output
    try:
        lines = _lines(options)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(f"{folder} cannot be made ({error.strerror}); name another folder") from error
        with closing(Journal(folder)) as journal:
            stop = Event()
            batch = Batch(folder, journal, _way(options, journal, stop), stop)
            with Console(stderr=True).status(f"Looking at {len(lines)} jobs and their files"):
                rest = batch.unmade(lines)
            _tell_open_jobs(journal, lines)
            if rest:
                batch.way.open()
            with _stopped_by_ctrl_c(stop), batch_table(lines) as show:
                ends = batch.run(lines, rest, (options.at_once or AT_ONCE) if on_endpoint else 1, show)
            print_summary(ends)
            _end(batch, ends)
    except BadLines as error:
        for problem in error.problems:
            tell(" ".join(problem.split()))
        raise


def _check_options(options: argparse.Namespace, on_endpoint: bool) -> None:
    """Refuse options that would not be read, and folders that are read and written. Raises InvalidInput."""
    here, there = ("profile", "models_dir", "device"), ("at_once", "bucket", "deliver", "resend")
    where = "the endpoint's worker decides that" if on_endpoint else "it needs --endpoint or --url"
    for name in here if on_endpoint else there:
        if getattr(options, name):
            raise InvalidInput(f"--{name.replace('_', '-')} has no effect here: {where}; leave it out")
    source, folder = options.pairs or options.jobs, options.output
    if source.resolve() in (folder.resolve(), (folder / FILE).resolve()):
        raise InvalidInput(f"{source} is read, and -o {folder} would write there: name another folder")


def _lines(options: argparse.Namespace) -> list[Line]:
    common = plain_fields_of(options) | ({} if options.deliver is None else {"output": options.deliver})
    return read_lines(options.jobs, common) if options.pairs is None else read_pairs(options.pairs, common)


def _way(options: argparse.Namespace, journal: Journal, stop: Event) -> Way:
    settings = settings_of(options)
    if options.endpoint is None and options.url is None:
        from infinitetalk.cli_machine import OnMachine  # with torch

        return OnMachine(settings, journal, stop)
    caller = CallerSettings.from_env(os.environ, options.bucket)
    return OnEndpoint(
        endpoint_of(options, caller), journal, settings, caller_bucket(caller), _note, stop, resend=options.resend
    )


def _note(sentence: str) -> None:
    tell(f"Note: {sentence}")


def _tell_open_jobs(journal: Journal, lines: list[Line]) -> None:
    """Tell of jobs at an endpoint that no line asks for any more."""
    for name in set(journal.names()) - {line.name for line in lines}:
        entry = journal.latest(name)
        if entry is not None and (job := entry.open_job) and job.job_id:
            _note(f"job {job.job_id} ({' '.join(job.place)}) was sent for {name}, which is no line of the batch now.")


@contextmanager
def _stopped_by_ctrl_c(stop: Event) -> Iterator[None]:
    """Let the first Ctrl-C set `stop`, and a second one do what it always does."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        stop.set()
        tell("Stopping.")

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end(batch: Batch, ends: list[Ended]) -> None:
    """Say what is still to be done, and end with a failure if there is anything."""
    n_failed = sum(ended.state == "failed" for ended in ends)
    n_missing = sum(ended.state in ("waiting", "left") for ended in ends)
    if n_missing and isinstance(batch.way, OnEndpoint):
        _ask_to_cancel(batch, batch.way, ends)
    if n_failed:
        raise ValueError(f"{n_failed} of {len(ends)} jobs failed; the same command tries again what has no video")
    if n_missing:
        tell(f"The batch was stopped; jobs without a video: {n_missing}. The same command goes on.")
        sys.exit(INTERRUPTED)


def _ask_to_cancel(batch: Batch, way: OnEndpoint, ends: list[Ended]) -> None:
    """Ask whether the jobs that were left at the endpoint are to be cancelled there."""
    entries = [(ended.line, batch.journal.latest(ended.line.name)) for ended in ends if ended.state == "left"]
    left = [(line, entry.open_job) for line, entry in entries if entry is not None and entry.open_job is not None]
    if not left:
        return
    answer = ""
    if sys.stdin.isatty() and sys.stderr.isatty():
        try:
            question = f"Jobs that run on at the endpoint: {len(left)}. y: cancel, n or Ctrl-C: leave them running. "
            answer = Console(stderr=True, highlight=False).input(question)
        except (KeyboardInterrupt, EOFError):
            tell("")
    if answer.strip().lower() not in ("y", "yes"):
        tell(f"Jobs left running: {len(left)}. The same command comes back to them.")
        return
    for line, job in left:
        try:
            tell(f"{line.name}: {'cancelled' if way.cancel(line, job) else 'had ended already'}")
        except EndpointFailed as error:
            tell(f"{line.name}: job {job.job_id} could not be cancelled: {error}")
