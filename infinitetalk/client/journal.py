"""What became of a batch's jobs: lines of JSON beside the videos, appended as it happens. A second run reads them."""

import fcntl
import json
import os
import threading
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infinitetalk.client.sending import SentJob
from infinitetalk.errors import InvalidInput

FILE = "batch.jsonl"


class Entry(BaseModel):
    """Something that happened to a job.

    Args:
        name, digest: of the line (`lines.Line`).
        job: where it was sent; None where it runs on this machine.
        result: what came back, without the video itself.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    event: Literal["sent", "done", "failed"]
    name: str
    digest: str
    job: SentJob | None = None
    result: dict[str, Any] | None = None
    error: str | None = None
    error_code: str | None = None
    retryable: bool = False
    time_s: float = Field(default_factory=time.time, description="Seconds since 1970.")


class Journal:
    """The journal of one folder, held by one process.

    Args:
        folder: with the videos; it must exist.

    Raises:
        InvalidInput: another process works on the batch, or the file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._lock = threading.Lock()
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InvalidInput(f"{self.path}: another run works on this batch; wait for it") from error
        except OSError as error:
            raise InvalidInput(f"{self.path} cannot be written ({error.strerror}); name another folder") from error
        content = self.path.read_bytes()
        self._entries, self.unreadable = _read(content)
        if content and not content.endswith(b"\n"):  # a run was killed in the middle of a line
            os.write(self._file, b"\n")

    def close(self) -> None:
        """Let another process have it."""
        os.close(self._file)

    def latest(self, name: str) -> Entry | None:
        """The last thing that happened to the job of that name."""
        return self._entries.get(name)

    def add(self, entry: Entry) -> None:
        """Append an entry, in one write, and see it onto the disk. Raises OSError."""
        line = json.dumps(entry.model_dump(mode="json", exclude_none=True)).encode() + b"\n"
        with self._lock:
            os.write(self._file, line)
            os.fsync(self._file)
            self._entries[entry.name] = entry


def _read(content: bytes) -> tuple[dict[str, Entry], int]:
    """The latest entry of each name, and how many lines cannot be read: writes that were broken off."""
    entries: dict[str, Entry] = {}
    unreadable = 0
    for line in content.splitlines():
        try:
            entry = Entry.model_validate_json(line)
            entries[entry.name] = entry
        except ValidationError:
            unreadable += bool(line.strip())
    return entries, unreadable
