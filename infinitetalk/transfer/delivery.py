"""How the finished video reaches the caller: as a URL, inside the answer, or on the network volume.

Each way is a small class. `choose_delivery` takes the one that a job asks for.
"""

import base64
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, get_args

from infinitetalk.contract.request import Output
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import DeliveryFailed, InvalidInput, TooLarge
from infinitetalk.shapes import FPS
from infinitetalk.transfer.bucket import Bucket
from infinitetalk.transfer.s3_config import job_bucket
from infinitetalk.transfer.volume import Volume, plain_name

FOLDER = "infinitetalk-output"  # on the volume and in the bucket
CHECK_NAME = ".write-check"  # in the bucket, always the same one: keys that may not remove it leave one file
MIME_TYPE = "video/mp4"

# RunPod drops answers over 10 MB (/run) or 20 MB (/runsync); a worker is not told which one was called.
ANSWER_LIMIT_BYTES = 10_000_000
_ANSWER_REST_BYTES = 100_000  # settings, timings, warnings and what the SDK puts around them
MAX_BASE64_VIDEO_BYTES = (ANSWER_LIMIT_BYTES - _ANSWER_REST_BYTES) // 4 * 3

_BUCKET_VARIABLES = "BUCKET_ENDPOINT_URL, BUCKET_ACCESS_KEY_ID and BUCKET_SECRET_ACCESS_KEY"

# H.264 at CRF 18: a still picture takes 0.01 bits per pixel, a man talking before a still wall 0.09.
_LEAST_BITS_PER_PIXEL = 0.02
_LEAST_AUDIO_BITS_PER_S = 64_000

CheckJob = Callable[[], object]  # raises where the job has to end

logger = logging.getLogger(__name__)


def _unchecked() -> None:
    """The job need not end."""


@dataclass(frozen=True)
class Delivered:
    """Where the video is: one of the first three, which are named like the result's fields."""

    video_url: str | None = None
    video: str | None = None
    video_path: str | None = None
    warnings: tuple[str, ...] = ()


class Delivery(Protocol):
    """A way to hand over a finished video."""

    def check_fits(self, video_bytes: int, check_job: CheckJob = _unchecked) -> None:
        """Find out, before the work, whether a video of about that size could be handed over.

        Args:
            check_job: called now and then while this takes a moment; what it raises ends it.

        Raises:
            TooLarge, DeliveryFailed: it could not.
            InvalidInput: the job chose a way that does not work.
        """
        ...

    def deliver(self, video: Path) -> Delivered:
        """Hand over the finished video. Raises TooLarge, DeliveryFailed, or Cancelled if the job was stopped."""
        ...


@dataclass(frozen=True)
class ToBucket:
    """An upload, answered with a signed URL.

    Args:
        key: the video's name in the bucket.
        timeout_s: longest time of the upload.
        should_stop: True ends the upload.
    """

    bucket: Bucket
    key: str
    timeout_s: float
    should_stop: Callable[[], bool]

    def check_fits(self, video_bytes: int, check_job: CheckJob = _unchecked) -> None:
        """Write a small file and remove it: a missing bucket and keys that may not write are known before the work."""
        self.bucket.check(f"{FOLDER}/{CHECK_NAME}", check_job)

    def deliver(self, video: Path) -> Delivered:
        """See `Delivery.deliver`."""
        return Delivered(video_url=self.bucket.upload(video, self.key, MIME_TYPE, self.timeout_s, self.should_stop))


@dataclass(frozen=True)
class ToVolume:
    """A file on the network volume, which appears when it is whole.

    Args:
        name: the file's, relative to the volume.
    """

    volume: Volume
    name: str

    def check_fits(self, video_bytes: int, check_job: CheckJob = _unchecked) -> None:
        """The volume can be written to, and has room."""
        try:
            self.volume.probe(self.name)
            free_bytes = self.volume.free_bytes()
        except OSError as error:
            raise self._failure(error) from error
        if free_bytes < video_bytes:
            raise DeliveryFailed(
                f"output volume: the video will take {video_bytes / 1e6:.1f} MB or more and the volume has "
                f"{free_bytes / 1e6:.1f} MB left; make room there, or choose another output."
            )

    def deliver(self, video: Path) -> Delivered:
        """See `Delivery.deliver`."""
        try:
            return Delivered(video_path=str(self.volume.write(self.name, video)))
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> DeliveryFailed:
        return DeliveryFailed(
            f"output volume: the video cannot be written to {self.volume.root / FOLDER} ({error.strerror}); make room "
            "there and let the worker's user write there, or choose another output."
        )


