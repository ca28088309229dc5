"""Who may ask the page's server for what."""

import asyncio
import json

import pytest

from infinitetalk.page.door import POLICY, Door

PAGE = "127.0.0.1:7860"


def ask(method, path, body=b"", **headers):
    """The status that the door gives, the headers of the answer, and the body that came through."""
    sent, seen = [], []

    async def app(scope, receive, send):
        message = await receive()
        seen.append(message.get("body", b""))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    given = {"host": PAGE} | {name.replace("_", "-"): value for name, value in headers.items()}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }
    asyncio.run(Door(app)(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(seen)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/config"),
        ("GET", "/assets/index.js"),
        ("GET", "/gradio_api/queue/data"),
        ("GET", "/gradio_api/heartbeat/abc123"),
        ("GET", "/gradio_api/file=/folder/video.mp4"),
        ("POST", "/gradio_api/upload"),
        ("POST", "/gradio_api/cancel"),
    ],
)
def test_what_the_page_needs_passes(method, path):
    status, headers, _ = ask(method, path, origin=f"http://{PAGE}", sec_fetch_site="same-origin")
    assert status == 200
    assert headers[b"content-security-policy"] == POLICY.encode()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gradio_api/file=https://example.com/x"),
        ("GET", "/gradio_api/file=http:/example.com"),
        ("GET", "/gradio_api/proxy=https://example.hf.space/x"),
        ("GET", "/gradio_api/info"),
        ("GET", "/gradio_api/openapi.json"),
        ("GET", "/gradio_api/runs"),
        ("GET", "/gradio_api/vibe-code"),
        ("GET", "/monitoring"),
        ("GET", "/gradio_api/custom_component/1/client/component/..%2f"),
        ("POST", "/gradio_api/call/predict"),
        ("POST", "/gradio_api/run/predict"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/login"),
        ("PUT", "/"),
        ("DELETE", "/gradio_api/upload"),
    ],
)
def test_nothing_else_passes(method, path):
    assert ask(method, path, body=b"{}")[0] == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "attacker.example"},  # whose name leads to this machine
        {"host": "127.0.0.1.attacker.example:7860"},
        {"origin": "https://attacker.example"},
        {"origin": "null"},
        {"origin": "http://localhost:7860"},  # another origin than the page's
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
def test_nobody_else_passes(headers):
    assert ask("POST", "/gradio_api/upload", **headers)[0] == 403
    assert ask("GET", "/", **headers)[0] == 403


def test_a_form_passes_as_it_came():
    body = json.dumps(
        {"data": [{"path": "/folder/face.png", "url": f"http://{PAGE}/gradio_api/file=/x"}, "a: b"]}
    ).encode()
    assert ask("POST", "/gradio_api/queue/join", body=body)[::2] == (200, body)


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(
            {"data": [{"path": "http://169.254.169.254/latest", "meta": {"_type": "gradio.FileData"}}]}
        ).encode(),
        json.dumps({"data": [[{"deep": {"path": "file:///etc/passwd"}}]]}).encode(),
        json.dumps({"event_data": {"path": " HTTPS://example.com"}}).encode(),
        b"no json",
        b"[" * 100_000,
        b" " * 1_000_001,
    ],
)
def test_a_form_with_an_address_does_not_pass(body):
    assert ask("POST", "/gradio_api/queue/join", body=body)[0] == 403
