"""Where a job's files come from and where its video goes: the network on RunPod, this machine on the command line."""

import os
import tempfile
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from infinitetalk.contract.request import MediaField, Request
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import InvalidInput
from infinitetalk.transfer.delivery import Delivery, choose_delivery
from infinitetalk.transfer.downloads import Source, fetch_all
from infinitetalk.transfer.output_file import ToFile, check_name, check_place
from infinitetalk.transfer.preview_folder import PreviewFolder, VolumeFolder, preview_folder
from infinitetalk.transfer.volume import Volume

Files = dict[MediaField, Path]


@dataclass(frozen=True)
class Exchange:
    """Brings a job's files and takes its video away.

    Args:
        fetch: gives the files of the request's media fields; new files go into the folder.
        delivery: the way that the video goes.
        open_preview: gives the place for a preview's files; None where a preview can only stand in progress. Raises
            OSError.
        previews_unasked: whether a job that does not say has a preview.
    """

    fetch: Callable[[Request, Path], Files]
    delivery: Delivery
    open_preview: Callable[[], PreviewFolder | None] = lambda: None
    previews_unasked: bool = False


def network_exchange(
    request: Request,
    settings: Settings,
    job_id: str,
    should_stop: Callable[[], bool] = lambda: False,
    s3_config: object = None,
) -> Exchange:
    """Downloads a caller's media; the video goes the way that the job or the settings choose.

    Args:
        should_stop: True ends downloads and uploads.
        s3_config: the caller's own bucket, which RunPod passes on beside a job's input.

    Raises:
        InvalidInput, DeliveryFailed: the worker is not set up for that way.
    """
    delivery = choose_delivery(request.output, settings, job_id, should_stop, s3_config)
    preview = preview_folder(delivery, job_id, settings.keep_preview)
    unasked = settings.preview and preview is not None
    return Exchange(partial(_download, settings, should_stop), delivery, lambda: preview, unasked)


def local_exchange(
    output: Path | str,
    refuge: Path | None = None,
    settings: Settings | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Exchange:
    """Reads file: URLs and moves the video to `output`. A preview lies in a folder beside it: out-preview for out.mp4.

    Args:
        refuge: the folder where the video is left if `output` cannot be written in the end. If not given, it is the
            system's temporary folder.
        settings: limits for downloads; if given, other addresses are downloaded.
        should_stop: True ends downloads.
    """
    delivery = ToFile(Path(output), refuge or Path(tempfile.gettempdir()))

    def fetch(request: Request, folder: Path) -> Files:
        check_local_output(request, delivery.path)
        files = local_files(request, folder)
        return files if settings is None else files | _download(settings, should_stop, request, folder, files)

    def open_preview() -> PreviewFolder:
        return VolumeFolder(Volume(delivery.path.parent), f"{delivery.path.stem}-preview")

    return Exchange(fetch, delivery, open_preview)


def check_local_output(request: Request, output: Path) -> None:
    """Find out before the work that `output` cannot be written, or is one of the request's own files.

    Raises InvalidInput.
    """
    check_name(output, ".mp4", dict(local_sources(request)))
    check_place(output)


def local_files(request: Request, folder: Path) -> Files:
    """Links in `folder` to the files of the file: URLs. Raises InvalidInput for a file that is not there."""
    files: Files = {}
    for field, source in local_sources(request):
        if not source.is_file():
            raise InvalidInput(f"{field}: there is no file {source}")
        files[field] = folder / field
        files[field].symlink_to(source)
    return files


def local_sources(request: Request) -> Iterator[tuple[MediaField, Path]]:
    """The files of the file: URLs, by field. Their names need not be text."""
    for file in request.media_files:
        if file.url.startswith("file:"):
            yield file.field, Path(os.fsdecode(unquote_to_bytes(urlsplit(file.url).path)))


def _download(
    settings: Settings, should_stop: Callable[[], bool], request: Request, folder: Path, there: Container[str] = ()
) -> Files:
    """Bring a job's files into `folder`, but for those of the fields that are there."""
    wanted = [file for file in request.media_files if file.field not in there]
    sources = [Source(file.field, file.url, settings.max_bytes(file.kind)) for file in wanted]
    return fetch_all(sources, folder, settings.download_timeout_s, should_stop)
