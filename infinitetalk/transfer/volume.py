"""The network volume: names for what jobs leave there, and files that are whole or not there at all."""

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import time
from contextlib import suppress
from pathlib import Path

_PART = ".part"


def plain_name(job_id: str) -> str:
    """A job's id as a file name. Ids come from outside: one that is not plain is cleaned and told apart by a hash."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", job_id):
        return job_id
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", job_id)[:80]
    return f"{plain}-{hashlib.sha256(job_id.encode(errors='backslashreplace')).hexdigest()[:12]}"


def read_plain(path: Path, max_bytes: int) -> bytes:
    """A file's bytes, at most `max_bytes` of them. Others can write to a volume, so nothing but a plain file is opened.

    A link would lead elsewhere, and a pipe would be waited for without end. Raises OSError.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a plain file")
        return file.read(max_bytes)


def write_whole(path: Path, content: bytes | Path) -> None:
    """Write bytes, or copy a file, to `path`, whose folder is made where it is missing.

    The name appears when everything is on the disk, even if the machine stops at any moment. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{secrets.token_hex(8)}{_PART}")
    try:
        with part.open("xb") as target:
            if isinstance(content, bytes):
                target.write(content)
            else:
                with content.open("rb") as source:
                    shutil.copyfileobj(source, target, 1 << 20)
            target.flush()
            os.fsync(target.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def sweep_parts(folder: Path, max_age_s: float) -> None:
    """Remove what writes broken off by a kill have left in a folder."""
    for part in folder.glob(f".*{_PART}"):
        with suppress(OSError):  # another worker was quicker
            if time.time() - part.stat().st_mtime > max_age_s:
                part.unlink()
