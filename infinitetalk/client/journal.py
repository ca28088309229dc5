"""What became of a batch's jobs: lines of JSON beside the videos, appended as it happens. A second run reads them."""

import errno
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
        event: begun: it is about to be sent, or to be made here. sent: the endpoint has it; with a result it has ended
            there, and its video is still to be fetched. failed: it ended without a video.
        name, digest: of the line (`lines.Line`).
        job: where it was sent. Its id is empty while the job is being sent. None where it is made on this machine.
        result: what came back, without the video itself.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    event: Literal["begun", "sent", "done", "failed"]
    name: str
    digest: str
    job: SentJob | None = None
    result: dict[str, Any] | None = None
    error: str | None = None
    error_code: str | None = None
    retryable: bool = False
    time_s: float = Field(default_factory=time.time, description="Seconds since 1970.")

    @property
    def open_job(self) -> SentJob | None:
        """The job that an endpoint has, or may have, and whose video is not here; None without one."""
        return self.job if self.event in ("begun", "sent") else None


class Journal:
    """The journal of one folder, held by one process.

    Args:
        folder: with the videos; it must exist.

    Raises:
        InvalidInput: another process works on the batch, the file cannot be written, or it is no journal.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._lock = threading.Lock()
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise InvalidInput(f"{self.path} cannot be written ({error.strerror}); name another folder") from error
        try:
            self._entries = self._opened()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let another process have it."""
        os.close(self._file)

    def latest(self, name: str) -> Entry | None:
        """The last thing that happened to the job of that name."""
        return self._entries.get(name)

    def names(self) -> list[str]:
        """The names of all jobs."""
        return list(self._entries)

    def add(self, entry: Entry) -> None:
        """Append an entry and see it onto the disk. Raises OSError; nothing of it is in the file then."""
        line = json.dumps(entry.model_dump(mode="json", exclude_none=True)).encode() + b"\n"
        with self._lock:
            size = os.fstat(self._file).st_size
            try:
                if os.write(self._file, line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(self._file)
            except OSError as error:
                os.ftruncate(self._file, size)
                raise OSError(f"{self.path} cannot be written ({error.strerror})") from error
            self._entries[entry.name] = entry

    def _opened(self) -> dict[str, Entry]:
        """The latest entry of each name. A last line that a kill has cut off is taken away."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InvalidInput(f"{self.path}: another run works on this batch; wait for it") from error
        entries: dict[str, Entry] = {}
        content = self.path.read_bytes()
        *lines, rest = content.split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                entry = Entry.model_validate_json(line)
            except ValidationError as error:
                raise InvalidInput(
                    f"{self.path}: line {number} is none of a batch's journal; name another folder, or remove that line"
                ) from error
            entries[entry.name] = entry
        if rest:
            os.ftruncate(self._file, len(content) - len(rest))
        return entries
