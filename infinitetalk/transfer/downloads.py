"""A job's inputs: from their URLs to files.

Messages name the field that a URL came in, and nothing of the URL: addresses carry keys, data: URIs the media itself.
"""

import base64
import binascii
import dataclasses
import random
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from http import HTTPStatus
from http.client import responses
from pathlib import Path
from urllib.parse import unquote

import requests
from runpod.serverless.utils.rp_ssrf import SSRFError, iter_content_capped
from urllib3 import Retry
from urllib3.exceptions import InvalidHeader

from infinitetalk import __version__
from infinitetalk.contract.request import MediaField
from infinitetalk.errors import Cancelled, DownloadFailed, Internal, InvalidInput, MediaUnreadable, TooLarge
from infinitetalk.transfer.safe_http import MAX_REDIRECTS, Line
from infinitetalk.transfer.share_links import direct_link

CHUNK_BYTES = 1 << 18
IDLE_LIMIT_S = 30.0  # longest wait for a connection, and for the next byte
RETRY_PAUSES_S = (0.5, 2.0, 8.0)  # each times 0.5 to 1.5, so that clients that failed together come back apart
POLL_S = 0.1
# A compressed answer would hide how large its file is until it is unpacked.
HEADERS = {"User-Agent": f"infinitetalk/{__version__}", "Accept-Encoding": "identity"}

_DATA_URI = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)
_NO_SPACES = dict.fromkeys(map(ord, "\t\n\f\r "))
_WEB_PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype|!--|html|head|body|\?xml)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Source:
    """One input of a job.

    Args:
        field: the job's field; it names the file, and stands in every error.
        url: http(s) or a base64 data: URI.
        max_bytes: the largest file accepted.
        public_only: as in `safe_http.Line`.
    """

    field: MediaField
    url: str = dataclasses.field(repr=False)
    max_bytes: int
    public_only: bool = True


