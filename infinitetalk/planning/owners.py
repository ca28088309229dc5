"""Which of the faces that were found are the speakers', and what to say where that is not clear.

Boxes are as in planning/framing.py.
"""

from collections.abc import Mapping, Sequence

from infinitetalk.contract.speakers import Speaker
from infinitetalk.errors import InvalidInput
from infinitetalk.planning.framing import MIN_SHOWN, Box, area, holds, share

Found = Sequence[Box] | None  # faces from left to right; None where nothing can find them


def faces_of(
    speakers: Sequence[Speaker], faces: Found, picture: str, chooses: bool, order: Sequence[int] | None
) -> tuple[Mapping[int, int], list[str]]:
    """The face of each speaker who has one, by their numbers, and what to say of it."""
    notes: list[str] = []
    if faces is None:
        unplaced = [speaker for speaker in speakers if speaker.box is None]
        if 0 < len(unplaced) < len(speakers):  # a column might lie in another's box
            raise InvalidInput(f"{_entry(unplaced[0])} has no place, and this worker cannot find faces: give it a box.")
        return {}, notes
    owners: dict[int, int] = {}
    for number, speaker in enumerate(speakers):
        if isinstance(speaker.face, int):
            if speaker.face >= len(faces):
                raise InvalidInput(
                    f"{_entry(speaker)}.face is {speaker.face}, but {_count(len(faces))} found in {picture}"
                    f"{_indices(len(faces))}: choose {'one of these' if faces else 'another picture'}, or give a box."
                )
            owners[number] = speaker.face
    for number, speaker in enumerate(speakers):
        if speaker.box is not None:
            inside = [index for index, face in enumerate(faces) if holds(speaker.box, face)]
            for index in inside:
                if index in owners.values():
                    raise InvalidInput(
                        f"{box_name(speaker, number)} holds face {index}, which another of the speakers has: each "
                        "place can belong to one speaker only."
                    )
            if not inside:
                notes.append(
                    f"{box_name(speaker, number)} holds no face that was found in {picture}: if nobody is there, "
                    "nobody is seen to speak."
                )
            elif len(inside) > 1:
                notes.append(f"{box_name(speaker, number)} holds {len(inside)} faces: all of them may speak.")
            if inside:
                owners[number] = max(inside, key=lambda index: area(faces[index]))
    waiting = [number for number, speaker in enumerate(speakers) if speaker.box is None and number not in owners]
    taken = [
        index for index, face in enumerate(faces) if any(s.box is not None and holds(s.box, face) for s in speakers)
    ]
    free = [index for index in range(len(faces)) if index not in owners.values() and index not in taken]
    if len(waiting) == len(free):
        owners |= dict(zip(waiting, order or free, strict=True))
    elif waiting and chooses:
        notes.append(_no_match(speakers, waiting, len(free), len(faces), picture))
    return owners, notes


def default_holds(speakers: Sequence[Speaker], faces: Sequence[Box], shown: Box) -> bool:
    """Whether a job without `speakers` shows its speakers where it has them: one in the picture, or one in each half.

    Args:
        shown: the part that the video shows.
    """
    if len(speakers) == 1:
        return share(faces[0], shown) >= MIN_SHOWN
    return _in_halves(faces, shown) == [1, 1]


def _in_halves(faces: Sequence[Box], shown: Box) -> list[int]:
    """How many faces that the video shows are in the left and in the right half of the picture."""
    halves = [(0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)]
    return [sum(holds(half, face) and share(face, shown) >= MIN_SHOWN for face in faces) for half in halves]


def instead_of_halves(speakers: Sequence[Speaker], faces: Sequence[Box], picture: str) -> str:
    """What to say where two faces that were found take the place of the halves."""
    return (
        f"{len(faces)} faces were found in {picture}, and not one in each half of what the video would show: the "
        f"voices are given to these faces, from left to right. {_how(speakers)}."
    )


