"""How a running job is watched and ended from outside."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from infinitetalk.errors import Cancelled, TimedOut
from infinitetalk.progress import Progress, TimeLimit

ANSWER_PART = 0.02  # of a time limit: a job stops itself that much earlier, so that its answer arrives in time


@dataclass(frozen=True)
class Control:
    """What ties a job to the one who sent it.

    Args:
        job_id: names the job's folders and its video.
        on_progress: called before every step and stage, from the job's thread.
        should_stop: asked while downloading, and before every stage, denoising step, and latent frame that the
            autoencoder takes; True ends the job with Cancelled.
        time_limit: from the job's start on. Past a certain limit the job ends with TimedOut; a job that is expected
            to pass it is warned of.
        is_answered_later: the answer may fail to arrive when the job has ended; what a next run needs stays until
            `resume.forget_job`.
    """

    job_id: str = "job"
    on_progress: Callable[[Progress], None] = lambda _: None
    should_stop: Callable[[], bool] = lambda: False
    time_limit: TimeLimit | None = None
    is_answered_later: bool = False

    def start(self) -> Callable[[], None]:
        """Start the job's clock. The function given back raises Cancelled or TimedOut if the job has to end."""
        started_s = time.monotonic()
        limit = self.time_limit

        def check() -> None:
            if self.should_stop():
                raise Cancelled("The job was cancelled.")
            if limit is None or not limit.is_certain:
                return
            if time.monotonic() - started_s > limit.seconds * (1 - ANSWER_PART):
                raise TimedOut(
                    f"The job has used up its execution timeout of {limit.seconds:g} s; raise policy.executionTimeout "
                    "or the endpoint's, or choose a quicker speed_mode, a smaller resolution or max_duration_s, or "
                    "retry it: a worker with a volume goes on after its last finished window."
                )

        return check
