"""A batch's jobs on an endpoint: sent, followed, tried again where the worker says so, found again after a break."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infinitetalk.client.batch import LeftRunning
from infinitetalk.client.endpoint import EndpointFailed, JobGone, RemoteEndpoint
from infinitetalk.client.files import check_files, unload
from infinitetalk.client.following import FINAL, JobFailed, JobView, follow, outcome
from infinitetalk.client.journal import Entry, Journal
from infinitetalk.client.lines import Line
from infinitetalk.client.receiving import receive
from infinitetalk.client.sending import SentJob, send_job
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import Cancelled
from infinitetalk.progress import Progress
from infinitetalk.transfer.bucket import Bucket

Json = dict[str, Any]

TRIES = 3  # of a job that fails and may succeed later
RETRY_PAUSE_S = 10.0  # before the second try; twice as long before the third


class OnEndpoint:
    """A way to make a batch's jobs (`batch.Way`).

    Args:
        settings: the limits of a job's files.
        bucket: the caller's, for files too large for a request.
        note: takes a sentence that the user should see.
        stop: set, it leaves the running jobs.
    """

    def __init__(
        self,
        endpoint: RemoteEndpoint,
        journal: Journal,
        settings: Settings,
        bucket: Bucket | None,
        note: Callable[[str], None],
        stop: threading.Event,
    ) -> None:
        self._endpoint, self._journal, self._settings = endpoint, journal, settings
        self._bucket, self._note, self._stop = bucket, note, stop
        self._running: dict[str, SentJob] = {}

    def check(self, line: Line) -> None:
        """See `Way.check`."""
        before = self._journal.latest(line.name)
        if before is not None and before.event == "sent" and before.digest == line.digest:
            self._check_place(before)  # its files are on their way already
        else:
            check_files(line.request, self._settings)

    def settle(self, line: Line, before: Entry) -> str | None:
        """See `Way.settle`: an earlier job that still runs costs money, and nobody would fetch its video."""
        if before.event != "sent" or before.job is None:
            return None
        self._check_place(before)
        try:
            status = self._endpoint.status(before.job.job_id).get("status")
        except JobGone:
            status = FINAL[0]
        if status not in FINAL:
            command = f"infinitetalk submit --cancel {before.job.job_id} {' '.join(before.job.place)}"
            return f"the job {before.job.job_id} of an earlier {line.name} still runs: cancel it first: {command}"
        self._forget(before.job)
        return None

    def make(self, line: Line, before: Entry | None, target: Path, show: Callable[[JobView | Progress], None]) -> Json:
        """See `Way.make`."""
        found = before.job if before is not None and before.event == "sent" else None
        for attempt in range(1, TRIES + 1):
            job = found or self._send(line)
            try:
                return self._bring(line, job, target, show)
            except JobGone:
                self._fail(line, job, JobFailed("The endpoint does not know the job any more", "gone"))
                if found is None:
                    raise
                self._note(f"{line.name}: job {job.job_id} is not known any more, so it is sent anew.")
            except JobFailed as error:
                self._fail(line, job, error)
                if not error.retryable or attempt == TRIES:
                    raise
                self._note(f"{line.name}: {error} It is tried again.")
                if self._stop.wait(attempt * RETRY_PAUSE_S):
                    raise LeftRunning("was not tried again") from error
            found = None
        raise JobFailed("The endpoint does not know the job any more", "gone")

    def cancel_running(self) -> int:
        """Cancel the jobs that were left; how many the endpoint was asked to."""
        jobs = list(self._running.items())
        for name, job in jobs:
            try:
                self._endpoint.cancel(job.job_id)
            except EndpointFailed as error:
                self._note(f"{name}: job {job.job_id} could not be cancelled: {error}")
        return len(jobs)

    @property
    def n_running(self) -> int:
        """How many jobs were sent and have not ended."""
        return len(self._running)

    def _send(self, line: Line) -> SentJob:
        if self._stop.is_set():
            raise LeftRunning("was not sent")
        try:
            job = send_job(line.request, self._endpoint, self._bucket, self._stop.is_set)
        except Cancelled as error:
            raise LeftRunning("was not sent") from error
        self._journal.add(Entry(event="sent", name=line.name, digest=line.digest, job=job))
        return job

    def _bring(self, line: Line, job: SentJob, target: Path, show: Callable[[JobView | Progress], None]) -> Json:
        """Follow a job to its end, and bring its video."""
        self._running[line.name] = job
        try:
            view = follow(self._endpoint, job.job_id, show, self._pause)
        except JobGone:
            del self._running[line.name]
            self._forget(job)
            raise
        del self._running[line.name]
        if job.uploads:
            self._forget(job)
            job = job.model_copy(update={"uploads": ()})
            self._journal.add(Entry(event="sent", name=line.name, digest=line.digest, job=job))
        result = outcome(view)
        received = receive(result, target)
        told = {name: value for name, value in result.items() if name != "video"}
        if received.volume_path is not None:
            self._note(f"{line.name}: the video is on the worker's volume: {received.volume_path}")
        self._journal.add(Entry(event="done", name=line.name, digest=line.digest, job=job, result=told))
        return told

    def _fail(self, line: Line, job: SentJob, error: JobFailed) -> None:
        failure: Json = {"error": str(error), "error_code": error.code, "retryable": error.retryable}
        self._journal.add(Entry(event="failed", name=line.name, digest=line.digest, job=job, **failure))

    def _forget(self, job: SentJob) -> None:
        for problem in unload(self._bucket, job.uploads):
            self._note(problem)

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise LeftRunning("runs on at the endpoint")

    def _check_place(self, before: Entry) -> None:
        """Raise EndpointFailed for a job that was sent to another endpoint."""
        if before.job is not None and before.job.place != self._endpoint.place:
            raise EndpointFailed(
                f"its job {before.job.job_id} was sent to {' '.join(before.job.place)}: name this endpoint, or fetch "
                "it with `infinitetalk submit --resume`"
            )
