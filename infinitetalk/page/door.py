"""Who may ask the page's server for what: this machine's browser, for what the page itself needs.

Gradio serves more than that: it fetches addresses for its callers, takes screen recordings apart, lists its functions.
Here a request passes only if it names this machine, does not come from another site's page, and asks for one of the
page's own things.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HOSTS = re.compile(r"(127\.0\.0\.1|localhost)(:\d{1,5})?")
_GET = re.compile(
    r"/|/config/?|/theme\.css|/gradio_api/theme\.css|/favicon\.ico|/manifest\.json|/(assets|static|svelte)/.*"
    r"|/gradio_api/(queue/data|upload_progress|startup-events|app_id|heartbeat/[a-z0-9]+)/?"
    r"|/gradio_api/file=/.*"
)
_POST = re.compile(r"/gradio_api/(queue/join|upload|cancel|reset)/?")
_JOIN = "/gradio_api/queue/join"
_MOST_JSON_BYTES = 1_000_000  # of a form; files go by /upload

# The page shows nothing of other sites, sends nothing to them, and stands in no frame of theirs.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
]


class Door:
    """ASGI middleware in front of the whole page."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer 403."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http" or not _may_pass(Request(scope)):
            await PlainTextResponse("The page does not serve this.\n", 403)(scope, receive, send)
            return
        if scope["path"].rstrip("/") == _JOIN:
            body = await _body(receive)
            if body is None or _names_address(body):
                await PlainTextResponse("The page takes no addresses.\n", 403)(scope, receive, send)
                return
            receive = _again(body, receive)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
            await send(message)

        await self._app(scope, receive, answer)


def _may_pass(request: Request) -> bool:
    """Whether it is the page itself that asks, for something that it needs."""
    headers = request.headers
    host, origin = headers.get("host", ""), headers.get("origin")
    if not _HOSTS.fullmatch(host) or (origin is not None and origin != f"http://{host}"):
        return False
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    allowed = {"GET": _GET, "HEAD": _GET, "POST": _POST}.get(request.method)
    return allowed is not None and allowed.fullmatch(request.scope["path"]) is not None


async def _body(receive: Receive) -> bytes | None:
    """The whole of a request's body; None for one that is too long, or whose sender has left."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if len(body) > _MOST_JSON_BYTES:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _again(body: bytes, receive: Receive) -> Receive:
    """Give a body that was read once more, and then what follows it."""
    given = False

    async def give() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return give


def _names_address(body: bytes) -> bool:
    """Whether a form names a file by an address, which Gradio would fetch, or is no form at all."""
    try:
        return _has_address(json.loads(body))
    except (ValueError, RecursionError):
        return True


def _has_address(value: Any) -> bool:  # noqa: ANN401
    if isinstance(value, Mapping):
        path = value.get("path")
        is_address = isinstance(path, str) and re.match(r"\s*[a-z][a-z0-9+.-]*:", path, re.IGNORECASE) is not None
        return is_address or any(map(_has_address, value.values()))
    return isinstance(value, list) and any(map(_has_address, value))
