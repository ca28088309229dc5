"""The finished file of a job, against what its plan and inputs say it should hold."""

import logging
from collections.abc import Callable, Sequence
from math import floor

import numpy as np
from numpy.typing import NDArray

from infinitetalk.checking.check import check_video, nothing_measured
from infinitetalk.checking.expected import WHOLE, Box, Expected, Stretch, Voice
from infinitetalk.checking.frames import Frame
from infinitetalk.contract.request import MAX_SEED, Request
from infinitetalk.contract.result import Checks
from infinitetalk.errors import Cancelled
from infinitetalk.faces.finder import Face, FaceFinder
from infinitetalk.job.keep import in_part, speakers_among
from infinitetalk.job.read import Job
from infinitetalk.job.render import Video
from infinitetalk.logs import log_event, places
from infinitetalk.media.audio import Wave, heard_of
from infinitetalk.media.encode import BT709
from infinitetalk.media.image import Picture
from infinitetalk.media.speech import SILENT, loudness
from infinitetalk.models.opening import Models
from infinitetalk.planning.framing import MIN_SHOWN, share, shown_part
from infinitetalk.planning.windows import Window
from infinitetalk.progress import TimeLimit
from infinitetalk.shapes import FPS, cover_crop

LEAST_S, SHARE = 10.0, 0.02  # how long it may take: so long, or that share of the job's time if that is more
_TOO_LITTLE_S = 1.0
_COMPARED = 3  # windows of a film whose colours are compared: each looks for a frame of the source
_MIDDLE = 0.7  # of a face's height and width: no more than what lies within its oval
_GUIDANCE, _MORE_GUIDANCE, _MOST_GUIDANCE = 2.0, 1.0, 20.0

logger = logging.getLogger(__name__)


def time_for_checks(taken_s: float, limit: TimeLimit | None) -> float:
    """How many seconds looking at the finished file may take, if the job has taken so many.

    Before a time limit that is certain it is at most half of what is left: marking and delivery need some, too.
    """
    allowed_s = max(LEAST_S, SHARE * taken_s)
    if limit is not None and limit.is_certain:
        allowed_s = min(allowed_s, (limit.seconds - taken_s) / 2)
    return allowed_s


def checked(
    video: Video, job: Job, request: Request, models: Models, faces: FaceFinder | None, limit_s: float
) -> Checks:
    """Look at a finished file. Where that fails as a whole, nothing is measured; the video goes out all the same.

    Args:
        models: those that made it.
        faces: what finds faces; None where that is not installed.
        limit_s: how long it may take.

    Raises:
        Cancelled: by the check of `media.child.ended_by`.
    """
    if limit_s < _TOO_LITTLE_S:
        log_event(logger, logging.WARNING, "the finished video is not looked at: the time limit is near")
        return nothing_measured("the job's time limit is near")
    try:
        expected = expected_of(job, video.voices, request, models.separator is not None)
        checks = check_video(video.path, expected, faces, limit_s)
    except Cancelled:
        raise
    except Exception as error:
        log_event(logger, logging.WARNING, "looking at the finished video failed", cause=places(error))
        return nothing_measured("the checks failed; the worker's log says where")
    log_event(logger, logging.INFO, "video looked at", verdict=checks.verdict, found=checks.look_at)
    return checks


def expected_of(job: Job, voices: Sequence[Wave], request: Request, has_separator: bool = False) -> Expected:
    """What the finished file of a job should hold.

    Args:
        voices: what the model heard of each speaker.
        has_separator: whether vocals could be isolated.
    """
    plan, keeping, shape = job.plan, job.keeping, job.plan.shape
    original = None if keeping is None else keeping.original
    until: Callable[[int], int] = (lambda frame: frame) if keeping is None else keeping.source.frames_until
    windows = tuple(
        Stretch(until(window.keep_start), until(window.keep_stop), window.overlap > 0) for window in plan.windows
    )
    names = [speaker.name for speaker in request.all_speakers]
    loud = [_heard_loudness(job, number, wave) for number, wave in enumerate(voices)]
    channels = [track.sound.mono_channel for track in job.tracks]
    return Expected(
        n_frames=shape.n_frames,
        rate=shape.rate,
        size=shape.size,
        colors=BT709 if original is None else original.colors,
        windows=windows,
        sound=heard_of(job.tracks, plan.duration_s),
        sound_channel=channels[0] if len(channels) == 1 else None,
        voices=tuple(Voice(name, one) for name, one in zip(names, loud, strict=True)),
        moving=_moving(job, loud),
        is_source=original is not None,
        compared=_compared(job, windows),
        reference=_reference(job, windows),
        made=_made(job),
        choose=_choose(job),
        suggested=_suggested(job, has_separator),
    )


