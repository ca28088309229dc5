"""The job a caller sends: every field, its limits, and which fields go together."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    model_validator,
)

from infinitetalk.contract.speakers import INSTEAD_OF_SPEAKERS, Speaker, Speakers, speaker_conflicts
from infinitetalk.contract.values import LOCAL_FILES, MAX_DURATION_S, STRICT, Box, Fraction, Url, overlap
from infinitetalk.contract.wording import TOO_LARGE, URL_RULE, field_problems, show, unknown_fields
from infinitetalk.errors import InvalidInput, TooLarge
from infinitetalk.shapes import FPS

SpeedModeName = Literal["maximum_quality", "balanced", "fast", "turbo"]
InputType = Literal["image", "video"]
PersonCount = Literal["single", "multi"]
Ratio = Literal["16:9", "9:16", "1:1", "4:3", "3:4"]
AspectRatio = Literal[Ratio, "source"]
Fit = Literal["crop", "pad", "whole"]
Resolution = Literal["480p", "720p"]
SpeakerOrder = Literal["together", "first_then_second", "second_then_first"]
Extend = Literal["hold", "loop", "ping-pong"]
Keep = Literal["all", "speakers"]
Output = Literal["url", "base64", "volume"]
MediaField = str  # a field that names a file: image_url, wav_url, speakers[1].wav_url
MediaKind = Literal["image", "video", "audio"]

MAX_SEED = 2**63 - 1  # the largest that torch.Generator takes as it is
MAX_PROMPT_CHARS = 4000  # more than the text encoder's 512 tokens ever need
MAX_LANE_CHARS = 40


@dataclass(frozen=True)
class Media:
    """A field that names a file.

    Args:
        kind: what the file holds; `Settings.max_bytes` has the limit of its size.
        option: the field's name where files take the place of URLs.
    """

    kind: MediaKind
    option: str


MEDIA: Mapping[MediaField, Media] = {
    "image_url": Media("image", "image"),
    "video_url": Media("video", "video"),
    "wav_url": Media("audio", "audio"),
    "wav_url_2": Media("audio", "audio_2"),
}
VOICES: tuple[MediaField, ...] = tuple(field for field, media in MEDIA.items() if media.kind == "audio")


@dataclass(frozen=True)
class MediaFile:
    """A file that a job names.

    Args:
        field: where in the job; it names the file in errors, and among the job's files.
    """

    field: MediaField
    kind: MediaKind
    url: str = dataclass_field(repr=False)


class Request(BaseModel):
    """One job: who is animated, by which voice, and how."""

    model_config = STRICT

    speed_mode: SpeedModeName = Field("balanced", description="Quality against time: which preset runs.")
    input_type: InputType = Field("image", description="What is animated: a picture or a video.")
    person_count: PersonCount = Field("single", description="One speaker or several.")
    prompt: str = Field(
        "A person talking naturally.",
        max_length=MAX_PROMPT_CHARS,
        description="What the video should show.",
    )
    image_url: Url | None = Field(
        None, repr=False, description="The picture; required with input_type image, refused otherwise."
    )
    video_url: Url | None = Field(
        None, repr=False, description="The video; required with input_type video, refused otherwise."
    )
    wav_url: Url | None = Field(
        None,
        repr=False,
        description="The (first) voice, in any common audio or video container; required without speakers.",
    )
    wav_url_2: Url | None = Field(
        None,
        repr=False,
        description="The second voice; required with person_count multi without split_voices, refused otherwise.",
    )
    aspect_ratio: AspectRatio = Field(
        "9:16",
        description="Width to height of the result; source: the one of the others that is nearest to the input's.",
    )
    fit: Fit = Field(
        "crop",
        description="What becomes of an input of another shape: crop cuts it; pad keeps all of it, with a border of "
        "its blurred edges; whole takes this border off the result, which then has the input's shape.",
    )
    resolution: Resolution = Field(
        "480p",
        description="480p is 848x480 at 16:9, 720p is 1280x720; other aspect ratios have about as many pixels.",
    )
    seed: int | None = Field(
        None,
        ge=0,
        le=MAX_SEED,
        description="The same job, seed and settings give the same streams. If not given, one is drawn and returned.",
    )
    negative_prompt: str | None = Field(
        None,
        max_length=MAX_PROMPT_CHARS,
        description="What the video should not show; only with text_guidance above 1. "
        "If not given, the model's own negative prompt.",
    )
    # Guidance g goes g times the way from the unconditioned to the conditioned prediction. 1 is the conditioned
    # prediction itself; less would weaken the condition. The authors use 5 and 4 without the distillation LoRA. Beyond
    # 20 the prediction is mostly amplified difference.
    text_guidance: float = Field(
        1.0, ge=1, le=20, description="How strongly the prompt is followed; above 1 takes more time."
    )
    audio_guidance: float = Field(
        1.0, ge=1, le=20, description="How strongly the voice is followed; above 1 takes more time."
    )
    max_duration_s: float | None = Field(
        None, ge=1 / FPS, le=MAX_DURATION_S, description="Cuts the audio, and so the video, to this many seconds."
    )
    speaker_order: SpeakerOrder = Field(
        "together", description="Two voices at the same time, or one after the other; only with person_count multi."
    )
    speaker_boxes: Annotated[tuple[Box, Box], Field(strict=False)] | None = Field(
        None,
        description="Where the first and the second speaker are: two boxes [x0, y0, x1, y1] in fractions of "
        "the input picture, not overlapping; only with person_count multi. If not given, the left and the right half, "
        "or two faces that are found elsewhere.",
    )
    speakers: Speakers | None = Field(
        None,
        description="One to four voices, each with a place and a start: {wav_url, box or face, start_s}, in place of "
        "wav_url, wav_url_2, speaker_order and speaker_boxes.",
    )
    split_voices: bool = Field(
        False,
        description="Take wav_url, one recording of two people who speak in turn, apart into two voices; only with "
        "person_count multi, in place of wav_url_2. Whoever speaks first is the first speaker.",
    )
    isolate_vocals: bool | None = Field(
        None,
        description="Take the vocals out of a song for the model to hear; the video keeps the whole sound. "
        "If not given, the worker's ISOLATE_VOCALS decides.",
    )
    color_correction: Fraction = Field(
        0.0, description="How far each window's colours are matched to the reference frame's."
    )
    video_strength: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Only with input_type video. At 1 the video gives a reference frame for each window; "
        "below 1 generation also starts from the noised video.",
    )
    extend: Extend = Field(
        "hold",
        description="Only with input_type video. What follows where the video is shorter than the sound: its last "
        "frame, the video again from its beginning, or the video backwards and forwards.",
    )
    keep: Keep = Field(
        "all",
        description="What comes from the model: all of the frame, or the speakers' faces alone; "
        "everything else is then the source's. A video keeps its size and frame rate.",
    )
    lane: str | None = Field(
        None,
        max_length=MAX_LANE_CHARS,
        description="How the transformer computes: exact, or faster and less exact. Only one of the worker's LANES. If "
        "not given, the first of them.",
    )
    output: Output | None = Field(
        None, description="How the video comes back. If not given, the worker's OUTPUT decides."
    )
    preview: bool | None = Field(
        None,
        description="Whether finished windows can be watched while the job runs. If not given, they can where there "
        "is a bucket or a volume, unless the worker's PREVIEW says no.",
    )
    dry_run: bool = Field(False, description="Only check and plan the job, and estimate its time and price.")

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        problems = list(_conflicts(dict(self), self.model_fields_set))
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @classmethod
    def parse(cls, job_input: object, context: object = None) -> Self:
        """The request in a job's `input`.

        Args:
            context: LOCAL_FILES if the caller is this machine's user; file: URLs are then accepted too.

        Raises:
            InvalidInput: one message lists every problem.
            TooLarge: the only problems are data: URIs that are too long.
        """
        if not isinstance(job_input, Mapping):
            raise InvalidInput(f"input is {show(job_input)}: must be an object with the job's fields.")
        known = {name: job_input[name] for name in cls.model_fields if name in job_input}
        problems = list(unknown_fields(job_input, len(job_input) - len(known), cls.model_fields))
        n_too_large = 0
        try:
            request = cls.model_validate(known, context=context)
        except ValidationError as error:
            problems += cls._problems(error, known)
            n_too_large = sum(problem["type"] == TOO_LARGE for problem in error.errors(include_url=False))
        if problems:
            kind = TooLarge if n_too_large == len(problems) else InvalidInput
            raise kind(f"{'; '.join(problems)}.")
        return request

    @classmethod
    def of_files(
        cls,
        audio: Path | str | None = None,
        image: Path | str | None = None,
        video: Path | str | None = None,
        audio_2: Path | str | None = None,
        speakers: Sequence[Mapping[str, object]] | None = None,
        **fields: object,
    ) -> Self:
        """The request of this machine's user, with files in place of URLs.

        input_type and person_count follow from the files.

        Args:
            speakers: as in a job, but each with `audio`, a file, in place of wav_url.
            fields: the other fields, as in a job.

        Raises:
            InvalidInput, TooLarge: as in `parse`.
        """
        files = {"audio": audio, "image": image, "video": video, "audio_2": audio_2}
        given = {name: _file_url(file) for name, file in files.items() if file is not None}
        job = fields | {field: given[media.option] for field, media in MEDIA.items() if media.option in given}
        job["input_type"] = "image" if video is None else "video"
        if speakers is not None:
            job["speakers"] = [
                {name: value for name, value in entry.items() if name != "audio"}
                | ({"wav_url": _file_url(entry["audio"])} if "audio" in entry else {})
                for entry in speakers
            ]
        else:
            job["person_count"] = "multi" if audio_2 is not None or fields.get("split_voices") else "single"
        return cls.parse(job, LOCAL_FILES)

    @classmethod
    def _problems(cls, error: ValidationError, given: Mapping[str, Any]) -> Iterator[str]:
        """The problem of each wrong field, then the conflicts between the fields that are right by themselves."""
        wrong: set[str | None] = set()
        for name, sentence in field_problems(error, _schema()):
            wrong.add(name)
            yield sentence
        if None not in wrong:  # otherwise the conflicts are what was wrong, and have been told
            rest = {name: field.default for name, field in cls.model_fields.items() if name not in wrong}
            yield from _conflicts(rest | {name: given[name] for name in rest if name in given}, given)

    @property
    def all_speakers(self) -> tuple[Speaker, ...]:
        """Who speaks, in the order of their voices, whichever fields say so."""
        if self.speakers is not None:
            return tuple(
                Speaker(f"speakers[{index}].wav_url", entry.box, entry.face, entry.start_s)
                for index, entry in enumerate(self.speakers)
            )
        voices = [Speaker(field) for field in VOICES if getattr(self, field) is not None]
        if self.split_voices:
            voices = [Speaker("wav_url", part=part) for part in (1, 2)]
        boxes = self.speaker_boxes or [None] * len(voices)
        return tuple(replace(voice, box=box) for voice, box in zip(voices, boxes, strict=True))

    @property
    def media_files(self) -> tuple[MediaFile, ...]:
        """The files that the job names."""
        plain = (MediaFile(field, media.kind, getattr(self, field) or "") for field, media in MEDIA.items())
        entries = (
            MediaFile(speaker.voice, "audio", entry.wav_url)
            for speaker, entry in zip(self.all_speakers, self.speakers or (), strict=False)
        )
        return (*(file for file in plain if file.url), *entries)

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """JSON schema of the job's `input`, with descriptions."""
        return cls.model_json_schema() | {"anyOf": [{"required": ["wav_url"]}, {"required": ["speakers"]}]}


