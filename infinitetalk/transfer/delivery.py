"""How the finished video reaches the caller: as a URL, inside the answer, or on the network volume."""

import base64
import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from infinitetalk.contract.request import Output
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import DeliveryFailed, InvalidInput, TooLarge
from infinitetalk.shapes import FPS
from infinitetalk.transfer.bucket import Bucket, job_bucket
from infinitetalk.transfer.volume import plain_name, write_whole

FOLDER = "infinitetalk-output"  # on the volume and in the bucket
MIME_TYPE = "video/mp4"

# RunPod drops answers over 10 MB (/run) or 20 MB (/runsync); a worker is not told which one was called.
ANSWER_LIMIT_BYTES = 10_000_000
_ANSWER_REST_BYTES = 100_000  # settings, timings, warnings and what the SDK puts around them
MAX_BASE64_VIDEO_BYTES = (ANSWER_LIMIT_BYTES - _ANSWER_REST_BYTES) // 4 * 3

_BUCKET_VARIABLES = "BUCKET_ENDPOINT_URL, BUCKET_ACCESS_KEY_ID and BUCKET_SECRET_ACCESS_KEY"

# H.264 at CRF 18: a still picture takes 0.01 bits per pixel, a man talking before a still wall 0.09.
_LEAST_BITS_PER_PIXEL = 0.02
_LEAST_AUDIO_BITS_PER_S = 64_000

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Delivered:
    """Where the video is: one of the first three, named like the result's fields."""

    video_url: str | None = None
    video: str | None = None
    video_path: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Delivery:
    """A way of handing over that this worker can go. bucket: where a URL leads to; None for the other ways."""

    output: Output
    settings: Settings
    bucket: Bucket | None = None

    def check_fits(self, video_bytes: int) -> None:
        """Find out before the work that a video of that size could not be handed over.

        Raises TooLarge, DeliveryFailed (no room on the volume, the bucket refuses) or InvalidInput (the job's bucket).
        """
        if self.output == "base64":
            self._check_answer(video_bytes)
        elif self.output == "volume":
            free_bytes = shutil.disk_usage(self.settings.volume_dir).free
            if free_bytes < video_bytes:
                raise DeliveryFailed(
                    f"output volume: the video will take {video_bytes / 1e6:.1f} MB or more and the volume has "
                    f"{free_bytes / 1e6:.1f} MB left; make room there, or choose another output."
                )
        elif self.bucket is not None:
            self.bucket.check()

    def deliver(self, video: Path, job_id: str, should_stop: Callable[[], bool] = lambda: False) -> Delivered:
        """Hand over the finished video.

        Where that fails and a volume is there, the video is left on it with a warning: it has cost GPU time. Raises
        TooLarge, DeliveryFailed, or Cancelled when `should_stop` says so.
        """
        try:
            return self._hand_over(video, job_id, should_stop)
        except (DeliveryFailed, TooLarge) as error:
            if self.output == "volume" or _volume_problem(self.settings) is not None:
                raise
            logger.warning("Job %r: %s", job_id, error)
            try:
                path = _store(video, job_id, self.settings.volume_dir)
            except DeliveryFailed as second:
                logger.warning("Job %r: %s", job_id, second)
                raise error from second
            return Delivered(video_path=str(path), warnings=(f"{error} The video was left on the volume instead.",))

    def _hand_over(self, video: Path, job_id: str, should_stop: Callable[[], bool]) -> Delivered:
        if self.output == "url":
            assert self.bucket is not None
            key, limit_s = f"{FOLDER}/{plain_name(job_id)}.mp4", self.settings.upload_timeout_s
            return Delivered(video_url=self.bucket.upload(video, key, MIME_TYPE, limit_s, should_stop))
        if self.output == "volume":
            return Delivered(video_path=str(_store(video, job_id, self.settings.volume_dir)))
        self._check_answer(video.stat().st_size)
        content = base64.b64encode(video.read_bytes()).decode("ascii")
        return Delivered(video=f"data:{MIME_TYPE};base64,{content}")

    def _check_answer(self, video_bytes: int) -> None:
        if video_bytes > MAX_BASE64_VIDEO_BYTES:
            others = "choose output url or volume"
            if self.settings.bucket_endpoint_url is None and not self.settings.volume_dir.is_dir():
                others = f"give the worker a bucket ({_BUCKET_VARIABLES}) or a volume (at {self.settings.volume_dir})"
            raise TooLarge(
                f"output base64: a video of about {video_bytes / 1e6:.1f} MB is over the "
                f"{MAX_BASE64_VIDEO_BYTES / 1e6:.1f} MB that fit into an answer; {others}, "
                "or make a shorter or smaller video."
            )


def choose_delivery(output: Output | None, settings: Settings, s3_config: object = None) -> Delivery:
    """The way the job asks for, or else the worker's own.

    s3_config: the bucket that came beside the job's input, if one did.
    Raises InvalidInput for a wrong s3_config and, if the worker is not set up for that way, InvalidInput where the
    job chose and DeliveryFailed where the worker did.
    """
    if s3_config:
        if output not in (None, "url"):
            raise InvalidInput(f"s3Config is read with output url only, and output is {output}; leave out one of them.")
        return Delivery("url", settings, job_bucket(s3_config))
    chosen = output or settings.default_output
    bucket = _worker_bucket(settings) if chosen == "url" else None
    problem = None
    if chosen == "url" and bucket is None:
        problem = f"this worker has no bucket: set {_BUCKET_VARIABLES}, or send s3Config"
    elif chosen == "volume":
        problem = _volume_problem(settings)
    if problem is None:
        return Delivery(chosen, settings, bucket)
    others = ", ".join(way for way in ("url", "base64", "volume") if way != chosen)
    message = f"output is {chosen}, but {problem}; or choose another output ({others})."
    raise InvalidInput(message) if output else DeliveryFailed(message)


def estimate_video_bytes(width: int, height: int, n_frames: int) -> int:
    """The least a video is likely to take: width, height in pixels. Real ones are up to ten times as large."""
    picture_bits = width * height * n_frames * _LEAST_BITS_PER_PIXEL
    return int((picture_bits + n_frames / FPS * _LEAST_AUDIO_BITS_PER_S) / 8)


def _worker_bucket(settings: Settings) -> Bucket | None:
    key, secret = settings.bucket_access_key_id, settings.bucket_secret_access_key
    if settings.bucket_endpoint_url is None or key is None or secret is None:
        return None
    name = settings.bucket_name or time.strftime("%m-%y")  # as the SDK names them
    return Bucket(settings.bucket_endpoint_url, name, key, secret.get_secret_value())


def _volume_problem(settings: Settings) -> str | None:
    if not settings.volume_dir.is_dir():
        return f"this worker has no volume at {settings.volume_dir}: attach one, or set VOLUME_DIR"
    if not os.access(settings.volume_dir, os.W_OK):
        return f"the volume at {settings.volume_dir} is read-only"
    return None


def _store(video: Path, job_id: str, volume_dir: Path) -> Path:
    path = volume_dir / FOLDER / f"{plain_name(job_id)}.mp4"
    try:
        write_whole(path, video)
    except OSError as error:
        raise DeliveryFailed(
            f"output volume: the video could not be written to {path.parent} ({error.strerror}); make room there, "
            "or choose another output."
        ) from error
    return path
