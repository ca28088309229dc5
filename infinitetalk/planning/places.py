"""Where the speakers are in the picture, by the job and by the faces that were found, and which part the video shows.

Boxes are as in planning/framing.py.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from infinitetalk.contract.request import Request
from infinitetalk.contract.result import Person
from infinitetalk.contract.speakers import Speaker
from infinitetalk.errors import InvalidInput
from infinitetalk.planning.framing import (
    MIN_SHOWN,
    WHOLE,
    Box,
    Size,
    around,
    best_crop,
    columns,
    holds,
    moving_axis,
    pixels,
    share,
    shown_part,
)
from infinitetalk.planning.owners import Found, box_name, default_holds, faces_of, instead_of_halves, unchosen
from infinitetalk.shapes import CENTRE, PADDED, Crop

MIN_FACE_PX = 24  # of the video; smaller faces are hardly seen to speak
_DIGITS = 4  # of a box that are told
_LONG = 1.5  # times as long as the other side: nothing but 16:9 and 9:16
_NEAR = 0.02  # of a face or box that may be cut off unsaid


@dataclass(frozen=True)
class Places:
    """Who is where.

    Args:
        crop: where the shown part lies, as in `shapes.cover_crop`.
        boxes: of the speakers, in the order of their voices; None where two stand in the halves of the picture.
        others_silent: whether the speakers are chosen among several people, and all others are to keep still.
    """

    crop: Crop
    boxes: tuple[Box | None, ...]
    others_silent: bool

    @property
    def are_bound(self) -> bool:
        """Whether voices belong to places; otherwise one voice has the whole picture."""
        return len(self.boxes) > 1 or self.others_silent


@dataclass(frozen=True)
class Placed:
    """The places, and what the caller is told of them.

    Args:
        people: the faces that were found; None where nothing can find them.
        are_found: whether each of the speakers has a face or a box.
        order: the face of each voice, where it is not from left to right.
        chooses: whether faces that were found decide where the speakers are.
    """

    places: Places
    people: tuple[Person, ...] | None
    warnings: tuple[str, ...]
    are_found: bool = False
    order: tuple[int, ...] | None = None
    chooses: bool = False


def place_speakers(
    request: Request,
    faces: Found,
    source: Size,
    target: Size,
    order: tuple[int, ...] | None = None,
    first: Placed | None = None,
) -> Placed:
    """Choose the speakers' places and the part of the picture that the video shows.

    With `speakers` or `split_voices`, faces that were found take the place of columns, and the shown part moves to keep
    the speakers in it. In jobs without these fields they do so only where there is one face for each voice and the
    default would lose somebody: halves that do not hold one face each, or a face that is cut off. Otherwise such jobs
    are made as they always were, and what was found is told.

    Args:
        faces: the boxes of all faces, from left to right.
        source, target: (width, height) of the picture and of the video, in pixels.
        order: the face of each voice, where the job leaves that open; from left to right if not given.
        first: of the video's first scene, if this is a later one. Faces decide then; what is shown, and in which order
            the voices are, stays as it is there.

    Raises:
        InvalidInput: a face is asked for that is not there, two speakers are in one place, or they do not fit into one
            video or into the part that is decided.
    """
    picture = "image_url" if request.input_type == "image" else "the first frame of video_url"
    if first is not None:
        order, picture = first.order, "its first frame"
    speakers, found = request.all_speakers, faces or ()
    chooses = first is not None or request.speakers is not None or request.split_voices
    default = CENTRE if request.fit == "crop" else PADDED
    owners, notes = faces_of(speakers, faces, picture, chooses, order)
    if not chooses and len(owners) == len(speakers) == len(found) and not any(speaker.box for speaker in speakers):
        holds_all = default_holds(speakers, found, shown_part(source, target, default))
        chooses = not holds_all and (default is PADDED or best_crop(found, [], source, target) is not None)
        if chooses and len(speakers) > 1:
            notes.append(instead_of_halves(speakers, found, picture))
    crop = default
    if first is not None:
        crop = first.places.crop
        _check_shown(speakers, owners, found, shown_part(source, target, crop), picture)
    elif chooses and default is not PADDED:
        crop, moved = _crop(speakers, owners, found, source, target, picture)
        notes += moved
    shown = shown_part(source, target, crop)
    boxes = _boxes(speakers, owners, found, shown) if chooses else tuple(speaker.box for speaker in speakers)
    one_box = len(speakers) == 1 and speakers[0].box is not None
    have_places = all(speaker.box is not None or number in owners for number, speaker in enumerate(speakers))
    given = [speaker.box for speaker in speakers if speaker.box is not None]
    alone = [
        index not in owners.values() and not any(holds(box, face) for box in given) for index, face in enumerate(found)
    ]
    is_chosen = chooses and have_places and (one_box or len(found) > len(speakers) or any(alone))
    if not chooses and faces is not None:
        notes += unchosen(speakers, faces, shown, picture)
    size_of = partial(pixels, source=source, target=target, crop=crop)
    notes += _small(speakers, owners, found, size_of, request.resolution == "480p")
    notes += _cut_off(speakers, owners, found, shown, picture)
    people = None
    if faces is not None:
        people = tuple(_people(faces, owners, speakers, shown, size_of))
    return Placed(
        Places(crop, boxes, is_chosen), people, tuple(notes), have_places, order, chooses and faces is not None
    )


def _crop(
    speakers: Sequence[Speaker],
    owners: Mapping[int, int],
    faces: Sequence[Box],
    source: Size,
    target: Size,
    picture: str,
) -> tuple[float, list[str]]:
    """Where the shown part lies so that the speakers are in it, and what to say of it."""
    alone = [s.box for number, s in enumerate(speakers) if number not in owners and s.box is not None]
    crop = best_crop([faces[index] for index in owners.values()], alone, source, target)
    axis = moving_axis(source, target)
    if crop is None:
        is_longest = target[axis] > _LONG * target[1 - axis]
        other = "" if is_longest else f"choose aspect_ratio {('16:9', '9:16')[axis]}, or "
        raise InvalidInput(
            f"The speakers are too far apart in {picture} to be shown together: {other}set fit to pad, which keeps all "
            "of it."
        )
    shown, centred = shown_part(source, target, crop), shown_part(source, target, CENTRE)
    for number, speaker in enumerate(speakers):
        if speaker.box is not None and share(speaker.box, shown) == 0:
            raise InvalidInput(
                f"{box_name(speaker, number)} lies outside the part of {picture} that the video shows beside the "
                "other speakers; choose another box or aspect_ratio."
            )
    moved = shown[axis] - centred[axis]
    if crop == CENTRE:
        return crop, []
    way = {(0, False): "to the left", (0, True): "to the right", (1, False): "up", (1, True): "down"}[axis, moved > 0]
    return crop, [
        f"The part of {picture} that the video shows is moved {way}, by {abs(moved):.1%} of the picture's "
        f"{('width', 'height')[axis]}, to keep the speakers in it."
    ]


def _check_shown(
    speakers: Sequence[Speaker], owners: Mapping[int, int], faces: Sequence[Box], shown: Box, picture: str
) -> None:
    """Raise InvalidInput where a speaker's face is not in the part that the video shows."""
    for number, index in owners.items():
        if share(faces[index], shown) < MIN_SHOWN:
            raise InvalidInput(
                f"The face of {speakers[number].name} (face {index}) lies outside the part of {picture} that the video "
                "shows; choose another face or aspect_ratio."
            )


