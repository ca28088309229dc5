"""An S3 bucket: the worker's own or one that came with a job, for finished videos; or a caller's, for a job's files.

boto3 signs, divides large files into parts and repeats what may succeed. What is ours: whatever a bucket does ends
in time and with its job, and is told in one sentence without keys; nothing unfinished stays in the bucket.
"""

import logging
import re
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from http.client import HTTPException, IncompleteRead
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from infinitetalk.errors import Cancelled, DeliveryFailed, InvalidInput, JobError
from infinitetalk.transfer.s3_line import BadAnswer, S3Line

URL_LIFETIME_S = 604_800  # a week, the longest that S3 signs
PART_BYTES = 16 << 20  # larger files go in parts, and each part is repeated by itself

TRIES = 8  # with pauses of up to 1, 2, 4, 8, 16, 20 and 20 s between them
CONNECT_LIMIT_S = 10.0
IDLE_LIMIT_S = 60.0  # longest wait for the server to take or send a byte
CHECK_LIMIT_S = 5.0  # for the whole check
REMOVE_LIMIT_S = 30.0
ABORT_LIMIT_S = 5.0  # for the removal of an unfinished upload
POLL_S = 0.1

_MAY_PASS = {408, 425, 429, *range(500, 600)}  # answers after which a later try may succeed

T = TypeVar("T")

logger = logging.getLogger(__name__)


class _NotInTime(Exception):
    """A time limit has passed. The message completes a sentence."""


class BucketError(Exception):
    """A bucket did not do what it was asked to. The message is the reason in a word or two."""


