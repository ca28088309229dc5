"""What one job would do in each of several speed modes: its files are read once."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from infinitetalk.contract.presets import load_mode, profile_of
from infinitetalk.contract.request import Request, SpeedModeName
from infinitetalk.contract.result import DryRun
from infinitetalk.contract.settings import Settings
from infinitetalk.faces.finder import FaceFinder
from infinitetalk.job.folder import job_folder
from infinitetalk.job.forecast import dry_run, forecast
from infinitetalk.job.read import read_job
from infinitetalk.job.resume import KeptWindows
from infinitetalk.media.child import ended_by
from infinitetalk.models.device import choose_device
from infinitetalk.planning.plan import Plan, make_plan
from infinitetalk.transfer.exchange import local_files


def plan_modes(
    request: Request,
    settings: Settings,
    modes: Sequence[SpeedModeName],
    faces: FaceFinder | None,
    n_gpus: int | None = None,
    check: Callable[[], None] = lambda: None,
) -> tuple[dict[str, DryRun], dict[str, Plan]]:
    """Plan, time and price of a job of this machine's files, by mode. No model is loaded.

    Args:
        faces: what finds faces; None where that is not installed.
        n_gpus: of the worker; if not given, those of the settings, or one where they say auto.
        check: called while files are read; what it raises ends this.

    Raises JobError: the job cannot be made.
    """
    profile, device = profile_of(settings), choose_device(settings.device)
    arithmetic = settings.arithmetic_of(request.lane)
    n_gpus = n_gpus or (1 if settings.gpus == "auto" else settings.gpus)
    with ended_by(check), job_folder(settings.work_dir, "plan") as folder:
        files, seed = local_files(request, folder), KeptWindows().seed(request.seed)
        job = read_job(request, files, profile, settings, load_mode(request.speed_mode), seed, faces)
    runs: dict[str, DryRun] = {}
    plans: dict[str, Plan] = {}
    for mode in modes:
        read = job.plan
        media = (read.n_frames, seed, read.separated_chunks, job.turns, read.conversation, read.cuts)
        plan = replace(make_plan(request, profile, load_mode(mode), *media, job.footage.source_size), kept=read.kept)
        expected = forecast(plan, profile, device, settings, arithmetic, n_gpus)
        runs[mode] = dry_run(plan, mode, profile, expected, arithmetic, job.warnings(plan), n_gpus, job.people)
        plans[mode] = plan
    return runs, plans
