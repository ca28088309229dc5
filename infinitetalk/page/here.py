"""The page's jobs on this machine: its models are opened once, and make one job at a time."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import get_args

from infinitetalk.client.following import JobView
from infinitetalk.contract.presets import profile_of
from infinitetalk.contract.request import Request, SpeedModeName
from infinitetalk.contract.result import DryRun, Result
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import Cancelled, Internal
from infinitetalk.faces.finder import FaceFinder
from infinitetalk.job.control import Control
from infinitetalk.job.folder import job_folder
from infinitetalk.job.modes import plan_modes
from infinitetalk.job.run import run_job
from infinitetalk.models.opening import Models
from infinitetalk.page.runner import Made, ShouldStop, Show
from infinitetalk.startup.opening import open_models
from infinitetalk.transfer.exchange import local_exchange
from infinitetalk.transfer.preview_folder import VolumeFolder
from infinitetalk.transfer.volume import Volume

_LOOK_S = 0.2  # between two looks whether a waiting job is cancelled


class LocalRunner:
    """A `Runner` on this machine.

    Args:
        faces: what finds faces; None where that is not installed.
    """

    address = "http://localhost:8000"  # of `python handler.py --rp_serve_api`
    is_here = True

    def __init__(self, settings: Settings, faces: FaceFinder | None) -> None:
        self._settings = settings
        self._faces = faces
        self._models: Models | None = None
        self._waiting: list[object] = []  # those whose turn comes, in order; the first one's job is being made
        self._turns = threading.Condition()

    @property
    def about(self) -> str:
        """See `Runner`."""
        return f"Videos are made on this machine, with the model {profile_of(self._settings).name}."

    def plans(self, request: Request, show: Show, should_stop: ShouldStop) -> dict[str, DryRun]:
        """See `Runner.plans`. Waits for nobody."""
        show(JobView("plan", "PLANNING"))

        def check() -> None:
            if should_stop():
                raise Cancelled("The plan was cancelled.")

        return plan_modes(request, self._settings, get_args(SpeedModeName), self._faces, check=check)[0]

    def make(self, request: Request, output: Path, show: Show, should_stop: ShouldStop) -> Made:
        """See `Runner.make`."""
        settings = self._settings
        request = request.model_copy(update={"preview": True})
        with self._turn(show, should_stop), job_folder(settings.work_dir, "preview") as folder:
            show(JobView("job", "LOADING_MODELS" if self._models is None else "STARTING"))
            self._models = self._models or open_models(settings)
            control = Control(output.stem, lambda progress: show(_view(progress.to_json())), should_stop)
            # What a cancelled job leaves of its preview goes with the folder.
            shown = VolumeFolder(Volume(folder), "preview")
            exchange = replace(local_exchange(output, settings.work_dir), open_preview=lambda: shown)
            result = run_job(request, self._models, settings, exchange, control, faces=self._faces)
        if not isinstance(result, Result):
            raise Internal("The job gave no video.")
        return Made(result.to_json(), output)

    @contextmanager
    def _turn(self, show: Show, should_stop: ShouldStop) -> Iterator[None]:
        """Wait until all jobs that came before are done. Raises Cancelled."""
        ticket, told = object(), -1
        with self._turns:
            self._waiting.append(ticket)
        try:
            with self._turns:
                while ahead := self._waiting.index(ticket):
                    if should_stop():
                        raise Cancelled("The job was cancelled.")
                    if ahead != told:
                        show(JobView("job", "IN_QUEUE", queue=f"jobs of this page before it: {ahead}"))
                        told = ahead
                    self._turns.wait(_LOOK_S)
            yield
        finally:
            with self._turns:
                self._waiting.remove(ticket)
                self._turns.notify_all()


def _view(report: dict[str, object]) -> JobView:
    return replace(JobView("job", "IN_PROGRESS"), report=report)
