"""Where a preview's files lie while a job runs: in its bucket, on the volume, or beside the file on this machine.

    infinitetalk-preview/<job id>/preview.m3u8, init.mp4, 00000.m4s, ...

They are beside infinitetalk-output and not in it, so that a lifecycle rule of the bucket can remove what cancelled jobs
have left.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from botocore.exceptions import ClientError

from infinitetalk.progress import Preview
from infinitetalk.transfer.bucket import URL_LIFETIME_S, Bucket
from infinitetalk.transfer.delivery import Delivery, OrVolume, ToBucket, ToVolume
from infinitetalk.transfer.volume import Volume, plain_name

FOLDER = "infinitetalk-preview"  # on the volume and in the bucket
WRITE_LIMIT_S = 60.0  # for the files of a window, on their way to a bucket
REMOVE_LIMIT_S = 10.0
MOST_REMOVED = 1000  # keys in one request, by S3

MIME_TYPES = {".m3u8": "application/vnd.apple.mpegurl", ".mp4": "video/mp4", ".m4s": "video/iso.segment"}

CheckJob = Callable[[], object]  # raises a JobError where the writing has to end


class PreviewFolder(Protocol):
    """A place for a preview's files. Its methods raise OSError or BucketError."""

    def address(self, name: str) -> str:
        """What a playlist in the folder calls a file of the folder."""
        ...

    def seen(self, name: str) -> Preview:
        """What progress says of a playlist in the folder."""
        ...

    def write(self, files: Mapping[str, bytes | Path], check_job: CheckJob) -> None:
        """Write files in this order; those of the same names are replaced."""
        ...

    def remove(self, names: Sequence[str]) -> None:
        """Remove those files that are there, and the folder if nothing else is in it."""
        ...

    def sweep(self) -> None:
        """Remove what jobs have left that ended without a video, when nobody can be looking at it any more."""
        ...


@dataclass(frozen=True)
class BucketFolder:
    """Files in a bucket, named by signed URLs: a playlist in a private bucket can then be played.

    Args:
        folder: the beginning of their keys, without a slash at the end.
    """

    bucket: Bucket
    folder: str
    _signed: dict[str, str] = field(default_factory=dict, repr=False)

    def address(self, name: str) -> str:
        """See `PreviewFolder.address`. A file is signed once, for a week, which is as long as RunPod lets a job run."""
        if name not in self._signed:
            self._signed[name] = self.bucket.sign(self._key(name))
        return self._signed[name]

    def seen(self, name: str) -> Preview:
        """See `PreviewFolder.seen`."""
        return Preview(preview_url=self.address(name))

    def write(self, files: Mapping[str, bytes | Path], check_job: CheckJob) -> None:
        """See `PreviewFolder.write`."""

        def put(client: Any) -> None:  # noqa: ANN401  boto3 is not annotated
            for name, content in files.items():
                body = content if isinstance(content, bytes) else content.read_bytes()
                kind = {"ContentType": MIME_TYPES[Path(name).suffix]}
                if name.endswith(".m3u8"):  # what a player or a proxy has kept of a playlist is out of date
                    kind["CacheControl"] = "no-cache"
                client.put_object(Bucket=self.bucket.name, Key=self._key(name), Body=body, **kind)

        self.bucket.do(put, WRITE_LIMIT_S, check_job)

    def remove(self, names: Sequence[str]) -> None:
        """See `PreviewFolder.remove`. A bucket has no folders."""

        def delete(client: Any) -> None:  # noqa: ANN401
            keys = [self._key(name) for name in names]
            for batch in (keys[i : i + MOST_REMOVED] for i in range(0, len(keys), MOST_REMOVED)):
                with suppress(ClientError):
                    together = {"Objects": [{"Key": key} for key in batch], "Quiet": True}
                    if not client.delete_objects(Bucket=self.bucket.name, Delete=together).get("Errors"):
                        continue
                # Not every service knows the checksum that goes with many keys, and an error of one key says more.
                for key in batch:
                    client.delete_object(Bucket=self.bucket.name, Key=key)

        self.bucket.do(delete, REMOVE_LIMIT_S, lambda: None)

    def sweep(self) -> None:
        """A bucket's own lifecycle rule does it: keys may be allowed to write and not to list."""

    def __str__(self) -> str:
        return f"{self.folder} in the bucket"

    def _key(self, name: str) -> str:
        return f"{self.folder}/{name}"


@dataclass(frozen=True)
class VolumeFolder:
    """Files below a folder of this machine.

    Args:
        folder: relative to the volume.
        is_swept: whether folders beside it that are a week old belong to jobs that ended without a video.
    """

    volume: Volume
    folder: str
    is_swept: bool = False

    def address(self, name: str) -> str:
        """See `PreviewFolder.address`: relative, so that the folder can be served or copied as it is."""
        return name

    def seen(self, name: str) -> Preview:
        """See `PreviewFolder.seen`."""
        return Preview(preview_path=str(self.volume.root / self.folder / name))

    def write(self, files: Mapping[str, bytes | Path], check_job: CheckJob) -> None:
        """See `PreviewFolder.write`."""
        for name, content in files.items():
            check_job()
            self.volume.write(f"{self.folder}/{name}", content)

    def remove(self, names: Iterable[str]) -> None:
        """See `PreviewFolder.remove`. Other files may lie beside those of a user of this machine."""
        for name in names:
            self.volume.remove(f"{self.folder}/{name}")
        self.volume.remove_empty(self.folder)

    def sweep(self) -> None:
        """See `PreviewFolder.sweep`."""
        if self.is_swept:
            with suppress(OSError):
                self.volume.sweep_folders(FOLDER, URL_LIFETIME_S)

    def __str__(self) -> str:
        return str(self.volume.root / self.folder)


def preview_folder(delivery: Delivery, job_id: str, keep: bool) -> PreviewFolder | None:
    """Where the preview of a video lies that is delivered in that way; None without a bucket and a volume.

    Args:
        keep: whether the previews of finished videos stay, so that an old one may be one of them.
    """
    folder = f"{FOLDER}/{plain_name(job_id)}"
    match delivery:
        case ToBucket(bucket) | OrVolume(ToBucket(bucket)):
            return BucketFolder(bucket, folder)
        case ToVolume(volume) | OrVolume(_, ToVolume(volume)):
            return VolumeFolder(volume, folder, is_swept=not keep)
    return None