def _heard_loudness(job: Job, number: int, wave: Wave) -> NDArray[np.float32]:
    """(clip frames,) how loud a voice is where the model hears it."""
    loud = loudness(wave, job.plan.n_frames)
    for window in job.plan.windows:
        if window.heard is not None and number not in window.heard:
            loud[window.keep_start : window.keep_stop] = 0
    return loud


def _moving(job: Job, loud: Sequence[NDArray[np.float32]]) -> NDArray[np.bool_]:
    """(frames of the file,) whether somebody is heard who is seen."""
    shape, keeping = job.plan.shape, job.keeping
    clip = [floor((index + 0.5) * FPS / shape.rate) for index in range(shape.n_frames)]
    speaks = np.stack(loud)[:, np.clip(clip, 0, job.plan.n_frames - 1)] >= SILENT  # (speakers, frames)
    if keeping is None:
        return np.asarray(speaks.any(0), np.bool_)
    seen = keeping.tracks.seen[[keeping.source.stored_index(index) for index in range(shape.n_frames)]]
    return np.asarray((speaks & seen.T).any(0), np.bool_)


def _compared(job: Job, windows: Sequence[Stretch]) -> tuple[Stretch, ...]:
    """All of a clip that a picture was the reference of; of films the beginnings of some windows."""
    if isinstance(job.footage, Picture):
        return (Stretch(0, windows[-1].stop),)
    filled = [window for window in windows if window.stop > window.first]
    places = np.unique(np.linspace(0, len(filled) - 1, min(len(filled), _COMPARED)).round().astype(int))
    second = 1 if job.keeping is not None else FPS
    return tuple(Stretch(filled[at].first, min(filled[at].stop, filled[at].first + second)) for at in places)


def _reference(job: Job, windows: Sequence[Stretch]) -> Callable[[int], Frame]:
    """What a frame of the file was to look like: the picture, the film's frame at its window's start, or its own."""
    footage, keeping = job.footage, job.keeping
    if isinstance(footage, Picture):
        return lambda _: job.plan.shown(footage.pixels)
    original = None if keeping is None else keeping.original

    def window_of(frame: int) -> Window:
        return job.plan.windows[max(index for index, window in enumerate(windows) if window.first <= frame)]

    if original is not None:  # a scene may begin a little before its first frame of the clip
        return lambda frame: original.video.whole(
            max(original.size), max(original.clip_frame(frame), window_of(frame).keep_start)
        )
    return lambda frame: job.plan.shown(footage.frame(window_of(frame).start))


def _made(job: Job) -> Callable[[int], Sequence[Box]]:
    """What is generated of a frame of the file: all of it, or with `keep` the middle of each speaker's face."""
    keeping = job.keeping
    if keeping is None:
        return lambda _: (WHOLE,)
    sides = np.array(keeping.source.canvas.size)

    def faces(frame: int) -> list[Box]:
        points = keeping.tracks.points[keeping.source.stored_index(frame)] / sides
        low, high = points.min(1), points.max(1)  # NaN where a face is not seen
        border = (1 - _MIDDLE) / 2 * (high - low)
        return [(x0, y0, x1, y1) for x0, y0, x1, y1 in np.hstack((low + border, high - border)).tolist()]

    return faces


def _choose(job: Job) -> Callable[[int, Sequence[Face], tuple[int, int]], list[Face | None]]:
    """The speakers among the faces of one of the file's frames."""
    source, crop = job.footage.source_size, job.places.crop
    is_whole = job.keeping is not None and job.keeping.original is not None
    area = cover_crop(source, job.plan.size, crop) if job.plan.inner is None else (0.0, 0.0, *source)
    shown = shown_part(source, job.plan.size, crop)

    def choose(scene: int, found: Sequence[Face], size: tuple[int, int]) -> list[Face | None]:
        boxes = job.boxes[min(scene, len(job.boxes) - 1)]
        if is_whole:
            return speakers_among(
                [face for face in found if share(face.fractions(size), shown) >= MIN_SHOWN], boxes, size
            )
        return speakers_among(found, [in_part(box, source, area) for box in boxes], size)

    return choose


def _suggested(job: Job, has_separator: bool) -> dict[str, int | float | bool]:
    """Values of fields that would make another video of the job."""
    plan = job.plan
    more = _GUIDANCE if plan.audio_guidance == 1 else min(plan.audio_guidance + _MORE_GUIDANCE, _MOST_GUIDANCE)
    suggested: dict[str, int | float | bool] = {"seed": (plan.seed + 1) % (MAX_SEED + 1)}
    if more > plan.audio_guidance:
        suggested["audio_guidance"] = more
    if plan.color_correction < 1:
        suggested["color_correction"] = 1.0
    if has_separator and not plan.separated_chunks:
        suggested["isolate_vocals"] = True
    return suggested
