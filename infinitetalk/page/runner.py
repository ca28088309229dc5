"""Who makes the page's jobs: what a place for jobs offers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from infinitetalk.client.following import JobView
from infinitetalk.contract.request import Request
from infinitetalk.contract.result import DryRun

Show = Callable[[JobView], None]
ShouldStop = Callable[[], bool]


@dataclass(frozen=True)
class Made:
    """A finished job.

    Args:
        result: as the worker answers.
        file: the video; None where it is on another machine.
        notes: what its user should know besides the result's warnings.
    """

    result: dict[str, Any]
    file: Path | None
    notes: tuple[str, ...] = ()


class Runner(Protocol):
    """A place where jobs are made. Its methods raise a JobError, ValueError or OSError of one sentence.

    Args:
        about: where jobs are made, for the page.
        address: where jobs are sent, for the command to copy.
        is_here: whether that is this machine.
    """

    @property
    def about(self) -> str: ...

    @property
    def address(self) -> str: ...

    @property
    def is_here(self) -> bool: ...

    def plans(self, request: Request, show: Show, should_stop: ShouldStop) -> dict[str, DryRun]:
        """What a job would do, take and cost in each mode."""
        ...

    def make(self, request: Request, output: Path, show: Show, should_stop: ShouldStop) -> Made:
        """Make a job's video and put it at `output`.

        Args:
            show: takes what is known of the job, as often as it changes.
            should_stop: True ends the job with Cancelled.
        """
        ...
