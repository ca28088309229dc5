"""Which voice belongs to which face of a source video: its beginning watched, its mouths against the job's voices."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from infinitetalk.contract.request import Request
from infinitetalk.faces.finder import MAX_SIDE, Face, FaceFinder
from infinitetalk.faces.matching import Match, match_voices
from infinitetalk.faces.mouths import MIN_FRAMES, Floats, openness_curve
from infinitetalk.job.people import Box
from infinitetalk.media.speech import SILENT, loudness
from infinitetalk.media.video import SourceVideo
from infinitetalk.shapes import CENTRE, FPS, SAMPLE_RATE_HZ, whole_size

Faces = tuple[Face | None, ...]

ENOUGH_SPEECH_S = 15.0  # after so much of it the order is clear where it can be told at all
MAX_WATCHED_S = 60.0
_FACE_PX = 96  # the smallest face is watched at this size; more tells no more of its mouth
_CHUNK_BYTES = 48 << 20  # of frames at once
_MAX_MISSING, _MAX_JUMP = 12, 0.5  # frames, and face sizes in one frame: what follows may be another scene


def watched_match(
    request: Request, finder: FaceFinder, boxes: Sequence[Box], video: SourceVideo, waves: Sequence[Floats]
) -> Match | None:
    """Measure which voice belongs to which face, where the job leaves that open and there are as many of both.

    Args:
        boxes: of the faces in the first frame, from left to right, in fractions of it.
        video: any part of it, in any size.
        waves: the voices in their places, 16 kHz.

    Returns None where there is nothing to decide, or too little to measure.
    """
    speakers = request.all_speakers
    is_open = all(speaker.box is None and not isinstance(speaker.face, int) for speaker in speakers)
    if not is_open or len(speakers) < 2 or len(boxes) != len(speakers):
        return None
    n_frames = min(video.n_frames, len(waves[0]) * FPS // SAMPLE_RATE_HZ)
    if n_frames < MIN_FRAMES:
        return None
    loud = [loudness(wave, n_frames) for wave in waves]
    whole = replace(video, size=whole_size(video.source_size, _longest(boxes, video.source_size)), crop=CENTRE)
    faces = finder.find(whole.frame(0))
    if len(faces) != len(boxes):
        return None
    followed = _one_scene(finder.follow(_frames(whole, _enough(loud)), faces))
    curves = [
        openness_curve(None if face is None else face.points for face in one) for one in zip(*followed, strict=True)
    ]
    return match_voices(curves, [voice[: len(followed)] for voice in loud]) if followed else None


def match_note(request: Request, match: Match, is_followed: bool) -> str:
    """What the caller is told of an order that is not from left to right.

    Args:
        is_followed: whether the job is made in this order.
    """
    speakers = request.all_speakers
    pairs = " and ".join(f"face {face} with {one.name}" for face, one in zip(match.faces, speakers, strict=True))
    measured = (
        f"In video_url the mouths move with the voices in another order than from left to right: {pairs} (correlation "
        f"{match.margin:.2f} higher, {match.speech_s:.1f} s of speech)."
    )
    given = "The voices are given to the faces in this order; to choose another, give"
    if request.speakers is not None:
        return f"{measured} {given} each of the speakers a face."
    if is_followed:
        return f"{measured} {given} speaker_boxes."
    return f"{measured} The job keeps wav_url to the left; if the mouths are right, exchange wav_url and wav_url_2."


def _longest(boxes: Sequence[Box], source: tuple[int, int]) -> int:
    """The longer side of frames in which the smallest face is as large as it has to be."""
    smallest = min(max((x1 - x0) * source[0], (y1 - y0) * source[1]) for x0, y0, x1, y1 in boxes)
    return min(MAX_SIDE, round(max(source) * min(1.0, _FACE_PX / smallest)))


def _enough(loud: Sequence[Floats]) -> int:
    """How many frames have to be watched."""
    longest = min(len(loud[0]), round(MAX_WATCHED_S * FPS))
    heard = np.cumsum(np.max(loud, axis=0)[:longest] >= SILENT)
    return int(np.searchsorted(heard, ENOUGH_SPEECH_S * FPS)) + 1 if heard[-1] >= ENOUGH_SPEECH_S * FPS else longest


def _frames(video: SourceVideo, n_frames: int) -> Iterator[NDArray[np.uint8]]:
    """The first frames of a video, read in chunks."""
    width, height = video.size
    chunk = max(1, _CHUNK_BYTES // (width * height * 3))
    for start in range(0, n_frames, chunk):
        yield from video.clip(start, min(chunk, n_frames - start))


def _one_scene(frames: Iterable[Faces]) -> list[Faces]:
    """The faces of each frame, up to where one is gone for long or is suddenly elsewhere."""
    seen: list[Faces] = []
    missing = 0
    for faces in frames:
        if seen and any(_jumped(before, now) for before, now in zip(seen[-1], faces, strict=True)):
            break
        missing = missing + 1 if None in faces else 0
        seen.append(faces)
        if missing > _MAX_MISSING:
            return seen[:-missing]
    return seen


def _jumped(before: Face | None, now: Face | None) -> bool:
    """Whether a face is farther from where it was than a head moves in a frame."""
    if before is None or now is None:
        return False
    moved = np.subtract(now.box, before.box)
    return bool(np.abs(moved).max() > _MAX_JUMP * before.size)
