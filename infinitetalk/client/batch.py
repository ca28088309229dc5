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
Report = Callable[["JobView | Progress"], None]
Show = Callable[[str, State, "JobView | Progress | None"], None]

TRIES = 3  # of a job that fails and may succeed later
RETRY_PAUSE_S = 10.0  # before the second try; twice as long before the third


class Stopped(Exception):
    """The batch was told to stop before the job had ended. The message says what becomes of the job."""


class Way(Protocol):
    """A place where jobs are made."""

    def check(self, line: Line, before: Entry | None) -> None:
        """Look at a line and its files before anything is begun.

        Args:
            before: what the journal knows of the line's name, perhaps of another job.

        Raises:
            JobError, ValueError: the line cannot be made.
        """
        ...

    def open(self) -> None:
        """Get ready to make jobs. Raises JobError, ValueError or OSError: none can be made."""
        ...

    def make(self, line: Line, before: Entry | None, target: Path, report: Report) -> Json:
        """Make a line's video, at `target` or on the worker's volume. Returns the result, without the video.

        Args:
            before: as for `check`.
            report: called with where the job is.

        Raises:
            Stopped: it is not waited for any longer.
            JobFailed, JobError: the job has ended without a video.
            ValueError, OSError: the video is not here, and the journal says what is known of the job.
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


@dataclass(frozen=True)
class Batch:
    """Where a batch's videos go, and how they are made.

    Args:
        folder: of the videos.
        journal: of this folder.
        stop: set, it lets no further job begin, and leaves those that run at an endpoint.
    """

    folder: Path
    journal: Journal
    way: Way
    stop: threading.Event

    def target(self, line: Line) -> Path:
        """Where a line's video goes."""
        return self.folder / f"{line.name}.mp4"

    def unmade(self, lines: Sequence[Line]) -> list[Line]:
        """The lines that are still to be made, after a look at all of them; first those whose jobs run already.

        Raises:
            BadLines: a line cannot be made, or under its name lies a video of another job.
        """
        rest, problems = [], []
        for line in lines:
            try:
                if not self._is_made(line):
                    self.way.check(line, self.journal.latest(line.name))
                    rest.append(line)
            except (JobError, ValueError, OSError) as error:
                problems.append(f"{line.where}: {error}")
        if problems:
            raise BadLines(problems)
        return sorted(rest, key=lambda line: not self._has_open_job(line))  # results are not kept for long

    def run(self, lines: Sequence[Line], rest: Sequence[Line], at_once: int, show: Show) -> list[Ended]:
        """Make those of the lines that are not made yet, so many at a time; how each of all lines ended.

        Args:
            rest: what `unmade` gives.
            show: called with a line's name, its state and where it is, from several threads.
        """
        ends = {line.name: self._kept(line, show) for line in lines if line not in rest}
        with ThreadPoolExecutor(at_once, thread_name_prefix="batch") as threads:
            running = [threads.submit(self._made, line, show) for line in rest]
            ends |= {line.name: future.result() for line, future in zip(rest, running, strict=True)}
        return [ends[line.name] for line in lines]

    def _made(self, line: Line, show: Show) -> Ended:
        """Make a line's video, and say so."""
        if self.stop.is_set():
            return Ended(line, "waiting")
        show(line.name, "running", None)
        try:
            ended = Ended(line, "done", self._tried(line, lambda view: show(line.name, "running", view)))
        except Stopped as left:
            ended = Ended(line, "left", problem=str(left))
        except (JobFailed, JobError) as error:
            ended = Ended(line, "failed", problem=f"{error} ({error.code})")
        except (ValueError, OSError) as error:
            ended = Ended(line, "failed", problem=str(error))
        show(line.name, ended.state, None)
        return ended

    def _tried(self, line: Line, report: Report) -> Json:
        """Make a line's video, in several tries where the failure may pass. The journal is told how it ended."""
        for attempt in range(1, TRIES + 1):
            try:
                result = self.way.make(line, self.journal.latest(line.name), self.target(line), report)
            except (JobFailed, JobError) as error:
                told: Json = {"error": str(error), "error_code": error.code, "retryable": error.retryable}
                self._note("failed", line, **told)
                if not error.retryable or attempt == TRIES:
                    raise
                if self.stop.wait(attempt * RETRY_PAUSE_S):
                    raise Stopped(f"It failed and was not tried again: {error}") from error
            else:
                self._note("done", line, result=result)
                return result
        raise AssertionError("the last try returns or raises")

    def _note(self, event: Literal["done", "failed"], line: Line, **told: Any) -> None:  # noqa: ANN401
        before = self._before(line)
        job = None if before is None else before.job
        self.journal.add(Entry(event=event, name=line.name, digest=line.digest, job=job, **told))

    def _before(self, line: Line) -> Entry | None:
        """What the journal knows of this very job."""
        entry = self.journal.latest(line.name)
        return entry if entry is not None and entry.digest == line.digest else None

    def _has_open_job(self, line: Line) -> bool:
        before = self._before(line)
        return before is not None and before.open_job is not None

    def _is_made(self, line: Line) -> bool:
        """Whether a line's video is there. Raises ValueError where another job's is."""
        target, before, latest = self.target(line), self._before(line), self.journal.latest(line.name)
        if before is not None:  # whatever was noted last: a video appears when it is whole
            return target.is_file() or (before.event == "done" and _volume_path(before) is not None)
        if target.exists():
            what = (
                "is there, and this batch did not make it" if latest is None else "was made from another job than this"
            )
            raise ValueError(f"{target} {what}: move it away, or name the line anew")
        if latest is not None and latest.event == "done" and (path := _volume_path(latest)):
            raise ValueError(f"the video at {path} was made from another job than this: name the line anew")
        return False

    def _kept(self, line: Line, show: Show) -> Ended:
        show(line.name, "kept", None)
        entry = self.journal.latest(line.name)
        return Ended(line, "kept", None if entry is None else entry.result)


def _volume_path(entry: Entry) -> str | None:
    """Where the worker left a video that does not come here."""
    path = (entry.result or {}).get("video_path")
    return path if isinstance(path, str) and entry.job is not None else None
