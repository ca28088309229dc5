"""What a batch is to make: lines of JSON or CSV, or pairs of files in a folder. All that is wrong is told at once."""

import csv
import hashlib
import io
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from infinitetalk.client.files import put_url
from infinitetalk.contract.request import MEDIA, Request
from infinitetalk.contract.values import LOCAL_FILES
from infinitetalk.contract.wording import show, unknown_fields
from infinitetalk.errors import InvalidInput, JobError
from infinitetalk.transfer.exchange import local_sources

Json = dict[str, Any]

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff", ".jp2", ".ppm")
VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
SOUNDS = (".wav", ".mp3", ".flac", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".aif", ".aiff", ".wma")
_NAME = re.compile(r'[^\x00-\x1f\ud800-\udfff/\\:*?"<>|]+')  # what no file system refuses
_MAX_NAME_BYTES = 200
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
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8; save it as UTF-8"
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
        if path.name.startswith("."):  # other systems leave such files beside each file
            continue
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
    """Of all that a job asks for, its local files by what they hold. Raises InvalidInput."""
    asked = request.model_dump(mode="json", exclude_unset=True)
    for field, path in local_sources(request):
        try:
            if not path.is_file():
                raise InvalidInput(f"{field}: there is no file {path}")
            status = path.stat()
            put_url(asked, field, _file_digest(path, status.st_size, status.st_mtime_ns))
        except OSError as error:
            raise InvalidInput(f"{field}: {path} cannot be read ({error.strerror})") from error
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=1000)  # many lines may name one file
def _file_digest(path: Path, _size: int, _mtime_ns: int) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


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
        except JobError as error:
            problems.append(f"{where}: {error}")
    if problems:
        raise BadLines(problems)
    if not lines:
        raise InvalidInput(f"{source} has no jobs")
    return lines


def _line(where: str, number: int, fields: Json, folder: Path, common: Mapping[str, object]) -> Line:
    fields = {**common, **fields}
    name = _checked_name(fields.pop("name")) if "name" in fields else _own_name(number, fields)
    if fields.get("dry_run"):
        raise InvalidInput("dry_run makes no video: leave it out, or ask with `infinitetalk submit --dry-run`")
    request = Request.parse(_with_files(fields, folder), LOCAL_FILES)
    return Line(where, name, request, job_digest(request))


def _with_files(fields: Json, folder: Path) -> Json:
    """Fields with file: URLs in place of names of files."""

    def located(value: object) -> object:
        if not isinstance(value, str) or _ADDRESS.match(value) or not value:
            return value
        try:
            return (folder / value).resolve().as_uri()
        except ValueError:  # no file can have this name; the request says what is wrong with it
            return value

    known = {name: located(value) if name in MEDIA else value for name, value in fields.items()}
    speakers = known.get("speakers")
    if isinstance(speakers, list):
        known["speakers"] = [
            entry | {"wav_url": located(entry["wav_url"])} if isinstance(entry, dict) and "wav_url" in entry else entry
            for entry in speakers
        ]
    return known


def _checked_name(name: object) -> str:
    """A line's name, as the name of a file. Raises InvalidInput."""
    plain = unicodedata.normalize("NFC", name) if isinstance(name, str) else ""
    is_long = len(plain.encode(errors="replace")) > _MAX_NAME_BYTES
    if not _NAME.fullmatch(plain) or is_long or plain.startswith((".", " ")) or plain.endswith((".", " ")):
        shown = json.dumps(name, ensure_ascii=False)[:80] if isinstance(name, str) else show(name)
        raise InvalidInput(
            f"name is {shown}: must be a file's name of at most {_MAX_NAME_BYTES} bytes without .mp4, without "
            'any of / \\ : * ? " < > |, and with no dot or space at either end'
        )
    return plain


def _own_name(number: int, fields: Mapping[str, object]) -> str:
    """The line's number, and the name of the picture or video if it has a plain one."""
    source = fields.get("image_url") or fields.get("video_url")
    path = "" if not isinstance(source, str) or source.startswith("data:") else source
    if _ADDRESS.match(path):
        path = unquote(urlsplit(path).path)
    plain = re.sub(r"[^\w.-]+", "_", Path(path).stem)[:60].strip("._")
    return f"{number:03d}-{plain}" if plain else f"{number:03d}"


def _json_lines(text: str) -> Iterator[tuple[str, Json | str]]:
    for number, line in enumerate(text.split("\n"), 1):  # others may stand inside JSON's strings
        if line.strip():
            yield f"line {number}", _json_object(line)


def _json_object(line: str) -> Json | str:
    """A line's fields, or what is wrong with it."""
    twice: list[str] = []

    def once(pairs: list[tuple[str, object]]) -> Json:
        twice.extend(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        return dict(pairs)

    try:
        fields = json.loads(line, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        return f"is not valid JSON ({error.msg} at character {error.pos + 1})"
    except (ValueError, RecursionError):  # numbers and lists that have no end
        return "is not valid JSON"
    if not isinstance(fields, dict):
        return f"is {show(fields)}: must be an object with the job's fields"
    return f"names {show(twice[0])} twice" if twice else fields


def _csv_lines(text: str) -> Iterator[tuple[str, Json | str]]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in _cells(next(rows, []))]
        if problem := _header_problem(header):
            yield "line 1", problem
            return
        read: dict[str, Callable[[str], object]] = {name: _reader(name) for name in header}
        last = rows.line_num
        for row in rows:
            where, last = f"line {last + 1}", rows.line_num  # a row may have several lines
            cells = _cells(row)
            if len(cells) > len(header):
                yield where, f"has {len(cells)} cells, and the first line names {len(header)} fields"
            elif cells:
                yield where, {name: read[name](cell) for name, cell in zip(header, cells, strict=False) if cell.strip()}
    except csv.Error as error:
        yield f"line {rows.line_num}", f"is not valid CSV ({error})"


def _cells(row: list[str]) -> list[str]:
    """A row without the empty cells at its end."""
    return row[: max((index for index, cell in enumerate(row, 1) if cell.strip()), default=0)]


def _header_problem(header: list[str]) -> str | None:
    """What is wrong with the first line of a table; None if nothing is."""
    fields = {"name": None, **Request.model_fields}
    if len(header) == 1 and re.search(r"[;\t]", header[0]):
        return "must have commas between the names of the fields"
    if "" in header:
        return f"names no field for column {header.index('') + 1}"
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        return f"names {show(twice[0])} twice"
    return "; ".join(unknown_fields(dict.fromkeys(header), sum(name not in fields for name in header), fields)) or None


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
