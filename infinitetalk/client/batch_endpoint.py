"""A batch's jobs on an endpoint: sent once, followed, and found again after a break."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infinitetalk.client.batch import Report, Stopped
from infinitetalk.client.endpoint import EndpointFailed, JobGone, NotAnswered, RemoteEndpoint
from infinitetalk.client.files import check_files, check_size, unload
from infinitetalk.client.following import FINAL, JobFailed, follow, outcome
from infinitetalk.client.journal import Entry, Journal
from infinitetalk.client.lines import Line
from infinitetalk.client.receiving import receive, without_video
from infinitetalk.client.sending import SentJob, send_job
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import Cancelled
from infinitetalk.transfer.bucket import Bucket

Json = dict[str, Any]


class Lost(EndpointFailed):
    """A job may have been made and paid, and its video cannot be had. Only the user can decide to send it again."""


class OnEndpoint:
    """A way to make a batch's jobs (`batch.Way`).

    Args:
        settings: the limits of a job's files.
        bucket: the caller's, for files too large for a request.
        note: takes a sentence that the user should see.
        stop: set, it leaves the running jobs.
        resend: lost jobs are sent again.
    """

    def __init__(
        self,
        endpoint: RemoteEndpoint,
        journal: Journal,
        settings: Settings,
        bucket: Bucket | None,
        note: Callable[[str], None],
        stop: threading.Event,
        *,
        resend: bool = False,
    ) -> None:
        self._endpoint, self._journal, self._settings = endpoint, journal, settings
        self._bucket, self._note, self._stop, self._resend = bucket, note, stop, resend

    def check(self, line: Line, before: Entry | None) -> None:
        """See `Way.check`. An earlier, other job that still runs costs money, and nobody would fetch its video."""
        if before is not None and (job := before.open_job):
            if job.place != self._endpoint.place:
                raise EndpointFailed(f"its job {job.job_id} was sent to {' '.join(job.place)}: name this endpoint")
            if before.digest == line.digest and job.job_id:
                return  # its files are there already
            if job.job_id and self._runs(job):
                command = f"infinitetalk submit --cancel {job.job_id} {' '.join(job.place)}"
                raise EndpointFailed(f"an earlier job of this name still runs: cancel it first: {command}")
        check_files(line.request, self._settings)
        check_size(line.request, self._bucket)

    def open(self) -> None:
        """See `Way.open`. A wrong key or address is told once."""
        try:
            self._endpoint.health()
        except JobGone as error:
            raise EndpointFailed(f"There is no endpoint at {' '.join(self._endpoint.place)}; check it") from error

    def make(self, line: Line, before: Entry | None, target: Path, report: Report) -> Json:
        """See `Way.make`."""
        job = None if before is None else before.open_job
        if before is not None and job is not None:
            try:
                if before.digest == line.digest:
                    return self._brought(line, job, before.result, target, report)
            except Lost as lost:
                if not self._resend:
                    raise
                self._note(f"{line.name}: {lost} It is sent again.")
            self._unload(job)
        return self._brought(line, self._sent(line), None, target, report)

    def cancel(self, line: Line, job: SentJob) -> bool:
        """Cancel the job of a line that was left; whether it is. Raises EndpointFailed."""
        if self._endpoint.cancel(job.job_id).get("status") != "CANCELLED":
            return False
        self._unload(job)
        told: Json = {"error": "The batch was stopped", "error_code": Cancelled.code}
        self._journal.add(Entry(event="failed", name=line.name, digest=line.digest, job=job, **told))
        return True

    def _sent(self, line: Line) -> SentJob:
        """A line's job, sent. The journal knows of it before the endpoint does: none is sent twice after a break."""

        def note(event: Any, job: SentJob) -> None:  # noqa: ANN401
            self._journal.add(Entry(event=event, name=line.name, digest=line.digest, job=job))

        def begun(uploads: tuple[str, ...]) -> None:
            note("begun", SentJob(job_id="", place=self._endpoint.place, uploads=uploads))

        if self._stop.is_set():
            raise Stopped("It was not sent.")
        try:
            job = send_job(line.request, self._endpoint, self._bucket, self._stop.is_set, begun)
        except Cancelled as error:
            raise Stopped("It was not sent.") from error
        except NotAnswered as error:
            if error.was_sent:
                raise
            raise JobFailed(str(error), "not_sent", retryable=True) from error
        except EndpointFailed as error:
            raise JobFailed(str(error), "refused") from error
        note("sent", job)
        return job

    def _brought(self, line: Line, job: SentJob, result: Json | None, target: Path, report: Report) -> Json:
        """Follow a job to its end, and bring its video."""
        again = "--resend sends it again"
        if not job.job_id:
            raise Lost(
                "It is not known whether the endpoint took the job when the batch broke off; look at the endpoint's "
                f"requests, {again}."
            )
        if result is None or "video_url" not in result:
            try:
                view = follow(self._endpoint, job.job_id, report, self._pause)
            except JobGone as error:
                raise Lost(
                    f"The endpoint does not know job {job.job_id} any more (RunPod keeps a result for 30 minutes); its "
                    f"video may lie in the worker's bucket or on its volume, {again}."
                ) from error
            except EndpointFailed as error:
                back = f"job {job.job_id} may still run, and the same command comes back to it"
                raise EndpointFailed(f"{error}; {back}") from error
            self._unload(job)
            job = job.model_copy(update={"uploads": ()})
            result = outcome(view)
            told = without_video(result)
            self._journal.add(Entry(event="sent", name=line.name, digest=line.digest, job=job, result=told))
        try:
            received = receive(result, target, self._stop.is_set)
        except Cancelled as error:
            raise Stopped("Its video is not fetched.") from error
        except EndpointFailed as error:
            raise Lost(f"{error}; the same command fetches it again, {again}.") from error
        if received.volume_path is not None:
            self._note(f"{line.name}: the video is on the worker's volume: {received.volume_path}")
        return without_video(result)

    def _runs(self, job: SentJob) -> bool:
        try:
            return self._endpoint.status(job.job_id).get("status") not in FINAL
        except JobGone:
            return False

    def _unload(self, job: SentJob) -> None:
        for problem in unload(self._bucket, job.uploads):
            self._note(problem)

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped("It runs on at the endpoint.")
