"""RunPod's jobs, run one at a time: JSON becomes a Request, and the outcome becomes JSON."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from infinitetalk.contract.request import Request
from infinitetalk.contract.result import Failure, Result
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import Cancelled, InvalidInput, JobError
from infinitetalk.faces.finder import FaceFinder
from infinitetalk.job.control import Control
from infinitetalk.job.faults import classify_failure
from infinitetalk.job.run import run_job
from infinitetalk.logs import job_logs, log_event, places, without_quotes
from infinitetalk.marking.marker import Marker
from infinitetalk.models.opening import Models
from infinitetalk.progress import TimeLimit
from infinitetalk.serving.answers import KeptAnswers
from infinitetalk.serving.updates import ProgressUpdates
from infinitetalk.transfer.exchange import network_exchange

Json = dict[str, Any]

RUNPOD_TIME_LIMIT_S = 600.0  # if neither the job nor the endpoint sets another
MOST_MS = 604_800_000  # a week, the longest that RunPod lets a job run

logger = logging.getLogger(__name__)


def time_limit(job: Json, settings: Settings) -> TimeLimit:
    """How long the job may take: its own policy's limit, else the endpoint's, else RunPod's. Raises InvalidInput."""
    policy = job.get("policy")
    limit_ms = policy.get("executionTimeout") if isinstance(policy, Mapping) else None
    if limit_ms:
        if isinstance(limit_ms, bool) or not isinstance(limit_ms, int | float) or not 0 < limit_ms <= MOST_MS:
            raise InvalidInput(f"policy.executionTimeout must be milliseconds, above 0 and at most {MOST_MS} (a week).")
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
    answers: KeptAnswers | None = None,
    load_faces: Callable[[], FaceFinder | None] = lambda: None,
    marker: Marker | None = None,
) -> Json:
    """Run a job to its end. Returns the result, or `error` (which makes it FAILED), `error_code` and `retryable`.

    Args:
        answers: where an answer is kept until it has arrived, and where one of an earlier run is looked for.
        load_faces: gives what finds faces; None where that is not installed.
        marker: what marks videos as made by AI; if not given, one that the settings name is made for the job.
    """
    with job_logs(job["id"]):
        updates = ProgressUpdates(job, send_progress)
        try:
            request = Request.parse(job.get("input"))
            settings.arithmetic_of(request.lane)  # a lane that is not there is told before models are waited for
            log_event(logger, logging.INFO, "job started", speed_mode=request.speed_mode, dry_run=request.dry_run)
            if answers is not None and (kept := answers.find(job)) is not None:
                log_event(logger, logging.INFO, "job answered from what an earlier run has kept")
                return kept
            control = Control(job["id"], updates, stop.is_set, time_limit(job, settings), answers is not None)
            exchange = network_exchange(request, settings, job["id"], stop.is_set, job.get("s3Config"))
            result = run_job(request, load_models(), settings, exchange, control, faces=load_faces(), marker=marker)
            if answers is not None and isinstance(result, Result):
                answers.keep(job, result)
            figures = result.model_dump(include={"timings_s", "gpu_seconds", "cost_usd"})
            log_event(logger, logging.INFO, "job finished", **figures)
            return result.to_json()
        except Exception as error:  # whatever it is, the caller gets an answer, without internal details
            failure = error if isinstance(error, JobError) else classify_failure(error)
            level = logging.INFO if isinstance(failure, Cancelled | InvalidInput) else logging.WARNING
            told = without_quotes(str(failure))
            log_event(logger, level, "job failed", code=failure.code, error=told, cause=places(error))
            return Failure.of(failure, updates.preview).to_json()
        finally:
            updates.finish()


def make_handler(
    load_models: Callable[[], Models],
    settings: Settings,
    send_progress: Callable[[Json, Json], None],
    retire: Callable[[], None],
    answers: KeptAnswers | None = None,
    load_faces: Callable[[], FaceFinder | None] = lambda: None,
    marker: Marker | None = None,
) -> Callable[[Json], Awaitable[Json]]:
    """The function that the SDK calls with each job. Jobs run in a thread, one at a time.

    Args:
        load_models: gives the models; called for each job.
        settings: the worker's.
        send_progress: takes a job and a report of its progress; returns when the report has arrived.
        retire: called when this process can run no further job.
        answers: where answers are kept until they have arrived.
        load_faces: gives what finds faces; called for each job.
        marker: what marks videos as made by AI; if not given, each job makes the one that the settings name.
    """
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="job")  # the local API takes several jobs at once

    async def handler(job: Json) -> Json:
        stop = threading.Event()
        queued = thread.submit(answer, job, load_models, settings, send_progress, stop, answers, load_faces, marker)
        running = asyncio.wrap_future(queued)
        try:
            reply = await asyncio.shield(running)
        except asyncio.CancelledError:
            stop.set()
            queued.cancel()  # if it has not begun
            while not running.done():  # the next job needs the GPU, so the thread must have stopped
                with suppress(asyncio.CancelledError):  # RunPod may cancel twice
                    await asyncio.wait([running])
            raise
        if reply.get("refresh_worker"):
            retire()
        return reply

    return handler
