"""A job's files, read and checked, and the plan that follows from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from infinitetalk.contract.presets import Profile, SpeedMode
from infinitetalk.contract.request import MediaField, Request
from infinitetalk.contract.result import Person, Turn
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import InvalidInput, TooLarge
from infinitetalk.faces.finder import MAX_SIDE, FaceFinder
from infinitetalk.generation.masks import person_masks
from infinitetalk.generation.pipeline import Footage
from infinitetalk.job.conversation import find_turns, split_wave
from infinitetalk.job.keep import Keeping, check_keep, keep_speakers
from infinitetalk.job.matching import match_note, watched_match
from infinitetalk.job.people import check_faces, find_boxes, find_in_video
from infinitetalk.job.scenes import cast_scenes, find_scenes
from infinitetalk.media.audio import Track, Wave, load_audio, normalise_loudness, place_voices
from infinitetalk.media.child import check_ended
from infinitetalk.media.image import Picture, load_image, load_whole
from infinitetalk.media.video import SourceVideo
from infinitetalk.models.device import choose_device
from infinitetalk.models.voices import VoiceModels
from infinitetalk.planning.framing import Box
from infinitetalk.planning.owners import place_names
from infinitetalk.planning.places import Placed, Places, place_speakers
from infinitetalk.planning.plan import Plan, make_plan
from infinitetalk.planning.speakers import speaker_starts
from infinitetalk.planning.turns import AT_A_TIME, Turns, frame_loudness, left_out
from infinitetalk.shapes import (
    FPS,
    SAMPLE_RATE_HZ,
    SEPARATOR_RATE_HZ,
    frames_of_samples,
    separator_chunk_starts,
    whole_frames_of_samples,
)

Files = Mapping[MediaField, Path]

_MAX_STRETCHES = 5  # in which a voice moves no lips, that a warning lists
_EXTENSIONS = {
    "hold": "the last frame of the video stays to the end",
    "loop": "the video begins again where it ends",
    "ping-pong": "the video runs backwards and forwards from its end on",
}


@dataclass(frozen=True)
class Job:
    """A request, its media read and checked, and its plan.

    Args:
        waves: the voices as they were sent, at 16 kHz, of equal length and normalised loudness. A recording that is
            taken apart gives two.
        tracks: the sound of the result, one for each file.
        footage: what is animated.
        person_masks: where voices belong to places, see `pipeline.Material`; else None.
        places: where the speakers are, and which part of the picture is shown.
        boxes: of the speakers, in each scene.
        turns: who is heard when, for another plan of the same job; None where the plan does not need it.
        people: the faces that were found; None where nothing can find them.
        keeping: what is kept of the source; None where all of the frame comes from the model.
        media_warnings: what the caller should know about the media.
    """

    request: Request
    plan: Plan
    waves: tuple[Wave, ...]
    tracks: tuple[Track, ...]
    footage: Footage
    person_masks: Tensor | None
    places: Places
    boxes: tuple[tuple[Box | None, ...], ...]
    turns: Turns | None
    people: tuple[Person, ...] | None
    keeping: Keeping | None
    media_warnings: tuple[str, ...]

    def warnings(self, plan: Plan) -> list[str]:
        """What the caller should know about the media, and about a plan of this job."""
        return [*self.media_warnings, *_left_out(self.request, plan, self.turns)]


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
        InvalidInput: a speaker is where nobody can be, vocals are to be isolated and the profile has no separator, or a
            recording is to be taken apart in which one voice is heard.
        ModelMissing: the job asks for faces or for a recording to be taken apart, and what this needs is not installed.
    """
    check_faces(request, faces)
    check_keep(request, faces)
    waves, tracks, warnings = _read_voices(request, files, settings)
    conversation: tuple[Turn, ...] = ()
    if request.split_voices:
        models = VoiceModels.open(choose_device(settings.device), check_ended)
        conversation = find_turns(waves[0], models, "wav_url")
        waves = tuple(normalise_loudness(wave) for wave in split_wave(waves[0], conversation))
    duration_s = len(waves[0]) / SAMPLE_RATE_HZ
    footage, placed, notes = _read_footage(request, files, profile, waves, faces)
    size = profile.size(request.resolution, request.aspect_ratio, footage.source_size)
    warnings += [*notes, *placed.warnings]
    if profile.is_embedded:
        warnings.insert(0, f"The profile {profile.name} is a small demonstration model: it knows drawn faces only.")
    for voice, track in zip(_voice_fields(request), tracks, strict=True):
        if track.start_s + 1 / FPS > duration_s:
            warnings.append(f"{voice} is not heard: the video ends after {duration_s:.2f} s, before its turn comes.")
    chunks = _separated_chunks(request, tracks, profile, settings)
    # The scheduler that is there for comparison with the authors' code comes with its length.
    frames_of = whole_frames_of_samples if mode.scheduler == "infinitetalk" else frames_of_samples
    n_frames = frames_of(len(waves[0]))
    scenes, notes = find_scenes(footage, n_frames)
    cast = cast_scenes(request, scenes, footage, size, placed, faces)
    warnings += [*notes, *cast.warnings]
    places, boxes = replace(placed.places, others_silent=cast.others_silent), cast.boxes
    turns = None
    if len(waves) > AT_A_TIME or places.others_silent:
        turns = Turns(frame_loudness(waves, n_frames), places.others_silent)
    plan = make_plan(
        request, profile, mode, n_frames, seed, chunks, turns, conversation, scenes.clip, footage.source_size
    )
    masks = None
    if places.are_bound:
        distinct = boxes if len(set(boxes)) > 1 else boxes[:1]
        masks = torch.cat(
            [
                person_masks(here, footage.source_size, size, places.crop, place_names(request.all_speakers, here))
                for here in distinct
            ]
        )
    keeping = None
    if request.keep == "speakers":
        assert faces is not None  # check_keep refuses the job otherwise
        keeping = keep_speakers(footage, plan, boxes, places.crop, scenes.source, faces, check_ended)
        warnings += keeping.warnings
        if places.boxes == (None,) and len(placed.people or ()) > 1:
            warnings.append(
                "keep: nobody is chosen as the speaker, so the largest face is taken, and only this one moves its "
                "lips. To choose, use the field speakers, with a face or a box."
            )
        plan = replace(plan, kept=keeping.shape)
    media = waves, tracks, footage, masks, places, boxes, turns, placed.people, keeping
    return Job(request, plan, *media, tuple(warnings))


