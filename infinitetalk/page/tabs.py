"""The page's tabs: each has at most one job, which ends with it."""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from infinitetalk.client.following import JobView
from infinitetalk.errors import InvalidInput
from infinitetalk.page.runner import ShouldStop, Show

T = TypeVar("T")

_LOOK_S = 0.3  # between two looks at a job's progress


@dataclass(frozen=True)
class _Job:
    thread: threading.Thread
    stop: threading.Event = field(default_factory=threading.Event)


class Tabs:
    """What runs for which tab, by the tab's session."""

    def __init__(self) -> None:
        self._jobs: dict[str, _Job] = {}
        self._lock = threading.Lock()

    def run(self, session: str, work: Callable[[Show, ShouldStop], T]) -> Iterator[JobView | T]:
        """Run a tab's job in a thread of its own; gives the latest that it shows, and in the end what it returns.

        Whoever leaves this generator ends the job.

        Raises what the job raises; InvalidInput while the tab has another one.
        """
        shown: queue.Queue[JobView] = queue.Queue()
        outcome: list[T | BaseException] = []

        def run() -> None:
            try:
                outcome.append(work(shown.put, job.stop.is_set))
            except BaseException as error:
                outcome.append(error)
            finally:
                with self._lock:
                    del self._jobs[session]

        job = _Job(threading.Thread(target=run, name="page job", daemon=True))
        with self._lock:
            if session in self._jobs:
                raise InvalidInput("This tab's job is still running: cancel it first, or open another tab.")
            self._jobs[session] = job
            job.thread.start()
        try:
            while job.thread.is_alive():
                job.thread.join(_LOOK_S)
                latest = None
                while not shown.empty():
                    latest = shown.get()
                if latest is not None:
                    yield latest
        finally:
            job.stop.set()
        [ended] = outcome
        if isinstance(ended, BaseException):
            raise ended
        yield ended

    def end(self, session: str) -> None:
        """Let a tab's job end; nothing happens if there is none."""
        with self._lock:
            job = self._jobs.get(session)
        if job is not None:
            job.stop.set()

    def end_all(self, limit_s: float) -> None:
        """Let all jobs end, and wait for them so long at most."""
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            job.stop.set()
        for job in jobs:
            job.thread.join(limit_s)
