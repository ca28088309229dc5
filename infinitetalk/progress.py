"""Where a job is, and how long its stages took."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Progress:
    """A job's position. window and step count from 1; they are 0 before the first."""

    stage: str
    window: int
    windows: int
    step: int
    steps: int
    percent: float
    seconds_left: float | None


class Stopwatch:
    """Sums seconds per stage. GPU work is waited for at both ends of a stage, so that it counts where it belongs."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the `with` block to stage `name`."""
        started = self._now()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self._now() - started

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class StepCounter:
    """Turns denoising steps into `Progress`, with the time left by the pace so far."""

    def __init__(self, windows: int, steps: int, report: Callable[[Progress], None]) -> None:
        self.windows = windows
        self.steps = steps
        self.report = report
        self.started: float | None = None

    def before_step(self, window: int, step: int) -> None:
        """Report that step `step` of window `window` (both from 0) begins."""
        now = time.monotonic()
        if self.started is None:
            self.started = now
        done, total = window * self.steps + step, self.windows * self.steps
        left = (now - self.started) / done * (total - done) if done else None
        self.report(
            Progress("denoise", window + 1, self.windows, step + 1, self.steps, round(100 * done / total, 1), left)
        )

    def stage(self, name: str, percent: float) -> None:
        """Report a stage outside the denoising."""
        self.report(Progress(name, 0, self.windows, 0, self.steps, percent, None))
