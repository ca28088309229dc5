"""One job from request to result."""

import logging
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

from infinitetalk.contract.presets import Profile, SpeedMode, load_mode, profile_of
from infinitetalk.contract.request import Request
from infinitetalk.contract.result import DryRun, Result
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import ModelMissing
from infinitetalk.faces.finder import FaceFinder
from infinitetalk.job.checks import checked, time_for_checks
from infinitetalk.job.control import Control
from infinitetalk.job.faults import within_memory
from infinitetalk.job.folder import job_folder
from infinitetalk.job.forecast import dry_run, forecast, time_warnings
from infinitetalk.job.preview import PreviewPlan, WindowPreview
from infinitetalk.job.read import read_job
from infinitetalk.job.render import render
from infinitetalk.job.resume import KeptWindows, fingerprint, kept_windows
from infinitetalk.logs import log_event
from infinitetalk.marking.marker import Marker
from infinitetalk.media.child import ended_by
from infinitetalk.models.device import synchronise
from infinitetalk.models.opening import Models
from infinitetalk.models.text_encoder import count_tokens
from infinitetalk.models.video_transformer import TEXT_TOKENS
from infinitetalk.planning.estimate import cost_usd
from infinitetalk.planning.plan import Plan
from infinitetalk.progress import Stopwatch
from infinitetalk.shapes import FPS
from infinitetalk.transfer.delivery import estimate_video_bytes
from infinitetalk.transfer.exchange import Exchange

logger = logging.getLogger(__name__)

UNWATCHED = Control()


def run_job(
    request: Request,
    models: Models,
    settings: Settings,
    exchange: Exchange,
    control: Control = UNWATCHED,
    mode: SpeedMode | None = None,
    faces: FaceFinder | None = None,
    marker: Marker | None = None,
) -> Result | DryRun:
    """Run one job.

    Args:
        models: the models of the profile that the settings name.
        exchange: where files come from and where the video goes.
        control: how the job is watched and ended.
        mode: how the clip is made; if not given, the preset that request.speed_mode names.
        faces: what finds faces; None where that is not installed.
        marker: what marks the video as made by AI; if not given, the one that the settings name.

    Raises:
        SettingsError: there is no marker, and the certificate or the key that the settings name is wrong.
        JobError: whatever keeps the video from being made or delivered.
    """
    profile = profile_of(settings)
    settings.arithmetic_of(request.lane)  # refuses a lane that this worker does not have
    models = models.in_lane(request.lane)
    models.check()
    marker = marker or Marker.open(settings)
    # A dry run tells whether the time limit would do; it is not held to it.
    watched = replace(control, time_limit=None) if request.dry_run else control
    monitor = watched.start(partial(synchronise, models.device))
    watch = monitor.watch
    with (
        ended_by(monitor.check),
        job_folder(settings.work_dir, control.job_id) as folder,
        nullcontext(KeptWindows())
        if request.dry_run
        else kept_windows(settings, control.job_id, stay=control.is_answered_later) as kept,
    ):
        with watch.stage("download"):
            files = exchange.fetch(request, folder)
        with watch.stage("read_media"):
            mode = mode or load_mode(request.speed_mode)
            job = read_job(request, files, profile, settings, mode, kept.seed(request.seed), faces)
            _check_separator(job.plan, models, profile)
        plan, shape = job.plan, job.plan.shape
        marker.check_valid()
        exchange.delivery.check_fits(estimate_video_bytes(shape.size, shape.n_frames, shape.fps), monitor.check)
        expected = forecast(plan, profile, models.device, settings, models.arithmetic, models.n_gpus)
        warnings = [*job.warnings(plan), *_long_prompts(models, plan), *time_warnings(expected, control.time_limit)]
        usd_per_s = cost_usd(1.0, settings.gpu_price_per_hour, models.n_gpus)
        monitor.counter.planned(len(plan.windows), plan.mode.steps, warnings, usd_per_s, expected.cost_usd)
        _log_plan(plan, expected.seconds, warnings)
        if request.dry_run:
            return dry_run(
                plan, request.speed_mode, profile, expected, models.arithmetic, warnings, models.n_gpus, job.people
            )
        with watch.stage("read_media"):
            facts = plan, files.values(), models, settings, job.places, job.boxes
            kept.identify(len(plan.windows), partial(fingerprint, *facts))
        previewed = _preview_plan(request, settings, exchange, plan, expected.seconds)
        with WindowPreview(previewed, folder, monitor.counter.previewed) as preview:
            video = within_memory(plan, partial(render, job, models, folder, kept, monitor, preview))
            checks = None
            if settings.checks == "on":
                with watch.stage("check"):
                    allowed_s = time_for_checks(watch.total(), control.time_limit)
                    checks = checked(video, job, request, models, faces, allowed_s)
            with watch.stage("mark"):
                marked = marker.mark(video.path, request.input_type == "video" or plan.kept is not None, profile.name)
            with watch.stage("deliver"):
                delivered = exchange.delivery.deliver(marked.path)
                told = preview.delivered()
    warnings += [*_resumed(video.resumed, plan), *video.warnings, *marked.warnings, *delivered.warnings, *told]
    return Result(
        video_url=delivered.video_url,
        video=delivered.video,
        video_path=delivered.video_path,
        preview_url=preview.seen.preview_url,
        preview_path=preview.seen.preview_path,
        seed=plan.seed,
        speed_mode=request.speed_mode,
        settings=plan.resolved(profile, models.arithmetic, models.n_gpus),
        people=None if job.people is None else list(job.people),
        turns=list(plan.conversation) or None,
        checks=checks,
        marking=marked.marking,
        warnings=warnings,
        **_times(watch, settings, models.n_gpus),
    )