@dataclass(frozen=True)
class Bucket:
    """Where files are uploaded, and with which keys.

    Args:
        owner: who named it: the worker's settings, a job that a stranger sent, or the caller on this machine.
    """

    endpoint_url: str
    name: str
    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    owner: Literal["worker", "job", "caller"] = "worker"

    def check(self, key: str, check_job: Callable[[], object] = lambda: None) -> None:
        """Find out, before a video is made, that it could not be uploaded: write a small file and remove it.

        A server that cannot be reached or is in trouble may be back by then, and passes; so do keys that may write and
        not remove.

        Args:
            key: the small file's name in the bucket.
            check_job: called now and then; what it raises ends the check.

        Raises:
            InvalidInput: the bucket came with the job and takes no file.
            DeliveryFailed: the worker's own bucket takes none.
        """
        line = None
        try:
            client, line = self._connect(CHECK_LIMIT_S, CHECK_LIMIT_S, tries=1)
            _watched(lambda: self._write_and_remove(client, key), line, CHECK_LIMIT_S, check_job)
        except JobError:  # of check_job
            raise
        except Exception as error:  # whatever the server made of it
            if not _may_pass(error, line):
                raise self._refusal(_reason(error, line)) from error
            logger.warning("The bucket could not be checked before the job: %s", _reason(error, line))

    def upload(self, file: Path, key: str, mime_type: str, timeout_s: float, should_stop: Callable[[], bool]) -> str:
        """Upload a file; returns a signed URL. Connection errors, throttling and answers of 5xx are tried again.

        Raises DeliveryFailed, or Cancelled when `should_stop` says so; parts of a large file are removed then.
        """
        unfinished: list[str] = []

        def check_job() -> None:
            if should_stop():
                raise Cancelled("The job was cancelled.")

        line = None
        try:
            client, line = self._connect(CONNECT_LIMIT_S, IDLE_LIMIT_S, TRIES)
            _note_unfinished(client, unfinished)
            work = lambda: self._send(client, file, key, mime_type)  # noqa: E731
            return _watched(work, line, timeout_s, check_job)
        except BaseException as error:
            for upload_id in unfinished:
                self._abort(key, upload_id)
            if isinstance(error, JobError) or not isinstance(error, Exception):
                raise
            raise self._failure(_reason(error, line)) from error

    def remove(self, key: str) -> None:
        """Remove a file; nothing happens where there is none. Raises DeliveryFailed where it stays."""
        try:
            self.do(lambda client: client.delete_object(Bucket=self.name, Key=key), REMOVE_LIMIT_S, lambda: None)
        except BucketError as error:
            raise DeliveryFailed(f"{key} stays in the bucket ({error}); remove it yourself.") from error

    @property
    def _is_strange(self) -> bool:
        """Whether a stranger chose its address."""
        return self.owner == "job"

    def do(self, work: Callable[[Any], T], limit_s: float, check_job: Callable[[], object]) -> T:
        """What `work` makes of a boto3 client. Connection errors, throttling and answers of 5xx are tried again.

        Args:
            limit_s: longest time of the whole.
            check_job: called now and then; the JobError that it raises ends the work.

        Raises:
            BucketError: it failed.
        """
        line = None
        try:
            client, line = self._connect(CONNECT_LIMIT_S, IDLE_LIMIT_S, TRIES)
            return _watched(lambda: work(client), line, limit_s, check_job)
        except JobError:
            raise
        except Exception as error:
            raise BucketError(_reason(error, line)) from error

    def sign(self, key: str) -> str:
        """A signed URL of a file, which need not be there yet. Raises BucketError for what is not an endpoint."""
        try:
            client, _ = self._connect(CONNECT_LIMIT_S, IDLE_LIMIT_S, tries=1)
            return self._signed(client, key)
        except Exception as error:
            raise BucketError(_reason(error, None)) from error

    def _write_and_remove(self, client: Any, key: str) -> None:  # noqa: ANN401  boto3 is not annotated
        client.put_object(Bucket=self.name, Key=key, Body=b"Written to see whether videos can be.")
        try:
            client.delete_object(Bucket=self.name, Key=key)
        except Exception as error:  # keys that may only write are good ones
            logger.info("%s stays in the bucket: %s", key, _reason(error, None))

    def _send(self, client: Any, file: Path, key: str, mime_type: str) -> str:  # noqa: ANN401
        config = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, use_threads=False)
        client.upload_file(str(file), self.name, key, ExtraArgs={"ContentType": mime_type}, Config=config)
        return self._signed(client, key)

    def _signed(self, client: Any, key: str) -> str:  # noqa: ANN401
        parameters = {"Bucket": self.name, "Key": key}
        url: str = client.generate_presigned_url("get_object", Params=parameters, ExpiresIn=URL_LIFETIME_S)
        return url

    def _abort(self, key: str, upload_id: str) -> None:
        """Remove the parts of a large file that was given up."""
        try:
            client, line = self._connect(ABORT_LIMIT_S, ABORT_LIMIT_S, tries=1)
            work = lambda: client.abort_multipart_upload(Bucket=self.name, Key=key, UploadId=upload_id)  # noqa: E731
            _watched(work, line, ABORT_LIMIT_S, lambda: None)
        except Exception as error:
            logger.warning("An unfinished upload stays in the bucket: %s", _reason(error, None))

    def _connect(self, connect_s: float, idle_s: float, tries: int) -> tuple[Any, S3Line]:
        """A boto3 client and its line. Raises ValueError for what is not an endpoint."""
        client = boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name=_region(urlsplit(self.endpoint_url).hostname or ""),
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            config=Config(
                signature_version="s3v4",
                connect_timeout=connect_s,
                read_timeout=idle_s,
                retries={"mode": "standard", "total_max_attempts": tries},
                # Not every service that speaks S3 knows the checksums that Amazon's own has come to expect.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                proxies={} if self._is_strange else None,  # a proxy would do its own look-up
            ),
        )
        for operation in ("PutObject", "CompleteMultipartUpload"):
            client.meta.events.register(f"after-call.s3.{operation}", _expect_tag)
        return client, S3Line(client, public_only=self._is_strange)

    def _refusal(self, reason: str) -> InvalidInput | DeliveryFailed:
        if self._is_strange:
            return InvalidInput(
                f"s3Config: its bucket cannot be used ({reason}); check endpoint, bucket name and keys."
            )
        if self.owner == "caller":
            return InvalidInput(f"Your bucket cannot be used ({reason}); check the S3_ variables.")
        return DeliveryFailed(
            f"output url: the worker's bucket cannot be used ({reason}); check its BUCKET_ variables, or choose "
            "another output."
        )

    def _failure(self, reason: str) -> DeliveryFailed:
        if self.owner == "caller":
            return DeliveryFailed(
                f"The upload to your bucket failed ({reason}); check the S3_ variables, or try again."
            )
        where = "the job's s3Config" if self._is_strange else "the worker's BUCKET_ variables"
        return DeliveryFailed(
            f"output url: the upload to the bucket failed ({reason}); check {where}, or choose another output."
        )


