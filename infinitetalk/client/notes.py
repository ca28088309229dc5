"""A note beside the video that is awaited: which job makes it, and where. So a job is found again after a break."""

import json
from pathlib import Path

from pydantic import ValidationError

from infinitetalk.client.endpoint import EndpointFailed
from infinitetalk.client.sending import SentJob
from infinitetalk.transfer.volume import Volume


def note_path(output: Path) -> Path:
    """Where the note of a video lies."""
    return output.with_name(f"{output.name}.job.json")


def write_note(output: Path, job: SentJob) -> None:
    """Put the note beside the video's place, whole or not at all. Raises OSError."""
    path = note_path(output)
    Volume(path.parent).write(path.name, json.dumps(job.model_dump(), indent=2).encode())


def read_note(output: Path) -> SentJob | None:
    """The note of a video; None where there is none. Raises EndpointFailed for a file that is no note."""
    path = note_path(output)
    try:
        return SentJob.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise EndpointFailed(f"{path} is not a note of `infinitetalk submit`; move it away") from error


def remove_note(output: Path) -> None:
    """Take the note away; nothing happens if there is none."""
    note_path(output).unlink(missing_ok=True)
