"""One job from request to result: fetch, read, plan, generate, encode, deliver."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from infinitetalk.assets import job_folder
from infinitetalk.delivery import estimate_video_bytes
from infinitetalk.errors import Cancelled, ModelMissing, OutOfMemory, TooLarge
from infinitetalk.estimate import estimate, find_hardware
from infinitetalk.exchange import Exchange, NetworkExchange
from infinitetalk.masks import person_masks
from infinitetalk.media.audio import Track, Wave, arrange_speakers, load_audio, normalise_loudness, write_soundtrack
from infinitetalk.media.encode import VideoWriter
from infinitetalk.media.image import load_image
from infinitetalk.media.video import SourceVideo
from infinitetalk.models.audio_encoder import embed_voice
from infinitetalk.models.compiling import compile_transformer
from infinitetalk.models.loading import Models, load_models
from infinitetalk.models.text_encoder import count_tokens
from infinitetalk.models.transformer import TEXT_TOKENS
from infinitetalk.pipeline import Footage, Noise, Voices, generate
from infinitetalk.pixels import to_bytes
from infinitetalk.plan import Plan, draw_seed, make_plan
from infinitetalk.presets import Profile, load_mode, load_profile
from infinitetalk.progress import Progress, StepCounter, Stopwatch
from infinitetalk.request import Request
from infinitetalk.result import DryRun, Result
from infinitetalk.settings import Settings
from infinitetalk.shapes import FPS, SAMPLE_RATE_HZ, frames_of_samples
from infinitetalk.windows import Window


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


def open_models(settings: Settings) -> Models:
    """The models that the settings name, on their device. Raises ModelMissing, or ValueError for a bad setting."""
    profile = load_profile(settings.model_profile)
    if profile.embedded:
        folder = Path(__file__).parent
    elif settings.models_dir is None:
        raise ModelMissing(f"MODELS_DIR is not set: it names the folder with the files of {settings.model_profile}")
    else:
        folder = settings.models_dir
    device = choose_device(settings)
    if device.type == "cuda":
        found_gib = torch.cuda.get_device_properties(device).total_memory / 2**30
        if found_gib < profile.min_vram_gib:
            raise ValueError(
                f"{profile.name} needs a GPU of {profile.min_vram_gib:g} GiB or more; this one has {found_gib:.0f}"
            )
    models = load_models(profile, folder, device, settings.attention_backend)
    if settings.compile and models.device.type == "cuda":
        compile_transformer(models.transformer)
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
) -> Result | DryRun:
    """Run one job.

    Args:
        on_progress: called before every step and stage, from the calling thread.
        should_stop: asked while downloading and before every denoising step; True ends the job with Cancelled.
        exchange: where files come from and the video goes; the network if not given.

    Raises:
        JobError: whatever keeps the video from being made or delivered.
    """
    if exchange is None:
        exchange = NetworkExchange(request, settings, job_id, should_stop)
    watch = Stopwatch(models.device)
    with watch.stage("total"), job_folder(settings.work_dir, job_id) as folder:
        with watch.stage("download"):
            files = exchange.fetch(request, folder)
        with watch.stage("read_media"):
            job = read_job(request, files, models.profile, settings)
        plan = job.plan
        exchange.check_fits(estimate_video_bytes(plan.width, plan.height, plan.n_frames))
        warnings = [*job.warnings, *_long_prompts(models, plan)]
        if request.dry_run:
            return dry_run(plan, models.profile, models.device, settings, warnings)
        video = _render(job, models, folder, watch, on_progress, should_stop)
        with watch.stage("deliver"):
            delivered = exchange.deliver(video)
    total_s = watch.seconds.pop("total")
    return Result(
        **asdict(delivered),
        seed=plan.seed,
        speed_mode=plan.speed_mode,
        settings=plan.resolved(models.profile, settings.attention_backend),
        timings_s={name: round(seconds, 3) for name, seconds in watch.seconds.items()},
        gpu_seconds=round(total_s, 3),
        cost_usd=round(total_s / 3600 * settings.gpu_price_per_hour, 6),
        warnings=warnings,
    )


def read_job(request: Request, files: dict[str, Path], profile: Profile, settings: Settings) -> Job:
    """Decode and check a job's files, by field, and plan it.

    Raises MediaUnreadable or TooLarge, naming the field, or InvalidInput for boxes outside the visible picture.
    """
    width, height = profile.size(request.resolution, request.aspect_ratio)
    voices, tracks = _read_voices(request, files, settings)
    duration_s = len(voices[0]) / SAMPLE_RATE_HZ
    warnings = []
    if not profile.trained:
        warnings.append(f"The weights of the profile {profile.name} are random: the picture is noise.")
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
    plan = make_plan(request, profile, load_mode(request.speed_mode), frames_of_samples(len(voices[0])), seed)
    masks = person_masks(plan.speaker_boxes, source_size, (width, height)) if plan.speakers == 2 else None
    return Job(plan, voices, tracks, footage, masks, tuple(warnings))


def _read_voices(
    request: Request, files: dict[str, Path], settings: Settings
) -> tuple[tuple[Wave, ...], tuple[Track, ...]]:
    fields = [field for field in ("wav_url", "wav_url_2") if field in files]
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


def dry_run(plan: Plan, profile: Profile, device: torch.device, settings: Settings, warnings: list[str]) -> DryRun:
    """What a job would do on that device, and take."""
    gpu_name = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    hardware = find_hardware(profile.name, gpu_name)
    return DryRun(
        seed=plan.seed,
        speed_mode=plan.speed_mode,
        settings=plan.resolved(profile, settings.attention_backend),
        estimate=estimate(plan, hardware, gpu_name, settings.gpu_price_per_hour),
        warnings=warnings,
    )


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
    on_progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
) -> Path:
    """The finished video file."""
    plan = job.plan
    counter = StepCounter(len(plan.windows), plan.steps, on_progress)

    def on_step(window: Window, step: int, _latents: Tensor) -> None:
        if should_stop():
            raise Cancelled("The job was cancelled.")
        counter.before_step(window.index, step)

    counter.stage("prepare", 0.0)
    path, soundtrack = folder / "result.mp4", folder / "soundtrack.m4a"
    with watch.stage("encode"):
        write_soundtrack(job.tracks, plan.duration_s, soundtrack)
    try:
        with watch.stage("condition"):
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
        )
        with VideoWriter(path, plan.width, plan.height, FPS, soundtrack) as writer:
            for part in parts:
                with watch.stage("encode"):
                    writer.write(to_bytes(part.frames))
                del part  # the next window needs the memory
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise OutOfMemory(
            f"The GPU has too little memory for {plan.width}x{plan.height} in windows of {plan.window_frames} frames; "
            "choose a smaller resolution or a quicker speed_mode."
        ) from error
    counter.stage("deliver", 100.0)
    return path
