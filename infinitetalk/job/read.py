"""A job's files, read and checked, and the plan that follows from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from infinitetalk.contract.presets import Profile, Size, SpeedMode
from infinitetalk.contract.request import MediaField, Request
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import InvalidInput, TooLarge
from infinitetalk.faces.finder import FaceFinder
from infinitetalk.generation.masks import person_masks
from infinitetalk.generation.pipeline import Footage
from infinitetalk.media.audio import Track, Wave, load_audio, normalise_loudness, place_voices
from infinitetalk.media.image import load_image
from infinitetalk.media.video import SourceVideo
from infinitetalk.planning.plan import Plan, make_plan
from infinitetalk.planning.speakers import speaker_starts
from infinitetalk.shapes import (
    FPS,
    SAMPLE_RATE_HZ,
    SEPARATOR_RATE_HZ,
    frames_of_samples,
    separator_chunk_starts,
    whole_frames_of_samples,
)

Files = Mapping[MediaField, Path]


@dataclass(frozen=True)
class Job:
    """A request, its media read and checked, and its plan.

    Args:
        waves: the voices as they were sent, at 16 kHz, of equal length and normalised loudness.
        tracks: the sound of the result.
        footage: what is animated.
        person_masks: (1, P + 1, S) with several speakers, see `masks.person_masks`; None with one.
        warnings: what the caller should know about the media.
    """

    plan: Plan
    waves: tuple[Wave, ...]
    tracks: tuple[Track, ...]
    footage: Footage
    person_masks: Tensor | None
    warnings: tuple[str, ...]


def read_job(
    request: Request,
    files: Files,
    profile: Profile,
    settings: Settings,
    mode: SpeedMode,
    seed: int,
    faces: FaceFinder | None = None,
) -> Job:
    """Decode and check a job's files, and plan it.

    Args:
        mode: how the clip is made.
        seed: the seed of the noise.
        faces: what finds faces; None where that is not installed.

    Raises:
        MediaUnreadable, TooLarge: a file cannot be used; the message names its field.
        InvalidInput: a box lies outside the visible picture, or vocals are to be isolated and the profile has no
            separator.
    """
    size = profile.size(request.resolution, request.aspect_ratio)
    waves, tracks, warnings = _read_voices(request, files, settings)
    duration_s = len(waves[0]) / SAMPLE_RATE_HZ
    footage, notes = _read_footage(request, files, size, duration_s)
    warnings += notes
    if profile.is_embedded:
        warnings.insert(0, f"The profile {profile.name} is a small demonstration model: it knows drawn faces only.")
    for speaker, track in zip(request.speakers, tracks, strict=True):
        if track.start_s + 1 / FPS > duration_s:
            warnings.append(
                f"{speaker.voice} is not heard: the video ends after {duration_s:.2f} s, before its turn comes."
            )
    chunks = _separated_chunks(request, tracks, profile, settings)
    # The scheduler that is there for comparison with the authors' code comes with its length.
    frames_of = whole_frames_of_samples if mode.scheduler == "infinitetalk" else frames_of_samples
    plan = make_plan(request, profile, mode, frames_of(len(waves[0])), seed, chunks)
    masks = _place_speakers(request, footage, size)
    return Job(plan, waves, tracks, footage, masks, tuple(warnings))


def _read_voices(
    request: Request, files: Files, settings: Settings
) -> tuple[tuple[Wave, ...], tuple[Track, ...], list[str]]:
    """The speakers' waves, each in its place, the same as tracks of the result's sound, and what to say of them."""
    voices = [speaker.voice for speaker in request.speakers]
    read = [
        load_audio(files[voice], voice, request.max_duration_s, settings.max_audio_s, files[voice].parent)
        for voice in voices
    ]
    waves = [normalise_loudness(voice.wave) for voice in read]
    starts = speaker_starts([len(wave) for wave in waves], request.speaker_order)
    tracks = tuple(
        Track(voice.sound, start / SAMPLE_RATE_HZ, len(wave) / SAMPLE_RATE_HZ)
        for voice, start, wave in zip(read, starts, waves, strict=True)
    )
    placed = place_voices(waves, starts)
    if request.max_duration_s is not None:
        placed = tuple(wave[: round(request.max_duration_s * SAMPLE_RATE_HZ)] for wave in placed)
    duration_s = len(placed[0]) / SAMPLE_RATE_HZ
    if duration_s > settings.max_audio_s:
        raise TooLarge(
            f"{' and '.join(voices)} last {duration_s:.1f} s one after the other, and at most "
            f"{settings.max_audio_s:g} s are accepted; set max_duration_s or send shorter voices."
        )
    return placed, tracks, [warning for voice in read for warning in voice.warnings]


def _separated_chunks(request: Request, tracks: Sequence[Track], profile: Profile, settings: Settings) -> int:
    """How many chunks of sound the vocals are to be taken out of, all voices together; 0: the job does not want it."""
    wanted = settings.isolate_vocals if request.isolate_vocals is None else request.isolate_vocals
    if not wanted:
        return 0
    if profile.files.separator is None:
        raise InvalidInput(
            f"isolate_vocals is true, but the profile {profile.name} has no separator of vocals: leave it out, or send "
            "the vocals alone."
        )
    samples = [round(track.length_s * SEPARATOR_RATE_HZ) for track in tracks]
    return sum(len(separator_chunk_starts(length)) for length in samples)


def _read_footage(request: Request, files: Files, size: Size, duration_s: float) -> tuple[Footage, list[str]]:
    """What is animated, fitted to `size`, and what the caller should know about it."""
    if request.input_type == "image":
        return load_image(files["image_url"], "image_url", *size), []
    video = SourceVideo.open(files["video_url"], "video_url", *size, needed_s=duration_s)
    if video.duration_s + 1 / FPS < duration_s:
        return video, [
            f"video_url lasts {video.duration_s:.2f} s and the sound {duration_s:.2f} s: the last frame of the video "
            "stays to the end."
        ]
    return video, []


def _place_speakers(request: Request, footage: Footage, size: Size) -> Tensor | None:
    """Masks of where the speakers are: in the job's boxes, or else side by side. None for one speaker."""
    speakers = request.speakers
    if len(speakers) == 1:
        return None
    return person_masks([speaker.box for speaker in speakers], footage.source_size, size)