# (field, the field that decides whether it applies, the value with which it does, whether it is then required)
_BELONGS_TO: tuple[tuple[str, str, str, bool], ...] = (
    ("image_url", "input_type", "image", True),
    ("video_url", "input_type", "video", True),
    ("video_strength", "input_type", "video", False),
    ("extend", "input_type", "video", False),
    ("wav_url_2", "person_count", "multi", True),
    ("speaker_order", "person_count", "multi", False),
    ("speaker_boxes", "person_count", "multi", False),
    ("split_voices", "person_count", "multi", False),
)
# Beside split_voices these say something else of the voices, and what to do then.
_NOT_WITH_SPLIT_VOICES = {
    "wav_url_2": "leave split_voices out if each voice is a file of its own",
    "speaker_order": "the recording itself says when each of them speaks",
}


def _conflicts(values: Mapping[str, Any], given: Collection[str]) -> Iterator[str]:
    """Problems between fields that are right by themselves. Rules about absent fields are skipped.

    Args:
        given: the fields that the caller sent; `values` has the defaults of the others.
    """
    speakers = values.get("speakers")
    for name, decider, value, required in _BELONGS_TO:
        if name not in values or decider not in values or (speakers is not None and name in INSTEAD_OF_SPEAKERS):
            continue
        if values[decider] != value:
            if values[name] != Request.model_fields[name].default:
                yield f"{name} is only for {decider} {value}, but {decider} is {values[decider]}"
        elif required and values[name] is None and not (name == "wav_url_2" and values.get("split_voices")):
            yield f"{name} is missing: {decider} {value} needs it"
    if values.get("split_voices"):
        for name, remedy in _NOT_WITH_SPLIT_VOICES.items():
            if name in values and values[name] != Request.model_fields[name].default:
                yield f"{name} is not read with split_voices: {remedy}"
    if values.get("negative_prompt") is not None and values.get("text_guidance") == 1:
        yield "negative_prompt is only read with text_guidance above 1: raise the guidance or leave the prompt out"
    if values.get("speaker_boxes") is not None and any(
        overlap(a, b) for a, b in combinations(values["speaker_boxes"], 2)
    ):
        yield "speaker_boxes overlap: each place can belong to one speaker only"
    if speakers is not None:
        defaults = {name: Request.model_fields[name].default for name in INSTEAD_OF_SPEAKERS}
        yield from speaker_conflicts(values, given, defaults, speakers)
    elif "speakers" in values and "wav_url" in values and values["wav_url"] is None:
        yield f"wav_url is {'null' if 'wav_url' in given else 'missing'}: must be {URL_RULE}"


def _file_url(file: object) -> str:
    """The file: URL of a path."""
    return Path(str(file)).resolve().as_uri()


@cache
def _schema() -> dict[str, Any]:
    """The job's JSON schema."""
    return Request.json_schema()
