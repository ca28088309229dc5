"""Where a job is, how long its stages took, and how long it may take."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Progress:
    """A job's position. window and step count from 1; they are 0 before the first.

    seconds_left: by the pace so far; None before there is one.
    warnings: what the result will warn of, as far as it is known.
    """

    stage: str
    window: int
    windows: int
    step: int
    steps: int
    percent: float
    seconds_left: float | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class TimeLimit:
    """What a job may take. Past a certain limit it is stopped; an uncertain one (RunPod's default, which an endpoint
    may have changed) only makes a warning."""

    seconds: float
    is_certain: bool


class Stopwatch:
    """Sums seconds per stage. GPU work is waited for at both ends of a stage, so that it counts where it belongs.

    on_stage: called with a stage's name when it begins; an exception it raises ends the job.
    """

    def __init__(self, device: torch.device, on_stage: Callable[[str], None] = lambda _: None) -> None:
        self.device = device
        self.on_stage = on_stage
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the `with` block to stage `name`."""
        self.on_stage(name)
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
    """Turns stages and denoising steps into `Progress`.

    A window counts as its steps and one more, for decoding and encoding it.
    """

    def __init__(self, report: Callable[[Progress], None]) -> None:
        self.windows = 0
        self.steps = 0
        self.warnings: tuple[str, ...] = ()
        self._report = report
        self._window = self._step = 0
        self._done = 0
        self._first: tuple[int, float] | None = None  # what was done when the first step began, and when that was

    def before_step(self, window: int, step: int) -> None:
        """Report that step `step` of window `window` (both from 0) begins."""
        self._window, self._step = window + 1, step + 1
        self._done = window * (self.steps + 1) + step
        if self._first is None:
            self._first = self._done, time.monotonic()
        self._tell("denoise")

    def stage(self, name: str) -> None:
        """Report that a stage begins."""
        if name == "decode":
            self._done += 1  # the window's last step
        elif name == "deliver":
            self._done = self._total
        self._tell(name)

    @property
    def _total(self) -> int:
        return self.windows * (self.steps + 1)

    def _tell(self, stage: str) -> None:
        percent = round(100 * self._done / self._total, 1) if self._total else 0.0
        self._report(
            Progress(
                stage, self._window, self.windows, self._step, self.steps, percent, self._seconds_left(), self.warnings
            )
        )

    def _seconds_left(self) -> float | None:
        if self._first is None or self._done == self._first[0]:
            return None
        done, since = self._first
        return round((time.monotonic() - since) / (self._done - done) * (self._total - self._done), 1)
