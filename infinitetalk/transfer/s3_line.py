"""The connections under boto3's S3 client, for servers that nobody vouches for.

boto3 reads whatever a server answers, for as long as that takes. Here an answer is bounded in size, another thread may
cut it off at any moment, redirects are left to boto3, and a stranger's server is dialled at public addresses only.
"""

import io
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from botocore.awsrequest import AWSResponse
from botocore.exceptions import ConnectionClosedError
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError
from urllib3.util.connection import create_connection

from infinitetalk.transfer.safe_http import Cuttable, public_addresses

MAX_ANSWER_BYTES = 1 << 20  # S3's own have a few hundred
MAX_HEADS = 3


class BadAnswer(Exception):
    """The server's answer is not one that S3 gives. The message completes a sentence."""


class CutOff(Exception):
    """The line was cut."""


class S3Line(Cuttable):
    """What a boto3 S3 client sends and gets.

    Args:
        status: of the last answer; None before the first, and while one is waited for.
    """

    def __init__(self, client: Any, *, public_only: bool) -> None:  # noqa: ANN401  boto3 is not annotated
        """Take over a client's connections.

        Args:
            public_only: dial public addresses, and no others.
        """
        super().__init__()
        self.status: int | None = None
        self._heads = 0
        self._session = client._endpoint.http_session  # boto3 has no other way in
        connections = (_PinnedHttp, _PinnedHttps) if public_only else (_Http, _Https)
        pools = zip(("http", "https"), (_HttpPool, _HttpsPool), connections, strict=True)
        self._session._pool_classes_by_scheme.update(
            {scheme: partial(_make_pool, pool, partial(connection, self)) for scheme, pool, connection in pools}
        )
        client.meta.events.register("before-send.s3", self._send)

    def watch(self, connection: HTTPConnection) -> None:
        """Take note of a connection that is being made. Raises CutOff."""
        self._connection = connection
        if self._is_cut:
            raise CutOff

    def _send(self, request: Any, **_: object) -> AWSResponse:  # noqa: ANN401
        """Send a request, in place of botocore (its event before-send)."""
        if self._is_cut:
            raise CutOff
        if request.method == "HEAD":  # boto3 asks after a redirect where the bucket is, and so on without end
            self._heads += 1
            if self._heads > MAX_HEADS:
                raise BadAnswer("redirects without end")
        self.status = None
        request.stream_output = True  # the session would read the whole body
        # What comes before "100 Continue" is read by botocore without a bound, and at its end for ever.
        request.headers.pop("Expect", None)
        try:
            response = self._response = self._session.send(request)
            if self._is_cut:
                raise CutOff
            content = self._read(response, request)
        except Exception as error:
            if self._is_cut:
                raise CutOff from error  # which botocore does not try again
            raise
        finally:
            self._response = None
        self.status = response.status_code
        return AWSResponse(response.url, response.status_code, response.headers, _Body(content))

    def _read(self, response: AWSResponse, request: Any) -> bytes:  # noqa: ANN401
        try:
            content: bytes = response.raw.read(MAX_ANSWER_BYTES + 1)
        except HTTPError as error:
            raise ConnectionClosedError(error=error, request=request, endpoint_url=request.url) from error
        if len(content) > MAX_ANSWER_BYTES:
            response.raw.close()
            self.status = response.status_code
            raise BadAnswer(f"an answer of more than {MAX_ANSWER_BYTES >> 20} MiB")
        return content


class _Body(io.BytesIO):
    """An answer's body, as AWSResponse reads it."""

    def stream(self) -> Iterator[bytes]:
        yield self.read()


class _NoRedirects:
    """urllib3 follows redirects within a host, here without end. S3's own are botocore's to follow."""

    def urlopen(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  as it is inherited
        return super().urlopen(*args, **kwargs | {"redirect": False})  # type: ignore[misc]  # a mixin


class _HttpPool(_NoRedirects, HTTPConnectionPool):
    pass


class _HttpsPool(_NoRedirects, HTTPSConnectionPool):
    pass


def _make_pool(
    kind: type[HTTPConnectionPool],
    connect: Callable[..., HTTPConnection],
    *args: Any,  # noqa: ANN401  the pool's own
    **kwargs: Any,  # noqa: ANN401
) -> HTTPConnectionPool:
    pool = kind(*args, **kwargs)
    pool.ConnectionCls = connect  # type: ignore[assignment]  # it is called like a class
    return pool


class _Watched:
    """Tells its line of itself before anything is sent."""

    def __init__(self, line: S3Line, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  the connection's own
        super().__init__(*args, **kwargs)
        self._line = line

    def connect(self) -> None:
        self._line.watch(self)  # type: ignore[arg-type]  # a mixin
        super().connect()  # type: ignore[misc]
        self._line.watch(self)  # type: ignore[arg-type]


class _Pinned:
    """Dials public addresses only, the very ones that were looked up and found to be public."""

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
                failure = NewConnectionError(self, "no connection")  # type: ignore[arg-type]  # a mixin
        raise failure


class _Http(_Watched, HTTPConnection):
    pass


class _Https(_Watched, HTTPSConnection):
    pass


class _PinnedHttp(_Watched, _Pinned, HTTPConnection):
    pass


class _PinnedHttps(_Watched, _Pinned, HTTPSConnection):
    pass