@dataclass(frozen=True)
class InAnswer:
    """A data: URI in the answer itself.

    Args:
        advice: what to do if the video is too large for that.
    """

    advice: str

    def check_fits(self, video_bytes: int, check_job: CheckJob = _unchecked) -> None:
        """RunPod passes on an answer of that size."""
        if video_bytes > MAX_BASE64_VIDEO_BYTES:
            raise TooLarge(
                f"output base64: a video of about {video_bytes / 1e6:.1f} MB is over the "
                f"{MAX_BASE64_VIDEO_BYTES / 1e6:.1f} MB that fit into an answer; {self.advice}, "
                "or make a shorter or smaller video."
            )

    def deliver(self, video: Path) -> Delivered:
        """See `Delivery.deliver`."""
        self.check_fits(video.stat().st_size)
        content = base64.b64encode(video.read_bytes()).decode("ascii")
        return Delivered(video=f"data:{MIME_TYPE};base64,{content}")


@dataclass(frozen=True)
class OrVolume:
    """Another way, and the volume if that fails in the end, since the video has cost GPU time."""

    way: Delivery
    volume: ToVolume

    def check_fits(self, video_bytes: int, check_job: CheckJob = _unchecked) -> None:
        """See `Delivery.check_fits`. A way that is known not to work fails even if there is a volume."""
        self.way.check_fits(video_bytes, check_job)

    def deliver(self, video: Path) -> Delivered:
        """See `Delivery.deliver`. A video that is left on the volume comes with a warning."""
        try:
            return self.way.deliver(video)
        except (DeliveryFailed, TooLarge) as error:
            logger.warning("%s: %s", self.volume.name, error)
            try:
                left = self.volume.deliver(video)
            except DeliveryFailed as second:
                logger.warning("%s: %s", self.volume.name, second)
                raise error from second
            return replace(left, warnings=(f"{error} The video was left on the volume instead.",))


def choose_delivery(
    output: Output | None,
    settings: Settings,
    job_id: str,
    should_stop: Callable[[], bool] = lambda: False,
    s3_config: object = None,
) -> Delivery:
    """The way that a job asks for, or else the worker's own.

    Args:
        output: what the job says; None if it does not say.
        job_id: names the video.
        should_stop: True ends an upload.
        s3_config: the bucket that came beside the job's input, if one did.

    Raises:
        InvalidInput: s3_config is wrong, or the worker is not set up for the way that the job chose.
        DeliveryFailed: the worker is not set up for its own way.
    """
    name = video_name(job_id)
    bucket = None
    chosen: Output = output or settings.default_output
    if s3_config:
        if output not in (None, "url"):
            raise InvalidInput(f"s3Config is read with output url only, and output is {output}; leave out one of them.")
        chosen, bucket = "url", job_bucket(s3_config)
    elif chosen == "url":
        bucket = _worker_bucket(settings)
    volume, volume_problem = _volume(settings)
    if chosen == "base64":
        way: Delivery = InAnswer(_base64_advice(settings))
    elif bucket is not None:
        way = ToBucket(bucket, name, settings.upload_timeout_s, should_stop)
    elif chosen == "volume" and volume is not None:
        return ToVolume(volume, name)
    else:
        no_bucket = f"this worker has no bucket: set {_BUCKET_VARIABLES}, or send s3Config"
        problem = volume_problem if chosen == "volume" else no_bucket
        others = ", ".join(way for way in get_args(Output) if way != chosen)
        message = f"output is {chosen}, but {problem}; or choose another output ({others})."
        raise InvalidInput(message) if output else DeliveryFailed(message)
    return way if volume is None else OrVolume(way, ToVolume(volume, name))


def video_name(job_id: str) -> str:
    """Of a job's video, on the volume and in the bucket."""
    return f"{FOLDER}/{plain_name(job_id)}.mp4"


def estimate_video_bytes(size: tuple[int, int], n_frames: int, fps: float = FPS) -> int:
    """The least that a video of that (width, height) is likely to take. Real ones are up to ten times as large."""
    picture_bits = size[0] * size[1] * n_frames * _LEAST_BITS_PER_PIXEL
    return int((picture_bits + n_frames / fps * _LEAST_AUDIO_BITS_PER_S) / 8)


def _worker_bucket(settings: Settings) -> Bucket | None:
    key, secret = settings.bucket_access_key_id, settings.bucket_secret_access_key
    if settings.bucket_endpoint_url is None or key is None or secret is None:
        return None
    name = settings.bucket_name or time.strftime("%m-%y")  # as the SDK names them
    return Bucket(settings.bucket_endpoint_url, name, key, secret.get_secret_value())


def _volume(settings: Settings) -> tuple[Volume | None, str]:
    """The volume, or why there is none that can be written to."""
    try:
        volume = Volume(settings.volume_dir)
    except OSError:
        return None, f"this worker has no volume at {settings.volume_dir}: attach one, or set VOLUME_DIR"
    if not os.access(settings.volume_dir, os.W_OK):
        return None, f"the volume at {settings.volume_dir} is read-only"
    return volume, ""


def _base64_advice(settings: Settings) -> str:
    if settings.bucket_endpoint_url is None and not settings.volume_dir.is_dir():
        return f"give the worker a bucket ({_BUCKET_VARIABLES}) or a volume (at {settings.volume_dir})"
    return "choose output url or volume"
