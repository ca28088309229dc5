"""HTTP GET of addresses that strangers give: only public ones, and another thread can cut it off at any moment.

The SDK's guard (rp_ssrf) looks every name up once, refuses addresses that are not public, and dials what it looked
up, so that a name cannot change its address in between. Its safe_get is not used: it keeps the connection to itself
until the answer's headers have arrived, and a server can put that off for ever.
"""

import logging
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from http.cookiejar import DefaultCookiePolicy
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.cookies import RequestsCookieJar
from runpod.serverless.utils.rp_ssrf import PinnedIPAdapter, SSRFError, resolve_and_validate
from urllib3.connection import HTTPConnection

MAX_REDIRECTS = 5
_MAX_ADDRESSES = 4  # tried per name; names of a hundred dead addresses would cost a hundred waits

# On some versions of Python the guard lets these through: addresses that stand for an IPv4 address (6to4), and those
# that clouds or networks use inside although they are not registered as private.
_NOT_PUBLIC = [
    ip_network(network)
    for network in ("2002::/16", "fec0::/10", "3fff::/20", "192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")
]


class Cuttable:
    """A connection that another thread may cut. Whoever makes it keeps it here, and its answer while that is read."""

    def __init__(self) -> None:
        logging.getLogger("urllib3.connectionpool").setLevel("ERROR")  # its warnings quote the whole URL
        self._is_cut = False
        self._connection: HTTPConnection | None = None
        self._response: Any = None  # of requests or botocore: its `raw` is urllib3's

    def cut(self) -> None:
        """End the connection, if there is one, and allow no other."""
        self._is_cut = True
        with suppress(ValueError, RuntimeError, OSError, AttributeError):  # it ended by itself
            if self._response is not None:
                self._response.raw.shutdown()
            elif self._connection is not None and self._connection.sock is not None:
                self._connection.sock.shutdown(socket.SHUT_RDWR)


class Line(Cuttable):
    """The connection of one download.

    Args:
        public_only: whether a stranger chose the address. Otherwise this machine's user trusts it, whichever network
            it is in, and the user's proxies are used.
    """

    def __init__(self, public_only: bool = True) -> None:
        super().__init__()
        self._public_only = public_only

    @contextmanager
    def get(self, url: str, headers: Mapping[str, str], idle_limit_s: float) -> Iterator[requests.Response]:
        """The answer to a GET after its redirects. Its body is not read yet.

        Cookies that an answer sets are sent along its redirects, to the hosts that they are for, and then forgotten.

        Args:
            idle_limit_s: longest wait for a connection, and for the next byte.

        Raises:
            SSRFError: the address may not be fetched.
            ValueError: the address cannot be parsed.
            requests.RequestException: the connection fails.
        """
        # strict_domain: a site of two labels, such as co.uk, sets none for all below it
        cookies = RequestsCookieJar(policy=DefaultCookiePolicy(strict_domain=True))
        with ExitStack() as hop:
            for _ in range(MAX_REDIRECTS + 1):
                session = hop.enter_context(requests.Session())
                session.cookies = cookies
                # For a stranger no proxy, which would do its own look-up, and no netrc, whose keys are ours.
                session.trust_env = not self._public_only
                response = hop.enter_context(self._get(session, url, headers, idle_limit_s))
                target = session.get_redirect_target(response)
                if target is None:
                    self._response = response
                    if self._is_cut:
                        raise requests.ConnectionError
                    try:
                        yield response
                    finally:
                        self._response = self._connection = None
                    return
                hop.close()
                url = urljoin(url, target)
        raise SSRFError("too many redirects")

    def _get(
        self, session: requests.Session, url: str, headers: Mapping[str, str], idle_limit_s: float
    ) -> requests.Response:
        """One request, to the first of the host's addresses that answers; redirects are not followed."""
        limits_s = (idle_limit_s, idle_limit_s)
        asked: dict[str, Any] = {"headers": headers, "allow_redirects": False, "stream": True, "timeout": limits_s}
        if not self._public_only:
            return session.get(url, **asked)
        parts = urlsplit(url)
        if "\\" in url:  # libraries then disagree where the host ends
            raise SSRFError("a backslash in the address")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SSRFError("not an http(s) address")
        for address in public_addresses(parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)):
            session.mount(f"{parts.scheme}://", _WatchedAdapter(address, self._watch))
            try:
                return session.get(url, **asked)
            except requests.ConnectionError as error:
                failure = error
        raise failure

    def _watch(self, connection: HTTPConnection) -> None:
        self._connection = connection
        if self._is_cut:
            raise requests.ConnectionError


class _WatchedAdapter(PinnedIPAdapter):  # type: ignore[misc]  # the SDK is not annotated
    """The SDK's adapter, which dials one address. It reports every connection before anything is sent on it."""

    def __init__(self, address: str, watch: Callable[[HTTPConnection], None]) -> None:
        self._watch = watch
        super().__init__(address)

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  as it is inherited
        pool = super().get_connection_with_tls_context(*args, **kwargs)
        make = pool.ConnectionCls

        def make_watched(*args: Any, **kwargs: Any) -> HTTPConnection:  # noqa: ANN401
            connection: HTTPConnection = make(*args, **kwargs)
            connect = connection.connect

            def connect_watched() -> None:
                connect()
                self._watch(connection)

            connection.connect = connect_watched  # type: ignore[method-assign]
            return connection

        pool.ConnectionCls = make_watched
        return pool


def public_addresses(host: str, port: int) -> list[str]:
    """The first addresses of a host. Raises SSRFError if it has none, or one that is not public."""
    addresses: list[str] = resolve_and_validate(host, port)
    if not all(map(_is_public, addresses)):
        raise SSRFError("not a public address")
    return addresses[:_MAX_ADDRESSES]


def _is_public(address: str) -> bool:
    ip = ip_address(address)
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return not any(ip in network for network in _NOT_PUBLIC)
