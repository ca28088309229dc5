"""`infinitetalk batch`: many jobs, on an endpoint or on this machine. Needs torch for the latter only."""

import argparse
import os
import sys
from pathlib import Path
from threading import Event

from rich.console import Console

from infinitetalk.cli_display import batch_table, print_summary, tell
from infinitetalk.cli_options import plain_fields_of, settings_of
from infinitetalk.cli_submit import INTERRUPTED, endpoint_of
from infinitetalk.client.batch import Ended, Way, run_batch, unmade
from infinitetalk.client.batch_endpoint import OnEndpoint
from infinitetalk.client.files import caller_bucket
from infinitetalk.client.journal import Journal
from infinitetalk.client.lines import BadLines, Line, read_lines, read_pairs
from infinitetalk.contract.caller import CallerSettings
from infinitetalk.errors import InvalidInput
from infinitetalk.logs import configure_logging


def batch(options: argparse.Namespace) -> None:
    """`infinitetalk batch`. Raises a JobError, ValueError or OSError of one sentence."""
    folder: Path = options.output
    if options.pairs is not None and folder.exists() and folder.resolve() == options.pairs.resolve():
        raise InvalidInput(f"-o is the folder of --pairs, whose videos are inputs: name another folder than {folder}")
    notes: list[str] = []
    stop = Event()
    try:
        lines = _lines(options)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(f"{folder} cannot be made ({error.strerror}); name another folder") from error
        journal = Journal(folder)
        try:
            if journal.unreadable:
                notes.append(f"{journal.unreadable} lines of {journal.path} cannot be read; they are passed over.")
            way = _way(options, journal, notes, stop)
            at_once = options.at_once if isinstance(way, OnEndpoint) else 1
            rest = unmade(lines, folder, journal, way)
            with batch_table(lines) as show:
                ends = run_batch(lines, rest, folder, journal, way, at_once, show, stop)
            _end(ends, folder, way, notes, stop)
        finally:
            journal.close()
    except BadLines as error:
        for problem in error.problems:
            tell(" ".join(problem.split()))
        raise


def _lines(options: argparse.Namespace) -> list[Line]:
    common = plain_fields_of(options)
    return read_lines(options.jobs, common) if options.pairs is None else read_pairs(options.pairs, common)


def _way(options: argparse.Namespace, journal: Journal, notes: list[str], stop: Event) -> Way:
    settings = settings_of(options)
    if options.endpoint is None and options.url is None:
        from infinitetalk.cli_machine import OnMachine  # with torch

        configure_logging("ERROR", sys.stderr)  # the table says what happens
        return OnMachine(settings, journal, stop)
    caller = CallerSettings.from_env(os.environ, options.bucket)
    return OnEndpoint(endpoint_of(options, caller), journal, settings, caller_bucket(caller), notes.append, stop)


def _end(ends: list[Ended], folder: Path, way: Way, notes: list[str], stop: Event) -> None:
    """Say how the batch ended."""
    for note in notes:
        tell(f"Note: {note}")
    notes.clear()
    print_summary(ends, folder)
    if stop.is_set():
        tell("The batch was stopped; the same command goes on with what is missing.")
        if isinstance(way, OnEndpoint) and way.n_running:
            _ask_to_cancel(way)
            for note in notes:
                tell(f"Note: {note}")
        sys.exit(INTERRUPTED)
    n_failed = sum(ended.state == "failed" for ended in ends)
    if n_failed:
        raise ValueError(f"{n_failed} of {len(ends)} jobs failed; the same command tries them again")


def _ask_to_cancel(way: OnEndpoint) -> None:
    answer = ""
    if sys.stdin.isatty() and sys.stderr.isatty():
        try:
            question = (
                f"Jobs that run on at the endpoint: {way.n_running}. y: cancel, n or Ctrl-C: leave them running. "
            )
            answer = Console(stderr=True, highlight=False).input(question)
        except (KeyboardInterrupt, EOFError):
            answer = "n"
    if answer.strip().lower() in ("y", "yes"):
        tell(f"Jobs that the endpoint was asked to cancel: {way.cancel_running()}.")
    else:
        tell(f"Jobs left running: {way.n_running}. The same command comes back to them.")
