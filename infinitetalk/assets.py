"""A job's inputs: from their URLs to files in a folder that lives as long as the job.

No message holds more of a URL than the field it came in: addresses carry keys, data: URIs the media itself.
"""

import base64
import binascii
import dataclasses
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.client import responses
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote

import requests
from runpod.serverless.utils.rp_ssrf import SSRFError, iter_content_capped, safe_get

from infinitetalk import __version__
from infinitetalk.errors import Cancelled, DownloadFailed, InvalidInput, MediaUnreadable, TooLarge

CHUNK_BYTES = 1 << 18
SILENCE_S = 30.0  # longest wait for a connection, and for the next byte
RETRY_PAUSES_S = (0.5, 2.0)
POLL_S = 0.1
# Compressed answers would hide how large a file is until it is unpacked.
HEADERS = {"User-Agent": f"infinitetalk/{__version__}", "Accept-Encoding": "identity"}
BUSY_STATUSES = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}

_DATA_URI = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)
_WEB_PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype|!--|html|head|body|\?xml)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Source:
    """One input of a job.

    field: the job's field, which names the file and every error. url: http(s) or a base64 data: URI.
    max_bytes: the largest file accepted.
    """

    field: str
    url: str = dataclasses.field(repr=False)
    max_bytes: int


