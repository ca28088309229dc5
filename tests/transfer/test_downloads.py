import base64
import threading
import time
from pathlib import Path

import pytest

from infinitetalk.errors import Cancelled, DownloadFailed, Internal, InvalidInput, MediaUnreadable, TooLarge
from infinitetalk.transfer import downloads
from infinitetalk.transfer.downloads import Source, fetch_all
from tests.support.downloads import CONTENT, MB, answer, wait_for_the_end_of

pytestmark = pytest.mark.usefixtures("short_pauses")


def data_uri(content, kind="audio/wav"):
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


# ---- what works ----


def test_a_file_arrives_byte_for_byte_under_its_field_name(site, get, tmp_path):
    site.pages["/voice.wav"] = CONTENT
    path = get(f"{site.url}/voice.wav?key=abc")
    assert path == tmp_path / "wav_url"
    assert path.read_bytes() == CONTENT


def test_a_file_of_exactly_the_limit_is_accepted(site, get):
    site.pages["/f"] = CONTENT
    assert get(f"{site.url}/f", max_bytes=len(CONTENT)).read_bytes() == CONTENT
    assert get(data_uri(CONTENT), max_bytes=len(CONTENT)).read_bytes() == CONTENT


def test_a_redirect_is_followed(site, get):
    site.pages["/old"] = answer(302, headers=[("Location", "/new")])
    site.pages["/new"] = CONTENT
    assert get(f"{site.url}/old").read_bytes() == CONTENT


def test_a_body_without_a_declared_length_is_read_to_its_end(site, get):
    site.pages["/f"] = answer(200, CONTENT)
    assert get(f"{site.url}/f").read_bytes() == CONTENT


@pytest.mark.parametrize("kind", ["audio/wav", "", "audio/ogg;codecs=opus", "image/svg+xml;charset=utf-8"])
def test_a_data_uri_is_decoded(get, kind):
    assert get(data_uri(CONTENT, kind)).read_bytes() == CONTENT


def test_a_percent_encoded_data_uri_is_decoded(get):
    uri = data_uri(b"\xfb\xff\xfe\x00").replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")
    assert get(uri.replace("audio%2Fwav", "audio/wav")).read_bytes() == b"\xfb\xff\xfe\x00"


def test_all_inputs_are_fetched_side_by_side(site, tmp_path):
    together = threading.Barrier(3, timeout=5)  # broken unless three requests are open at once

    def page(request):
        together.wait()
        answer(200, request.path.encode())(request)

    fields = ["image_url", "wav_url", "wav_url_2"]
    site.pages.update({f"/{field}": page for field in fields})
    paths = fetch_all([Source(field, f"{site.url}/{field}", MB) for field in fields], tmp_path, 10.0)
    assert {field: path.read_bytes() for field, path in paths.items()} == {
        field: f"/{field}".encode() for field in fields
    }


# ---- what the server says ----


@pytest.mark.parametrize("status", [206, 304, 400, 401, 403, 404, 408, 410, 425, 451])
def test_a_lasting_refusal_is_the_callers_error_and_not_tried_again(site, get, status):
    site.pages["/f"] = answer(status)
    with pytest.raises(InvalidInput, match=rf"^wav_url: the server answered HTTP {status}\b"):
        get(f"{site.url}/f")
    assert site.hits["/f"] == 1


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_a_lasting_outage_is_retryable(site, get, status):
    site.pages["/f"] = answer(status)
    with pytest.raises(DownloadFailed, match=rf"^wav_url: the server answered HTTP {status}\b") as caught:
        get(f"{site.url}/f")
    assert caught.value.retryable
    assert site.hits["/f"] == 3


def test_nobody_listening_is_retryable(site, get, unused_port):
    with pytest.raises(DownloadFailed, match=r"wav_url: the connection to the server failed"):
        get(f"http://127.0.0.1:{unused_port}/f")


@pytest.fixture
def unused_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_name_without_a_server_is_the_callers_error(monkeypatch, get):
    def resolve(*_, **__):
        raise downloads.socket.gaierror(downloads.socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", resolve)
    with pytest.raises(InvalidInput, match=r"wav_url: there is no server of this name"):
        get("https://no-such-host.example/f")


def test_a_failing_name_lookup_is_retryable(monkeypatch, get):
    def resolve(*_, **__):
        raise downloads.socket.gaierror(downloads.socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr("socket.getaddrinfo", resolve)
    with pytest.raises(DownloadFailed, match=r"wav_url: the server's name could not be looked up"):
        get("https://cdn.example/f")


def test_a_silent_server_is_given_up(site, get, monkeypatch):
    monkeypatch.setattr(downloads, "IDLE_LIMIT_S", 0.1)
    site.pages["/f"] = lambda _: site.closing.wait(10)
    with pytest.raises(DownloadFailed, match=r"no data for 0.1 s"):
        get(f"{site.url}/f")


# ---- addresses that are not fetched ----


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/f",
        "http://localhost:1/f",
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.7/f",
        "http://192.168.1.1/f",
        "http://[::1]/f",
        "http://[::ffff:127.0.0.1]/f",
        "http://2130706433/f",
        "http://0.0.0.0/f",
        "http://100.64.0.1/f",
    ],
)
def test_a_private_address_is_refused(get, url):
    with pytest.raises(InvalidInput, match=r"wav_url is refused"):
        get(url)


