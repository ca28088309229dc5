"""The command line: the command that is asked for, and how it ends. The commands are in the other files cli_*.py."""

# ruff: noqa: E402  one thing comes first

from infinitetalk.temporary_folder import require_temporary_folder

require_temporary_folder()

import argparse
import json
import os
import pkgutil
import select
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper

from infinitetalk.cli_options import make_parser
from infinitetalk.contract.request import Request
from infinitetalk.errors import JobError, RankFailed

READER_LEFT = 128 + signal.SIGPIPE  # the exit status that shells know

# Where each command is. It is imported when it is asked for: those that talk to an endpoint need no torch.
COMMANDS = {
    "generate": "infinitetalk.cli_machine:generate",
    "plan": "infinitetalk.cli_machine:plan",
    "submit": "infinitetalk.cli_submit:submit",
    "batch": "infinitetalk.cli_batch:batch",
    "page": "infinitetalk.cli_page:page",
    "schema": "infinitetalk.cli:schema",
    "fetch": "infinitetalk.cli_machine:fetch",
    "check": "infinitetalk.cli_machine:check",
    "calibrate": "infinitetalk.cli_machine:calibrate",
    "faces": "infinitetalk.cli_measures:faces",
    "inspect": "infinitetalk.cli_measures:inspect",
    "quality": "infinitetalk.cli_measures:quality",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command `infinitetalk`."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # names of files need not be text
    with _while_somebody_reads():
        options = make_parser(COMMANDS).parse_args(arguments)
        try:
            pkgutil.resolve_name(options.run)(options)
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


def schema(_options: argparse.Namespace) -> None:
    """`infinitetalk schema`: the JSON schema of a job's input."""
    print(json.dumps(Request.json_schema(), indent=2))


if __name__ == "__main__":
    main()
