"""RunPod worker: a job's JSON becomes a Request, what became of it becomes JSON. Nothing else happens here.

    {"input": {"image_url": "https://...", "wav_url": "https://..."}}

On RunPod, `python handler.py` waits for jobs. Elsewhere it runs one (`--test_input JSON`, or test_input.json in the
current folder) or serves RunPod's API locally (`--rp_serve_api`).

RunPod's stop signal cancels a job before its next step; the worker goes on to the next job. On SIGTERM the SDK takes
no further job and the worker ends when the running one has been answered. If RunPod kills it before, the next worker
goes on from the last finished window that it finds on the volume.
"""

import asyncio
import dataclasses
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from typing import Any

import runpod.serverless
from runpod.http_client import AsyncClientSession
from runpod.serverless.modules.rp_http import send_result
from runpod.serverless.modules.rp_logger import RunPodLogger

from infinitetalk.contract.request import Request
from infinitetalk.contract.result import Failure
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import Cancelled, InvalidInput, JobError
from infinitetalk.job.faults import name_failure
from infinitetalk.job.run import open_models, run_job
from infinitetalk.logs import configure_logging, job_logs, log_event, places
from infinitetalk.models.loading import Models
from infinitetalk.progress import Progress, TimeLimit
from infinitetalk.startup.fitness import worker_checks
from infinitetalk.transfer.exchange import NetworkExchange

Json = dict[str, Any]

PROGRESS_INTERVAL_S = 1.0
PROGRESS_POST_S = 5.0  # longest that an update takes, and so that a result waits for the last one before it
RUNPOD_TIME_LIMIT_S = 600.0  # where neither the job nor the endpoint sets another
STOPPED_WHILE_LOADING = 128 + signal.SIGTERM

logger = logging.getLogger("infinitetalk.handler")


class ProgressUpdates:
    """Passes progress on: the latest, at most once a second, in order, none after the result."""

    def __init__(self, job: Json, send: Callable[[Json, Json], None]) -> None:
        """send: returns when the update has arrived."""
        self._job = job
        self._send = send
        self._waiting: queue.SimpleQueue[Progress | None] = queue.SimpleQueue()
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._pass_on, name="progress", daemon=True)
        self._thread.start()

    def __call__(self, progress: Progress) -> None:
        self._waiting.put(progress)

    def finish(self) -> None:
        """Wait until the update that is on its way has arrived; what still waits is out of date."""
        self._finished.set()
        self._waiting.put(None)
        self._thread.join(PROGRESS_POST_S)

    def _pass_on(self) -> None:
        while True:
            latest = self._waiting.get()
            while not self._waiting.empty():
                latest = self._waiting.get()
            if latest is None or self._finished.is_set():
                return
            self._send(self._job, dataclasses.asdict(latest))
            self._finished.wait(PROGRESS_INTERVAL_S)


def post_progress(job: Json, progress: Json) -> None:
    """Tell RunPod where a job is.

    The SDK's progress_update does the same from a thread of its own that cannot be waited for: updates overtake each
    other, and the result.
    """

    async def post() -> None:
        async with AsyncClientSession() as session:
            await send_result(session, {"status": "IN_PROGRESS", "output": progress}, job)

    with suppress(TimeoutError):
        asyncio.run(asyncio.wait_for(post(), PROGRESS_POST_S))


def log_progress(_job: Json, progress: Json) -> None:
    """What happens to progress where there is no RunPod to tell."""
    log_event(logger, logging.INFO, "progress", **progress)


def time_limit(job: Json, settings: Settings) -> TimeLimit:
    """What the job may take: by its own policy, else the endpoint's, else RunPod's. Raises InvalidInput."""
    policy = job.get("policy")
    limit_ms = policy.get("executionTimeout") if isinstance(policy, Mapping) else None
    if limit_ms:
        if isinstance(limit_ms, bool) or not isinstance(limit_ms, int | float) or not 0 < limit_ms < float("inf"):
            raise InvalidInput("policy.executionTimeout must be a number of milliseconds above 0.")
        return TimeLimit(limit_ms / 1000, is_certain=True)
    if settings.execution_timeout_s is not None:
        return TimeLimit(settings.execution_timeout_s, is_certain=True)
    return TimeLimit(RUNPOD_TIME_LIMIT_S, is_certain=False)


