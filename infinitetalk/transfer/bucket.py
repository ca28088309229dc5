"""An S3 bucket for finished videos: the worker's own, or one that came with a job.

boto3 signs, divides large files into parts, and repeats what may succeed. This file adds the rest: an address that came
with a job is dialled only if it is public; an upload ends in time, and when the job is stopped; no message holds a key.
"""

import logging
import re
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.awsrequest import AWSHTTPConnection, AWSHTTPConnectionPool, AWSHTTPSConnection, AWSHTTPSConnectionPool
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from runpod.serverless.utils.rp_ssrf import SSRFError
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError
from urllib3.util.connection import create_connection

from infinitetalk.errors import Cancelled, DeliveryFailed, InvalidInput
from infinitetalk.transfer.safe_http import public_addresses

URL_LIFETIME_S = 604_800  # a week, the longest that S3 signs
PART_BYTES = 16 << 20  # larger files go in parts, and each part is repeated by itself

TRIES = 8  # with pauses of up to 1, 2, 4, 8, 16, 20 and 20 s between them
CONNECT_LIMIT_S = 10.0
IDLE_LIMIT_S = 60.0  # longest wait for the server to take or send a byte
CHECK_LIMIT_S = 5.0
POLL_S = 0.1

# S3's codes for what no later try changes. AccessDenied is not among them: keys that may only write are good.
_HOPELESS = {"NoSuchBucket", "InvalidBucketName", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidSecurity"}
_NOT_DELIVERED = (Boto3Error, BotoCoreError, ClientError, OSError, ValueError)  # ValueError: not an endpoint

_Key = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,256}$")]  # what can stand in a header

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bucket:
    """Where videos are uploaded, and with which keys.

    Args:
        of_job: they came with a job, not from the worker's settings.
    """

    endpoint_url: str
    name: str
    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    of_job: bool = False

    def check(self) -> None:
        """Find out, before a video is made, whether it could be uploaded.

        A server that does not answer only makes a warning: it may be back by then.

        Raises:
            InvalidInput, DeliveryFailed: the bucket is missing, the keys are wrong, or the address is not an endpoint.
                InvalidInput if these came with the job.
        """
        try:
            client = self._client(CHECK_LIMIT_S, CHECK_LIMIT_S, tries=1)
            client.list_objects_v2(Bucket=self.name, MaxKeys=1)
        except ClientError as error:
            if _reason(error) in _HOPELESS:
                raise self._refusal(_reason(error)) from error
        except ValueError as error:
            raise self._refusal("not an endpoint") from error
        except BotoCoreError as error:
            logger.warning("The bucket did not answer the check before the job: %s", _reason(error))

    def upload(self, file: Path, key: str, mime_type: str, timeout_s: float, should_stop: Callable[[], bool]) -> str:
        """Upload a file; returns a signed URL. Connection errors, throttling and answers of 5xx are tried again.

        Raises:
            DeliveryFailed: the upload failed or was not done within `timeout_s`.
            Cancelled: `should_stop` returned True.
        """
        deadline_s = time.monotonic() + timeout_s
        given_up, result = threading.Event(), Future[str]()
        # A server that takes a byte now and then runs into no socket timeout, so the limit is watched from outside. The
        # thread then ends with the next byte or try; since that may take a moment, it is a daemon.
        arguments = (file, key, mime_type, given_up, result)
        threading.Thread(target=self._run, args=arguments, name="upload", daemon=True).start()
        try:
            while True:
                try:
                    return result.result(POLL_S)
                except TimeoutError:
                    if result.done():  # the upload itself timed out
                        raise
                if should_stop():
                    raise Cancelled("The job was cancelled.")
                if time.monotonic() > deadline_s:
                    raise self._failure(f"not done within {timeout_s:g} s")
        except _NOT_DELIVERED as error:
            raise self._failure(_reason(error)) from error
        finally:
            given_up.set()

    def _run(self, file: Path, key: str, mime_type: str, given_up: threading.Event, result: Future[str]) -> None:
        def watch(*_: object, **__: object) -> None:
            if given_up.is_set():
                raise TimeoutError("the upload was given up")

        try:
            client = self._client(CONNECT_LIMIT_S, IDLE_LIMIT_S, TRIES)
            client.meta.events.register("before-send.s3", watch)
            client.upload_file(
                str(file),
                self.name,
                key,
                ExtraArgs={"ContentType": mime_type},
                Config=TransferConfig(
                    multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, use_threads=False
                ),
                Callback=watch,
            )
            parameters = {"Bucket": self.name, "Key": key}
            url: str = client.generate_presigned_url("get_object", Params=parameters, ExpiresIn=URL_LIFETIME_S)
            result.set_result(url)
        except Exception as error:  # whatever it is, the caller of upload gets it
            result.set_exception(error)

    def _client(self, connect_s: float, idle_s: float, tries: int) -> Any:  # noqa: ANN401  boto3 is not annotated
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
                proxies={} if self.of_job else None,  # a proxy would do its own look-up
            ),
        )
        if self.of_job:
            pools = {"http": _PinnedHttpPool, "https": _PinnedHttpsPool}
            client._endpoint.http_session._manager.pool_classes_by_scheme = pools  # boto3 has no other way in
        return client

    def _refusal(self, reason: str) -> InvalidInput | DeliveryFailed:
        if self.of_job:
            return InvalidInput(
                f"s3Config: its bucket cannot be used ({reason}); check endpoint, bucket name and keys."
            )
        return DeliveryFailed(
            f"output url: the worker's bucket cannot be used ({reason}); check its BUCKET_ variables, or choose "
            "another output."
        )

    def _failure(self, reason: str) -> DeliveryFailed:
        where = "the job's s3Config" if self.of_job else "the worker's BUCKET_ variables"
        return DeliveryFailed(
            f"output url: the upload to the bucket failed ({reason}); check {where}, or choose another output."
        )


