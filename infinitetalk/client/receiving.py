"""A finished job's video, brought to a file of this machine, whichever way it came, and looked at."""

import base64
import binascii
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infinitetalk.client.endpoint import EndpointFailed
from infinitetalk.errors import Cancelled, JobError, MediaUnreadable
from infinitetalk.media.probe import probe
from infinitetalk.media.tables import is_cut_off
from infinitetalk.shapes import FPS
from infinitetalk.transfer.downloads import fetch

MAX_VIDEO_BYTES = 50_000_000_000
DOWNLOAD_LIMIT_S = 7200.0  # a caller's line may be slow
_LENGTH_SLACK_S = 2 / FPS  # containers round; AAC ends with a block of its own


@dataclass(frozen=True)
class Received:
    """Where a video is now: a file of this machine, or a path on the worker's volume."""

    file: Path | None = None
    volume_path: str | None = None


def receive(output: Mapping[str, Any], target: Path, should_stop: Callable[[], bool] = lambda: False) -> Received:
    """Bring a job's video to `target`, which appears when it is whole.

    Args:
        output: of a finished job.
        should_stop: True ends a download.

    Raises:
        EndpointFailed: the video cannot be fetched, or what came is not the one that the result describes.
        Cancelled: `should_stop` returned True.
        OSError: it cannot be written.
    """
    if isinstance(path := output.get("video_path"), str):
        return Received(volume_path=path)
    with _folder_beside(target) as folder:
        if isinstance(url := output.get("video_url"), str):
            video = _download(url, folder, should_stop)
        elif isinstance(uri := output.get("video"), str):
            video = _decode(uri, folder)
        else:
            raise EndpointFailed("The result names no video; is it an endpoint of this worker?")
        _check(video, output)
        video.replace(target)
    return Received(file=target)


def without_video(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result without the video itself, which may be megabytes of base64."""
    return {name: value for name, value in result.items() if name != "video"}


@contextmanager
def _folder_beside(target: Path) -> Iterator[Path]:
    """A folder for a file that is not whole yet. What a kill has left there goes with the next try."""
    folder = target.with_name(f".{target.name}.part")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _download(url: str, folder: Path, should_stop: Callable[[], bool]) -> Path:
    try:
        # The endpoint is the caller's own, and so is its bucket, in whichever network.
        return fetch(url, "video_url", folder, MAX_VIDEO_BYTES, DOWNLOAD_LIMIT_S, False, should_stop)
    except Cancelled:
        raise
    except JobError as error:
        reason = str(error).partition(";")[0]  # the rest is advice for whoever named an input
        raise EndpointFailed(
            f"The video cannot be fetched ({reason}). Its address, valid for a week from when it was made: {url}"
        ) from error


def _decode(uri: str, folder: Path) -> Path:
    _, is_base64, content = uri.partition(";base64,")
    video = folder / "video"
    try:
        video.write_bytes(base64.b64decode(content, validate=True))
    except binascii.Error as error:
        raise EndpointFailed("The video in the answer is not whole: its base64 is cut off") from error
    if not is_base64:
        raise EndpointFailed("The result's video is no data: URI; is it an endpoint of this worker?")
    return video


def _check(video: Path, output: Mapping[str, Any]) -> None:
    """Find out whether a file is whole, and as long as its result says. Raises EndpointFailed."""
    settings = output.get("settings")
    expected_s = settings.get("duration_s") if isinstance(settings, Mapping) else None
    try:
        info = probe(video, "video")
    except MediaUnreadable as error:
        raise EndpointFailed(f"What came is no whole video ({error})") from error
    if is_cut_off(video) or not info.has_video:
        raise EndpointFailed("What came is no whole video: its end is missing")
    stated_s = info.stated_duration_s
    if isinstance(expected_s, int | float) and stated_s is not None and abs(stated_s - expected_s) > _LENGTH_SLACK_S:
        raise EndpointFailed(f"What came lasts {stated_s:.2f} s, and the job's video {expected_s:.2f} s")
