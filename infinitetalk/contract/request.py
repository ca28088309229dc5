"""The job a caller sends: every field, its limits, and which fields go together."""

import json
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from itertools import islice
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from infinitetalk.errors import InvalidInput, TooLarge
from infinitetalk.shapes import FPS

SpeedModeName = Literal["maximum_quality", "balanced", "fast", "turbo"]
InputType = Literal["image", "video"]
PersonCount = Literal["single", "multi"]
AspectRatio = Literal["16:9", "9:16"]
Resolution = Literal["480p", "720p"]
SpeakerOrder = Literal["together", "first_then_second", "second_then_first"]
Output = Literal["url", "base64", "volume"]

MAX_DURATION_S = 86_400  # a day: far more than any worker accepts, and still a number of samples
MAX_SEED = 2**63 - 1  # the largest that torch.Generator takes as it is
MAX_PROMPT_CHARS = 4000  # more than the text encoder's 512 tokens ever need
MAX_URL_CHARS = 8192
# About 10 MB of media. RunPod refuses requests over 10 MB (/run) or 20 MB (/runsync) as a whole.
MAX_DATA_URI_CHARS = 14_000_000

LOCAL_FILES = "local files"

_TOO_LARGE = "too_large"
_URL_RULE = "an http(s) URL or a base64 data: URI"
_BOXES_RULE = "two boxes [x0, y0, x1, y1] in fractions of the picture: 0 <= x0 < x1 <= 1, 0 <= y0 < y1 <= 1"
_DATA_URI = re.compile(r"data:[^,]{0,200};base64,(?=.)", re.IGNORECASE)


def _check_url(url: str, info: ValidationInfo) -> str:
    """Refuse what cannot be a URL of media. Whether anything is there is found out on download."""
    if url.startswith("file:") and info.context == LOCAL_FILES:
        return url
    if url[:5].lower() == "data:":
        if len(url) > MAX_DATA_URI_CHARS:
            raise PydanticCustomError(
                _TOO_LARGE,
                "must have at most {limit} characters; give larger media as an http(s) URL",
                {"limit": MAX_DATA_URI_CHARS},
            )
        if not _DATA_URI.match(url) or not url.isascii():
            raise ValueError("must look like data:image/png;base64,iVBORw0KGgo=")
        return url
    if len(url) > MAX_URL_CHARS:
        raise ValueError(f"must be {_URL_RULE} of at most {MAX_URL_CHARS} characters")
    if re.search(r"[\s\x00-\x1f\x7f]", url):
        raise ValueError(f"must be {_URL_RULE} without spaces or line breaks")
    try:
        parts = urlsplit(url)
        complete = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bad port or a broken IPv6 address
        complete = False
    if not complete:
        raise ValueError(f"must be {_URL_RULE}")
    return url