@contextmanager
def job_folder(work_dir: Path, job_id: str) -> Iterator[Path]:
    """A new folder for one job's files, removed with all it holds however the job ends."""
    work_dir.mkdir(parents=True, exist_ok=True)
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", job_id)[:64]  # ids come from outside
    with TemporaryDirectory(prefix=f"infinitetalk-{plain}-", dir=work_dir, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def fetch(url: str, field: str, folder: Path, max_bytes: int, timeout_s: float) -> Path:
    """Bring one input into `folder`; returns its file. Raises like fetch_all."""
    return fetch_all([Source(field, url, max_bytes)], folder, timeout_s)[field]


def fetch_all(
    sources: Sequence[Source],
    folder: Path,
    timeout_s: float,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Path]:
    """Bring all inputs of a job into `folder`, side by side; returns the file of each field.

    timeout_s: for everything together, retries included. The first failure ends the others too.
    Raises InvalidInput (not an address that may be fetched, or the server says there is no such file),
    DownloadFailed (may work later), TooLarge, MediaUnreadable (empty, or a web page), Cancelled.
    """
    deadline_s = time.monotonic() + timeout_s
    transfers = [_Transfer(source, folder) for source in sources]
    try:
        while True:
            futures = [transfer.result for transfer in transfers]
            done, pending = wait(futures, timeout=POLL_S, return_when=FIRST_EXCEPTION)
            for future in futures:  # in the order of the fields: which failure is told does not vary
                if future in done:
                    future.result()
            if not pending:
                return {transfer.source.field: transfer.result.result() for transfer in transfers}
            if should_stop():
                raise Cancelled("The job was cancelled while its inputs were downloaded.")
            if time.monotonic() > deadline_s:
                late = ", ".join(t.source.field for t in transfers if t.result in pending)
                raise DownloadFailed(
                    f"{late}: not downloaded within {timeout_s:g} s; use a faster server or a smaller file."
                )
    finally:
        for transfer in transfers:
            transfer.give_up()


class _Transfer:
    """One input on its way, in a thread that can be given up at any moment.

    A server that sends a byte now and then never runs into a socket timeout. So the time limit is watched
    from outside, and giving up cuts the connection. While a server drips its headers there is nothing to cut
    yet: such a thread is left behind and ends by itself, which is why it is a daemon. The file is made before it
    starts, so that it puts nothing into a folder that is being removed.
    """

    def __init__(self, source: Source, folder: Path) -> None:
        self.source = source
        self.path = folder / source.field
        self.result: Future[Path] = Future()
        self._given_up = threading.Event()
        self._response: requests.Response | None = None
        self._file = self.path.open("w+b")
        threading.Thread(target=self._run, name=f"fetch {source.field}", daemon=True).start()

    def give_up(self) -> None:
        """End the transfer; nothing happens if it has ended."""
        self._given_up.set()
        if self._response is not None:
            with suppress(ValueError, RuntimeError, OSError):  # it ended by itself
                self._response.raw.shutdown()

    def _run(self) -> None:
        try:
            with self._file:
                if self.source.url[:5].lower() == "data:":
                    self._decode()
                else:
                    self._download()
                self._check_content()
        except BaseException as error:
            self.result.set_exception(error)  # raised again in the job's thread
        else:
            self.result.set_result(self.path)

    def _decode(self) -> None:
        prefix = _DATA_URI.match(self.source.url)
        if prefix is None:
            raise InvalidInput(f"{self.source.field} must look like data:image/png;base64,iVBORw0...")
        text = self.source.url[prefix.end() :]
        if len(text) // 4 * 3 > self.source.max_bytes + 3:
            raise self._too_large()
        try:
            content = base64.b64decode(unquote(text), validate=True)
        except (binascii.Error, ValueError):
            raise InvalidInput(
                f"{self.source.field}: the data: URI is not valid base64; it may have been cut off."
            ) from None
        if len(content) > self.source.max_bytes:
            raise self._too_large()
        self._file.write(content)

    def _download(self) -> None:
        for pause_s in RETRY_PAUSES_S:
            try:
                return self._attempt()
            except DownloadFailed:
                if self._given_up.wait(pause_s):
                    raise
        return self._attempt()

    def _attempt(self) -> None:
        # `from None`: the libraries' own messages quote the whole URL.
        try:
            with self._open() as self._response:
                if not self._given_up.is_set():
                    self._file.seek(0)
                    self._file.truncate()
                    self._read(self._response, self._file.write)
        except requests.Timeout:
            raise self._failed(f"no data for {SILENCE_S:g} s") from None
        except requests.exceptions.SSLError:
            raise self._failed("no secure connection; check the server's certificate") from None
        except requests.exceptions.ChunkedEncodingError:
            raise self._failed("the connection broke off before the end of the file") from None
        except requests.RequestException:
            raise self._failed("the connection to the server failed") from None

    def _open(self) -> requests.Response:
        name = self.source.field
        try:
            # The size cap is ours to check: safe_get raises the same error for it as for an unsafe address.
            response: requests.Response = safe_get(
                self.source.url, timeout=(SILENCE_S, SILENCE_S), headers=HEADERS, max_bytes=sys.maxsize
            )
        except ValueError as error:  # SSRFError, or an address that urllib cannot take apart
            if isinstance(error.__cause__, socket.gaierror):
                if error.__cause__.errno == socket.EAI_AGAIN:
                    raise self._failed("the server's name could not be looked up") from None
                raise InvalidInput(f"{name}: there is no server of this name; check the address.") from None
            raise InvalidInput(
                f"{name} is refused: it must lead to a public http(s) address, "
                "without a proxy and in at most 5 redirects."
            ) from None
        if response.ok and response.status_code < HTTPStatus.MULTIPLE_CHOICES:
            return response
        response.close()
        status = response.status_code
        answer = f"the server answered HTTP {status} {responses.get(status, '')}".rstrip()
        if status in BUSY_STATUSES or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise self._failed(answer)
        raise InvalidInput(f"{name}: {answer}; give an address that anyone can download.")

    def _read(self, response: requests.Response, write: Callable[[bytes], object]) -> None:
        declared = response.headers.get("Content-Length", "")
        if declared.isdecimal() and int(declared[:19]) > self.source.max_bytes:
            raise self._too_large()
        try:
            for chunk in iter_content_capped(response, CHUNK_BYTES, self.source.max_bytes):
                write(chunk)
        except SSRFError:  # here it can only mean the cap
            raise self._too_large() from None

    def _check_content(self) -> None:
        self._file.seek(0)
        start = self._file.read(1024)
        if not start:
            raise MediaUnreadable(f"{self.source.field}: the file is empty.")
        if _WEB_PAGE.match(start):
            raise MediaUnreadable(
                f"{self.source.field}: the address leads to a web page, not to a media file; "
                "give the file's direct address."
            )

    def _failed(self, reason: str) -> DownloadFailed:
        return DownloadFailed(f"{self.source.field}: {reason}; try again later.")

    def _too_large(self) -> TooLarge:
        limit_mb = self.source.max_bytes / 1e6
        return TooLarge(f"{self.source.field}: over {limit_mb:g} MB, the most that is accepted; send a smaller file.")