def _preview_plan(
    request: Request, settings: Settings, exchange: Exchange, plan: Plan, expected_s: float | None
) -> PreviewPlan | None:
    """What the job's preview is to be; None if it has none. One window alone is followed by the video at once."""
    unasked = exchange.previews_unasked and (len(plan.windows) > 1 or settings.keep_preview)
    if not (unasked if request.preview is None else request.preview):
        return None
    longest_s = max(window.length for window in plan.windows) / FPS
    target_s = max(longest_s, (expected_s or 0.0) / len(plan.windows))
    return PreviewPlan(exchange.open_preview, plan.shape, len(plan.windows), target_s, settings.keep_preview)


def _times(watch: Stopwatch, settings: Settings, n_gpus: int) -> dict[str, Any]:
    """What the job has taken, by the fields of the result."""
    total_s = watch.total()
    return {
        "timings_s": {name: round(seconds, 3) for name, seconds in watch.seconds.items()},
        "gpu_seconds": round(total_s, 3),
        "cost_usd": round(cost_usd(total_s, settings.gpu_price_per_hour, n_gpus), 6),
    }


def _check_separator(plan: Plan, models: Models, profile: Profile) -> None:
    """Raise ModelMissing where vocals are to be isolated and this worker started without the separator."""
    if plan.separated_chunks and models.separator is None:
        raise ModelMissing(
            f"isolate_vocals needs {profile.files.separator}, which this worker did not find when it started: put it "
            "on the volume with `infinitetalk fetch` and start the workers anew, or leave isolate_vocals out."
        )


def _long_prompts(models: Models, plan: Plan) -> list[str]:
    prompts = {"prompt": plan.prompt, "negative_prompt": plan.negative_prompt}
    lengths = {field: count_tokens(models.tokenizer, prompt) for field, prompt in prompts.items() if prompt is not None}
    return [
        f"{field} has {tokens} tokens, of which the model reads the first {TEXT_TOKENS}."
        for field, tokens in lengths.items()
        if tokens > TEXT_TOKENS
    ]


def _resumed(windows: int, plan: Plan) -> list[str]:
    """A warning that an earlier run of the job had finished so many windows."""
    if windows == 0:
        return []
    return [
        f"An earlier run of this job had finished {windows} of {len(plan.windows)} windows and was broken off; "
        "timings_s, gpu_seconds and cost_usd count this run only."
    ]


def _log_plan(plan: Plan, estimated_s: float | None, warnings: list[str]) -> None:
    width, height = plan.size
    log_event(
        logger,
        logging.INFO,
        "job planned",
        size=f"{width}x{height}",
        frames=plan.n_frames,
        windows=len(plan.windows),
        steps=plan.mode.steps,
        estimated_s=estimated_s,
        warnings=warnings,
    )
