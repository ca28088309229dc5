"""What is wrong with a job's fields, in words: the field, what came, what is allowed, and the nearest valid name."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import Any

from pydantic import ValidationError

from infinitetalk.shapes import FPS

TOO_LARGE = "too_large"  # the type of a problem of size alone
URL_RULE = "an http(s) URL or a base64 data: URI"
_BOX_RULE = "[x0, y0, x1, y1] in fractions of the picture: 0 <= x0 < x1 <= 1, 0 <= y0 < y1 <= 1"

# Fields that other services have, and what takes their place here.
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
}
_MEANT = {"audio": "wav_url", "audio_url": "wav_url", "audio_url_2": "wav_url_2"}
_MAX_UNKNOWN_LISTED = 10
_MAX_SHOWN_CHARS = 60


def unknown_fields(job_input: Mapping[object, object], n_unknown: int, fields: Mapping[str, object]) -> Iterator[str]:
    """Sentences on the `n_unknown` fields of a job that are not among `fields`."""
    unknown = (name for name in job_input if name not in fields)
    lost = False
    for name in islice(unknown, _MAX_UNKNOWN_LISTED):
        key = name.lower() if isinstance(name, str) and len(name) <= 64 else ""
        nearest = [_MEANT[key]] if key in _MEANT else get_close_matches(key, fields, n=1, cutoff=0.5)
        if key in _ADVICE:
            yield f"{show(name)} is not a field: {_ADVICE[key]}"
        elif nearest:
            yield f"{show(name)} is not a field (did you mean {nearest[0]}?)"
        else:
            yield f"{show(name)} is not a field"
            lost = True
    if n_unknown > _MAX_UNKNOWN_LISTED:
        yield f"{n_unknown - _MAX_UNKNOWN_LISTED} more fields are unknown"
    if lost:
        yield f"the fields are {', '.join(fields)}"


def field_problems(error: ValidationError, schema: Mapping[str, Any]) -> Iterator[tuple[str | None, str]]:
    """The first problem of each wrong field: its name and a sentence. A problem between fields has no name.

    Args:
        schema: the job's JSON schema.
    """
    wrong: set[str] = set()
    for problem in error.errors(include_url=False):
        if not problem["loc"]:  # each field is right by itself
            yield None, str(problem["ctx"]["error"])
            continue
        field, rules = _field_at(problem["loc"], schema)
        if field in wrong or any(other.startswith(f"{field}[") for other in wrong):
            continue
        wrong.add(field)
        name, missing = str(problem["loc"][0]), problem["type"] == "missing"
        lacks_field = missing and isinstance(problem["loc"][-1], str)
        # If an item is missing, the list is what is wrong.
        place = _path(problem["loc"][:-1] if missing and not lacks_field else problem["loc"])
        value = problem["input"]
        allowed = _allowed(rules)
        shown = _shown_url(value) if isinstance(value, str) and allowed == URL_RULE else show(value)
        if lacks_field:
            yield name, f"{place} is missing: must be {allowed}"
        elif problem["type"] == "value_error":
            yield name, f"{place} is {shown}: {problem['ctx']['error']}"
        elif problem["type"] == TOO_LARGE:
            yield name, f"{place} is {shown}: {problem['msg']}"
        else:
            subject = "" if place == field else f"{field} "
            yield name, f"{place} is {shown}: {subject}must be {allowed}"


def _path(steps: Sequence[int | str]) -> str:
    """Where in a job something is: speakers[1].box[2]."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")


def _field_at(steps: Sequence[int | str], schema: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The innermost field on the way to a place in a job, and its schema: items of a list of objects have fields."""
    path, rules = [steps[0]], _resolved(schema["properties"][steps[0]], schema)
    for index, name in zip(steps[1::2], steps[2::2], strict=False):
        item = _resolved(rules.get("items", {}), schema)
        if "properties" not in item:
            break
        path, rules = [*path, index, name], _resolved(item["properties"][name], schema)
    return _path(path), rules


def _resolved(rules: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A field's own schema: without null, and what a reference refers to."""
    rules = {**rules} | next((part for part in rules.get("anyOf", ()) if part.get("type") != "null"), {})
    return {**rules} | schema["$defs"][rules["$ref"].rsplit("/", 1)[1]] if "$ref" in rules else rules


def _allowed(schema: Mapping[str, Any]) -> str:
    """What a field may hold, in words, from its JSON schema."""
    if "enum" in schema:
        return " or ".join([", ".join(schema["enum"][:-1]), schema["enum"][-1]])
    if schema.get("format") == "uri":
        return URL_RULE
    if schema["type"] == "array":
        if "$ref" in schema.get("items", {}):
            return f"a list of {schema['minItems']} to {schema['maxItems']} objects {{wav_url, box or face, start_s}}"
        is_box = schema["prefixItems"][0]["type"] == "number"
        return f"{'a box' if is_box else 'two boxes'} {_BOX_RULE}"
    low, above, high = (schema.get(key) for key in ("minimum", "exclusiveMinimum", "maximum"))
    bounds = f"above {above}" if above is not None else f"from {low}"
    bounds += "" if high is None else f" to {high}"
    kinds = {
        "boolean": "true or false",
        "integer": f"a whole number {bounds}",
        "number": f"a number {bounds}",
        "string": f"text of at most {schema.get('maxLength')} characters",
        "object": "an object {wav_url, box or face, start_s}",
    }
    return kinds[schema["type"]]


def show(value: object) -> str:
    """A value as an error may show it: short JSON, without a data: URI's contents or a URL's secrets."""
    if isinstance(value, str):
        return _shown_text(value)
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, list | tuple):
        if len(value) <= 4 and all(isinstance(item, int | float) for item in value):
            return f"[{', '.join(map(show, value))}]"
        return f"a list of {len(value)} items"
    if isinstance(value, Mapping):
        return f"an object of {len(value)} fields"
    return f"of type {type(value).__name__}"


def _shown_text(text: str) -> str:
    # Media, addresses and paths are as secret in the wrong field as in their own.
    if len(text) > _MAX_SHOWN_CHARS or re.search(r"[/?#@]|data:", text, re.IGNORECASE):
        return _shown_url(text)
    return json.dumps(text.encode("utf-8", "backslashreplace").decode(), ensure_ascii=False)


def _shown_url(text: str) -> str:
    """What came in place of a URL: its scheme and host if it has them. Everything else may be secret, or media."""
    if text[:20].lstrip()[:5].lower() == "data:":
        return f"a data: URI of {len(text)} characters"
    address = re.match(r"([a-z][a-z0-9+.-]{0,19}://[a-z0-9.-]{1,80})(?=[:/?#]|$)", text, re.IGNORECASE)
    where = f' at "{address[1]}"' if address and "@" not in text else ""  # before an @ may stand a password
    return f"a text of {len(text)} characters{where}"