def _watched(work: Callable[[], T], line: S3Line, limit_s: float, check_job: Callable[[], object]) -> T:
    """What `work` returns. It is given up, and its line cut, when the limit has passed or `check_job` raises.

    A server that takes or sends a byte now and then runs into no socket timeout, so the limit is watched from outside.
    The thread may take a moment to notice (a name being looked up, and a pause between tries, cannot be cut off), which
    is why it is a daemon.
    """
    result = Future[T]()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:  # raised again in the caller's thread
            result.set_exception(error)

    deadline_s = time.monotonic() + limit_s
    threading.Thread(target=run, name="upload", daemon=True).start()
    try:
        while True:
            try:
                return result.result(POLL_S)
            except TimeoutError:
                if result.done():  # it was the work's own
                    raise
            check_job()
            if time.monotonic() > deadline_s:
                raise _NotInTime(f"not done within {limit_s:g} s")
    finally:
        line.cut()


def _expect_tag(http_response: Any, parsed: dict[str, Any], **_: object) -> None:  # noqa: ANN401
    """Whoever has stored a file names its state: a server that answers all alike (a portal, a proxy) has not."""
    if http_response.status_code < 300 and not parsed.get("ETag"):
        raise BadAnswer("an answer that is not S3's")


def _note_unfinished(client: Any, unfinished: list[str]) -> None:  # noqa: ANN401
    """Have the id of an upload in parts stand in the list for as long as its parts lie in the bucket."""

    def begun(parsed: dict[str, Any], **_: object) -> None:
        if upload_id := parsed.get("UploadId"):
            unfinished.append(upload_id)

    def ended(http_response: Any, **_: object) -> None:  # noqa: ANN401
        if http_response.status_code < 300:
            unfinished.clear()

    client.meta.events.register("after-call.s3.CreateMultipartUpload", begun)
    client.meta.events.register("after-call.s3.CompleteMultipartUpload", ended)
    client.meta.events.register("after-call.s3.AbortMultipartUpload", ended)


def _region(host: str) -> str | None:
    """The region in an endpoint's name: s3.REGION.company.com, BUCKET.s3.REGION.company.com, and the like."""
    found = re.search(r"(?:^|\.)s3[.-]([a-z]+-[a-z0-9-]+)\.|^([a-z0-9]+)\.digitaloceanspaces\.com$", host)
    return (found[1] or found[2]) if found else None


def _may_pass(error: Exception, line: S3Line | None) -> bool:
    """Whether a later try may succeed where this one failed."""
    if isinstance(error, _NotInTime):
        return True
    if line is None or _is_caused_by(error, ssl.SSLCertVerificationError):
        return False
    if line.status is None:  # no answer, or not one of HTTP
        return isinstance(error, BotoCoreError) and not _is_gibberish(error)
    return line.status in _MAY_PASS


def _is_gibberish(error: BaseException | None) -> bool:
    """Whether the server speaks, and not HTTP."""
    return _is_caused_by(error, HTTPException) and not _is_caused_by(error, ConnectionError, IncompleteRead)


def _is_caused_by(error: BaseException | None, *kinds: type[BaseException]) -> bool:
    while error is not None and not isinstance(error, kinds):
        error = error.__cause__ or error.__context__
    return error is not None


def _reason(error: BaseException, line: S3Line | None) -> str:
    """What went wrong in a word or two, without addresses: S3's own word, such as NoSuchBucket, or the error's kind."""
    cause = error.__context__ or error if isinstance(error, Boto3Error) else error
    if isinstance(cause, BadAnswer | _NotInTime):
        return str(cause)
    if isinstance(cause, ClientError):
        code = cause.response.get("Error", {}).get("Code")
        if isinstance(code, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9.]{0,63}", code):  # a stranger may say anything
            return code
    elif _is_caused_by(cause, ssl.SSLCertVerificationError):
        return "its certificate is not valid"
    elif _is_gibberish(cause):
        return "an answer that is not HTTP"
    elif isinstance(cause, BotoCoreError | OSError):
        return type(cause).__name__
    elif isinstance(cause, ValueError) and (line is None or line.status is None):
        return "not an endpoint"
    status = line.status if line is not None else None
    return f"HTTP {status}" if status is not None and status >= 300 else "an answer that is not S3's"
