"""Web servers on loopback."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def serving(handler: Callable[..., BaseHTTPRequestHandler], host: str = "127.0.0.1") -> Iterator[ThreadingHTTPServer]:
    """A server that answers with `handler` until the block ends; requests that hang then are left behind."""
    server = ThreadingHTTPServer((host, 0), handler)  # type: ignore[arg-type]
    server.daemon_threads = True
    how: dict[str, Any] = {"poll_interval": 0.02}
    threading.Thread(target=server.serve_forever, kwargs=how, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