def fetch(
    url: str,
    field: MediaField,
    folder: Path,
    max_bytes: int,
    timeout_s: float,
    public_only: bool = True,
    should_stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Bring one file into `folder`; returns it. Raises the errors of `fetch_all`."""
    return fetch_all([Source(field, url, max_bytes, public_only)], folder, timeout_s, should_stop)[field]


def fetch_all(
    sources: Sequence[Source],
    folder: Path,
    timeout_s: float,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[MediaField, Path]:
    """Bring all inputs of a job into `folder`, side by side; returns the file of each field.

    The first failure ends the others too.

    Args:
        timeout_s: for everything together, retries included.
        should_stop: True ends the downloads.

    Raises:
        InvalidInput: the address may not be fetched, or the server says that there is no such file.
        DownloadFailed: a later try may work.
        TooLarge: a file is over its limit.
        MediaUnreadable: a file is empty or a web page.
        Cancelled: `should_stop` returned True.
    """
    deadline_s = time.monotonic() + timeout_s
    transfers = [_Transfer(source, folder, deadline_s) for source in sources]
    try:
        while True:
            futures = [transfer.result for transfer in transfers]
            done, pending = wait(futures, timeout=POLL_S, return_when=FIRST_EXCEPTION)
            for future in futures:  # in the order of the fields, so that it does not vary which failure is told
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


class _BrokenOff(Exception):
    """A try failed in a way that may pass. The message is the middle of a sentence.

    Args:
        pause_s: how long the server asks to be left alone.
    """

    def __init__(self, reason: str, pause_s: float = 0.0) -> None:
        super().__init__(reason)
        self.pause_s = pause_s


class _Transfer:
    """One input on its way, in a thread that can be given up at any moment.

    A server that sends a byte now and then never runs into a socket timeout. So the time limit is watched from outside,
    and giving up cuts the connection. The thread may take a moment to notice, since looking up a name cannot be cut
    off; that is why it is a daemon. The file is made before the thread starts, so that the thread puts nothing into a
    folder that is being removed.
    """

    def __init__(self, source: Source, folder: Path, deadline_s: float) -> None:
        self.source = source
        self.path = folder / source.field
        self.result: Future[Path] = Future()
        self._deadline_s = deadline_s
        self._given_up = threading.Event()
        self._line = Line(source.public_only)
        self._version: str | None = None  # the server's name for the file's state, if it gives one
        self._file = self.path.open("w+b")
        threading.Thread(target=self._run, name=f"fetch {source.field}", daemon=True).start()

    def give_up(self) -> None:
        """End the transfer; nothing happens if it has ended."""
        self._given_up.set()
        self._line.cut()

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
        try:
            content = _forgiving_base64(unquote(self.source.url[prefix.end() :]))
        except (binascii.Error, ValueError):
            raise InvalidInput(
                f"{self.source.field}: the data: URI is not valid base64; it may have been cut off."
            ) from None
        if len(content) > self.source.max_bytes:
            raise self._too_large()
        self._write(content)

    def _download(self) -> None:
        for pause_s in (*RETRY_PAUSES_S, None):
            try:
                return self._attempt()
            except _BrokenOff as failure:
                reason = failure
            if pause_s is None:
                break
            wait_s = max(pause_s * random.uniform(0.5, 1.5), reason.pause_s)
            if time.monotonic() + wait_s > self._deadline_s or self._given_up.wait(wait_s):
                break
        raise DownloadFailed(f"{self.source.field}: {reason}; try again later.")

    def _attempt(self) -> None:
        # `from None`: the libraries' own messages quote the whole URL.
        try:
            self._get()
        except requests.Timeout:
            raise _BrokenOff(f"no data for {IDLE_LIMIT_S:g} s") from None
        except requests.exceptions.SSLError as error:
            if _is_caused_by(error, ssl.SSLCertVerificationError):
                raise InvalidInput(
                    f"{self.source.field}: the server's certificate is not valid; give an address that browsers trust."
                ) from None
            raise _BrokenOff("no secure connection to the server") from None
        except requests.exceptions.ChunkedEncodingError:
            raise _BrokenOff("the connection broke off before the end of the file") from None
        except requests.exceptions.ContentDecodingError:
            raise MediaUnreadable(
                f"{self.source.field}: the server's compression of the file is damaged; send the file uncompressed."
            ) from None
        except requests.ConnectionError:
            raise _BrokenOff("the connection to the server failed") from None
        except SSRFError as error:
            if isinstance(error.__cause__, socket.gaierror):
                if error.__cause__.errno == socket.EAI_AGAIN:
                    raise _BrokenOff("the server's name could not be looked up") from None
                raise InvalidInput(
                    f"{self.source.field}: there is no server of this name; check the address."
                ) from None
            raise self._refused() from None
        except requests.exceptions.InvalidHeader:
            raise InvalidInput(f"{self.source.field}: the server's answer is not valid HTTP.") from None
        except (ValueError, requests.RequestException):  # an address that cannot be parsed
            raise self._refused() from None

    def _get(self) -> None:
        """One try. It goes on where the last one broke off, if the server still has the same file."""
        have = self._file.tell() if self._version else 0
        resume = {"Range": f"bytes={have}-", "If-Range": self._version} if have and self._version else {}
        with self._line.get(self.source.url, HEADERS | resume, IDLE_LIMIT_S) as response:
            goes_on = response.status_code == HTTPStatus.PARTIAL_CONTENT and resume != {}
            if goes_on and response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                pass
            elif goes_on or (resume and response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
                self._version = None  # the next try begins at the start
                raise _BrokenOff("the server could not go on where the download broke off")
            else:
                self._check_status(response)
                have = 0
                self._file.seek(0)
                self._file.truncate()
                tag = response.headers.get("ETag", "")
                self._version = tag if tag.startswith('"') and "Content-Encoding" not in response.headers else None
            self._read(response, have)

    def _check_status(self, response: requests.Response) -> None:
        status = response.status_code
        if status < HTTPStatus.MULTIPLE_CHOICES and status != HTTPStatus.PARTIAL_CONTENT:
            return
        answer = f"the server answered HTTP {status} {responses.get(status, '')}".rstrip()
        if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise _BrokenOff(answer, _pause_s(response))
        hint = direct_link(self.source.url) or "give an address that anyone can download"
        raise InvalidInput(f"{self.source.field}: {answer}; {hint}.")

    def _read(self, response: requests.Response, have: int) -> None:
        """Append the body to the `have` bytes that the file has."""
        declared = response.headers.get("Content-Length", "")
        if declared.isdecimal() and have + int(declared[:19]) > self.source.max_bytes:
            raise self._too_large()
        try:
            for chunk in iter_content_capped(response, CHUNK_BYTES, self.source.max_bytes - have):
                self._write(chunk)
        except SSRFError:  # here it can only mean the cap
            raise self._too_large() from None

    def _write(self, content: bytes) -> None:
        try:
            self._file.write(content)
        except OSError as error:
            raise Internal(f"{self.source.field}: the worker has no room for the file; try again.") from error

    def _check_content(self) -> None:
        self._file.seek(0)
        start = self._file.read(1024)
        if not start:
            raise MediaUnreadable(f"{self.source.field}: the file is empty.")
        if _WEB_PAGE.match(start):
            hint = direct_link(self.source.url) or "give the file's direct address"
            raise MediaUnreadable(f"{self.source.field}: the address leads to a web page, not to a media file; {hint}.")

    def _refused(self) -> InvalidInput:
        return InvalidInput(
            f"{self.source.field} is refused: it must lead to a public http(s) address, "
            f"in at most {MAX_REDIRECTS} redirects."
        )

    def _too_large(self) -> TooLarge:
        limit_mb = self.source.max_bytes / 1e6
        return TooLarge(f"{self.source.field}: over {limit_mb:g} MB, the most that is accepted; send a smaller file.")


def _forgiving_base64(text: str) -> bytes:
    """Base64 as browsers read it: with line breaks and spaces, with or without its padding.

    https://infra.spec.whatwg.org/#forgiving-base64-decode
    Raises binascii.Error or ValueError for anything else.
    """
    text = text.translate(_NO_SPACES)
    if len(text) % 4 == 0:
        text = text.removesuffix("=").removesuffix("=")
    if "=" in text:
        raise ValueError
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def _pause_s(response: requests.Response) -> float:
    """How long the server asks to be left alone (Retry-After); 0 if it does not say."""
    try:
        return Retry().get_retry_after(response.raw) or 0.0
    except (InvalidHeader, ValueError, OverflowError):
        return 0.0


def _is_caused_by(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error is not None
