"""The command line's options, and the request and the settings that they stand for."""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from infinitetalk import __version__
from infinitetalk.contract.request import MEDIA, Request, SpeakerOrder
from infinitetalk.contract.request import Output as Delivery
from infinitetalk.contract.settings import Settings
from infinitetalk.contract.wording import show
from infinitetalk.errors import InvalidInput

# Fields of a job that follow from the other options, or that mean nothing here.
FROM_FILES = ("input_type", "person_count")
NOT_HERE = ("output", "dry_run")


def make_parser(commands: Mapping[str, str]) -> argparse.ArgumentParser:
    """The parser of the command line. Its options' `run` is where the command that was asked for is.

    Args:
        commands: of each command, `module:function`.
    """
    parser = argparse.ArgumentParser(prog="infinitetalk", description="Make a picture or a video talk.")
    parser.add_argument("--version", action="version", version=__version__)
    add = parser.add_subparsers(required=True, metavar="COMMAND").add_parser
    generate = add("generate", help="make a video")
    generate.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.mp4")
    generate.set_defaults(run=commands["generate"])
    plan = add("plan", help="show what would run, how long it would take and cost; loads no model")
    plan.add_argument("--gpus", type=_count, metavar="N", help="how many GPUs the worker has, if not GPUS, or 1")
    plan.add_argument("--compare", action="store_true", help="also show the job on other GPUs, with RunPod's prices")
    plan.set_defaults(run=commands["plan"])
    schema = add("schema", help="print the JSON schema of a job's input")
    schema.set_defaults(run=commands["schema"])
    fetch = add("fetch", help="download a profile's weights, for example onto a network volume")
    fetch.add_argument(
        "folder", type=Path, nargs="?", metavar="FOLDER", help="where to; VOLUME_DIR/models if not given"
    )
    fetch.set_defaults(run=commands["fetch"])
    check = add("check", help="check GPU, ffmpeg, disk, and the weights' files and shapes; runs no job")
    check.set_defaults(run=commands["check"])
    calibrate = add("calibrate", help="measure this GPU by short jobs, for HARDWARE_FILE; takes minutes")
    calibrate.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.toml")
    calibrate.set_defaults(run=commands["calibrate"])
    faces = add("faces", help="show which faces the worker sees in a picture or video")
    faces.add_argument("file", type=Path, metavar="PICTURE|VIDEO")
    faces.add_argument("-o", "--output", type=Path, metavar="FILE.png", help="draw what is found")
    faces.add_argument("--json", action="store_true", help="print what is found as JSON")
    faces.set_defaults(run=commands["faces"])
    inspect = add("inspect", help="show what a video says of how it was made: who signed it, and whether it is intact")
    inspect.add_argument("video", type=Path, metavar="VIDEO.mp4")
    inspect.add_argument("--trust", type=Path, metavar="FILE.pem", help="certificates of those whom you trust")
    inspect.add_argument("--json", action="store_true", help="print what is found as JSON, with the whole manifest")
    inspect.set_defaults(run=commands["inspect"])
    quality = add("quality", help="measure a video: lip sync, stillness, seams, drift, identity")
    _add_quality_options(quality)
    quality.set_defaults(run=commands["quality"])
    submit = add("submit", help="make a video on a RunPod endpoint, or by a worker's local API")
    _add_submit_options(submit)
    submit.set_defaults(run=commands["submit"])
    batch = add("batch", help="make many videos, on an endpoint or on this machine; a second run makes what is missing")
    _add_batch_options(batch)
    batch.set_defaults(run=commands["batch"])
    page = add("page", help="open a page in this machine's browser, over local models or an endpoint")
    _add_page_options(page)
    page.set_defaults(run=commands["page"])
    for command in (generate, plan, submit):
        _add_job_options(command)
    for command in (generate, plan, batch, check, fetch, calibrate, page):
        command.add_argument("--profile", metavar="NAME", help="the model profile, instead of MODEL_PROFILE")
    for command in (generate, plan, batch, check, calibrate, page):
        command.add_argument(
            "--models-dir", type=Path, metavar="FOLDER", help="where the weights are, instead of MODELS_DIR"
        )
    for command in (generate, plan, batch, check, calibrate, faces, page):
        command.add_argument(
            "--device", choices=("auto", "cuda", "cpu"), help="where the model runs, instead of DEVICE"
        )
    return parser


def _add_submit_options(command: argparse.ArgumentParser) -> None:
    _add_endpoint_options(command)
    command.add_argument("-o", "--output", type=Path, metavar="FILE.mp4", help="where the video goes")
    command.add_argument("--dry-run", action="store_true", help="ask the worker for plan, time and price; make nothing")
    back = command.add_mutually_exclusive_group()
    back.add_argument("--resume", metavar="JOB_ID", help="come back to a job that was left running")
    back.add_argument("--cancel", metavar="JOB_ID", help="cancel a job that was left running")


def _add_batch_options(command: argparse.ArgumentParser) -> None:
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("jobs", type=Path, nargs="?", metavar="JOBS.jsonl|JOBS.csv", help="a job in each line")
    source.add_argument("--pairs", type=Path, metavar="FOLDER", help="a job for each face.png with face.wav in there")
    command.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="where the videos go")
    _add_endpoint_options(command)
    command.add_argument("--at-once", type=_count, metavar="N", help="jobs at a time on an endpoint; 4 if not given")
    command.add_argument(
        "--resend", action="store_true", help="send jobs again that may have been made, but whose videos cannot be had"
    )
    _add_plain_options(command)


def _add_page_options(command: argparse.ArgumentParser) -> None:
    _add_endpoint_options(command)
    command.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("out"),
        metavar="FOLDER",
        help="where finished videos stay; out if not given",
    )
    command.add_argument("--port", type=_port, help="of 127.0.0.1; the first free one from 7860 on if not given")


