"""Many jobs, some at a time, each into a file of its own; what was made before is not made again."""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from infinitetalk.client.following import JobFailed, JobView
from infinitetalk.client.journal import Entry, Journal
from infinitetalk.client.lines import BadLines, Line
from infinitetalk.errors import JobError
from infinitetalk.progress import Progress

Json = dict[str, Any]
State = Literal["waiting", "running", "done", "kept", "failed", "left"]
Show = Callable[[str, State, "JobView | Progress | None"], None]


class LeftRunning(Exception):
    """The batch was told to stop before the job had ended. The message says what becomes of the job."""


class Way(Protocol):
    """A place where jobs are made."""

    def check(self, line: Line) -> None:
        """Look at a line and its files before anything is begun. Raises JobError."""
        ...

    def settle(self, line: Line, before: Entry) -> str | None:
        """What is to be done first about an earlier, other job under a line's name; None if nothing."""
        ...

    def make(self, line: Line, before: Entry | None, target: Path, show: Callable[[JobView | Progress], None]) -> Json:
        """Make a line's video, at `target` or on a volume; the journal is told. Returns the result.

        Args:
            before: what the journal knows of the same job.

        Raises:
            LeftRunning: it is not waited for any longer.
            JobFailed, JobError, ValueError, OSError: there is no video, or it is not here.
        """
        ...


@dataclass(frozen=True)
class Ended:
    """How a line ended.

    Args:
        state: done now, kept from an earlier run, failed, left at its endpoint, or still waiting.
        result: of the job; None without one.
        problem: a sentence; None if all is well.
    """

    line: Line
    state: State
    result: Mapping[str, Any] | None = None
    problem: str | None = None


def target_of(line: Line, folder: Path) -> Path:
    """Where a line's video goes."""
    return folder / f"{line.name}.mp4"


def unmade(lines: Sequence[Line], folder: Path, journal: Journal, way: Way) -> list[Line]:
    """The lines that are still to be made, after a look at all of them and their files.

    Raises:
        BadLines: a file cannot be used, or under a line's name lies a video of another job.
    """
    rest, problems = [], []
    for line in lines:
        try:
            if not _is_made(line, folder, journal, way):
                way.check(line)
                rest.append(line)
        except (JobError, ValueError) as error:
            problems.append(f"{line.where}: {error}")
    if problems:
        raise BadLines(problems)
    return rest


def run_batch(
    lines: Sequence[Line],
    rest: Sequence[Line],
    folder: Path,
    journal: Journal,
    way: Way,
    at_once: int,
    show: Show,
    stop: threading.Event,
) -> list[Ended]:
    """Make those of the lines that are not made yet, so many at a time; how each of all lines ended.

    Args:
        rest: what `unmade` gives.
        show: called with a line's name, its state and where it is, from several threads.
        stop: set, it lets no further job begin, and leaves those that run at an endpoint. Ctrl-C sets it.
    """
    kept = {line.name: _kept(line, journal) for line in lines if line not in rest}
    for name in kept:
        show(name, "kept", None)

    def make(line: Line) -> Ended:
        if stop.is_set():
            return Ended(line, "waiting")
        show(line.name, "running", None)
        before = journal.latest(line.name)
        same = before if before is not None and before.digest == line.digest else None
        try:
            result = way.make(line, same, target_of(line, folder), lambda view: show(line.name, "running", view))
            ended = Ended(line, "done", result)
        except LeftRunning as left:
            ended = Ended(line, "left", problem=str(left))
        except (JobFailed, JobError) as error:
            ended = Ended(line, "failed", problem=f"{error} ({error.code})")
        except (ValueError, OSError) as error:
            ended = Ended(line, "failed", problem=" ".join(str(error).split()))
        show(line.name, ended.state, None)
        return ended

    with ThreadPoolExecutor(at_once, thread_name_prefix="batch") as threads:
        running = [threads.submit(make, line) for line in rest]
        try:
            ends = [future.result() for future in running]
        except KeyboardInterrupt:
            stop.set()
            ends = [future.result() for future in running]
    made = {ended.line.name: ended for ended in ends}
    return [kept.get(line.name) or made[line.name] for line in lines]


def _is_made(line: Line, folder: Path, journal: Journal, way: Way) -> bool:
    """Whether a line's video is there. Raises ValueError where another job's is."""
    target, before = target_of(line, folder), journal.latest(line.name)
    if before is None:
        if target.exists():
            raise ValueError(f"{target} is there, and this batch did not make it: move it away, or name the line anew")
        return False
    if before.digest != line.digest:
        if before.event == "done" and (target.exists() or _volume_path(before) is not None):
            raise ValueError(
                f"{target} was made from another job than the line now asks for: move the video away and it is made "
                "anew, or name the line anew"
                if target.exists()
                else f"{line.name} was made from another job than the line now asks for: name the line anew"
            )
        if problem := way.settle(line, before):
            raise ValueError(problem)
        return False
    return before.event == "done" and (target.is_file() or _volume_path(before) is not None)


def _volume_path(entry: Entry) -> str | None:
    """Where the worker left a video that does not come here."""
    result = entry.result or {}
    path = result.get("video_path")
    return path if isinstance(path, str) and entry.job is not None else None


def _kept(line: Line, journal: Journal) -> Ended:
    entry = journal.latest(line.name)
    return Ended(line, "kept", None if entry is None else entry.result)
