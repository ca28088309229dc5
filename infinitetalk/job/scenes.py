"""The scenes of a source video: where they begin, and where the speakers are in each."""

from infinitetalk.contract.request import Request
from infinitetalk.errors import InvalidInput
from infinitetalk.faces.finder import FaceFinder
from infinitetalk.generation.masks import person_masks
from infinitetalk.generation.pipeline import Footage
from infinitetalk.job.people import find_in_video
from infinitetalk.media.video import CUTS_TIME_LIMIT_S, SourceVideo
from infinitetalk.planning.extension import cuts_of_clip, source_index
from infinitetalk.planning.framing import Box
from infinitetalk.planning.places import Placed, chooses_places, place_speakers
from infinitetalk.planning.plan import Plan
from infinitetalk.shapes import FPS

Boxes = tuple[Box | None, ...]

_MAX_NAMED = 8  # cuts that a warning lists


def find_cuts(footage: Footage, n_frames: int) -> tuple[tuple[int, ...], tuple[int, ...], list[str]]:
    """The frames of the source and of the clip with which further scenes begin, and what to say of it."""
    if not isinstance(footage, SourceVideo):
        return (), (), []
    found = footage.cuts(min(n_frames, footage.n_frames))
    if found is None:
        return (
            (),
            (),
            [
                f"video_url takes more than {CUTS_TIME_LIMIT_S:g} s to be decoded, and was not searched for cuts: "
                "windows may span them. A smaller video, or one of fewer frames a second, is searched."
            ],
        )
    cuts = cuts_of_clip(found, n_frames, footage.n_frames, footage.extend)
    if not cuts:
        return (), (), []
    return found, cuts, [f"video_url is cut at {_seconds(cuts)} s: each scene is made by itself, from its own frames."]


def boxes_of_scenes(
    request: Request, plan: Plan, footage: Footage, placed: Placed, faces: FaceFinder | None
) -> tuple[tuple[Boxes, ...], list[str]]:
    """The speakers' boxes in each scene, and what the caller should know about it.

    Where the job lets faces choose, the speakers are looked for anew in each scene, with the voices in the first
    scene's order. Where the job's choice fits nobody who is shown there, the first scene's places stand.
    """
    first = placed.places.boxes
    if faces is None or not chooses_places(request) or not isinstance(footage, SourceVideo):
        return (first,) * (len(plan.cuts) + 1), []
    known: dict[int, Boxes | None] = {0: first}  # by the source's frame: a loop shows it again and again
    boxes, lost = [first], []
    for cut in plan.cuts:
        index = source_index(cut, footage.n_frames, footage.extend)
        if index not in known:
            known[index] = _boxes_at(index, request, plan, footage, placed, faces)
        here = known[index]
        if here is None:
            lost.append(cut)
        boxes.append(here or first)
    if not lost:
        return tuple(boxes), []
    is_placed = placed.places.are_bound or request.keep == "speakers"
    instead = "their places of the first scene stand" if is_placed else "anybody may be seen to speak"
    scenes = "scene" if len(lost) == 1 else "scenes"
    return tuple(boxes), [
        f"In the {scenes} from {_seconds(lost)} s the speakers are not found as the job names them, or not in the part "
        f"that the video shows: {instead}. To choose, send the scene as a job of its own."
    ]


def _boxes_at(
    index: int, request: Request, plan: Plan, footage: SourceVideo, placed: Placed, faces: FaceFinder
) -> Boxes | None:
    """The boxes in the scene that begins with a frame of the source; None where the job's choice cannot be followed."""
    found, crop = find_in_video(faces, footage, index), placed.places.crop
    try:
        here = place_speakers(request, found, footage.source_size, plan.size, placed.order, crop)
        person_masks(here.places.boxes, footage.source_size, plan.size, crop)  # refuses what the video does not show
    except InvalidInput:
        return None
    # Where the first scene shows nobody else, the voice has the whole picture in all scenes.
    is_open = request.keep == "all" and here.places.are_bound and not placed.places.are_bound
    return here.places.boxes if here.are_found and not is_open else None


def _seconds(cuts: tuple[int, ...] | list[int]) -> str:
    more = f" and {len(cuts) - _MAX_NAMED} more" if len(cuts) > _MAX_NAMED else ""
    return ", ".join(f"{cut / FPS:.2f}" for cut in cuts[:_MAX_NAMED]) + more
