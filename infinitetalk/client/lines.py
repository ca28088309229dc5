"""What a batch is to make: lines of JSON or CSV, or pairs of files in a folder. All that is wrong is told at once."""

import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from infinitetalk.client.files import put_url
from infinitetalk.contract.request import MEDIA, Request
from infinitetalk.contract.values import LOCAL_FILES
from infinitetalk.contract.wording import show
from infinitetalk.errors import InvalidInput, JobError
from infinitetalk.transfer.exchange import local_sources

Json = dict[str, Any]

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff")
VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
SOUNDS = (".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".aac", ".aiff")
_NAME = re.compile(r"\w[\w .()+-]{0,99}")
_ADDRESS = re.compile(r"(https?://|data:|file:)", re.IGNORECASE)


class BadLines(ValueError):
    """Lines of a batch are wrong, and nothing was begun.

    Args:
        problems: a sentence for each.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__(f"Wrong lines in the batch: {len(problems)}; nothing was begun")
        self.problems = problems


@dataclass(frozen=True)
class Line:
    """One job of a batch.

    Args:
        where: for messages, such as "line 3".
        name: of its video, without ".mp4".
        digest: of the request and of its files' contents: another one is another job.
    """

    where: str
    name: str
    request: Request
    digest: str


def read_lines(source: Path, common: Mapping[str, object]) -> list[Line]:
    """The jobs of a .jsonl or .csv file. Files that a line names are relative to it.

    A line of JSON is an object with a job's fields. In CSV the first row names the fields, and empty cells are not
    given. Beside the fields there may be `name`.

    Args:
        common: fields that hold where a line does not say otherwise.

    Raises:
        BadLines: some are wrong.
        InvalidInput: the file is of another kind, or cannot be read.
    """
    readers = {".jsonl": _json_lines, ".csv": _csv_lines}
    if source.suffix.lower() not in readers:
        raise InvalidInput(f"{source} is neither .jsonl nor .csv; name a file of these, or a folder with --pairs")
    try:
        text = source.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InvalidInput(f"{source} cannot be read ({reason})") from error
    return _lines(readers[source.suffix.lower()](text), source.parent, common, str(source))


def read_pairs(folder: Path, common: Mapping[str, object]) -> list[Line]:
    """A job for each picture (or video) and sound of the same name in a folder: face.png with face.wav.

    Args:
        common: fields of all jobs.

    Raises:
        BadLines: a file has no partner, or several.
        InvalidInput: there is no such folder.
    """
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is no folder; name one with pairs such as face.png and face.wav")
    found: dict[str, dict[str, list[Path]]] = {}
    for path in sorted(folder.iterdir()):
        for kind, suffixes in (("shown", PICTURES + VIDEOS), ("heard", SOUNDS)):
            if path.suffix.lower() in suffixes and path.is_file():
                found.setdefault(path.stem, {"shown": [], "heard": []})[kind].append(path)

    def pairs() -> Iterator[tuple[str, Json | str]]:
        for stem, files in found.items():
            if len(files["shown"]) == len(files["heard"]) == 1:
                shown, heard = files["shown"][0].name, files["heard"][0].name
                source = {"image_url": shown}
                if shown.lower().endswith(VIDEOS):
                    source = {"video_url": shown, "input_type": "video"}
                yield stem, {"name": stem, "wav_url": heard} | source
            else:
                names = ", ".join(path.name for path in (*files["shown"], *files["heard"]))
                yield stem, f"a pair is one picture or video and one sound of the same name, and there is {names}"

    return _lines(pairs(), folder, common, str(folder))


def job_digest(request: Request) -> str:
    """Of all that a job asks for, its local files by what they hold. Raises OSError."""
    asked = request.model_dump(mode="json", exclude_unset=True)
    for field, path in local_sources(request):
        with path.open("rb") as file:
            put_url(asked, field, f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}")
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _lines(
    entries: Iterator[tuple[str, Json | str]], folder: Path, common: Mapping[str, object], source: str
) -> list[Line]:
    """The jobs of entries: where each stands, and its fields or what is wrong with it."""
    lines: list[Line] = []
    problems: list[str] = []
    taken: dict[str, str] = {}
    for number, (where, fields) in enumerate(entries, 1):
        try:
            if isinstance(fields, str):
                raise InvalidInput(fields)
            line = _line(where, number, fields, folder, common)
            if (other := taken.setdefault(line.name.casefold(), where)) != where:
                raise InvalidInput(f"name is {show(line.name)}, as in {other}: each video needs a name of its own")
            lines.append(line)
        except (JobError, OSError) as error:
            problems.append(f"{where}: {error}")
    if problems:
        raise BadLines(problems)
    if not lines:
        raise InvalidInput(f"{source} has no jobs")
    return lines


def _line(where: str, number: int, fields: Json, folder: Path, common: Mapping[str, object]) -> Line:
    fields = {**common, **fields}
    given = fields.pop("name", None)
    name = _own_name(number, fields) if given is None else given
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.endswith((" ", ".")):
        raise InvalidInput(
            f"name is {show(name)}: must be a file name of at most 100 letters, digits, spaces and .()+-_, without .mp4"
        )
    if fields.get("dry_run"):
        raise InvalidInput("dry_run makes no video: leave it out, or ask with `infinitetalk submit --dry-run`")
    request = Request.parse(_with_files(fields, folder), LOCAL_FILES)
    for field, path in local_sources(request):
        if not path.is_file():
            raise InvalidInput(f"{field}: there is no file {path}")
    return Line(where, name, request, job_digest(request))


def _with_files(fields: Json, folder: Path) -> Json:
    """Fields with file: URLs in place of names of files."""

    def located(value: object) -> object:
        if not isinstance(value, str) or _ADDRESS.match(value) or not value:
            return value
        return (folder / value).resolve().as_uri()

    known = {name: located(value) if name in MEDIA else value for name, value in fields.items()}
    speakers = known.get("speakers")
    if isinstance(speakers, list):
        known["speakers"] = [
            entry | {"wav_url": located(entry["wav_url"])} if isinstance(entry, dict) and "wav_url" in entry else entry
            for entry in speakers
        ]
    return known


def _own_name(number: int, fields: Mapping[str, object]) -> str:
    """The line's number, and the name of the picture or video if it has a plain one."""
    source = fields.get("image_url") or fields.get("video_url")
    path = "" if not isinstance(source, str) or source.startswith("data:") else source
    if _ADDRESS.match(path):
        path = unquote(urlsplit(path).path)
    plain = re.sub(r"[^\w.-]+", "_", Path(path).stem)[:60].strip("._")
    return f"{number:03d}-{plain}" if plain else f"{number:03d}"


def _json_lines(text: str) -> Iterator[tuple[str, Json | str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):
            yield f"line {number}", "is not valid JSON"
            continue
        yield f"line {number}", fields if isinstance(fields, dict) else f"is {show(fields)}: must be an object"


def _csv_lines(text: str) -> Iterator[tuple[str, Json | str]]:
    rows = csv.reader(text.splitlines(keepends=True))
    header = [name.strip() for name in next(rows, [])]
    read: dict[str, Callable[[str], object]] = {name: _reader(name) for name in header}
    for row in rows:
        if not any(cell.strip() for cell in row):
            continue
        where = f"line {rows.line_num}"
        if len(row) > len(header):
            yield where, f"has {len(row)} cells, and the first line names {len(header)} fields"
            continue
        yield where, {name: read[name](cell) for name, cell in zip(header, row, strict=False) if cell.strip()}


def _reader(name: str) -> Callable[[str], object]:
    """What turns a cell of CSV into a field's value."""
    rules = Request.json_schema()["properties"].get(name, {"type": "string"})
    kinds = {part.get("type") for part in rules.get("anyOf", [rules])} - {"null", None}

    def read(cell: str) -> object:
        if kinds == {"string"} or (not kinds and "enum" in rules):
            return cell
        try:
            return json.loads(cell.lower() if kinds == {"boolean"} else cell)
        except (ValueError, RecursionError):
            return cell  # the request says what it must be

    return read