def test_a_redirect_to_a_private_address_is_refused(site, get, monkeypatch):
    """The first hop counts as public here; the second must be checked all the same."""
    monkeypatch.delenv("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS")
    monkeypatch.setattr("runpod.serverless.utils.rp_ssrf.is_safe_address", lambda address: address == "127.0.0.1")
    site.pages["/f"] = answer(302, headers=[("Location", "http://169.254.169.254/secret")])
    with pytest.raises(InvalidInput, match=r"wav_url is refused"):
        get(f"{site.url}/f")
    assert site.hits["/f"] == 1


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/f", "/f", "http://[::1"])
def test_a_redirect_to_nowhere_good_is_refused(site, get, location):
    site.pages["/f"] = answer(302, headers=[("Location", location)])
    with pytest.raises(InvalidInput, match=r"wav_url is refused"):
        get(f"{site.url}/f")


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://example.com/f", "/etc/passwd", "http://", "http://a..b/", "http://[", ""]
)
def test_only_http_addresses_are_fetched(get, url):
    with pytest.raises(InvalidInput, match=r"wav_url is refused"):
        get(url)


# ---- limits ----


def test_a_declared_size_over_the_limit_is_refused_unread(site, get, tmp_path):
    site.pages["/f"] = answer(200, b"", [("Content-Length", "1000001")])
    with pytest.raises(TooLarge, match=r"wav_url: over 1 MB"):
        get(f"{site.url}/f")


def test_an_endless_body_is_cut_at_the_limit(site, get, tmp_path):
    def page(request):
        answer(200)(request)
        while not site.closing.is_set():
            request.wfile.write(b"x" * 100_000)

    site.pages["/f"] = page
    with pytest.raises(TooLarge, match=r"wav_url: over 1 MB"):
        get(f"{site.url}/f")
    assert (tmp_path / "wav_url").stat().st_size <= MB


def test_a_data_uri_over_the_limit_is_refused(get, tmp_path):
    with pytest.raises(TooLarge, match=r"wav_url: over 1 MB"):
        get(data_uri(bytes(MB + 1)))
    assert (tmp_path / "wav_url").read_bytes() == b""


@pytest.mark.parametrize("length", [None, "1000"])
def test_a_dripping_body_ends_at_the_time_limit(site, get, length):
    def page(request):
        answer(200, headers=[("Content-Length", length)] if length else ())(request)
        site.drip(request, seconds_apart=0.02)

    site.pages["/f"] = page
    start_s = time.monotonic()
    with pytest.raises(DownloadFailed, match=r"wav_url: not downloaded within 0.3 s"):
        get(f"{site.url}/f", timeout_s=0.3)
    assert time.monotonic() - start_s < 2
    wait_for_the_end_of("fetch wav_url")


def test_dripping_headers_end_at_the_time_limit(site, get):
    def page(request):
        request.wfile.write(b"HTTP/1.0 200 OK\r\nX-Drip: ")
        site.drip(request, seconds_apart=0.02)

    site.pages["/f"] = page
    start_s = time.monotonic()
    with pytest.raises(DownloadFailed, match=r"wav_url: not downloaded within 0.3 s"):
        get(f"{site.url}/f", timeout_s=0.3)
    assert time.monotonic() - start_s < 2


def test_retries_stay_within_the_time_limit(site, get, monkeypatch):
    monkeypatch.setattr(downloads, "RETRY_PAUSES_S", (60.0,))
    site.pages["/f"] = answer(503)
    start_s = time.monotonic()
    with pytest.raises(DownloadFailed):
        get(f"{site.url}/f", timeout_s=0.3)
    assert time.monotonic() - start_s < 2


