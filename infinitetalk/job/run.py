"""One job from request to result: fetch, read, plan, generate, encode, deliver."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from infinitetalk.contract.presets import Profile, SpeedMode, load_mode, load_profile
from infinitetalk.contract.request import Request
from infinitetalk.contract.result import DryRun, Estimate, Result
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import Cancelled, TimedOut, TooLarge
from infinitetalk.generation.masks import person_masks
from infinitetalk.generation.pipeline import Footage, Noise, Voices, generate
from infinitetalk.generation.pixels import to_bytes
from infinitetalk.job.faults import within_memory
from infinitetalk.job.resume import Finished, KeptWindows, kept_windows
from infinitetalk.logs import log_event
from infinitetalk.media.audio import Track, Wave, arrange_speakers, load_audio, normalise_loudness, write_soundtrack
from infinitetalk.media.encode import VideoWriter
from infinitetalk.media.image import load_image
from infinitetalk.media.video import SourceVideo
from infinitetalk.models.audio_encoder import embed_voice
from infinitetalk.models.compiling import compile_transformer
from infinitetalk.models.loading import Models, load_models
from infinitetalk.models.text_encoder import count_tokens
from infinitetalk.models.transformer import TEXT_TOKENS
from infinitetalk.models.vae import optimise_vae
from infinitetalk.planning.estimate import estimate, find_hardware
from infinitetalk.planning.plan import Plan, draw_seed, make_plan
from infinitetalk.planning.windows import Window
from infinitetalk.progress import Progress, StepCounter, Stopwatch, TimeLimit
from infinitetalk.shapes import FPS, SAMPLE_RATE_HZ, frames_of_samples
from infinitetalk.startup.weights import find_weights
from infinitetalk.transfer.delivery import estimate_video_bytes
from infinitetalk.transfer.downloads import job_folder
from infinitetalk.transfer.exchange import Exchange, NetworkExchange

VOICE_FIELDS = ("wav_url", "wav_url_2")
ANSWER_PART = 0.02  # of a time limit: a job stops itself that much earlier, so that its answer arrives in time

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A request with its media read and checked, and planned.

    voices: one or two waves of equal length, 16 kHz, loudness normalised.
    tracks: the sound of the result.
    person_masks: (1, 3, S) with two people; see `masks.person_masks`.
    """

    plan: Plan
    voices: tuple[Wave, ...]
    tracks: tuple[Track, ...]
    footage: Footage
    person_masks: Tensor | None
    warnings: tuple[str, ...]


def choose_device(settings: Settings) -> torch.device:
    """The device that the settings name; "auto" is the GPU if there is one. Raises ValueError for a GPU not there."""
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("DEVICE is cuda, but torch finds no GPU; check driver and torch, or set auto or cpu")
    return torch.device(settings.device)