class _S3Config(BaseModel):
    """What RunPod passes on beside a job's input."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    endpoint_url: str = Field(alias="endpointUrl", max_length=2048)
    bucket_name: str = Field(alias="bucketName", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{1,254}$")
    access_id: _Key = Field(alias="accessId")
    access_secret: _Key = Field(alias="accessSecret")


def job_bucket(s3_config: object) -> Bucket:
    """The bucket of a job's s3Config: endpointUrl, bucketName, accessId, accessSecret.

    Raises InvalidInput if one of them is wrong, or the endpoint has no public address.
    """
    try:
        config = _S3Config.model_validate(s3_config)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(["s3Config", *map(str, problem["loc"])])[:80]
        raise InvalidInput(
            f"{place} is wrong ({problem['msg']}); s3Config has endpointUrl, bucketName, accessId and accessSecret."
        ) from None
    try:
        parts = urlsplit(config.endpoint_url)
        port = parts.port
    except ValueError:
        raise _not_public() from None
    secure = parts.scheme == "https"
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
        raise _not_public()
    try:
        public_addresses(parts.hostname, port or (443 if secure else 80))
    except (SSRFError, ValueError):  # ValueError: no name at all
        raise _not_public() from None
    return Bucket(config.endpoint_url, config.bucket_name, config.access_id, config.access_secret, of_job=True)


def _not_public() -> InvalidInput:
    return InvalidInput(
        "s3Config.endpointUrl is refused: it must be a public http(s) address, such as https://s3.eu-west-1.example.com."
    )


def _region(host: str) -> str | None:
    """The region in an endpoint's name: s3.REGION.company.com, BUCKET.s3.REGION.company.com, and the like."""
    found = re.search(r"(?:^|\.)s3[.-]([a-z]+-[a-z0-9-]+)\.|^([a-z0-9]+)\.digitaloceanspaces\.com$", host)
    return (found[1] or found[2]) if found else None


def _reason(error: BaseException) -> str:
    """What went wrong in one word, without addresses: S3's code, such as NoSuchBucket, or the error's name."""
    cause = error.__context__ if isinstance(error, Boto3Error) else error
    if isinstance(cause, ClientError):
        return str(cause.response["Error"]["Code"])[:80]
    return type(cause or error).__name__


class _Pinned:
    """Dials only addresses that it has looked up and found to be public."""

    host: str
    port: int
    timeout: float | None
    socket_options: Any

    def _new_conn(self) -> socket.socket:
        for address in public_addresses(self.host, self.port):
            try:
                return create_connection((address, self.port), self.timeout, socket_options=self.socket_options)
            except TimeoutError:
                failure: Exception = ConnectTimeoutError(self, "no connection in time")
            except OSError:
                failure = NewConnectionError(self, "no connection")  # type: ignore[arg-type]  # a mixin of one
        raise failure


class _PinnedHttpConnection(_Pinned, AWSHTTPConnection):  # type: ignore[misc]  # botocore is not annotated
    pass


class _PinnedHttpsConnection(_Pinned, AWSHTTPSConnection):  # type: ignore[misc]
    pass


class _PinnedHttpPool(AWSHTTPConnectionPool):  # type: ignore[misc]
    ConnectionCls = _PinnedHttpConnection


class _PinnedHttpsPool(AWSHTTPSConnectionPool):  # type: ignore[misc]
    ConnectionCls = _PinnedHttpsConnection