def test_the_first_failure_ends_the_other_downloads(site, tmp_path):
    def page(request):
        answer(200)(request)
        site.drip(request, seconds_apart=0.02)

    site.pages["/slow"] = page
    start_s = time.monotonic()
    with pytest.raises(InvalidInput, match=r"wav_url: the server answered HTTP 404"):
        fetch_all(
            [Source("image_url", f"{site.url}/slow", MB), Source("wav_url", f"{site.url}/none", MB)],
            tmp_path,
            timeout_s=60.0,
        )
    assert time.monotonic() - start_s < 2
    wait_for_the_end_of("fetch image_url")


def test_a_cancelled_job_stops_downloading(site, tmp_path):
    def page(request):
        answer(200)(request)
        site.drip(request, seconds_apart=0.02)

    site.pages["/f"] = page
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(Cancelled):
        fetch_all([Source("wav_url", f"{site.url}/f", MB)], tmp_path, 60.0, stop.is_set)
    wait_for_the_end_of("fetch wav_url")


# ---- content ----


def test_an_empty_file_is_named(site, get):
    site.pages["/f"] = b""
    with pytest.raises(MediaUnreadable, match=r"wav_url: the file is empty"):
        get(f"{site.url}/f")


@pytest.mark.parametrize(
    "page",
    [
        b"<!DOCTYPE html><title>Sign in</title>",
        b"\n\n  <html lang='en'>",
        b"\xef\xbb\xbf<!doctype HTML>",
        b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>",
        b"<!-- moved --><html>",
    ],
)
def test_a_web_page_is_recognised_by_its_bytes(site, get, page):
    site.pages["/f"] = page
    with pytest.raises(MediaUnreadable, match=r"wav_url: the address leads to a web page"):
        get(f"{site.url}/f")


def test_a_body_shorter_than_declared_is_not_taken_for_whole(site, get):
    site.pages["/f"] = answer(200, CONTENT, [("Content-Length", str(len(CONTENT) + 1))])
    with pytest.raises(DownloadFailed, match=r"wav_url: the connection broke off"):
        get(f"{site.url}/f")


@pytest.mark.parametrize(
    "uri",
    ["data:audio/wav;base64,@@@@", "data:audio/wav;base64,AAAAA", "data:audio/wav;base64,é", "data:,plain", "data:"],
)
def test_a_broken_data_uri_is_the_callers_error(get, uri):
    with pytest.raises(InvalidInput, match=r"wav_url"):
        get(uri)


def test_an_empty_data_uri_is_an_empty_file(get):
    with pytest.raises(MediaUnreadable, match=r"wav_url: the file is empty"):
        get("data:audio/wav;base64,")


# ---- secrets ----


@pytest.mark.parametrize("path", ["/none", "/busy", "/cut", "/page", "/loop", "/large"])
def test_no_message_or_cause_shows_the_address(site, get, path):
    site.pages["/busy"] = answer(503)
    site.pages["/cut"] = answer(200, b"x", [("Content-Length", "9")])
    site.pages["/page"] = b"<html>"
    site.pages["/loop"] = answer(302, headers=[("Location", "/loop?token=SECRET")])
    site.pages["/large"] = bytes(MB + 1)
    url = f"{site.url}{path}?token=SECRET".replace("//", "//user:SECRET@")
    with pytest.raises(Exception) as caught:
        get(url)
    error = caught.value
    while error is not None:
        assert "SECRET" not in str(error)
        error = None if error.__suppress_context__ else error.__context__
    assert "SECRET" not in repr(Source("wav_url", url, MB))


# ---- the end ----


def test_a_transfer_that_is_given_up_creates_nothing_anymore(site, tmp_path):
    """Its thread may still wait for the server; a file made while the folder is emptied would keep the folder."""
    go_on = threading.Event()

    def late(request):
        go_on.wait(5)
        answer(200, CONTENT)(request)

    site.pages["/late"] = late
    sources = [Source("image_url", f"{site.url}/nothing", MB), Source("wav_url", f"{site.url}/late", MB)]
    with pytest.raises(InvalidInput):
        fetch_all(sources, tmp_path, timeout_s=10)
    for path in tmp_path.iterdir():
        path.unlink()
    go_on.set()
    for thread in threading.enumerate():
        if thread.name == "fetch wav_url":
            thread.join(5)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_not_the_callers_fault(site, get, monkeypatch):
    site.pages["/f"] = CONTENT

    def write(*_):
        raise OSError(28, "No space left on device")

    full = type(
        "Full",
        (),
        {
            "write": write,
            "seek": lambda *_: 0,
            "truncate": lambda *_: 0,
            "tell": lambda _: 0,
            "__enter__": lambda self: self,
            "__exit__": lambda *_: None,
        },
    )
    monkeypatch.setattr(Path, "open", lambda *_: full())
    with pytest.raises(Internal, match=r"^wav_url: the worker has no room"):
        get(f"{site.url}/f")
