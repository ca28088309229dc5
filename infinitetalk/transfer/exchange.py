"""Where a job's files come from and where its video goes: the network on RunPod, this machine on the command line."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from infinitetalk.contract.request import Request
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import InvalidInput
from infinitetalk.transfer.delivery import Delivered, choose_delivery
from infinitetalk.transfer.downloads import Source, fetch_all

MEDIA_FIELDS = ("image_url", "video_url", "wav_url", "wav_url_2")


class Exchange(Protocol):
    """Brings a job's files and takes its video away."""

    def fetch(self, request: Request, folder: Path) -> dict[str, Path]:
        """The files of the request's media fields, by field; new ones go to `folder`."""
        ...

    def check_fits(self, video_bytes: int) -> None:
        """Raise, before the work, if a video of that size could not be handed over."""
        ...

    def deliver(self, video: Path) -> Delivered:
        """Hand over the finished video."""
        ...


class NetworkExchange:
    """Downloads a caller's media; the video goes the way the job or the settings choose.

    Raises, when made, InvalidInput or DeliveryFailed if the worker is not set up for that way.
    """

    def __init__(
        self,
        request: Request,
        settings: Settings,
        job_id: str,
        should_stop: Callable[[], bool],
        s3_config: object = None,
    ) -> None:
        """s3_config: the caller's own bucket, which RunPod passes on beside a job's input."""
        self.settings = settings
        self.job_id = job_id
        self.should_stop = should_stop
        self.delivery = choose_delivery(request.output, settings, s3_config)

    def fetch(self, request: Request, folder: Path) -> dict[str, Path]:
        settings = self.settings
        limits_mb = (settings.max_image_mb, settings.max_video_mb, settings.max_audio_mb, settings.max_audio_mb)
        sources = [
            Source(field, url, int(limit_mb * 1e6))
            for field, limit_mb in zip(MEDIA_FIELDS, limits_mb, strict=True)
            if (url := getattr(request, field)) is not None
        ]
        return fetch_all(sources, folder, settings.download_timeout_s, self.should_stop)

    def check_fits(self, video_bytes: int) -> None:
        self.delivery.check_fits(video_bytes)

    def deliver(self, video: Path) -> Delivered:
        return self.delivery.deliver(video, self.job_id, self.should_stop)


class LocalExchange:
    """Reads file: URLs and moves the video to `output`."""

    def __init__(self, output: Path) -> None:
        self.output = output

    def fetch(self, request: Request, folder: Path) -> dict[str, Path]:
        return local_files(request, folder)

    def check_fits(self, video_bytes: int) -> None:
        """Any size fits, but the file must be one that can be made: better known before the work than after it."""
        if self.output.is_dir():
            raise InvalidInput(f"{self.output} is a folder; name the file to write, such as {self.output / 'out.mp4'}")
        self.output.parent.mkdir(parents=True, exist_ok=True)

    def deliver(self, video: Path) -> Delivered:
        shutil.move(video, self.output)
        return Delivered(video_path=str(self.output))


def local_files(request: Request, folder: Path) -> dict[str, Path]:
    """Links in `folder` to the files of the file: URLs. Raises InvalidInput for one that is not there."""
    files = {}
    for field in MEDIA_FIELDS:
        url = getattr(request, field)
        if url is not None:
            source = Path(unquote(urlsplit(url).path))
            if not source.is_file():
                raise InvalidInput(f"{field}: there is no file {source}")
            files[field] = folder / field
            files[field].symlink_to(source)
    return files
