"""A server that plays games, and the names that lead to it: see test_hostile_urls.py."""

import gzip
import socket
import threading
import time
from collections import Counter

from tests.support.packed_zeros import gzip_gib, zlib_zeros

PUBLIC, INSIDE = "127.0.0.2", "127.0.0.1"
SECRET = "hunter2"  # in every URL; in no message and no log
CONTENT = bytes(range(256)) * 100

NAMES = {
    "public.test": [PUBLIC],
    "other.test": [PUBLIC],
    "localhost": [INSIDE],
    "localhost.": [INSIDE],
    "inside.test": [INSIDE],
    "127.0.0.1.nip.test": [INSIDE],
    "7f000001.hex.test": [INSIDE],
    "metadata.google.internal": ["169.254.169.254"],
    "router.test": ["192.168.0.1"],
    "carrier.test": ["100.64.7.7"],
    "both.test": [PUBLIC, "10.0.0.1"],
    "mapped.test": ["::ffff:10.0.0.1"],
    "nat64.test": ["64:ff9b::a9fe:a9fe"],
    "6to4.test": ["2002:a9fe:a9fe::1"],
    "unique-local.test": ["fd00:ec2::254"],
    "site-local.test": ["fec0::1"],
}


class World:
    """The server, what it was asked, and who looked names up."""

    def __init__(self):
        self.hits = Counter()  # by the address that was asked
        self.requests = []  # (path, headers)
        self.lookups = Counter()
        self.names = dict(NAMES)
        self.closing = threading.Event()
        self.port = 0

    def look_up(self, host, port, *_, **__):
        host = host.decode() if isinstance(host, bytes) else host
        try:
            # what every resolver does by itself: 0x7f.1, 2130706433, [::1]
            return self.system(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except socket.gaierror:
            self.lookups[host] += 1
            addresses = self.names.get(host.lower())
            if callable(addresses):
                addresses = addresses()
            if addresses is None:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from None
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]


# ---- what the server does ----


def answer(status, body=b"", **headers):
    def page(request, _):
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), str(value))
        request.end_headers()
        request.wfile.write(body)

    return page


def raw(*parts, hold=False):
    """Send bytes without rules; hold: and then nothing more, with the connection open."""

    def page(request, world):
        for part in parts:
            request.wfile.write(part)
        if hold:
            request.wfile.flush()
            world.closing.wait(5)

    return page


def endless(first, again, pause_s=0.0):
    def page(request, world):
        request.wfile.write(first)
        while not world.closing.is_set():
            request.wfile.write(again)
            request.wfile.flush()
            time.sleep(pause_s)

    return page


def reset(request, _):
    request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nabc")
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


class Pages:
    file = staticmethod(answer(200, CONTENT, Content_Length=len(CONTENT)))

    @staticmethod
    def redirect(request, _):
        status, _, target = request.path.partition("?")[2].partition("=")
        answer(int(status), Location=target)(request, _)


OK = b"HTTP/1.1 200 OK\r\n"
PAGES = {
    "redirect": Pages.redirect,
    "loop": answer(302, Location=f"/loop?{SECRET}"),
    "nowhere": answer(302),
    "declared-huge": answer(200, Content_Length=10**15),
    "declared-more-digits-than-int": answer(200, Content_Length="9" * 5000),
    "endless": endless(OK + b"\r\n", b"x" * 65536),
    "endless-chunks": endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"x" * 65536 + b"\r\n"),
    "endless-chunk-line": endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0" * 65536),
    "endless-trailer": endless(OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", b"X-A: b\r\n" * 999),
    "endless-headers": endless(OK, b"X-Header: value\r\n" * 99),
    "endless-header": endless(OK + b"X-Header: ", b"x" * 65536),
    "endless-continue": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 99),
    "endless-gzip": endless(OK + b"Content-Encoding: gzip\r\n\r\n", gzip.compress(bytes(1 << 20))),
    "drip": endless(OK + b"\r\n", b"x", 0.05),
    "drip-declared": endless(OK + b"Content-Length: 1000\r\n\r\n", b"x", 0.05),
    "drip-headers": endless(OK + b"X-Header: ", b"x", 0.05),
    "drip-chunk-line": endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0", 0.05),
    "drip-status": endless(b"", b"H", 0.05),
    "silent": raw(hold=True),
    "silent-body": raw(OK + b"Content-Length: 9\r\n\r\nabc", hold=True),
    "short-body": raw(OK + b"Content-Length: 1000\r\n\r\nabc"),
    "short-chunk": raw(OK + b"Transfer-Encoding: chunked\r\n\r\nff\r\nabc"),
    "long-body": raw(OK + b"Content-Length: 256\r\n\r\n" + CONTENT),
    "negative-length": raw(OK + b"Content-Length: -5\r\n\r\n" + CONTENT),
    "two-lengths": raw(OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdefgh"),
    "word-length": raw(OK + b"Content-Length: many\r\n\r\n" + CONTENT),
    "bad-chunk": raw(OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n"),
    "bad-header": raw(OK + b"no colon here\r\nContent-Length: 3\r\n\r\nabc"),
    "no-http": raw(b"SSH-2.0-OpenSSH_9.9\r\n"),
    "nothing": raw(),
    "reset": reset,
    "gzip-bomb": answer(200, gzip_gib(), Content_Encoding="gzip"),
    "gzip-gzip-bomb": answer(200, gzip.compress(gzip_gib()), Content_Encoding="gzip, gzip"),
    "deflate-bomb": answer(200, zlib_zeros(256), Content_Encoding="deflate"),
    "gzip-chain": answer(200, b"x", Content_Encoding=", ".join(["gzip"] * 500)),
    "gzip-damaged": answer(200, b"\x1f\x8b\x08 and so on", Content_Encoding="gzip"),
    "gzip": answer(200, gzip.compress(CONTENT), Content_Encoding="gzip"),
    "empty": answer(200, Content_Length=0),
    "no-content": answer(204),
    "not-modified": answer(304),
    "partial": answer(206, b"abc", Content_Range="bytes 5-7/99"),
    "page": answer(200, f"<!doctype html><title>{SECRET}</title>".encode(), Content_Type="audio/wav"),
    "later": answer(503, Retry_After=3600),
    "later-date": answer(429, Retry_After="Wed, 21 Oct 2099 07:28:00 GMT"),
    "later-nonsense": answer(503, Retry_After="9" * 5000),
    **{f"status-{status}": answer(status) for status in (400, 401, 402, 403, 404, 408, 410, 425, 429, 451, 500, 599)},
}
