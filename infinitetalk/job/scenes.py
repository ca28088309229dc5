"""The scenes of a source video: where they begin, and where the speakers are in each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from infinitetalk.contract.request import Request
from infinitetalk.errors import InvalidInput
from infinitetalk.faces.finder import FaceFinder
from infinitetalk.generation.masks import person_masks
from infinitetalk.generation.pipeline import Footage
from infinitetalk.job.people import find_in_video
from infinitetalk.media.video import CUTS_TIME_LIMIT_S, SourceVideo
from infinitetalk.planning.extension import cuts_of_clip, source_index
from infinitetalk.planning.framing import Box, Size
from infinitetalk.planning.places import Placed, place_speakers
from infinitetalk.shapes import FPS

Boxes = tuple[Box | None, ...]

_MAX_NAMED = 8  # cuts that a warning lists


@dataclass(frozen=True)
class Scenes:
    """Where scenes begin.

    Args:
        source: the source's frames, at 25 a second, with which further scenes begin.
        clip: the same of the clip, which may show the source more than once.
    """

    source: tuple[int, ...] = ()
    clip: tuple[int, ...] = ()


@dataclass(frozen=True)
class Cast:
    """Where the speakers are in each scene.

    Args:
        boxes: of the speakers, scene by scene.
        others_silent: whether in any scene others are there, who are to keep still.
        warnings: what the caller should know about it.
    """

    boxes: tuple[Boxes, ...]
    others_silent: bool
    warnings: tuple[str, ...] = ()


def find_scenes(footage: Footage, n_frames: int) -> tuple[Scenes, list[str]]:
    """The scenes of a clip of so many frames, and what to say of them."""
    if not isinstance(footage, SourceVideo):
        return Scenes(), []
    found = footage.cuts(min(n_frames, footage.n_frames))
    if found is None:
        return Scenes(), [
            f"video_url takes more than {CUTS_TIME_LIMIT_S:g} s to be decoded, and was not searched for cuts: "
            "windows may span them. A smaller video, or one of fewer frames a second, is searched."
        ]
    clip = cuts_of_clip(found, n_frames, footage.n_frames, footage.extend)
    returns = {cut for cut in clip if footage.extend == "loop" and cut % footage.n_frames == 0}
    cuts = [cut for cut in clip if cut not in returns]
    told = [f"is cut at {_seconds(cuts)} s"] if cuts else []
    if returns:
        told.append(f"begins again at {_seconds(sorted(returns))} s")
    if not told:
        return Scenes(), []
    return Scenes(found, clip), [f"video_url {' and '.join(told)}: each scene is made by itself, from its own frames."]


def cast_scenes(
    request: Request, scenes: Scenes, footage: Footage, size: Size, placed: Placed, faces: FaceFinder | None
) -> Cast:
    """Find the speakers in each scene.

    Where faces decide, the speakers are looked for anew in each scene, with the voices in the first
    scene's order. Where the job's choice fits nobody who is shown there, the first scene's places stand.

    Args:
        size: of the video.
    """
    first = placed.places
    if faces is None or not placed.chooses or not isinstance(footage, SourceVideo):
        return Cast((first.boxes,) * (len(scenes.clip) + 1), first.others_silent)
    known: dict[int, Placed | None] = {}  # by the source's frame: a loop shows it again and again
    found: list[Placed | None] = []
    for cut in scenes.clip:
        index = source_index(cut, footage.n_frames, footage.extend)
        if index not in known:
            known[index] = placed if index == 0 else _placed_at(index, request, footage, size, placed, faces)
        found.append(known[index])
    boxes = (first.boxes, *(first.boxes if here is None else here.places.boxes for here in found))
    others_silent = any(here is not None and here.places.others_silent for here in (placed, *found))
    is_placed = len(first.boxes) > 1 or others_silent or request.keep == "speakers"
    return Cast(boxes, others_silent, tuple(_told(request, scenes.clip, found, placed, is_placed)))


def _placed_at(
    index: int, request: Request, footage: SourceVideo, size: Size, placed: Placed, faces: FaceFinder
) -> Placed | None:
    """Who is where in the scene that begins with a frame of the source; None where the job's choice does not fit."""
    found = find_in_video(faces, footage, index)
    try:
        here = place_speakers(request, found, footage.source_size, size, first=placed)
        # It refuses what the video does not show.
        person_masks(here.places.boxes, footage.source_size, size, here.places.crop)
    except InvalidInput:
        return None
    return here if here.are_found else None


def _told(
    request: Request, cuts: Sequence[int], found: Sequence[Placed | None], placed: Placed, is_placed: bool
) -> Iterator[str]:
    lost = [cut for cut, here in zip(cuts, found, strict=True) if here is None]
    if lost:
        instead = "their places of the first scene stand" if is_placed else "anybody may be seen to speak"
        yield (
            f"In the {'scene' if len(lost) == 1 else 'scenes'} from {_seconds(lost)} s the speakers are not found as "
            f"the job names them, or not in the part that the video shows: {instead}. To choose, send the scene as a "
            "job of its own."
        )
    others = [(cut, here) for cut, here in zip(cuts, found, strict=True) if here is not None and here is not placed]
    several = [cut for cut, here in others if max(len(here.people or ()), len(placed.people or ())) > 1]
    if several and any(isinstance(speaker.face, int) for speaker in request.all_speakers):
        yield (
            f"The field face counts the faces of each scene anew, from left to right, so also from "
            f"{_seconds(several)} s: where it means somebody else, send the scene as a job of its own."
        )
    notes: dict[str, list[int]] = {}
    for cut, here in others:
        for note in (note for note in here.warnings if note not in placed.warnings):
            notes.setdefault(note, []).append(cut)
    for note, where in notes.items():
        yield f"In the {'scene' if len(where) == 1 else 'scenes'} from {_seconds(where)} s: {note}"


def _seconds(cuts: tuple[int, ...] | list[int]) -> str:
    more = f" and {len(cuts) - _MAX_NAMED} more" if len(cuts) > _MAX_NAMED else ""
    return ", ".join(f"{cut / FPS:.2f}" for cut in cuts[:_MAX_NAMED]) + more
