"""Modules of this package that run as programs, because they open strangers' files: how they are asked and answer.

An answer is a line of JSON, then bytes. It goes through a pipe, so that nothing depends on room in a folder.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import infinitetalk
from infinitetalk.errors import Internal, JobError, MediaUnreadable, TooLarge
from infinitetalk.media.child import TooSlow, run_child

# No keys of ours. More threads would each reserve memory, of which the program has little.
PROGRAM_ENV = {"PYTHONPATH": str(Path(infinitetalk.__file__).parents[1]), "OPENBLAS_NUM_THREADS": "1"}
ERRORS = {kind.code: kind for kind in (MediaUnreadable, TooLarge, Internal)}


@dataclass(frozen=True)
class Answer:
    """What a program found, as JSON has it, and the bytes that go with it."""

    facts: dict[str, Any]
    data: bytes = b""


def ask(module: str, *arguments: str, time_limit_s: float, too_slow: JobError, crashed: JobError) -> Answer:
    """Run a module of infinitetalk.media as a program.

    Args:
        module: its name, such as "image".
        too_slow, crashed: raised where the program is not done in time, and where it dies without an answer.

    Raises the JobError that the program met.
    """
    program = [sys.executable, "-m", f"infinitetalk.media.{module}", *arguments]
    try:
        done = run_child(program, time_limit_s, PROGRAM_ENV)
    except TooSlow as error:
        raise too_slow from error
    header, _, data = done.data.partition(b"\n")
    if done.status != 0 or not header:  # it crashed, or wanted more memory than it may have
        raise crashed from ValueError(done.log)
    facts = json.loads(header)
    if "error" in facts:
        raise ERRORS[facts["error"]](facts["message"])
    return Answer(facts, data)


def reply(work: Callable[[], Answer]) -> None:
    """The other end of `ask`: do the work and write its answer, or the JobError that it meets."""
    try:
        answer = work()
    except JobError as error:
        answer = Answer({"error": error.code, "message": str(error)})
    sys.stdout.buffer.write(json.dumps(answer.facts).encode() + b"\n")
    sys.stdout.buffer.write(answer.data)
