"""A folder for one job's files. It lives as long as the job."""

import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

_PREFIX = "infinitetalk-job-"
_YOUNGEST_LEFTOVER_S = 60.0


@contextmanager
def job_folder(work_dir: Path, job_id: str) -> Iterator[Path]:
    """A new folder for one job's files. It is removed with everything in it, however the job ends.

    The folders of workers that were killed are removed first. A job holds a lock on its folder, and the lock ends with
    its process.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    _sweep(work_dir)
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", job_id)[:64]  # ids come from outside
    with TemporaryDirectory(prefix=f"{_PREFIX}{plain}-", dir=work_dir, ignore_cleanup_errors=True) as folder:
        lock = os.open(folder, os.O_RDONLY)
        try:
            with suppress(OSError):  # on a file system without locks nothing is swept either
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield Path(folder)
        finally:
            os.close(lock)


def _sweep(work_dir: Path) -> None:
    """Remove job folders whose process has died. One just made may not be locked yet, so young ones stay."""
    for folder in work_dir.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # in use, another worker swept it, or it is not ours
            if time.time() - folder.stat().st_mtime < _YOUNGEST_LEFTOVER_S:
                continue
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
