"""The SDK's job loop, guarded where it would lose a job or hear no further one.

What the SDK does by itself, and what stays: docs/limits.md, "The platform".
"""

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from runpod.http_client import ClientSession, TooManyRequests
from runpod.serverless.modules import rp_scale
from runpod.serverless.modules.rp_job import get_job, run_job

from infinitetalk.logs import job_logs, log_event
from infinitetalk.serving.job_ids import plain_id, usable_job
from infinitetalk.serving.results import post_result

Json = dict[str, Any]

UNREACHABLE_LIMIT_S = 600.0  # a worker that gets nothing but failures for so long ends, and RunPod starts another
FIRST_PAUSE_S = 0.5  # after a failed request for jobs; doubled with each
LONGEST_PAUSE_S = 30.0

logger = logging.getLogger(__name__)


def guard_job_loop(arrived: Callable[[str, Json], None]) -> None:
    """Let the SDK's `start` run a `JobLoop`.

    Args:
        arrived: gets id and result of each job whose result has arrived.
    """
    rp_scale.JobScaler = partial(JobLoop, arrived)


class JobLoop(rp_scale.JobScaler):  # type: ignore[misc]  # the SDK is not annotated
    """Takes jobs, runs them and posts their results."""

    def __init__(self, arrived: Callable[[str, Json], None], config: Json) -> None:
        super().__init__(config)
        self.jobs_fetcher = self._take
        self.jobs_handler = self._run
        self._arrived = arrived
        self._asks = True  # for jobs
        self._failing_since_s: float | None = None
        self._pause_s = FIRST_PAUSE_S

    async def get_jobs(self, session: ClientSession) -> None:
        """The SDK's loop; notes its end."""
        try:
            await super().get_jobs(session)
        finally:
            self._asks = False

    async def run_jobs(self, session: ClientSession) -> None:
        """The SDK's loop, which ends with the signal to end: a request that is open then may still bring a job."""
        await super().run_jobs(session)
        while self._asks or not self.jobs_queue.empty():
            await asyncio.sleep(0.1)
            await super().run_jobs(session)

    async def stop_job(self, job_id: str) -> bool:
        """Stop a job, whose id the platform spells as it likes."""
        return bool(await super().stop_job(plain_id(job_id) or job_id))

    async def _take(self, session: ClientSession, n_jobs: int) -> list[Json]:
        """The next jobs that can be run and answered. After a failure the next request waits, longer each time."""
        try:
            jobs = await get_job(session, n_jobs) or []
        except TooManyRequests:
            self._failing_since_s = None
            raise
        except Exception:  # whatever it is (the SDK raises bare ones, too), the SDK gets it after the wait
            await self._wait()
            raise
        self._failing_since_s = None
        usable = [job for job in map(usable_job, jobs) if job is not None]
        if len(usable) < len(jobs):
            refused = [type(job).__name__ for job in jobs if usable_job(job) is None]
            log_event(logger, logging.ERROR, "jobs without a usable id are refused", kinds=refused[:10])
            await asyncio.sleep(FIRST_PAUSE_S)  # a platform that sends nothing else would fill the log
        return usable

    async def _wait(self) -> None:
        """Wait after a failure; after too many in a row end the worker."""
        now_s = time.monotonic()
        if self._failing_since_s is None:
            self._failing_since_s, self._pause_s = now_s, FIRST_PAUSE_S
        elif now_s - self._failing_since_s > UNREACHABLE_LIMIT_S:
            log_event(logger, logging.ERROR, "the platform cannot be asked for jobs; the worker ends")
            self.kill_worker()
        while self.is_alive() and time.monotonic() < now_s + self._pause_s:
            await asyncio.sleep(0.1)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    async def _run(self, session: ClientSession, config: Json, job: Json) -> None:
        result: Json = await run_job(config["handler"], job)
        if config.get("refresh_worker"):
            result["stopPod"] = True
        with job_logs(job["id"]):
            if await post_result(session, job["id"], result):
                await asyncio.to_thread(self._arrived, job["id"], result)
                log_event(logger, logging.INFO, "Finished.")  # the SDK's word for it
