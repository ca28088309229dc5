"""Files of this machine that a user names for what is to be made: looked at before the work, and never an input."""

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from infinitetalk.errors import DeliveryFailed, InvalidInput
from infinitetalk.transfer.delivery import Delivered
from infinitetalk.transfer.volume import Volume


def check_name(path: Path, suffix: str, inputs: Mapping[str, Path]) -> None:
    """Find out that a name says what the file will hold, and that the file is none of those that are read.

    Args:
        path: where the file is to be.
        suffix: of the one format that is written, such as ".mp4".
        inputs: what is read, by the names that its user knows; behind links too.

    Raises:
        InvalidInput: one sentence.
    """
    if path.is_dir():
        raise InvalidInput(f"{path} is a folder; name the file to write, such as {path / f'out{suffix}'}")
    if path.suffix.lower() != suffix:
        raise InvalidInput(f"{path} does not end in {suffix}, the one format that is written here; name it so")
    for name, file in inputs.items():
        if path.exists() and file.exists() and path.samefile(file):
            raise InvalidInput(f"{path} is the file of {name}, which would be lost; name another one to write")


def check_place(path: Path) -> None:
    """Find out, by writing, that a file can be put at `path`; its folder is made. Raises InvalidInput."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent) as probe:
            probe.write(bytes(4096))
            probe.flush()
        if path.exists() and not (path.is_file() and os.access(path, os.W_OK)):
            raise OSError(errno.EACCES, "what is there is no file that may be written to")
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written ({error.strerror}); name another place") from error


@dataclass(frozen=True)
class ToFile:
    """A way to hand over a finished video (`Delivery`): a file on this machine.

    Args:
        path: where it goes.
        refuge: the folder where it is left if that fails in the end.
    """

    path: Path
    refuge: Path

    def check_fits(self, video_bytes: int, check_job: Callable[[], object] = lambda: None) -> None:
        """There is room. Its name and its place are looked at before the files are read (`exchange.local_exchange`)."""
        free_bytes = shutil.disk_usage(self.path.parent).free
        if free_bytes < video_bytes:
            raise DeliveryFailed(
                f"{self.path} will take {video_bytes / 1e6:.1f} MB or more and there are {free_bytes / 1e6:.1f} MB "
                "left; make room, or name another place"
            )

    def deliver(self, video: Path) -> Delivered:
        """See `Delivery.deliver`. A video that cannot be put there is named where it is."""
        try:
            _move(video, self.path)
        except OSError as error:
            left = self.refuge / f"{self.path.stem}-{secrets.token_hex(4)}.mp4"
            _move(video, left)
            raise DeliveryFailed(f"{self.path} could not be written ({error.strerror}); the video is {left}") from error
        return Delivered(video_path=str(self.path))


def _move(source: Path, target: Path) -> None:
    """Put a file in another place, whole or not at all. Raises OSError."""
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:  # another disk
            raise
        Volume(target.parent).write(target.name, source)
        source.unlink()
