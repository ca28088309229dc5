"""How a running job is watched and ended from outside."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from infinitetalk.errors import Cancelled, TimedOut
from infinitetalk.progress import Progress, Stage, StepCounter, Stopwatch, TimeLimit

ANSWER_SHARE = 0.02  # of a time limit; a job stops itself that much earlier, so that its answer arrives in time


@dataclass(frozen=True)
class Control:
    """What ties a job to the one who sent it.

    Args:
        job_id: names the job's folders and its video.
        on_progress: called before every step and stage, from the job's thread.
        should_stop: asked while files are downloaded, and before every stage, every denoising step and every latent
            frame that the autoencoder takes. True ends the job with Cancelled.
        time_limit: counts from the job's start. The job ends with TimedOut just before a certain limit. If it is
            expected to pass its limit, certain or not, its warnings say so.
        is_answered_later: the answer may fail to arrive after the job has ended. What the next run needs then stays
            until `resume.forget_job`.
    """

    job_id: str = "job"
    on_progress: Callable[[Progress], None] = lambda _: None
    should_stop: Callable[[], bool] = lambda: False
    time_limit: TimeLimit | None = None
    is_answered_later: bool = False

    def start(self, synchronise: Callable[[], object]) -> "Monitor":
        """Start the job's clocks.

        Args:
            synchronise: waits until the device has done its work.
        """
        check, counter = self._checkpoint(), StepCounter(self.on_progress)

        def on_stage(stage: Stage) -> None:
            if stage != "deliver":  # which asks should_stop itself; a finished video is worth its last seconds
                check()
            counter.stage(stage)

        return Monitor(Stopwatch(synchronise, on_stage), counter, check)

    def _checkpoint(self) -> Callable[[], None]:
        """A function that raises Cancelled or TimedOut if the job has to end. The time limit runs from now on."""
        started_s = time.monotonic()
        limit = self.time_limit

        def check() -> None:
            if self.should_stop():
                raise Cancelled("The job was cancelled.")
            if limit is None or not limit.is_certain:
                return
            if time.monotonic() - started_s > limit.seconds * (1 - ANSWER_SHARE):
                raise TimedOut(
                    f"The job has used up its execution timeout of {limit.seconds:g} s; raise policy.executionTimeout "
                    "or the endpoint's timeout, choose a quicker speed_mode, a smaller resolution or a max_duration_s, "
                    "or retry it: a worker with a volume goes on after the last finished window."
                )

        return check


@dataclass(frozen=True)
class Monitor:
    """What watches over a running job.

    Args:
        watch: sums the seconds of its stages.
        counter: reports its position.
        check: raises Cancelled or TimedOut if the job has to end.
    """

    watch: Stopwatch
    counter: StepCounter
    check: Callable[[], None]
