"""What the page's fields say, as a job; and the job as its user would write it elsewhere."""

import json
import mimetypes
import re
import secrets
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infinitetalk.contract.request import Request
from infinitetalk.contract.wording import show
from infinitetalk.errors import InvalidInput
from infinitetalk.media.container import apparent_kind
from infinitetalk.page.pointing import VOICES, Place, Pointing
from infinitetalk.transfer.exchange import local_sources

RUNPOD = "https://api.runpod.ai/v2"
EXAMPLE = "https://example.com"


@dataclass(frozen=True)
class Form:
    """What was filled in.

    Args:
        source: the picture or video.
        voices: files; None where there is none.
        second_start_s: when the second voice begins.
        pointing: the picture with the speakers' places; None before there is one.
        fields: the other fields of a job, by name; None and an empty text where nothing was filled in.
    """

    source: Path | None
    voices: tuple[Path | None, Path | None]
    second_start_s: float
    pointing: Pointing | None
    fields: Mapping[str, object]

    def request(self) -> Request:
        """The job. Raises InvalidInput for what is wrong or missing."""
        if self.source is None:
            raise InvalidInput("There is no picture or video yet: drop one.")
        given = {name: _value(name, value) for name, value in self.fields.items() if value not in (None, "")}
        defaults = {name: field.default for name, field in Request.model_fields.items()}
        job: dict[str, Any] = {name: value for name, value in given.items() if value != defaults[name]}
        job["video" if apparent_kind(self.source) == "a sound or video" else "image"] = self.source
        voices = [voice for voice in self.voices if voice is not None]
        if not voices:
            raise InvalidInput("There is no voice yet: drop a sound, or record one.")
        if job.get("split_voices"):
            return Request.of_files(**job, **self._one_recording(voices))
        are_placed = any(place is not None for place in self.places)
        if not are_placed and (len(voices) == 1 or not self.second_start_s):
            second = voices[1] if len(voices) == VOICES else None
            return Request.of_files(audio=voices[0], audio_2=second, **job)
        speakers = [{"audio": voice, **_entry(place)} for voice, place in zip(voices, self.places, strict=True)]
        if len(voices) == VOICES and self.second_start_s:
            speakers[1]["start_s"] = self.second_start_s
        return Request.of_files(speakers=speakers, **job)

    def _one_recording(self, voices: Sequence[Path]) -> dict[str, Any]:
        """The fields of a recording of two people."""
        if len(voices) > 1:
            raise InvalidInput("One recording of two people is one file: remove the second voice, or clear the box.")
        boxes = [place for place in self.places if isinstance(place, tuple)]
        if len(boxes) == VOICES:
            return {"audio": voices[0], "speaker_boxes": boxes}
        if any(place is not None for place in self.places):
            raise InvalidInput("With one recording of two people, draw a box for each of them, or for none.")
        return {"audio": voices[0]}

    @property
    def places(self) -> tuple[Place | None, ...]:
        """Of the voices that there are; the first voice's comes first."""
        chosen = (None,) * VOICES if self.pointing is None else self.pointing.places
        if self.fields.get("split_voices"):
            return chosen
        return tuple(place for place, voice in zip(chosen, self.voices, strict=True) if voice is not None)


def _value(name: str, value: object) -> object:
    """A field's value: numbers may stand in a text field of the page. The request says what is wrong with others."""
    is_text = name in ("prompt", "negative_prompt")
    if isinstance(value, str) and not is_text and re.fullmatch(r"true|false|-?\d{1,20}(\.\d{1,20})?", value.strip()):
        return json.loads(value)
    return value


def _entry(place: Place | None) -> dict[str, object]:
    """A speaker's place, as a job says it."""
    if place is None:
        return {}
    return {"face": place} if isinstance(place, int) else {"box": place}


def job_json(request: Request) -> str:
    """A job to send, with an address in place of each file: https://example.com and the file's name."""
    addresses = {name: f"{EXAMPLE}/{path.name}" for name, path in _files(request)}
    return json.dumps({"input": _job_input(request, addresses)}, indent=2)


def job_curl(request: Request, address: str) -> str:
    """A command that sends a job from a folder in which its files lie. It names the key's variable, never a key.

    Args:
        address: where jobs are sent, such as https://api.runpod.ai/v2/ID.
    """
    files = _files(request)
    marks = {name: f"FILE-{secrets.token_hex(8)}" for name, _ in files}
    text = re.sub(
        r"([\\$`])", r"\\\1", json.dumps({"input": _job_input(request, marks)}, indent=2)
    )  # the shell reads it
    for name, path in files:
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        content = f"data:{kind};base64,$(base64 < {shlex.quote(path.name)} | tr -d '\\n')"
        text = text.replace(marks[name], content)
    key = ' -H "Authorization: Bearer $RUNPOD_API_KEY"' if address.startswith(RUNPOD) else ""
    command = f"curl -s {shlex.quote(f'{address}/run')}{key}"
    return f"{command} \\\n  -H 'Content-Type: application/json' -d @- <<JOB\n{text}\nJOB"


def _files(request: Request) -> list[tuple[str, Path]]:
    return list(local_sources(request))


def _job_input(request: Request, addresses: Mapping[str, str]) -> dict[str, object]:
    """The job's fields, with addresses in place of files."""
    job = request.model_dump(mode="json", exclude_unset=True)
    for index, entry in enumerate(job.get("speakers") or ()):
        entry["wav_url"] = addresses[f"speakers[{index}].wav_url"]
    return job | {name: address for name, address in addresses.items() if name in job}


def number(value: object, name: str) -> float:
    """A number that was filled in; 0 where nothing was. Raises InvalidInput."""
    if value is None or value == "":
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise InvalidInput(f"{name} is {show(value)}: must be a number of seconds from 0.")
    return float(value)
