"""Kinds of values that a job's fields hold: addresses, boxes, faces."""

import re
from collections.abc import Sequence
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationInfo
from pydantic_core import PydanticCustomError

from infinitetalk.contract.wording import TOO_LARGE, URL_RULE

MAX_DURATION_S = 86_400  # a day: far more than any worker accepts, and still a number of samples
MAX_FACE_INDEX = 999
MAX_URL_CHARS = 8192
# About 10 MB of media. RunPod refuses requests over 10 MB (/run) or 20 MB (/runsync) as a whole.
MAX_DATA_URI_CHARS = 14_000_000

LOCAL_FILES = "local files"

STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, hide_input_in_errors=True)

_DATA_URI = re.compile(r"data:[^,]{0,200};base64,(?=\s*\S)", re.IGNORECASE)


def _check_url(url: str, info: ValidationInfo) -> str:
    """Refuse what cannot be a URL of media. Only the download finds out whether anything is there."""
    if url.startswith("file:") and info.context == LOCAL_FILES:
        return url
    if url[:5].lower() == "data:":
        if len(url) > MAX_DATA_URI_CHARS:
            raise PydanticCustomError(
                TOO_LARGE,
                "must have at most {limit} characters; give larger media as an http(s) URL",
                {"limit": MAX_DATA_URI_CHARS},
            )
        if not _DATA_URI.match(url) or not url.isascii():
            raise ValueError("must look like data:image/png;base64,iVBORw0KGgo=")
        return url
    if len(url) > MAX_URL_CHARS:
        raise ValueError(f"must be {URL_RULE} of at most {MAX_URL_CHARS} characters")
    if re.search(r"[\s\x00-\x1f\x7f]", url):
        raise ValueError(f"must be {URL_RULE} without spaces or line breaks")
    try:
        parts = urlsplit(url)
        complete = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bad port or a broken IPv6 address
        complete = False
    if not complete:
        raise ValueError(f"must be {URL_RULE}")
    return url


def _check_box(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = box
    if not (x0 < x1 and y0 < y1):
        raise ValueError("must have x0 < x1 and y0 < y1")
    return box


def _check_face(face: object) -> object:
    if face == "auto" or (type(face) is int and 0 <= face <= MAX_FACE_INDEX):
        return face
    raise ValueError(f'must be "auto" or a whole number from 0 to {MAX_FACE_INDEX}, counted from left to right')


Fraction = Annotated[float, Field(ge=0, le=1)]
Url = Annotated[str, AfterValidator(_check_url), Field(json_schema_extra={"format": "uri"})]
# A JSON array arrives as a list, which a strict tuple would refuse; its numbers stay strict.
Box = Annotated[tuple[Fraction, Fraction, Fraction, Fraction], Field(strict=False), AfterValidator(_check_box)]
Face = Annotated[Annotated[int, Field(ge=0, le=MAX_FACE_INDEX)] | Literal["auto"], BeforeValidator(_check_face)]


def overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether two boxes (x0, y0, x1, y1) share more than an edge."""
    return max(a[0], b[0]) < min(a[2], b[2]) and max(a[1], b[1]) < min(a[3], b[3])
