"""The page's jobs at an endpoint: sent with their files, watched, and their videos brought here."""

import json
import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from infinitetalk.client.endpoint import EndpointFailed, RemoteEndpoint
from infinitetalk.client.files import check_files, unload
from infinitetalk.client.following import follow, outcome
from infinitetalk.client.receiving import receive, without_video
from infinitetalk.client.sending import SentJob, send_job
from infinitetalk.contract.request import Request, SpeedModeName
from infinitetalk.contract.result import DryRun
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import Cancelled
from infinitetalk.page.form import RUNPOD
from infinitetalk.page.runner import Made, ShouldStop, Show
from infinitetalk.transfer.bucket import Bucket

logger = logging.getLogger(__name__)

_LOOK_S = 0.1  # between two looks whether a job is to be cancelled


class RemoteRunner:
    """A `Runner` at an endpoint.

    Args:
        bucket: the caller's, for files that are too large for a request; None if there is none.
        settings: limits of files, as the worker has them.
    """

    is_here = False

    def __init__(self, endpoint: RemoteEndpoint, bucket: Bucket | None, settings: Settings) -> None:
        self._endpoint = endpoint
        self._bucket = bucket
        self._settings = settings

    @property
    def about(self) -> str:
        """See `Runner`."""
        option, name = self._endpoint.place
        return f"Videos are made {'on the RunPod endpoint' if option == '--endpoint' else 'by the worker at'} {name}."

    @property
    def address(self) -> str:
        """See `Runner`."""
        option, name = self._endpoint.place
        return f"{RUNPOD}/{name}" if option == "--endpoint" else name

    def plans(self, request: Request, show: Show, should_stop: ShouldStop) -> dict[str, DryRun]:
        """See `Runner.plans`: a dry run of each mode, all of them in the queue at once."""
        check_files(request, self._settings)
        jobs: dict[str, SentJob] = {}
        try:
            for mode in get_args(SpeedModeName):
                fields = {"speed_mode": mode, "dry_run": True}
                jobs[mode] = send_job(request, self._endpoint, self._bucket, should_stop, **fields)
            return {mode: _dry_run(self._ended(job, show, should_stop)) for mode, job in jobs.items()}
        except BaseException:
            for job in jobs.values():
                with suppress(EndpointFailed):  # it has ended
                    self._endpoint.cancel(job.job_id)
            raise
        finally:
            for job in jobs.values():
                self._clean(job)

    def make(self, request: Request, output: Path, show: Show, should_stop: ShouldStop) -> Made:
        """See `Runner.make`. The sent job is cancelled on the worker where it is to stop here."""
        check_files(request, self._settings)
        job = send_job(request.model_copy(update={"preview": True}), self._endpoint, self._bucket, should_stop)
        try:
            result = self._ended(job, show, should_stop)
        finally:
            notes = self._clean(job)
        received = receive(result, output)
        return Made(without_video(result), received.file, notes)

    def _ended(self, job: SentJob, show: Show, should_stop: ShouldStop) -> dict[str, Any]:
        """What a job gave."""

        def pause(seconds: float) -> None:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                if should_stop():
                    self._endpoint.cancel(job.job_id)
                    raise Cancelled("The job was cancelled.")
                time.sleep(_LOOK_S)

        return outcome(follow(self._endpoint, job.job_id, show, pause))

    def _clean(self, job: SentJob) -> tuple[str, ...]:
        """Remove the job's files from the bucket; a sentence for each that stays."""
        notes = tuple(unload(self._bucket, job.uploads))
        for note in notes:
            logger.warning(note)
        return notes


def _dry_run(result: dict[str, Any]) -> DryRun:
    try:
        return DryRun.model_validate_json(json.dumps(result))
    except ValidationError as error:
        raise EndpointFailed("The plan cannot be read: the endpoint's worker is of another version.") from error