def _boxes(
    speakers: Sequence[Speaker], owners: Mapping[int, int], faces: Sequence[Box], shown: Box
) -> tuple[Box | None, ...]:
    """The speakers' boxes: their own, or around their faces, cut where a neighbour begins."""
    given = [speaker.box for speaker in speakers if speaker.box is not None]
    boxes: list[Box | None] = []
    if len(speakers) > 2 and not owners and not given:  # the authors' columns, of which two are always in sight
        return tuple(columns(len(speakers), shown))
    for number, speaker in enumerate(speakers):
        if speaker.box is not None or number not in owners:
            boxes.append(speaker.box)
            continue
        face = faces[owners[number]]
        others = [other for index, other in enumerate(faces) if index != owners[number]]
        boxes.append(around(face, others, given, shown))
    return tuple(boxes)


def _small(
    speakers: Sequence[Speaker],
    owners: Mapping[int, int],
    faces: Sequence[Box],
    size_of: Callable[[Box], Size],
    can_grow: bool,
) -> list[str]:
    """Warnings for speakers whose faces are too small to be seen to speak."""
    notes = []
    for number, index in sorted(owners.items()):
        side = max(size_of(faces[index]))
        if side < MIN_FACE_PX:
            notes.append(
                f"The face of {speakers[number].name} (face {index}) is {side} pixels high in the video; below "
                f"{MIN_FACE_PX} a mouth is hardly seen to speak: choose {'resolution 720p, or ' * can_grow}a picture "
                "cut closer."
            )
    return notes


def _cut_off(
    speakers: Sequence[Speaker], owners: Mapping[int, int], faces: Sequence[Box], shown: Box, picture: str
) -> list[str]:
    """A warning of the faces, and of the speakers' boxes, that the video does not show, or not wholly."""
    cut = [f"face {index}" for index, face in enumerate(faces) if 0 < share(face, shown) < share(face, WHOLE) - _NEAR]
    cut += [
        box_name(speaker, number)
        for number, speaker in enumerate(speakers)
        if speaker.box is not None and number not in owners and share(speaker.box, shown) < 1 - _NEAR
    ]
    gone = [f"face {index}" for index, face in enumerate(faces) if share(face, shown) == 0 < share(face, WHOLE)]
    told = [f"{said} {' and '.join(names)}" for said, names in (("cuts into", cut), ("leaves out", gone)) if names]
    if not told:
        return []
    return [
        f"The part of {picture} that the video shows {' and '.join(told)}: fit pad or whole keeps all of it, and an "
        "aspect_ratio nearer to its shape more."
    ]


def _people(
    faces: Sequence[Box],
    owners: Mapping[int, int],
    speakers: Sequence[Speaker],
    shown: Box,
    size_of: Callable[[Box], Size],
) -> list[Person]:
    voices = {index: speakers[number].name for number, index in owners.items()}
    people = []
    for index, face in enumerate(faces):
        width, height = size_of(face)
        x0, y0, x1, y1 = (round(min(max(edge, 0.0), 1.0), _DIGITS) for edge in face)
        person = Person(
            index=index,
            box=(x0, y0, x1, y1),
            width=width,
            height=height,
            is_shown=share(face, shown) >= MIN_SHOWN,
            voice=voices.get(index),
        )
        people.append(person)
    return people
