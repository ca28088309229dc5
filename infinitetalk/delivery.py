"""How the finished video reaches the caller: as a URL, inside the answer, or on the network volume."""

import base64
import hashlib
import os
import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError
from runpod.serverless.utils.rp_upload import upload_file_to_bucket

from infinitetalk.errors import DeliveryFailed, InvalidInput, TooLarge
from infinitetalk.request import Output
from infinitetalk.settings import Settings
from infinitetalk.shapes import FPS

FOLDER = "infinitetalk-output"  # on the volume and in the bucket
MIME_TYPE = "video/mp4"

# RunPod drops answers over 10 MB (/run) or 20 MB (/runsync); a worker is not told which one was called.
ANSWER_LIMIT_BYTES = 10_000_000
_ANSWER_REST_BYTES = 100_000  # settings, timings, warnings and what the SDK puts around them
MAX_BASE64_VIDEO_BYTES = (ANSWER_LIMIT_BYTES - _ANSWER_REST_BYTES) // 4 * 3

# H.264 at CRF 18: a still picture takes 0.01 bits per pixel, a man talking before a still wall 0.09.
_LEAST_BITS_PER_PIXEL = 0.02
_LEAST_AUDIO_BITS_PER_S = 64_000


@dataclass(frozen=True)
class Delivered:
    """Where the video is; one of the three, named like the result's fields."""

    video_url: str | None = None
    video: str | None = None
    video_path: str | None = None


@dataclass(frozen=True)
class Delivery:
    """A way of handing over that this worker can go."""

    output: Output
    settings: Settings

    def check_fits(self, video_bytes: int) -> None:
        """Raise TooLarge if a video of that size cannot be handed over this way."""
        if self.output == "base64" and video_bytes > MAX_BASE64_VIDEO_BYTES:
            raise TooLarge(
                f"output base64: a video of about {video_bytes / 1e6:.1f} MB is over the "
                f"{MAX_BASE64_VIDEO_BYTES / 1e6:.1f} MB that fit into an answer; choose output url or volume, "
                "or make a shorter or smaller video."
            )

    def deliver(self, video: Path, job_id: str) -> Delivered:
        """Hand over the finished video. Raises TooLarge or DeliveryFailed."""
        self.check_fits(video.stat().st_size)
        match self.output:
            case "url":
                return Delivered(video_url=_upload(video, job_id, self.settings))
            case "base64":
                content = base64.b64encode(video.read_bytes()).decode("ascii")
                return Delivered(video=f"data:{MIME_TYPE};base64,{content}")
            case "volume":
                return Delivered(video_path=str(_store(video, job_id, self.settings.volume_dir)))


def choose_delivery(output: Output | None, settings: Settings) -> Delivery:
    """The way the job asks for, or else the worker's own.

    Raises, if the worker is not set up for it, InvalidInput where the job chose and DeliveryFailed where the
    worker did.
    """
    chosen = output or settings.default_output
    problem = None
    if chosen == "url" and settings.bucket_endpoint_url is None:
        problem = (
            "this worker has no bucket: set BUCKET_ENDPOINT_URL, BUCKET_ACCESS_KEY_ID and BUCKET_SECRET_ACCESS_KEY"
        )
    elif chosen == "volume" and not settings.volume_dir.is_dir():
        problem = f"this worker has no volume at {settings.volume_dir}: attach one, or set VOLUME_DIR"
    elif chosen == "volume" and not os.access(settings.volume_dir, os.W_OK):
        problem = f"the volume at {settings.volume_dir} is read-only"
    if problem is None:
        return Delivery(chosen, settings)
    others = ", ".join(way for way in ("url", "base64", "volume") if way != chosen)
    message = f"output is {chosen}, but {problem}; or choose another output ({others})."
    raise InvalidInput(message) if output else DeliveryFailed(message)


def estimate_video_bytes(width: int, height: int, n_frames: int) -> int:
    """The least a video is likely to take: width, height in pixels. Real ones are up to ten times as large."""
    picture_bits = width * height * n_frames * _LEAST_BITS_PER_PIXEL
    return int((picture_bits + n_frames / FPS * _LEAST_AUDIO_BITS_PER_S) / 8)


def _upload(video: Path, job_id: str, settings: Settings) -> str:
    secret = settings.bucket_secret_access_key
    if settings.bucket_endpoint_url is None or settings.bucket_access_key_id is None or secret is None:
        raise DeliveryFailed("output url: the worker has no bucket.")  # the SDK would save to a local folder
    credentials = {
        "endpointUrl": settings.bucket_endpoint_url,
        "accessId": settings.bucket_access_key_id,
        "accessSecret": secret.get_secret_value(),
    }
    try:
        url: str = upload_file_to_bucket(
            file_name=_file_name(job_id),
            file_location=str(video),
            bucket_creds=credentials,
            bucket_name=settings.bucket_name,
            prefix=FOLDER,
            extra_args={"ContentType": MIME_TYPE},
        )
    except (Boto3Error, BotoCoreError, ClientError, ValueError) as error:  # ValueError: not an endpoint
        raise DeliveryFailed(
            f"output url: the upload to the bucket failed ({_reason(error)}); check the worker's BUCKET_ "
            "variables, or choose another output."
        ) from error
    return url


def _reason(error: Exception) -> str:
    """S3's own word for what went wrong, such as NoSuchBucket."""
    cause = error.__context__ if isinstance(error, Boto3Error) else error
    if isinstance(cause, ClientError):
        return str(cause.response["Error"]["Code"])
    return type(cause or error).__name__


def _store(video: Path, job_id: str, volume_dir: Path) -> Path:
    """Copy to the volume; a file of the final name is never seen half written."""
    folder = volume_dir / FOLDER
    part = folder / f".{secrets.token_hex(8)}.part"
    try:
        folder.mkdir(exist_ok=True)
        try:
            shutil.copyfile(video, part)
            return part.replace(folder / _file_name(job_id))
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise DeliveryFailed(
            f"output volume: the video could not be written to {folder} ({error.strerror}); make room there, "
            "or choose another output."
        ) from error


def _file_name(job_id: str) -> str:
    """A job's file name. Ids come from outside: one that is not plain is cleaned and told apart by a hash."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", job_id):
        return f"{job_id}.mp4"
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", job_id)[:80]
    return f"{plain}-{hashlib.sha256(job_id.encode(errors='backslashreplace')).hexdigest()[:12]}.mp4"
