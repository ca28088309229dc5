"""RunPod's API on this machine (`--rp_serve_api`), as RunPod itself answers: jobs run in turn and can be watched.

The SDK's own local API runs a job when somebody asks for its status, and again for each who asks; it knows GET of no
status, no cancel and no progress. What it has beside that (/runsync, the page at /) stays.
"""

import asyncio
import threading
import time
import uuid
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastapi import Body, HTTPException
from runpod.serverless.modules import rp_fastapi
from runpod.serverless.modules.rp_job import run_job

from infinitetalk.serving.updates import log_progress

Json = dict[str, Any]

KEPT_S = 1800.0  # as long as RunPod keeps a result


class LocalProgress:
    """Where the jobs of this process are, by their latest report. Written by a job's thread, read by the API."""

    def __init__(self) -> None:
        self._latest: dict[str, Json] = {}
        self._lock = threading.Lock()

    def note(self, job: Json, progress: Json) -> None:
        """Take in a report; the log has it too."""
        log_progress(job, progress)
        with self._lock:
            self._latest[job["id"]] = progress

    def of(self, job_id: str) -> Json | None:
        """The latest report of a job; None before the first."""
        with self._lock:
            return self._latest.get(job_id)

    def forget(self, job_id: str) -> None:
        """Drop what is known of a job."""
        with self._lock:
            self._latest.pop(job_id, None)


def serve_as_runpod(progress: LocalProgress) -> None:
    """Let the SDK's `start` serve a `LocalApi` where it serves its own."""
    rp_fastapi.WorkerAPI = partial(LocalApi, progress)


@dataclass
class _LocalJob:
    """A job that was sent here.

    Args:
        status: RunPod's word for how it ended; None until then.
        result: what the SDK made of the handler's answer: output, error.
    """

    task: "asyncio.Task[None]"
    status: str | None = None
    result: Json = field(default_factory=dict)
    ended_s: float | None = None


class LocalApi(rp_fastapi.WorkerAPI):  # type: ignore[misc]  # the SDK is not annotated
    """The routes /run, /status, /cancel and /health, as RunPod's endpoints have them."""

    def __init__(self, progress: LocalProgress, config: Json) -> None:
        super().__init__(config)
        self._progress = progress
        self._jobs: dict[str, _LocalJob] = {}
        self.rp_app.add_api_route("/status/{job_id}", self._sim_status, methods=["GET"])
        self.rp_app.add_api_route("/cancel/{job_id}", self._cancel, methods=["POST"])
        self.rp_app.add_api_route("/health", self._health, methods=["GET"])

    async def _sim_run(self, job_request: Json = Body()) -> Json:  # noqa: B008
        """Start a job; its id."""
        if "input" not in job_request:
            raise HTTPException(400, "the job has no input")
        job_id = f"test-{uuid.uuid4()}"
        job = {name: job_request[name] for name in ("input", "policy", "s3Config") if name in job_request}
        self._forget_old()
        self._jobs[job_id] = _LocalJob(asyncio.create_task(self._run({"id": job_id} | job)))
        return {"id": job_id, "status": "IN_QUEUE"}

    async def _sim_status(self, job_id: str) -> Json:
        """Where a job is, or how it ended."""
        return self._state(job_id)

    async def _cancel(self, job_id: str) -> Json:
        """End a job before its next step."""
        job = self._find(job_id)
        if job.status is None:
            job.status, job.ended_s = "CANCELLED", time.monotonic()
            job.task.cancel()
        return self._state(job_id)

    async def _health(self) -> Json:
        """How many jobs there are, as RunPod counts them."""
        states = [self._state(job_id)["status"] for job_id in self._jobs]
        counted = {"completed": "COMPLETED", "failed": "FAILED", "inProgress": "IN_PROGRESS", "inQueue": "IN_QUEUE"}
        jobs = {name: states.count(status) for name, status in counted.items()}
        busy = jobs["inProgress"]
        return {"jobs": jobs, "workers": {"idle": 1 - min(busy, 1), "running": min(busy, 1)}}

    async def _run(self, job: Json) -> None:
        """Run a job to its end. Cancelling it stops the handler's thread."""
        result: Json = await run_job(self.config["handler"], job)
        found = self._jobs[job["id"]]
        if found.status is None:
            found.status, found.result = "FAILED" if "error" in result else "COMPLETED", result
            found.ended_s = time.monotonic()

    def _find(self, job_id: str) -> _LocalJob:
        self._forget_old()
        if job_id not in self._jobs:
            raise HTTPException(404, "job not found: there is none of this id, or its result is no longer kept")
        return self._jobs[job_id]

    def _state(self, job_id: str) -> Json:
        job, progress = self._find(job_id), self._progress.of(job_id)
        if job.status is not None:
            told: Json = {name: job.result[name] for name in ("output", "error") if name in job.result}
            return {"id": job_id, "status": job.status, **told}
        if progress is None:
            return {"id": job_id, "status": "IN_QUEUE"}
        return {"id": job_id, "status": "IN_PROGRESS", "output": progress}

    def _forget_old(self) -> None:
        """Drop jobs whose results have been kept for long enough."""
        now_s = time.monotonic()
        for job_id, job in list(self._jobs.items()):
            if job.ended_s is not None and now_s - job.ended_s > KEPT_S:
                del self._jobs[job_id]
                self._progress.forget(job_id)
