"""Programs that read strangers' files: bounded in time and memory, without our environment.

Whatever a hostile file does to a decoder (never end, fill the memory, crash) then happens to a child process.
"""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import IO

MEMORY_BYTES = 4 << 30  # ffmpeg takes 1.1 GB for 8K HEVC of 10 bits with all its reference frames
FILE_BYTES = 8 << 30  # what it may write: a copy of the largest input, with room
_LOG_TAIL_BYTES = 1 << 18
_POLL_S = 0.1

# Asked while a program runs; what it raises ends the program. A variable of the job's context, since every reader of
# media would have to hand it on otherwise.
_check: ContextVar[Callable[[], None]] = ContextVar("check", default=lambda: None)


@contextmanager
def ended_by(check: Callable[[], None]) -> Iterator[None]:
    """Let an exception from `check` end every program that this context runs meanwhile, within a second.

    Args:
        check: asked ten times a second; `Control.start` makes one for a job.
    """
    token = _check.set(check)
    try:
        yield
    finally:
        _check.reset(token)


def check_ended() -> None:
    """Raise what the check of `ended_by` raises, if it does: for work on media that this process does itself."""
    _check.get()()


@dataclass(frozen=True)
class Finished:
    """What a program left.

    Args:
        status: its exit status; below 0 the signal that ended it.
        data: its standard output.
        log: the end of its log.
    """

    status: int
    data: bytes
    log: str


class TooSlow(Exception):
    """A program was not done within its time and was killed. The message is the end of its log."""


def run_child(args: Sequence[str], time_limit_s: float, env: Mapping[str, str] | None = None) -> Finished:
    """Run a program to its end, with its standard input closed. Raises TooSlow, or what the check of `ended_by` raises.

    Args:
        env: its whole environment; empty if not given, since ours has keys in it.
    """
    deadline_s = time.monotonic() + time_limit_s
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=dict(env or {})
        )
        with process:
            limit(process)
            try:
                data = _output(process, deadline_s)
            except subprocess.TimeoutExpired as error:
                raise TooSlow(log_tail(log)) from error
            finally:
                process.kill()  # nothing happens if it has ended
        return Finished(process.returncode, data, log_tail(log))


def _output(process: subprocess.Popen[bytes], deadline_s: float) -> bytes:
    """All that a process writes to its standard output. Raises TimeoutExpired past the deadline."""
    while True:
        left_s = max(deadline_s - time.monotonic(), 0.0)
        try:
            data, _ = process.communicate(timeout=min(left_s, _POLL_S))  # keeps what it has read if it times out
        except subprocess.TimeoutExpired:
            if left_s <= _POLL_S:
                raise
            check_ended()
        else:
            return data


def limit(process: subprocess.Popen[bytes]) -> None:
    """Bound a process's memory and the files it writes. Only on Linux, which alone allows it from outside."""
    if sys.platform == "linux":
        limits = {resource.RLIMIT_AS: MEMORY_BYTES, resource.RLIMIT_FSIZE: FILE_BYTES, resource.RLIMIT_CORE: 0}
        with suppress(ProcessLookupError):  # it has ended
            for kind, wanted in limits.items():
                _, hard = resource.prlimit(process.pid, kind)
                bound = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)  # a lower one cannot be raised
                resource.prlimit(process.pid, kind, (bound, bound))


def log_tail(log: IO[bytes]) -> str:
    """The end of a log file that a program wrote to."""
    log.seek(0, 2)
    log.seek(max(0, log.tell() - _LOG_TAIL_BYTES))
    return log.read().decode(errors="replace").strip()
