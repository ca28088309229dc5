"""A job at an endpoint, watched to its end, and what its end says."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from infinitetalk.client.endpoint import EndpointFailed, JobGone, NotAnswered, RemoteEndpoint
from infinitetalk.progress import Progress

Json = dict[str, Any]

POLL_S = 1.0  # the worker tells its progress as often
HEALTH_S = 5.0  # between two questions for the queue
UNREACHABLE_LIMIT_S = 900.0  # half of the time for which RunPod keeps a result
LONGEST_PAUSE_S = 15.0
_MOST = 1e9  # of a worker's seconds, dollars or steps
GONE_TRIES = 3  # a job that was just sent may not be known everywhere yet

FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")


class JobFailed(ValueError):
    """A job has no video. The message is the worker's sentence, or says what the platform did.

    Args:
        code: the worker's error code; "unknown" where the platform gives none.
        retryable: whether the worker says that the same job may succeed later.
    """

    def __init__(self, message: str, code: str = "unknown", retryable: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable


@dataclass(frozen=True)
class JobView:
    """What is known of a job.

    Args:
        status: RunPod's word: IN_QUEUE, IN_PROGRESS, or one of FINAL.
        report: the worker's latest progress, as it came.
        queue: of a job that waits: how many do, and who works.
        trouble: why the endpoint cannot be asked at the moment; None if it can.
        output, error: what came with the end.
    """

    job_id: str
    status: str = "IN_QUEUE"
    report: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    queue: str | None = None
    trouble: str | None = None
    output: Any = None
    error: str | None = None

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in FINAL

    @property
    def progress(self) -> Progress | None:
        """Where the job is; None before the worker has told it."""
        return read_progress(self.report)

    @property
    def preview(self) -> str | None:
        """Where the finished part of the video can be watched, if the worker says so."""
        found = self.report.get("preview_url") or self.report.get("preview_path")
        return found if isinstance(found, str) else None


def follow(
    endpoint: RemoteEndpoint,
    job_id: str,
    show: Callable[[JobView], None],
    pause: Callable[[float], object] = time.sleep,
) -> JobView:
    """Ask for a job's status until it has ended; returns the last view.

    Questions that stay without answer are asked again, less and less often.

    Args:
        show: called with each view.
        pause: waits for so many seconds; what it raises ends this.

    Raises:
        JobGone: the endpoint knows no such job.
        EndpointFailed: the endpoint refuses, or could not be asked for UNREACHABLE_LIMIT_S.
    """
    view, queue_asked_s = JobView(job_id), -HEALTH_S
    answered_s, pause_s, n_gone = time.monotonic(), POLL_S, 0
    while True:
        try:
            view = _view(endpoint.status(job_id), view)
            answered_s, pause_s, n_gone = time.monotonic(), POLL_S, 0
            if view.status == "IN_QUEUE" and answered_s - queue_asked_s > HEALTH_S:
                view, queue_asked_s = _with(view, queue=_queue(endpoint)), answered_s
        except JobGone:
            n_gone += 1
            if n_gone == GONE_TRIES:
                raise
        except NotAnswered as error:
            if time.monotonic() - answered_s > UNREACHABLE_LIMIT_S:
                raise EndpointFailed(
                    f"The endpoint could not be asked for {UNREACHABLE_LIMIT_S / 60:g} minutes ({error})"
                ) from error
            view = _with(view, trouble=str(error))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        show(view)
        if view.is_final:
            return view
        pause(pause_s)


def outcome(view: JobView) -> Json:
    """What a job has given: its `output`. Raises JobFailed where there is none."""
    output = view.output if isinstance(view.output, dict) else {}
    code, retryable = output.get("error_code"), output.get("retryable") is True
    told = view.error or output.get("error")
    code = code if isinstance(code, str) else "unknown"
    if view.status == "CANCELLED":
        raise JobFailed("The job was cancelled", "cancelled")
    if view.status == "TIMED_OUT":
        raise JobFailed(
            "RunPod ended the job at its time limit: raise the endpoint's execution timeout, or choose a quicker "
            "speed_mode, a smaller resolution or a max_duration_s",
            "timeout",
        )
    if view.status == "FAILED" or told:
        raise JobFailed(_sentence(told), code, retryable)
    if not output:
        raise JobFailed("The job ended without a result; is it an endpoint of this worker?")
    return output


def read_progress(report: Mapping[str, Any]) -> Progress | None:
    """A worker's report as Progress; None where it is none. What only another version knows is left out."""
    known = {entry.name: report[entry.name] for entry in fields(Progress) if entry.name in report}
    numbers = ("window", "windows", "step", "steps", "percent")
    if not isinstance(known.get("stage"), str) or not all(_is_number(known.get(name)) for name in numbers):
        return None
    optional = {
        name: value if _is_number(value := known.get(name)) else None
        for name in ("seconds_left", "cost_usd", "estimated_cost_usd")
    }
    warnings = known.get("warnings")
    told = tuple(map(str, warnings)) if isinstance(warnings, list) else ()
    return Progress(**{**known, **optional, "warnings": told})


def _is_number(value: object) -> bool:
    """Whether it is a number that can be shown; JSON has others, such as NaN."""
    return isinstance(value, int | float) and abs(value) < _MOST


def _view(status: Json, before: JobView) -> JobView:
    """The view of an endpoint's answer."""
    word = status.get("status")
    if not isinstance(word, str):
        raise NotAnswered("the answer is not RunPod's")
    output, error = status.get("output"), status.get("error")
    if word in FINAL:
        told = None if not error else error if isinstance(error, str) else json.dumps(error)
        return JobView(before.job_id, word, before.report, output=output, error=told)
    report = output if isinstance(output, dict) else before.report
    return JobView(before.job_id, word, report, queue=before.queue if word == "IN_QUEUE" else None)


def _with(view: JobView, queue: str | None = None, trouble: str | None = None) -> JobView:
    return JobView(view.job_id, view.status, view.report, queue, trouble)


def _queue(endpoint: RemoteEndpoint) -> str | None:
    """How many jobs wait and who works, in words; None where the endpoint does not tell."""
    try:
        health = endpoint.health()
        jobs, workers = health.get("jobs"), health.get("workers")
        waiting = jobs.get("inQueue") if isinstance(jobs, dict) else None
    except EndpointFailed:
        return None
    if not isinstance(waiting, int):
        return None
    states = {name: n for name, n in (workers if isinstance(workers, dict) else {}).items() if isinstance(n, int) and n}
    named = ", ".join(f"{n} {name}" for name, n in states.items()) or "none"
    return f"{waiting} waiting, workers: {named}"


def _sentence(error: object) -> str:
    """The worker's sentence; of an exception that the SDK caught, its message."""
    if not isinstance(error, str) or not error:
        return "The job failed, and the platform does not say why; look at the worker's log"
    try:
        told = json.loads(error)
    except ValueError:
        return error
    message = told.get("error_message") if isinstance(told, dict) else None
    return f"The worker failed: {message}" if isinstance(message, str) else error
