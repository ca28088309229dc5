"""A job's progress on its way to RunPod."""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from runpod.http_client import AsyncClientSession
from runpod.serverless.modules.rp_http import send_result

from infinitetalk.logs import log_event
from infinitetalk.progress import Preview, Progress
from infinitetalk.serving.job_ids import id_in_address

Json = dict[str, Any]

PROGRESS_INTERVAL_S = 1.0
PROGRESS_POST_S = 5.0  # the longest that an update may take, and that a result waits for the update before it

logger = logging.getLogger(__name__)


class ProgressUpdates:
    """Passes progress on: the latest report, at most once a second, in order, and none after the result."""

    def __init__(self, job: Json, send: Callable[[Json, Json], None]) -> None:
        """Start the thread that passes progress on.

        Args:
            send: takes the job and a report; returns when the report has arrived.
        """
        self.preview = Preview()  # what the latest report said of it
        self._job = job
        self._send = send
        self._waiting: queue.SimpleQueue[Progress | None] = queue.SimpleQueue()
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._pass_on, name="progress", daemon=True)
        self._thread.start()

    def __call__(self, progress: Progress) -> None:
        self.preview = progress.preview
        self._waiting.put(progress)

    def finish(self) -> None:
        """Wait until the update that is on its way has arrived. Updates that still wait are dropped: out of date."""
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
            self._send(self._job, latest.to_json())
            self._finished.wait(PROGRESS_INTERVAL_S)


def post_progress(job: Json, progress: Json) -> None:
    """Tell RunPod where a job is.

    The SDK's progress_update does the same in a thread that cannot be waited for, so that updates overtake each other
    and the result.
    """

    async def post() -> None:
        async with AsyncClientSession() as session:
            await send_result(session, {"status": "IN_PROGRESS", "output": progress}, {"id": id_in_address(job["id"])})

    with suppress(TimeoutError):
        asyncio.run(asyncio.wait_for(post(), PROGRESS_POST_S))


def log_progress(_job: Json, progress: Json) -> None:
    """What happens to progress if there is no RunPod to tell. The preview is the caller's own and stays out."""
    ours = {name: value for name, value in progress.items() if name not in ("preview_url", "preview_jpeg")}
    log_event(logger, logging.INFO, "progress", **ours)
