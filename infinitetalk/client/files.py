"""A job's files on this machine: looked at as the worker will, and brought into the job: inside it, or by a bucket."""

import base64
import json
import mimetypes
import re
import secrets
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infinitetalk.contract.caller import CallerSettings
from infinitetalk.contract.request import MediaField, Request
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import DeliveryFailed, InvalidInput, TooLarge
from infinitetalk.media.audio import load_audio
from infinitetalk.media.image import load_whole
from infinitetalk.media.video import SourceVideo
from infinitetalk.transfer.bucket import Bucket
from infinitetalk.transfer.exchange import local_files, local_sources

Json = dict[str, Any]

REQUEST_LIMIT_BYTES = 10_000_000  # RunPod's, of a request to /run
FOLDER = "infinitetalk-input"  # in the bucket
UPLOAD_LIMIT_S = 3600.0  # of one file; a caller's line may be slow
_LOOK_PIXELS = 64  # of a picture that is only looked at


@dataclass(frozen=True)
class Cargo:
    """A job ready to be sent.

    Args:
        job: what is posted: `input` with addresses in place of files.
        uploads: the keys of files that lie in the caller's bucket for it.
    """

    job: Json
    uploads: tuple[str, ...] = ()


def check_files(request: Request, settings: Settings) -> None:
    """Look at the files of this machine that a job names as the worker will: a typo costs no job.

    Args:
        settings: the limits of size and length; the worker may have others.

    Raises:
        InvalidInput, MediaUnreadable, TooLarge: the worker would say the same.
    """
    with tempfile.TemporaryDirectory(prefix="infinitetalk-", dir=settings.work_dir) as folder:
        files = local_files(request, Path(folder))
        for file in request.media_files:
            path = files.get(file.field)
            if path is None:  # an address, at which only the worker can look
                continue
            if path.stat().st_size > settings.max_bytes(file.kind):
                limit_mb = settings.max_bytes(file.kind) / 1e6
                raise TooLarge(f"{file.field}: over {limit_mb:g} MB, the most that is accepted; send a smaller file.")
            if file.kind == "image":
                load_whole(path, file.field, _LOOK_PIXELS)
            elif file.kind == "video":
                SourceVideo.look(path, file.field, _LOOK_PIXELS, _LOOK_PIXELS)
            else:
                load_audio(path, file.field, request.max_duration_s, settings.max_audio_s, path.parent)
                path.with_name(f"{path.name}.f32").unlink(missing_ok=True)


def caller_bucket(caller: CallerSettings) -> Bucket | None:
    """The bucket for a job's files; None where none is set."""
    secret = caller.s3_secret_access_key
    if caller.s3_endpoint_url is None or caller.s3_bucket is None or caller.s3_access_key_id is None or secret is None:
        return None
    keys = caller.s3_access_key_id, secret.get_secret_value()
    return Bucket(caller.s3_endpoint_url, caller.s3_bucket, *keys, owner="caller")


def check_size(request: Request, bucket: Bucket | None, **fields: object) -> set[MediaField]:
    """Which files of this machine have to go through the bucket, so that a request stays under the platform's limit.

    Args:
        bucket, fields: as for `load`.

    Raises:
        TooLarge: the files do not fit, and there is no bucket.
        InvalidInput: the job is too long even without its files.
    """
    job_input = request.model_dump(mode="json", exclude_unset=True) | fields
    sources = dict(local_sources(request))
    for field, path in sources.items():
        put_url(job_input, field, _data_prefix(path))
    sizes = {field: _base64_chars(path) for field, path in sources.items()}
    total = request_bytes({"input": job_input}) + sum(sizes.values())
    too_large = _largest(sizes, total - REQUEST_LIMIT_BYTES)
    if too_large and bucket is None:
        listed = ", ".join(f"{field} {sources[field].stat().st_size / 1e6:.1f} MB" for field in sources)
        raise TooLarge(
            f"The files are too large for a request ({listed}; as text {total / 1e6:.1f} of "
            f"{REQUEST_LIMIT_BYTES / 1e6:g} MB): set S3_ENDPOINT_URL, S3_BUCKET, S3_ACCESS_KEY_ID and "
            "S3_SECRET_ACCESS_KEY to a bucket that they can go through, or make them smaller."
        )
    return too_large


def load(
    request: Request, bucket: Bucket | None, should_stop: Callable[[], bool] = lambda: False, **fields: object
) -> Cargo:
    """Bring a job's files into it: as data: URIs while the request stays under the platform's limit.

    Where it would not, the largest go to the bucket until the rest fits, each with a signed address for the worker.

    Args:
        bucket: the caller's; None if there is none.
        should_stop: True ends an upload.
        fields: further fields of the job's input.

    Raises:
        TooLarge: the files do not fit, and there is no bucket.
        DeliveryFailed: an upload failed. What was uploaded before is removed.
    """
    too_large = check_size(request, bucket, **fields)
    job_input = request.model_dump(mode="json", exclude_unset=True) | fields
    sources = dict(local_sources(request))
    uploads: list[str] = []
    try:
        for field, path in sources.items():
            if field in too_large:
                assert bucket is not None
                uploads.append(f"{FOLDER}/{secrets.token_hex(16)}/{_plain(path)}")
                put_url(job_input, field, bucket.upload(path, uploads[-1], _kind(path), UPLOAD_LIMIT_S, should_stop))
            else:
                put_url(job_input, field, _data_prefix(path) + base64.b64encode(path.read_bytes()).decode("ascii"))
    except BaseException:
        unload(bucket, uploads)
        raise
    return Cargo({"input": job_input}, tuple(uploads))


def unload(bucket: Bucket | None, uploads: Iterable[str]) -> list[str]:
    """Remove what was uploaded for a job; a sentence for each file that stays."""
    problems = []
    for key in uploads:
        try:
            if bucket is None:
                raise DeliveryFailed(f"{key} stays in your bucket, since the S3_ variables are not set now.")
            bucket.remove(key)
        except DeliveryFailed as error:
            problems.append(str(error))
    return problems


def request_bytes(job: Mapping[str, Any]) -> int:
    """How long a job is as the SDK posts it."""
    return len(json.dumps(job))


def _largest(sizes: Mapping[MediaField, int], excess: int) -> set[MediaField]:
    """The fewest of the largest files without which a request is no longer too long by `excess`."""
    left_out: set[MediaField] = set()
    for field in sorted(sizes, key=lambda name: -sizes[name]):
        if excess <= 0:
            break
        left_out.add(field)
        excess -= sizes[field]
    if excess > 0:
        raise InvalidInput("The job is too long for a request, even without its files: shorten its texts.")
    return left_out


def put_url(job_input: Json, field: MediaField, url: str) -> None:
    """Set a field that names a file, also one of `speakers`."""
    entry = re.fullmatch(r"speakers\[(\d+)\]\.(\w+)", field)
    if entry is None:
        job_input[field] = url
    else:
        job_input["speakers"][int(entry[1])][entry[2]] = url


def _kind(path: Path) -> str:
    return mimetypes.guess_type(path.name)[0] or "application/octet-stream"


def _data_prefix(path: Path) -> str:
    return f"data:{_kind(path)};base64,"


def _base64_chars(path: Path) -> int:
    return -(-path.stat().st_size // 3) * 4


def _plain(path: Path) -> str:
    """A name for a bucket: the file's own ending, and nothing else of the caller's."""
    return f"file{path.suffix.lower()}" if re.fullmatch(r"\.[A-Za-z0-9]{1,5}", path.suffix) else "file"