def gpu_name(device: torch.device) -> str | None:
    """What the driver calls a GPU; None for the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def open_models(settings: Settings) -> Models:
    """The models that the settings name, on their device. Raises ModelMissing, or ValueError for a bad setting."""
    profile = load_profile(settings.model_profile)
    device = choose_device(settings)
    models = load_models(
        profile,
        find_weights(profile, settings),
        device,
        settings.attention_backend,
        settings.fp8,
        settings.experimental_sparse_attention,
    )
    if settings.compile and models.device.type == "cuda":
        compile_transformer(models.transformer, settings.volume_dir)
    if models.device.type == "cuda":
        optimise_vae(models.vae, settings.compile)
    return models


def run_job(
    request: Request,
    *,
    job_id: str,
    models: Models,
    settings: Settings,
    on_progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
    exchange: Exchange | None = None,
    time_limit: TimeLimit | None = None,
    mode: SpeedMode | None = None,
) -> Result | DryRun:
    """Run one job.

    Args:
        on_progress: called before every step and stage, from the calling thread.
        should_stop: asked while downloading and before every denoising step, latent frame that is encoded or decoded,
            and stage; True ends the job with Cancelled.
        exchange: where files come from and the video goes; the network if not given.
        time_limit: from now on; a job that will take longer is warned, one that does take longer ends with TimedOut.
        mode: how the clip is made; the preset that request.speed_mode names if not given.

    Raises:
        JobError: whatever keeps the video from being made or delivered.
    """
    if exchange is None:
        exchange = NetworkExchange(request, settings, job_id, should_stop)
    check = _checkpoint(should_stop, time_limit)
    counter = StepCounter(on_progress)

    def on_stage(name: str) -> None:
        if name != "deliver":  # which asks should_stop itself; a finished video is worth its last seconds
            check()
        counter.stage(name)

    watch, whole = Stopwatch(models.device, on_stage), Stopwatch(models.device)
    with (
        whole.stage("job"),
        job_folder(settings.work_dir, job_id) as folder,
        kept_windows(settings, job_id) as kept,
    ):
        with watch.stage("download"):
            files = exchange.fetch(request, folder)
        with watch.stage("read_media"):
            if request.seed is None and not request.dry_run:
                request = request.model_copy(update={"seed": kept.seed()})
            job = read_job(request, files, models.profile, settings, mode)
        plan = job.plan
        exchange.check_fits(estimate_video_bytes(plan.width, plan.height, plan.n_frames))
        attention = models.transformer.attention_names
        expected = expect(plan, models.profile, models.device, settings, attention)
        warnings = [*job.warnings, *_long_prompts(models, plan), *_time_warnings(expected, time_limit)]
        counter.windows, counter.steps, counter.warnings = len(plan.windows), plan.steps, tuple(warnings)
        log_event(
            logger,
            logging.INFO,
            "job planned",
            size=f"{plan.width}x{plan.height}",
            frames=plan.n_frames,
            windows=len(plan.windows),
            steps=plan.steps,
            estimated_s=expected.seconds,
            warnings=warnings,
        )
        if request.dry_run:
            return dry_run(plan, models.profile, models.device, settings, warnings, attention)
        with watch.stage("read_media"):
            done = kept.find(plan, files.values(), models, settings)
        if done.windows:
            warnings.append(
                f"An earlier run of this job had finished {done.windows} of {len(plan.windows)} windows and was "
                "broken off; timings_s, gpu_seconds and cost_usd count this run alone."
            )

        def render() -> Path:
            with _interruptible(models.vae, check):
                return _render(job, models, folder, watch, counter, check, kept, done)

        video = within_memory(plan, render)
        with watch.stage("deliver"):
            delivered = asdict(exchange.deliver(video))
    warnings.extend(delivered.pop("warnings"))
    total_s = whole.seconds["job"]
    return Result(
        **delivered,
        seed=plan.seed,
        speed_mode=plan.speed_mode,
        settings=plan.resolved(models.profile, attention, settings.lane),
        timings_s={name: round(seconds, 3) for name, seconds in watch.seconds.items()},
        gpu_seconds=round(total_s, 3),
        cost_usd=round(total_s / 3600 * settings.gpu_price_per_hour, 6),
        warnings=warnings,
    )


def read_job(
    request: Request, files: dict[str, Path], profile: Profile, settings: Settings, mode: SpeedMode | None = None
) -> Job:
    """Decode and check a job's files, by field, and plan it.

    Raises MediaUnreadable or TooLarge, naming the field, or InvalidInput for boxes outside the visible picture.
    """
    width, height = profile.size(request.resolution, request.aspect_ratio)
    voices, tracks = _read_voices(request, files, settings)
    duration_s = len(voices[0]) / SAMPLE_RATE_HZ
    warnings = []
    if profile.embedded:
        warnings.append(f"The profile {profile.name} is a small demonstration model: it knows drawn faces only.")
    for field, track in zip(VOICE_FIELDS, tracks, strict=False):
        if track.start_s + 1 / FPS > duration_s:
            warnings.append(f"{field} is not heard: the video ends after {duration_s:.2f} s, before its turn comes.")
    footage: Footage
    if request.input_type == "image":
        footage = picture = load_image(files["image_url"], "image_url", width, height)
        source_size = picture.source_size
    else:
        footage = video = SourceVideo.open(files["video_url"], "video_url", width, height)
        source_size = video.source_size
        if video.duration_s + 1 / FPS < duration_s:
            warnings.append(
                f"video_url lasts {video.duration_s:.2f} s and the sound {duration_s:.2f} s: its last frame holds."
            )
    seed = draw_seed() if request.seed is None else request.seed
    if mode is None:
        mode = load_mode(request.speed_mode)
    plan = make_plan(request, profile, mode, frames_of_samples(len(voices[0])), seed)
    masks = person_masks(plan.speaker_boxes, source_size, (width, height)) if plan.speakers == 2 else None
    return Job(plan, voices, tracks, footage, masks, tuple(warnings))


def _read_voices(
    request: Request, files: dict[str, Path], settings: Settings
) -> tuple[tuple[Wave, ...], tuple[Track, ...]]:
    fields = [field for field in VOICE_FIELDS if field in files]
    waves = [
        normalise_loudness(load_audio(files[field], field, request.max_duration_s, settings.max_audio_s))
        for field in fields
    ]
    lengths_s = [len(wave) / SAMPLE_RATE_HZ for wave in waves]
    starts_s = [0.0] * len(waves)
    if request.speaker_order == "first_then_second":
        starts_s[1] = lengths_s[0]
    elif request.speaker_order == "second_then_first":
        starts_s[0] = lengths_s[1]
    tracks = tuple(
        Track(files[field], start_s, length_s)
        for field, start_s, length_s in zip(fields, starts_s, lengths_s, strict=True)
    )
    if len(waves) == 2:
        waves = list(arrange_speakers(waves[0], waves[1], request.speaker_order))
    if request.max_duration_s is not None:
        waves = [wave[: round(request.max_duration_s * SAMPLE_RATE_HZ)] for wave in waves]
    duration_s = len(waves[0]) / SAMPLE_RATE_HZ
    if duration_s > settings.max_audio_s:
        raise TooLarge(
            f"wav_url and wav_url_2 last {duration_s:.1f} s one after the other, over the {settings.max_audio_s:g} s "
            "that are accepted; set max_duration_s or send shorter ones."
        )
    return tuple(waves), tracks


def dry_run(
    plan: Plan,
    profile: Profile,
    device: torch.device,
    settings: Settings,
    warnings: list[str],
    attention: str,
) -> DryRun:
    """What a job would do on that device, and take; attention: the kernels, or `AUTO`."""
    return DryRun(
        seed=plan.seed,
        speed_mode=plan.speed_mode,
        settings=plan.resolved(profile, attention, settings.lane),
        estimate=expect(plan, profile, device, settings, attention),
        warnings=warnings,
    )


def expect(plan: Plan, profile: Profile, device: torch.device, settings: Settings, attention: str) -> Estimate:
    """What a plan will take on that device; attention: the kernels, or `AUTO`."""
    gpu = gpu_name(device)
    hardware = find_hardware(profile.name, gpu, settings.hardware_file)
    return estimate(plan, hardware, gpu, settings.gpu_price_per_hour, settings.lane, attention)


def _checkpoint(should_stop: Callable[[], bool], time_limit: TimeLimit | None) -> Callable[[], None]:
    """A function that raises Cancelled or TimedOut if the job has to end."""
    started_s = time.monotonic()
    limit_s = time_limit.seconds if time_limit is not None and time_limit.is_certain else None

    def check() -> None:
        if should_stop():
            raise Cancelled("The job was cancelled.")
        if limit_s is not None and time.monotonic() - started_s > limit_s * (1 - ANSWER_PART):
            raise TimedOut(
                f"The job has used up its execution timeout of {limit_s:g} s; raise policy.executionTimeout or the "
                "endpoint's, or choose a quicker speed_mode, a smaller resolution or max_duration_s, or retry it: a "
                "worker with a volume goes on after its last finished window."
            )

    return check


@contextmanager
def _interruptible(vae: AutoencoderKLWan, check: Callable[[], None]) -> Iterator[None]:
    """Call `check` before every latent frame that the autoencoder encodes or decodes.

    Broken off, it would hold what it remembers of earlier frames until its next video, which is gigabytes.
    """
    hooks = [part.register_forward_pre_hook(lambda *_: check()) for part in (vae.encoder, vae.decoder)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        vae.clear_cache()


def _time_warnings(expected: Estimate, limit: TimeLimit | None) -> list[str]:
    if limit is None or expected.seconds is None or expected.seconds <= limit.seconds:
        return []
    until = f"its execution timeout is {limit.seconds:g} s"
    if not limit.is_certain:
        until = (
            f"RunPod stops it after {limit.seconds:g} s if the endpoint or policy.executionTimeout set no other limit"
        )
    return [f"The job is estimated to take {expected.seconds:.0f} s, and {until}."]


def _long_prompts(models: Models, plan: Plan) -> list[str]:
    prompts = {"prompt": plan.prompt, "negative_prompt": plan.negative_prompt}
    lengths = {field: count_tokens(models.tokenizer, prompt) for field, prompt in prompts.items() if prompt is not None}
    return [
        f"{field} has {tokens} tokens, of which the model reads the first {TEXT_TOKENS}."
        for field, tokens in lengths.items()
        if tokens > TEXT_TOKENS
    ]


def _render(
    job: Job,
    models: Models,
    folder: Path,
    watch: Stopwatch,
    counter: StepCounter,
    check: Callable[[], None],
    kept: KeptWindows,
    done: Finished,
) -> Path:
    """The finished video file."""
    plan = job.plan

    def on_step(window: Window, step: int, _latents: Tensor) -> None:
        check()
        counter.before_step(window.index, step)

    path, soundtrack = folder / "result.mp4", folder / "soundtrack.m4a"
    with watch.stage("encode"):
        write_soundtrack(job.tracks, plan.duration_s, soundtrack)
    with watch.stage("audio"):
        encoder, extractor = models.audio_encoder, models.audio_extractor
        features = [embed_voice(encoder, extractor, wave, plan.n_frames) for wave in job.voices]
    parts = generate(
        plan,
        models,
        job.footage,
        Voices(torch.stack(features)),
        job.person_masks,
        Noise(plan.seed),
        on_step,
        watch,
        done.windows,
        done.handover,
    )
    with VideoWriter(path, plan.width, plan.height, FPS, soundtrack) as writer:
        for index in range(done.windows):
            writer.append(partial(kept.piece, index))
        for part in parts:
            with watch.stage("bytes"):
                handover = None if part.handover is None else part.handover.to("cpu")
                frames = to_bytes(part.frames)
            with watch.stage("encode"):  # waits for the window before, and goes on beside the next one
                writer.write(frames, partial(kept.keep, part.window.index, handover=handover))
            del part  # the next window needs the memory
        with watch.stage("encode"):
            writer.finish()
    return path
