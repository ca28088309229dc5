"""RunPod worker: a job's JSON becomes a Request, what became of it becomes JSON. Nothing else happens here.

    {"input": {"image_url": "https://...", "wav_url": "https://..."}}

On RunPod, `python handler.py` waits for jobs. Elsewhere it runs one (`--test_input JSON`, or test_input.json in the
current folder) or serves RunPod's API locally (`--rp_serve_api`).
"""

import asyncio
import dataclasses
import logging
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import runpod.serverless
from runpod.serverless.modules.rp_logger import RunPodLogger

from infinitetalk.errors import Internal, InvalidInput, JobError, OutOfMemory
from infinitetalk.job import open_models, run_job
from infinitetalk.logs import configure_logging
from infinitetalk.models.loading import Models
from infinitetalk.progress import Progress
from infinitetalk.request import Request
from infinitetalk.result import Failure
from infinitetalk.settings import Settings

Json = dict[str, Any]

PROGRESS_INTERVAL_S = 1.0
PROGRESS_POST_S = 5.0  # longest that a result waits for the last update before it

logger = logging.getLogger("infinitetalk.handler")


class ProgressUpdates:
    """Passes progress on: at most one update a second, one on its way at a time, none after the result.

    The SDK posts each update from a thread of its own, so two at once could arrive in either order.
    """

    def __init__(self, job: Json, send: Callable[[Json, Json], None]) -> None:
        self._job = job
        self._send = send
        self._last_s = float("-inf")
        self._posts: set[threading.Thread] = set()

    def __call__(self, progress: Progress) -> None:
        now_s = time.monotonic()
        if now_s - self._last_s < PROGRESS_INTERVAL_S or any(post.is_alive() for post in self._posts):
            return
        self._last_s = now_s
        others = set(threading.enumerate())
        self._send(self._job, dataclasses.asdict(progress))
        self._posts = set(threading.enumerate()) - others

    def finish(self) -> None:
        """Wait until the last update has arrived."""
        for post in self._posts:
            post.join(PROGRESS_POST_S)


def log_progress(job: Json, progress: Json) -> None:
    """What happens to progress where there is no RunPod to tell."""
    known = {name: value for name, value in progress.items() if value is not None}
    shown = (f"{name} {value:.1f}" if isinstance(value, float) else f"{name} {value}" for name, value in known.items())
    logger.info("Job %r: %s", job["id"], ", ".join(shown))


def answer(job: Json, models: Models, settings: Settings, updates: ProgressUpdates, stop: threading.Event) -> Json:
    """Run a job to its end. Returns the result, or `error` (which makes it FAILED), `error_code`, `retryable`."""
    try:
        if job.get("s3Config"):
            raise InvalidInput("s3Config is not supported: set the BUCKET_ variables of the endpoint instead.")
        result = run_job(
            Request.parse(job.get("input")),
            job_id=job["id"],
            models=models,
            settings=settings,
            on_progress=updates,
            should_stop=stop.is_set,
        )
        return result.to_json()
    except JobError as error:
        at_fault = isinstance(error, Internal | OutOfMemory)  # the worker is: its log gets the cause
        logger.warning("Job %r failed with %s: %s", job["id"], error.code, error, exc_info=at_fault)
        return Failure.of(error).to_json()
    except Exception:  # whatever it is, the caller gets an answer without details and the log gets the stack
        logger.exception("Job %r failed unexpectedly", job["id"])
        return Failure.of(Internal("The worker failed unexpectedly; the cause is in its log.")).to_json()
    finally:
        updates.finish()


def make_handler(
    models: Models, settings: Settings, send_progress: Callable[[Json, Json], None]
) -> Callable[[Json], Awaitable[Json]]:
    """The function that the SDK calls with each job. Jobs run in a thread, one at a time."""
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="job")  # the local API takes several at once

    async def handler(job: Json) -> Json:
        stop = threading.Event()
        queued = thread.submit(answer, job, models, settings, ProgressUpdates(job, send_progress), stop)
        running = asyncio.wrap_future(queued)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            stop.set()
            queued.cancel()  # if it has not begun
            while not running.done():  # the next job needs the GPU, so the thread must have stopped
                with suppress(asyncio.CancelledError):  # RunPod may say it twice
                    await asyncio.wait([running])
            raise

    return handler


def main() -> None:
    """Load the models once, then serve jobs."""
    try:
        settings = Settings.from_env(os.environ)
        configure_logging(settings.log_level, sys.stdout)
        # At DEBUG the SDK would log whole answers: videos, and the URLs to them.
        RunPodLogger().set_level({"DEBUG": "INFO", "WARNING": "WARN"}.get(settings.log_level, settings.log_level))
        models = open_models(settings)
    except (ValueError, JobError) as error:  # a wrong setting, or weights that are not there
        sys.exit(f"The worker cannot start: {' '.join(str(error).split())}")
    on_runpod = "RUNPOD_WEBHOOK_POST_OUTPUT" in os.environ
    send_progress = runpod.serverless.progress_update if on_runpod else log_progress
    runpod.serverless.start({"handler": make_handler(models, settings, send_progress)})


if __name__ == "__main__":
    main()