def unchosen(speakers: Sequence[Speaker], faces: Sequence[Box], shown: Box, picture: str) -> list[str]:
    """Warnings for a job without `speakers` that is made by default: where its speakers are not where it has them."""
    found = f"{_count(len(faces))} found in {picture}{_indices(len(faces))}"
    found = found[0].upper() + found[1:]
    if any(speaker.box for speaker in speakers):
        return []
    if not faces:
        return [f"{found}: if somebody is in it all the same, nothing is wrong; otherwise send another picture."]
    if len(speakers) == 1:
        seen = sum(share(face, shown) >= MIN_SHOWN for face in faces)
        if seen > 1:
            some = "" if seen == len(faces) else f", of which the video shows {seen}"
            return [f"{found}{some}, and one voice was given: {_anyone(seen)} {_how(speakers)}."]
        if seen == 0:
            return [
                f"{found}, outside the part that the video shows, its centre: with the field speakers the shown part "
                "moves to the speaker's face; or choose another aspect_ratio, or fit pad."
            ]
        return []
    held = _in_halves(faces, shown)
    if held == [1, 1]:
        return []
    return [
        f"{found}, and two voices were given: the speakers are taken to be in the left and the right half, of which "
        f"the video shows {held[0]} and {held[1]} of the faces. {_how(speakers)}."
    ]


def _no_match(speakers: Sequence[Speaker], waiting: Sequence[int], n_free: int, n_faces: int, picture: str) -> str:
    """What to say where faces and voices are not equally many. Raises InvalidInput where there is no default."""
    found = f"{_count(n_faces)} found in {picture}{_indices(n_faces)}"
    if len(waiting) < len(speakers):
        raise InvalidInput(
            f"{_entry(speakers[waiting[0]])} has no place: {found}, {n_free} of them left for {_voices(len(waiting))}; "
            "give it a face or a box."
        )
    found = found[0].upper() + found[1:]
    if len(speakers) == 1:
        return f"{found}, and one voice was given: {_anyone(n_faces)} {_how(speakers)}."
    return (
        f"{found}, and {len(speakers)} voices were given: the speakers are taken to stand side by side in columns of "
        f"equal width. {_how(speakers)}."
    )


def _entry(speaker: Speaker) -> str:
    return speaker.voice.removesuffix(".wav_url")


def box_name(speaker: Speaker, number: int) -> str:
    return f"{_entry(speaker)}.box" if "." in speaker.voice else f"speaker_boxes[{number}]"


def place_names(speakers: Sequence[Speaker], boxes: Sequence[Box | None]) -> list[str]:
    """What messages call the speakers' places: the field of a box, a face, or the column that no field names.

    Args:
        boxes: of the speakers, as they were placed; None: a column.
    """
    names = []
    for number, (speaker, box) in enumerate(zip(speakers, boxes, strict=True)):
        if speaker.box is not None:
            names.append(box_name(speaker, number))
        elif box is not None:
            names.append(f"The face of {speaker.name}")
        else:
            side = (
                f"column {number + 1} of {len(speakers)}" if len(speakers) != 2 else ("left half", "right half")[number]
            )
            names.append(f"The place of {speaker.name} (the picture's {side}, since no box is given)")
    return names


def _count(faces: int) -> str:
    return {0: "nobody was", 1: "1 face was"}.get(faces, f"{faces} faces were")


def _indices(faces: int) -> str:
    return f" (0 to {faces - 1} from left to right)" if faces > 1 else ""


def _voices(count: int) -> str:
    return "1 voice" if count == 1 else f"{count} voices"


def _anyone(faces: int) -> str:
    return "any of them may be seen to speak." if faces else "the model takes whatever it takes for a face."


def _how(speakers: Sequence[Speaker]) -> str:
    if speakers[0].part is not None:
        return "To choose, give speaker_boxes (a dry_run lists the faces as people)"
    is_listed = "." in speakers[0].voice
    how = "give each of the speakers" if is_listed else "use the field speakers, with"
    return f"To choose, {how} a face or a box (a dry_run lists the faces as people)"
