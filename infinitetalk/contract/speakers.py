"""Who speaks: the entries of the field `speakers`, and how it goes with the older fields."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from infinitetalk.contract.values import MAX_DURATION_S, STRICT, Box, Face, Url, overlap
from infinitetalk.contract.wording import unknown_fields

MAX_SPEAKERS = 4


@dataclass(frozen=True)
class Speaker:
    """One who speaks.

    Args:
        voice: the field of the voice.
        box: where in the picture they are; None if the job does not say.
        face: which of the faces is theirs, counted from left to right from 0, or "auto"; None if the job does not say.
        start_s: when the voice begins; None where the field speaker_order decides.
        part: which of the two voices of one recording it is, 1 or 2; None where each voice has a file of its own.
    """

    voice: str
    box: Box | None = None
    face: int | Literal["auto"] | None = None
    start_s: float | None = None
    part: int | None = None

    @property
    def name(self) -> str:
        """The voice, for messages."""
        return self.voice if self.part is None else f"{self.voice} (speaker {self.part})"


class SpeakerEntry(BaseModel):
    """One of a job's `speakers`."""

    model_config = STRICT

    wav_url: Url = Field(repr=False, description="The voice, in any common audio or video container.")
    box: Box | None = Field(
        None, description="Where the speaker is: a box [x0, y0, x1, y1] in fractions of the input picture."
    )
    face: Face | None = Field(
        None, description="Which face speaks, counted from left to right from 0; auto if as many are found as voices."
    )
    start_s: float = Field(0.0, ge=0, le=MAX_DURATION_S, description="When the voice begins, in seconds.")

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, entry: object) -> object:
        if isinstance(entry, Mapping):
            n_unknown = len(entry) - sum(name in entry for name in cls.model_fields)
            if n_unknown:
                raise ValueError("; ".join(unknown_fields(entry, n_unknown, cls.model_fields)))
        return entry

    @model_validator(mode="after")
    def _check_place(self) -> Self:
        if self.box is not None and self.face is not None:
            raise ValueError("box and face both say where the speaker is: give one of them")
        return self


# A JSON object arrives as a dict, which a strict model would refuse; its fields stay strict.
Speakers = Annotated[
    tuple[Annotated[SpeakerEntry, Field(strict=False)], ...],
    Field(strict=False, min_length=1, max_length=MAX_SPEAKERS),
]


# What says who speaks without `speakers`, and what to do with it beside them.
INSTEAD_OF_SPEAKERS = {
    "wav_url": "make it an entry of speakers",
    "wav_url_2": "make it an entry of speakers",
    "speaker_order": "give each of the speakers its start_s",
    "speaker_boxes": "give each of the speakers its box",
    "split_voices": "it takes apart wav_url; give the two speakers' places in speaker_boxes, and leave speakers out",
}


def speaker_conflicts(
    values: Mapping[str, Any], given: Collection[str], defaults: Mapping[str, Any], speakers: Sequence[Any]
) -> Iterator[str]:
    """Problems of `speakers`, objects or entries, with other fields and with each other."""
    for name, remedy in INSTEAD_OF_SPEAKERS.items():
        if name in values and values[name] != defaults[name]:
            yield f"{name} is not read beside speakers: {remedy}"
    said = values.get("person_count")
    if "person_count" in given and said is not None and (said == "multi") != (len(speakers) > 1):
        yield f"person_count is {said}, but speakers has {len(speakers)}: leave person_count out"
    entries = [entry if isinstance(entry, Mapping) else dict(entry) for entry in speakers]
    for (i, one), (j, other) in combinations(enumerate(entries), 2):
        if one.get("box") and other.get("box") and overlap(one["box"], other["box"]):
            yield f"speakers[{i}].box and speakers[{j}].box overlap: each place can belong to one speaker only"
        face = one.get("face")
        if type(face) is int and face == other.get("face"):
            yield f"speakers[{i}].face and speakers[{j}].face are both {face}: each face can have one voice only"
