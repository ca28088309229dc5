"""Where a job is, how long its stages took, and how long it may take."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

# A job's stages, in the order in which they first come. They are the keys of a result's timings_s.
Stage = Literal[
    "download",
    "read_media",  # sound, picture and video
    "encode",  # the video file: H.264, its sound, its container
    "separate",  # vocals out of songs
    "audio",  # voices to features
    "text",  # prompts to embeddings
    "image",  # reference frames to latents and features
    "condition",  # what a window's steps are told
    "denoise",
    "decode",  # latents to frames
    "color",  # colour correction, and the fade where windows join
    "overlap",  # the frames that the next window holds, to latents
    "bytes",  # frames from the device to the host
    "check",  # what the finished file holds
    "mark",  # content credentials and metadata into the finished file
    "deliver",
]


@dataclass(frozen=True)
class Preview:
    """Where the finished part of an unfinished video can be seen: one of the three, or none before there is any.

    Args:
        preview_url: a signed URL of an HLS playlist.
        preview_path: the path of one.
        preview_jpeg: the newest window's pictures, side by side, as a data: URI.
    """

    preview_url: str | None = None
    preview_path: str | None = None
    preview_jpeg: str | None = None


@dataclass(frozen=True)
class Progress:
    """A job's position.

    Args:
        window, step: counted from 1; 0 before the first.
        seconds_left: by the pace so far; None before there is one.
        warnings: what the result will warn of, as far as it is known.
        cost_usd: what the job has cost so far; None before it is planned.
        estimated_cost_usd: what all of it is estimated to cost; None where that is not known.
    """

    stage: Stage
    window: int
    windows: int
    step: int
    steps: int
    percent: float
    seconds_left: float | None
    warnings: tuple[str, ...] = ()
    cost_usd: float | None = None
    estimated_cost_usd: float | None = None
    preview: Preview = Preview()

    def to_json(self) -> dict[str, Any]:
        """A dict ready for JSON; what there is of the preview stands beside the other fields."""
        fields = asdict(self)
        preview = fields.pop("preview")
        return fields | {name: value for name, value in preview.items() if value is not None}


@dataclass(frozen=True)
class TimeLimit:
    """What a job may take.

    Args:
        is_certain: a job is stopped at a certain limit. An uncertain one only makes a warning: RunPod's default, which
            the endpoint may have changed.
    """

    seconds: float
    is_certain: bool


class Stopwatch:
    """Sums seconds per stage. Waits for the GPU at both ends of a stage, so that its work counts where it belongs."""

    def __init__(
        self, synchronise: Callable[[], object] = lambda: None, on_stage: Callable[[Stage], None] = lambda _: None
    ) -> None:
        """Start the clock of the whole job.

        Args:
            synchronise: waits until the device has done its work.
            on_stage: called with a stage's name when it begins; an exception it raises ends the job.
        """
        self.seconds: dict[Stage, float] = {}
        self._synchronise = synchronise
        self._on_stage = on_stage
        self._started_s = self._now()

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        """Add the time of the `with` block to stage `name`."""
        self._on_stage(name)
        started_s = self._now()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self._now() - started_s

    def total(self) -> float:
        """Seconds since the watch was made."""
        return self._now() - self._started_s

    def _now(self) -> float:
        self._synchronise()
        return time.perf_counter()


class StepCounter:
    """Turns stages and denoising steps into `Progress`.

    A window counts as many parts as it has steps, and one more for decoding and encoding it.
    """

    def __init__(self, report: Callable[[Progress], None]) -> None:
        self._report = report
        self._started_s = time.monotonic()
        self._usd_per_s: float | None = None
        self._estimated_cost_usd: float | None = None
        self._windows = self._steps = 0
        self._warnings: tuple[str, ...] = ()
        self._window = self._step = 0
        self._done = 0
        self._preview = Preview()
        self._stage: Stage | None = None
        self._first: tuple[int, float] | None = None  # what was done when the first step began, and when that was

    def planned(
        self,
        windows: int,
        steps: int,
        warnings: Sequence[str],
        usd_per_s: float | None = None,
        estimated_cost_usd: float | None = None,
    ) -> None:
        """Take in what a job's plan says.

        Args:
            steps: of each window.
            warnings: what the result will warn of.
            usd_per_s: the price of the worker, in US dollars.
            estimated_cost_usd: of the whole job; None where it is not known.
        """
        self._windows, self._steps, self._warnings = windows, steps, tuple(warnings)
        self._usd_per_s, self._estimated_cost_usd = usd_per_s, estimated_cost_usd

    def before_step(self, window: int, step: int) -> None:
        """Report that step `step` of window `window` (both from 0) begins."""
        self._window, self._step = window + 1, step + 1
        self._done = window * (self._steps + 1) + step
        if self._first is None:
            self._first = self._done, time.monotonic()
        self._tell("denoise")

    def stage(self, name: Stage) -> None:
        """Report that a stage begins."""
        if name == "decode":
            self._done += 1  # the window's last step
        elif name in ("check", "mark", "deliver"):
            self._done = self._total
        self._tell(name)

    def previewed(self, preview: Preview, is_last: bool = False) -> None:
        """Take in what can be seen of the video; the next report has it. Any thread may call this.

        Args:
            is_last: there will be no other report, so that this one is made now.
        """
        self._preview = preview
        if is_last and self._stage is not None:
            self._tell(self._stage)

    @property
    def _total(self) -> int:
        return self._windows * (self._steps + 1)

    def _tell(self, stage: Stage) -> None:
        self._stage = stage
        percent = round(100 * self._done / self._total, 1) if self._total else 0.0
        self._report(
            Progress(
                stage=stage,
                window=self._window,
                windows=self._windows,
                step=self._step,
                steps=self._steps,
                percent=percent,
                seconds_left=self._seconds_left(),
                warnings=self._warnings,
                cost_usd=self._cost_usd(),
                estimated_cost_usd=self._estimated_cost_usd,
                preview=self._preview,
            )
        )

    def _seconds_left(self) -> float | None:
        if self._first is None or self._done == self._first[0]:
            return None
        done, since = self._first
        return round((time.monotonic() - since) / (self._done - done) * (self._total - self._done), 1)

    def _cost_usd(self) -> float | None:
        if self._usd_per_s is None:
            return None
        return round((time.monotonic() - self._started_s) * self._usd_per_s, 6)
