"""The network volume: names for what jobs leave there, and files that are whole or not there at all.

Other workers write to the same volume, and whoever can write to it can put anything there. So no symbolic link below it
is followed, only regular files are read, and nothing is written where another volume, or none, has taken its place.
"""

import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO

_PART = ".part"
_CHUNK_BYTES = 1 << 20


def plain_name(job_id: str) -> str:
    """A job's id as a file name. Ids come from outside: one that is not plain is cleaned and kept unique by a hash."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", job_id):
        return job_id
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", job_id)[:80]
    return f"{plain}-{hashlib.sha256(job_id.encode(errors='backslashreplace')).hexdigest()[:12]}"


class Volume:
    """A volume as it is mounted when this is made. Names of files and folders are relative to it, with slashes.

    Every method raises OSError, also where the volume is not the same one any more.
    """

    def __init__(self, root: Path) -> None:
        """Look at the volume. Raises OSError where there is no folder."""
        status = root.stat()
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(root))
        self.root = root
        self._identity = _identity(status)

    def write(self, name: str, content: bytes | Path) -> Path:
        """Write bytes, or copy a file, to `name`; its folders are made where they are missing.

        The name appears when everything is on the disk, even if the machine stops at any moment.
        """
        path = PurePosixPath(name)
        with self._folder(str(path.parent), make=True) as folder:
            try:
                _write_whole(folder, path.name, content)
            except FileNotFoundError:  # another worker swept it, since nothing can be locked here
                _write_whole(folder, path.name, content)
        return self.root / name

    def read(self, name: str, max_bytes: int) -> bytes:
        """The bytes of a regular file. OSError for anything else, and for a file of more than `max_bytes`."""
        path = PurePosixPath(name)
        with self._folder(str(path.parent)) as folder, _open(path.name, folder) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            if status.st_size > max_bytes:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            return file.read()

    def size(self, name: str) -> int:
        """Bytes of a regular file. OSError for anything else."""
        path = PurePosixPath(name)
        with self._folder(str(path.parent)) as folder:
            status = os.stat(path.name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            return status.st_size

    def remove(self, name: str) -> None:
        """Remove a folder with all that it holds, or whatever else is there. Nothing happens if nothing is."""
        path = PurePosixPath(name)
        with suppress(FileNotFoundError), self._folder(str(path.parent)) as folder:
            _remove(path.name, folder)

    def remove_empty(self, name: str) -> None:
        """Remove a folder that holds nothing. Nothing happens to one that holds something."""
        path = PurePosixPath(name)
        with suppress(FileNotFoundError), self._folder(str(path.parent)) as folder:
            try:
                os.rmdir(path.name, dir_fd=folder)
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise

    def probe(self, name: str) -> None:
        """Find out whether `write` would work, by writing another file beside `name`."""
        path = PurePosixPath(name)
        with self._folder(str(path.parent), make=True) as folder:
            part = f".{secrets.token_hex(8)}{_PART}"
            _write_new(folder, part, b"probe")
            os.unlink(part, dir_fd=folder)
            with suppress(FileNotFoundError):
                if stat.S_ISDIR(os.stat(path.name, dir_fd=folder, follow_symlinks=False).st_mode):
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))

    def free_bytes(self) -> int:
        """Room that is left."""
        with self._folder(".") as root:
            return shutil.disk_usage(root).free

    def sweep_parts(self, folder: str, max_age_s: float) -> None:
        """Remove what writes broken off by a kill have left in a folder. One that still goes on holds a lock."""
        for name, opened in self._old(folder, max_age_s):
            with suppress(OSError):  # it was finished meanwhile, or another worker was quicker
                if name.startswith(".") and name.endswith(_PART) and not _is_locked(name, opened):
                    os.unlink(name, dir_fd=opened)

    def sweep_folders(self, folder: str, max_age_s: float) -> None:
        """Remove what a folder holds if nothing was added to it for so long."""
        for name, opened in self._old(folder, max_age_s):
            _remove(name, opened)

    def _old(self, folder: str, max_age_s: float) -> Iterator[tuple[str, int]]:
        """Names in a folder that are older than that by the volume's own clock; workers' clocks differ. With each, the
        open folder; one that is gone meanwhile is passed over."""
        with suppress(FileNotFoundError, NotADirectoryError), self._folder(folder) as opened:
            now_s = _now_s(opened)
            for name in os.listdir(opened):  # noqa: PTH208  it is no path
                with suppress(OSError):  # another worker was quicker
                    if now_s - os.stat(name, dir_fd=opened, follow_symlinks=False).st_mtime > max_age_s:
                        yield name, opened

    @contextmanager
    def _folder(self, name: str, make: bool = False) -> Iterator[int]:
        """An open folder below the volume, for functions that take a dir_fd."""
        opened = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if _identity(os.fstat(opened)) != self._identity:
                raise OSError(errno.ENODEV, "the volume is not mounted any more")
            for part in PurePosixPath(name).parts:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(part, dir_fd=opened)
                above, opened = opened, os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=opened)
                os.close(above)
            yield opened
        finally:
            os.close(opened)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _open(name: str, folder: int) -> BinaryIO:
    """Whatever has that name, but no link. What is no regular file may keep a reader waiting: O_NONBLOCK does not."""
    return os.fdopen(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder), "rb")


def _write_whole(folder: int, name: str, content: bytes | Path) -> None:
    part = f".{secrets.token_hex(8)}{_PART}"
    try:
        _write_new(folder, part, content)
        os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(part, dir_fd=folder)
    os.fsync(folder)


def _write_new(folder: int, name: str, content: bytes | Path) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(name, flags, 0o644, dir_fd=folder), "wb") as target:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(target, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if isinstance(content, bytes):
            target.write(content)
        else:
            with content.open("rb") as source:
                shutil.copyfileobj(source, target, _CHUNK_BYTES)
        target.flush()
        os.fsync(target.fileno())


def _remove(name: str, folder: int) -> None:
    """Whatever has that name; a link, not what it leads to."""
    shutil.rmtree(name, ignore_errors=True, dir_fd=folder)
    with suppress(OSError):  # there is no such file, or it was a folder
        os.unlink(name, dir_fd=folder)


def _is_locked(name: str, folder: int) -> bool:
    """Whether a write to that file goes on."""
    with _open(name, folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks
            return False
    return False


def _now_s(folder: int) -> float:
    """The time that the file system gives a new file; 0, before all files, where it takes none."""
    name = f".{secrets.token_hex(8)}{_PART}"
    try:
        _write_new(folder, name, b"")
        now_s = os.stat(name, dir_fd=folder).st_mtime
        os.unlink(name, dir_fd=folder)
    except OSError:  # full or read-only
        return 0.0
    return now_s