def _add_endpoint_options(command: argparse.ArgumentParser) -> None:
    place = command.add_mutually_exclusive_group()
    place.add_argument("--endpoint", metavar="ID", help="the id of a RunPod endpoint; its key is RUNPOD_API_KEY")
    place.add_argument("--url", metavar="URL", help="an address instead, such as http://localhost:8000")
    command.add_argument(
        "--bucket", metavar="NAME", help="the bucket for files too large for a request, instead of S3_BUCKET"
    )
    command.add_argument(
        "--deliver", choices=get_args(Delivery), help="how the video comes back: the job's field output"
    )


def _add_job_options(command: argparse.ArgumentParser) -> None:
    """The job's fields as options: files in place of URLs, the others with their kinds and choices."""
    properties = Request.json_schema()["properties"]
    for field, media in MEDIA.items():
        about = properties[field]["description"]
        _add(command, media.option, type=Path, metavar="FILE", help=about)
    command.add_argument(
        "--speaker",
        type=str,
        nargs="+",
        action="append",
        metavar=("FILE", "KEY=JSON"),
        help="a voice and where its speaker is, once for each of one to four speakers: --speaker anna.wav face=1 "
        "start_s=2.5, or box=[0,0,0.5,1]; in place of --audio, --audio-2, --speaker-order and --speaker-boxes",
    )
    _add_plain_options(command)


def _add_plain_options(command: argparse.ArgumentParser) -> None:
    properties = Request.json_schema()["properties"]
    for name in _plain_fields():
        schema = properties[name]
        schema |= next((part for part in schema.get("anyOf", ()) if part["type"] != "null"), {})
        if schema.get("type") == "boolean":
            _add(command, name, action=argparse.BooleanOptionalAction, help=schema["description"])
        elif "enum" in schema:
            _add(command, name, choices=schema["enum"], help=schema["description"])
        elif schema["type"] == "array":
            _add(command, name, type=_json_value, metavar="JSON", help=schema["description"])
        else:
            kind = {"integer": int, "number": float, "string": str}[schema["type"]]
            _add(command, name, type=kind, metavar="VALUE", help=schema["description"])


def _add(command: argparse.ArgumentParser, name: str, **kwargs: Any) -> None:  # noqa: ANN401
    command.add_argument(f"--{name.replace('_', '-')}", **kwargs)


def _json_value(text: str) -> Any:  # noqa: ANN401
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"not valid JSON: {text[:80]!r}") from error


def _plain_fields() -> list[str]:
    """The job's fields that are options of the same name."""
    return [name for name in Request.model_fields if name not in (*MEDIA, *FROM_FILES, *NOT_HERE, "speakers")]


def _add_quality_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("video", type=Path, metavar="VIDEO")
    command.add_argument("--against", type=Path, metavar="VIDEO", help="another rendering of the same job")
    voice = "a voice, instead of the video's own sound; give it twice for two people, the left one's first"
    command.add_argument("--audio", type=Path, action="append", default=[], metavar="FILE", help=voice)
    command.add_argument(
        "--speaker-order", choices=get_args(SpeakerOrder), default="together", help="how two voices follow each other"
    )
    command.add_argument(
        "--people", type=int, choices=(1, 2), help="how many the video shows; if not given, those found"
    )
    joins = command.add_mutually_exclusive_group()
    joins.add_argument("--result", type=Path, metavar="FILE.json", help="what the job printed; says where windows join")
    joins.add_argument(
        "--joins", type=_frame_numbers, default=(), metavar="49,89", help="first frames of the later windows"
    )
    command.add_argument(
        "--picture", type=Path, metavar="FILE.png", help="where the picture goes; VIDEO.quality.png if not given"
    )
    command.add_argument("--json", action="store_true", help="print the numbers as JSON")


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {count}")
    return count


def _port(text: str) -> int:
    port = int(text)
    if not 1 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"must be 1 to 65535, not {port}")
    return port


def _frame_numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def request_of(options: argparse.Namespace) -> Request:
    """The job that the options describe. Raises InvalidInput."""
    files = {media.option: getattr(options, media.option) for media in MEDIA.values()}
    speakers = None if options.speaker is None else [_speaker(words) for words in options.speaker]
    return Request.of_files(**files, speakers=speakers, **plain_fields_of(options))


def plain_fields_of(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of a job that the options give, but for those that name files."""
    given = {name: getattr(options, name) for name in _plain_fields()}
    return {name: value for name, value in given.items() if value is not None}


def _speaker(words: Sequence[str]) -> dict[str, object]:
    """An entry of `speakers` as `Request.of_files` takes it, from a file and settings such as face=1.

    Raises InvalidInput.
    """
    entry: dict[str, object] = {"audio": words[0]}
    for word in words[1:]:
        name, is_setting, text = word.partition("=")
        if not is_setting:
            raise InvalidInput(f"--speaker: {show(word)} is no setting such as face=1, start_s=2.5 or box=[0,0,0.5,1].")
        try:
            entry[name] = json.loads(text)
        except (ValueError, RecursionError):
            entry[name] = text  # face=auto; the request says what is wrong with others
    return entry


def settings_of(options: argparse.Namespace) -> Settings:
    """The environment's settings, with the options in their places. Raises SettingsError."""
    names = {"profile": "MODEL_PROFILE", "models_dir": "MODELS_DIR", "device": "DEVICE"}
    given = {variable: getattr(options, name, None) for name, variable in names.items()}
    return Settings.from_env(os.environ | {name: str(value) for name, value in given.items() if value is not None})