def answer(
    job: Json,
    load_models: Callable[[], Models],
    settings: Settings,
    send_progress: Callable[[Json, Json], None],
    stop: threading.Event,
) -> Json:
    """Run a job to its end. Returns the result, or `error` (which makes it FAILED), `error_code`, `retryable`."""
    with job_logs(job["id"]):
        updates = ProgressUpdates(job, send_progress)
        try:
            request = Request.parse(job.get("input"))
            log_event(logger, logging.INFO, "job started", speed_mode=request.speed_mode, dry_run=request.dry_run)
            limit = time_limit(job, settings)
            exchange = NetworkExchange(request, settings, job["id"], stop.is_set, job.get("s3Config"))
            result = run_job(
                request,
                job_id=job["id"],
                models=load_models(),
                settings=settings,
                on_progress=updates,
                should_stop=stop.is_set,
                exchange=exchange,
                time_limit=limit,
            )
            figures = result.model_dump(include={"timings_s", "gpu_seconds", "cost_usd"})
            log_event(logger, logging.INFO, "job finished", **figures)
            return result.to_json()
        except Exception as error:  # whatever it is, the caller gets an answer, without details of the inside
            failure = error if isinstance(error, JobError) else name_failure(error)
            level = logging.INFO if isinstance(failure, Cancelled | InvalidInput) else logging.WARNING
            log_event(logger, level, "job failed", code=failure.code, error=str(failure), cause=places(error))
            return Failure.of(failure).to_json()
        finally:
            updates.finish()


def make_handler(
    load_models: Callable[[], Models],
    settings: Settings,
    send_progress: Callable[[Json, Json], None],
    retire: Callable[[], None],
) -> Callable[[Json], Awaitable[Json]]:
    """The function that the SDK calls with each job. Jobs run in a thread, one at a time.

    retire: called when this process can run no further job.
    """
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="job")  # the local API takes several at once

    async def handler(job: Json) -> Json:
        stop = threading.Event()
        queued = thread.submit(answer, job, load_models, settings, send_progress, stop)
        running = asyncio.wrap_future(queued)
        try:
            reply = await asyncio.shield(running)
        except asyncio.CancelledError:
            stop.set()
            queued.cancel()  # if it has not begun
            while not running.done():  # the next job needs the GPU, so the thread must have stopped
                with suppress(asyncio.CancelledError):  # RunPod may say it twice
                    await asyncio.wait([running])
            raise
        if reply.get("refresh_worker"):
            retire()
        return reply

    return handler


def log_for_sdk(settings: Settings) -> None:
    """Let the SDK's lines go the way of ours: theirs quote addresses, and at DEBUG whole jobs and answers."""
    sdk_logger = logging.getLogger("runpod.sdk")
    sdk_logger.setLevel(max(logging.INFO, logging.getLevelName(settings.log_level)))
    levels = {"WARN": logging.WARNING, "ERROR": logging.ERROR, "DEBUG": logging.DEBUG, "TRACE": logging.DEBUG}

    def log(message: object, message_level: str = "INFO", job_id: str | None = None) -> None:
        sdk_logger.log(levels.get(message_level, logging.INFO), "%s", message, extra={"job_id": job_id})

    RunPodLogger().log = log


def main() -> None:
    """Load the models once, then serve jobs."""
    # Until the SDK's own handler is there. The first process of a container would not even be ended by the signal.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(STOPPED_WHILE_LOADING))
    on_runpod = "RUNPOD_WEBHOOK_GET_JOB" in os.environ
    try:
        settings = Settings.from_env(os.environ)
        configure_logging(settings.log_level, sys.stdout, as_json=on_runpod)
        if on_runpod:
            log_for_sdk(settings)
        else:
            RunPodLogger().set_level({"DEBUG": "INFO", "WARNING": "WARN"}.get(settings.log_level, settings.log_level))

        @cache
        def load_models() -> Models:
            return open_models(settings)

        checks: tuple[Callable[[], object], ...] = (*worker_checks(settings), load_models)
        for check in checks:
            if on_runpod:  # the SDK runs them, tells RunPod which one failed, and ends the process
                runpod.serverless.register_fitness_check(check)
            else:
                check()
    except (ValueError, JobError) as error:  # a wrong setting, or weights that are not there
        sys.exit(f"The worker cannot start: {' '.join(str(error).split())}")
    config: Json = {}
    send_progress = post_progress if on_runpod else log_progress
    # With this flag the SDK ends the process after the job, and asks RunPod for a new one.
    config["handler"] = make_handler(
        load_models, settings, send_progress, retire=lambda: config.update(refresh_worker=True)
    )
    runpod.serverless.start(config)


if __name__ == "__main__":
    main()