def _read_voices(
    request: Request, files: Files, settings: Settings
) -> tuple[tuple[Wave, ...], tuple[Track, ...], list[str]]:
    """The files' waves, each in its place, the same as tracks of the result's sound, and what to say of them."""
    voices = _voice_fields(request)
    read = [
        load_audio(files[voice], voice, request.max_duration_s, settings.max_audio_s, files[voice].parent)
        for voice in voices
    ]
    waves = [normalise_loudness(voice.wave) for voice in read]
    starts = _starts(request, waves)
    tracks = tuple(
        Track(voice.sound, start / SAMPLE_RATE_HZ, len(wave) / SAMPLE_RATE_HZ)
        for voice, start, wave in zip(read, starts, waves, strict=True)
    )
    samples = max(start + len(wave) for start, wave in zip(starts, waves, strict=True))
    if request.max_duration_s is not None:
        samples = min(samples, round(request.max_duration_s * SAMPLE_RATE_HZ))
    duration_s = samples / SAMPLE_RATE_HZ
    if duration_s > settings.max_audio_s:
        order = "with their starts" if request.speakers is not None else "one after the other"
        raise TooLarge(
            f"The video would last {duration_s:.1f} s ({' and '.join(voices)} {order}), and at most "
            f"{settings.max_audio_s:g} s are accepted; set max_duration_s or send shorter voices."
        )
    begins = [min(start, samples) for start in starts]
    placed = place_voices([wave[: samples - begin] for wave, begin in zip(waves, begins, strict=True)], begins)
    placed = tuple(np.pad(wave, (0, samples - len(wave))) for wave in placed)
    return placed, tracks, [warning for voice in read for warning in voice.warnings]


def _starts(request: Request, waves: Sequence[Wave]) -> tuple[int, ...]:
    """The sample at which each voice begins."""
    starts_s = [speaker.start_s for speaker in request.all_speakers if speaker.start_s is not None]
    if starts_s:
        return tuple(round(start_s * SAMPLE_RATE_HZ) for start_s in starts_s)
    return speaker_starts([len(wave) for wave in waves], request.speaker_order)


def _voice_fields(request: Request) -> list[MediaField]:
    """The fields of the voices' files, in the order of the speakers; a recording that is taken apart is one file."""
    return list(dict.fromkeys(speaker.voice for speaker in request.all_speakers))


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


def _read_footage(
    request: Request, files: Files, profile: Profile, waves: Sequence[Wave], faces: FaceFinder | None
) -> tuple[Picture | SourceVideo, Placed, list[str]]:
    """What is animated, of the part that shows the speakers, fitted to the video's size; who is where; what to say."""
    if request.input_type == "image":
        path = files["image_url"]
        whole = load_whole(path, "image_url", MAX_SIDE)
        size = profile.size(request.resolution, request.aspect_ratio, whole.source_size)
        found = None if faces is None else find_boxes(faces, whole.pixels)
        placed = place_speakers(request, found, whole.source_size, size)
        return load_image(path, "image_url", *size, placed.places.crop), placed, []
    video = SourceVideo.look(files["video_url"], "video_url", extend=request.extend)
    size = profile.size(request.resolution, request.aspect_ratio, video.source_size)
    video = replace(video, size=size)
    found = None if faces is None else find_in_video(faces, video)
    placed = place_speakers(request, found, video.source_size, size)
    notes = []
    if faces is not None and found:
        match = watched_match(request, faces, found, video, waves)
        if match is not None and match.is_certain and match.faces != tuple(range(len(found))):
            notes.append(match_note(request, match, placed.chooses))
            if placed.chooses:
                placed = place_speakers(request, found, video.source_size, size, match.faces)
    duration_s = len(waves[0]) / SAMPLE_RATE_HZ
    video = video.ready(placed.places.crop, needed_s=duration_s)
    if video.duration_s + 1 / FPS < duration_s:
        notes.append(
            f"video_url lasts {video.duration_s:.2f} s and the sound {duration_s:.2f} s: {_EXTENSIONS[request.extend]}."
        )
    return video, placed, notes


def _left_out(request: Request, plan: Plan, turns: Turns | None) -> list[str]:
    """A warning for each voice that moves no lips in some stretches."""
    parts = () if turns is None else left_out(turns, plan.windows)
    warnings = []
    for voice, speaker in enumerate(request.all_speakers):
        stretches = [f"{part.start_s:.2f} to {part.stop_s:.2f} s" for part in parts if part.voice == voice]
        if stretches:
            more = f" and {len(stretches) - _MAX_STRETCHES} more times" if len(stretches) > _MAX_STRETCHES else ""
            warnings.append(
                f"{speaker.name} moves no lips from {', from '.join(stretches[:_MAX_STRETCHES])}{more}: more than "
                f"{AT_A_TIME} voices are heard there, and {AT_A_TIME} others are louder."
            )
    return warnings