def _check_box(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = box
    if not (x0 < x1 and y0 < y1):
        raise ValueError("must have x0 < x1 and y0 < y1")
    return box


Fraction = Annotated[float, Field(ge=0, le=1)]
Url = Annotated[str, AfterValidator(_check_url), Field(json_schema_extra={"format": "uri"})]
# A JSON array arrives as a list, which a strict tuple would refuse; its numbers stay strict.
Box = Annotated[tuple[Fraction, Fraction, Fraction, Fraction], Field(strict=False), AfterValidator(_check_box)]


class Request(BaseModel):
    """One job: who is animated, by which voice, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, hide_input_in_errors=True)

    speed_mode: SpeedModeName = Field("balanced", description="Quality against time: which preset runs.")
    input_type: InputType = Field("image", description="What is animated: a picture or a video.")
    person_count: PersonCount = Field("single", description="One speaker or two.")
    prompt: str = Field(
        "A person talking naturally.",
        max_length=MAX_PROMPT_CHARS,
        description="What the video should show.",
    )
    image_url: Url | None = Field(
        None, repr=False, description="The picture; needed for, and only for, input_type image."
    )
    video_url: Url | None = Field(
        None, repr=False, description="The video; needed for, and only for, input_type video."
    )
    wav_url: Url = Field(
        repr=False, description="The (first) voice, in any audio or video container that ffmpeg reads."
    )
    wav_url_2: Url | None = Field(
        None, repr=False, description="The second voice; needed for, and only for, person_count multi."
    )
    aspect_ratio: AspectRatio = Field("9:16", description="Width to height of the result.")
    resolution: Resolution = Field("480p", description="480p is 848x480 or 480x848, 720p is 1280x720 or 720x1280.")
    seed: int | None = Field(
        None,
        ge=0,
        le=MAX_SEED,
        description="Same job, seed and settings: same video. Drawn and returned if not given.",
    )
    negative_prompt: str | None = Field(
        None,
        max_length=MAX_PROMPT_CHARS,
        description="What the video should not show; only with text_guidance above 1. The model's own if not given.",
    )
    # Guidance g goes g times the way from the unconditioned to the conditioned prediction: 1 is the latter
    # itself, less would weaken the condition. The authors use 5 and 4 without the distillation LoRA; beyond
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
        "together", description="Two voices at the same time, or one after the other; only with multi."
    )
    speaker_boxes: Annotated[tuple[Box, Box], Field(strict=False)] | None = Field(
        None,
        description="Where the first and the second speaker are: two boxes [x0, y0, x1, y1] in fractions of "
        "the input picture, not overlapping; only with multi. Left and right half if not given.",
    )
    color_correction: Fraction = Field(
        0.0, description="How far each window's colours are matched to the reference frame's."
    )
    video_strength: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Video input only. 1: the video gives a reference frame per window; "
        "below 1: generation starts from the noised video.",
    )
    output: Output | None = Field(
        None, description="How the video comes back; what the worker is set up for if not given."
    )
    dry_run: bool = Field(False, description="Only validate, plan, and estimate time and price.")

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        problems = list(_conflicts(dict(self)))
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @classmethod
    def parse(cls, job_input: object, context: object = None) -> Self:
        """The request in a job's `input`.

        Raises InvalidInput with one message that lists every problem, or TooLarge where over-long data: URIs are all
        that is wrong.

        context: LOCAL_FILES where the caller is this machine's user, whose file: URLs are accepted too.
        """
        if not isinstance(job_input, Mapping):
            raise InvalidInput(f"input is {_shown(job_input)}: must be an object with the job's fields.")
        known = {name: job_input[name] for name in cls.model_fields if name in job_input}
        problems = list(_unknown_fields(job_input, len(job_input) - len(known)))
        n_too_large = 0
        try:
            request = cls.model_validate(known, context=context)
        except ValidationError as error:
            problems += _field_problems(error, known)
            n_too_large = sum(problem["type"] == _TOO_LARGE for problem in error.errors(include_url=False))
        if problems:
            kind = TooLarge if n_too_large == len(problems) else InvalidInput
            raise kind(f"{'; '.join(problems)}.")
        return request

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """JSON schema of the job's `input`, with descriptions."""
        return cls.model_json_schema()


# field, the field that decides whether it applies, the value it applies to, whether it is then required
_BELONGS_TO: tuple[tuple[str, str, str, bool], ...] = (
    ("image_url", "input_type", "image", True),
    ("video_url", "input_type", "video", True),
    ("video_strength", "input_type", "video", False),
    ("wav_url_2", "person_count", "multi", True),
    ("speaker_order", "person_count", "multi", False),
    ("speaker_boxes", "person_count", "multi", False),
)

# What callers of other services send, and where it went here.
_SIZE_ADVICE = "the size follows from aspect_ratio and resolution"
_MODE_ADVICE = "speed_mode chooses it"
_LENGTH_ADVICE = "the length is the audio's, or max_duration_s"
_ADVICE = {
    "width": _SIZE_ADVICE,
    "height": _SIZE_ADVICE,
    "size": _SIZE_ADVICE,
    "fps": f"the video has {FPS} frames a second",
    "frame_rate": f"the video has {FPS} frames a second",
    "steps": _MODE_ADVICE,
    "num_inference_steps": _MODE_ADVICE,
    "scheduler": _MODE_ADVICE,
    "shift": _MODE_ADVICE,
    "frames": _LENGTH_ADVICE,
    "num_frames": _LENGTH_ADVICE,
    "max_frames": _LENGTH_ADVICE,
    "duration": _LENGTH_ADVICE,
    "audio": "did you mean wav_url?",
    "audio_url": "did you mean wav_url?",
    "audio_url_2": "did you mean wav_url_2?",
}
_MAX_UNKNOWN_LISTED = 10
_MAX_SHOWN_CHARS = 60


def _conflicts(values: Mapping[str, Any]) -> Iterator[str]:
    """Problems between fields that are fine each for itself. Rules about absent fields are skipped."""
    for name, decider, value, required in _BELONGS_TO:
        if name not in values or decider not in values:
            continue
        if values[decider] != value:
            if values[name] != Request.model_fields[name].default:
                yield f"{name} is only for {decider} {value}, but {decider} is {values[decider]}"
        elif required and values[name] is None:
            yield f"{name} is missing: {decider} {value} needs it"
    if values.get("negative_prompt") is not None and values.get("text_guidance") == 1:
        yield "negative_prompt is only read with text_guidance above 1: raise that or leave this out"
    if values.get("speaker_boxes") is not None:
        (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = values["speaker_boxes"]
        if max(ax0, bx0) < min(ax1, bx1) and max(ay0, by0) < min(ay1, by1):
            yield "speaker_boxes overlap: each place can belong to one speaker only"


def _unknown_fields(job_input: Mapping[object, object], n_unknown: int) -> Iterator[str]:
    fields = Request.model_fields
    unknown = (name for name in job_input if name not in fields)
    lost = False
    for name in islice(unknown, _MAX_UNKNOWN_LISTED):
        key = name.lower() if isinstance(name, str) and len(name) <= 64 else ""
        nearest = get_close_matches(key, fields, n=1, cutoff=0.5)
        if key in _ADVICE:
            yield f"{_shown(name)} is not a field: {_ADVICE[key]}"
        elif nearest:
            yield f"{_shown(name)} is not a field: did you mean {nearest[0]}?"
        else:
            yield f"{_shown(name)} is not a field"
            lost = True
    if n_unknown > _MAX_UNKNOWN_LISTED:
        yield f"{n_unknown - _MAX_UNKNOWN_LISTED} more fields are unknown"
    if lost:
        yield f"the fields are {', '.join(fields)}"


def _field_problems(error: ValidationError, given: Mapping[str, Any]) -> Iterator[str]:
    """The first problem of each wrong field, then the conflicts between the others."""
    wrong: set[str] = set()
    for problem in error.errors(include_url=False):
        if not problem["loc"]:  # from _check_together: each field is fine for itself
            yield str(problem["ctx"]["error"])
            return
        name = str(problem["loc"][0])
        if name in wrong:
            continue
        wrong.add(name)
        missing = problem["type"] == "missing"
        # A missing item is a fault of the list it is missing from.
        steps = problem["loc"][1:-1] if missing else problem["loc"][1:]
        place = name + "".join(f"[{step}]" for step in steps)
        value = problem["input"]
        shown = _shown_url(value) if isinstance(value, str) and _allowed(name) == _URL_RULE else _shown(value)
        if missing and len(problem["loc"]) == 1:
            yield f"{name} is missing: must be {_allowed(name)}"
        elif problem["type"] == "value_error":
            yield f"{place} is {shown}: {problem['ctx']['error']}"
        elif problem["type"] == _TOO_LARGE:
            yield f"{place} is {shown}: {problem['msg']}"
        else:
            subject = "" if place == name else f"{name} "
            yield f"{place} is {shown}: {subject}must be {_allowed(name)}"
    rest = {name: field.default for name, field in Request.model_fields.items() if name not in wrong}
    yield from _conflicts(rest | {name: given[name] for name in rest if name in given})


@cache
def _properties() -> dict[str, Any]:
    properties: dict[str, Any] = Request.json_schema()["properties"]
    return properties


def _allowed(name: str) -> str:
    """What a field may hold, in words, from its JSON schema."""
    schema = _properties()[name]
    schema = schema | next((part for part in schema.get("anyOf", ()) if part["type"] != "null"), {})
    if "enum" in schema:
        return " or ".join([", ".join(schema["enum"][:-1]), schema["enum"][-1]])
    if schema.get("format") == "uri":
        return _URL_RULE
    low, above, high = (schema.get(key) for key in ("minimum", "exclusiveMinimum", "maximum"))
    bounds = f"above {above}" if above is not None else f"from {low}"
    bounds += "" if high is None else f" to {high}"
    kinds = {
        "boolean": "true or false",
        "integer": f"a whole number {bounds}",
        "number": f"a number {bounds}",
        "string": f"text of at most {schema.get('maxLength')} characters",
        "array": _BOXES_RULE,
    }
    return kinds[schema["type"]]


def _shown(value: object) -> str:
    """A value as an error may show it: short JSON, without a data: URI's contents or a URL's secrets."""
    if isinstance(value, str):
        return _shown_text(value)
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, list | tuple):
        if len(value) <= 4 and all(isinstance(item, int | float) for item in value):
            return f"[{', '.join(map(_shown, value))}]"
        return f"a list of {len(value)} items"
    if isinstance(value, Mapping):
        return f"an object of {len(value)} fields"
    return f"of type {type(value).__name__}"


def _shown_text(text: str) -> str:
    # Media, an address or a path in the wrong field is as secret as in its own.
    if len(text) > _MAX_SHOWN_CHARS or re.search(r"[/?#@]|data:", text, re.IGNORECASE):
        return _shown_url(text)
    return json.dumps(text.encode("utf-8", "backslashreplace").decode(), ensure_ascii=False)


def _shown_url(text: str) -> str:
    """What came where a URL belongs: its scheme and host if it has them. All else may be secret, or the media."""
    if text[:20].lstrip()[:5].lower() == "data:":
        return f"a data: URI of {len(text)} characters"
    address = re.match(r"([a-z][a-z0-9+.-]{0,19}://[a-z0-9.-]{1,80})(?=[:/?#]|$)", text, re.IGNORECASE)
    where = f' at "{address[1]}"' if address and "@" not in text else ""  # before an @ may stand a password
    return f"a text of {len(text)} characters{where}"
