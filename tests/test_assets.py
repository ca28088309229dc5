import base64
import threading
import time
from pathlib import Path

import pytest

from infinitetalk import assets
from infinitetalk.assets import Source, fetch, fetch_all
from infinitetalk.errors import Cancelled, DownloadFailed, Internal, InvalidInput, MediaUnreadable, TooLarge

CONTENT = bytes(range(256)) * 4
MB = 1_000_000


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(assets, "RETRY_PAUSES_S", (0.01, 0.01))


@pytest.fixture
def small_chunks(monkeypatch):
    """What came since the last whole chunk is lost when a connection breaks."""
    monkeypatch.setattr(assets, "CHUNK_BYTES", 100)


@pytest.fixture
def get(tmp_path):
    def get(url, max_bytes=MB, timeout_s=10.0):
        return fetch(url, "wav_url", tmp_path, max_bytes, timeout_s)

    return get


def answer(status, body=b"", headers=()):
    def page(request):
        request.send_response(status)
        for name, value in headers:
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)

    return page


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


@pytest.mark.parametrize("first", [answer(500), answer(503), answer(429)])
def test_a_passing_error_is_tried_again(site, get, first):
    def page(request):
        (first if site.hits["/f"] == 1 else answer(200, CONTENT))(request)

    site.pages["/f"] = page
    assert get(f"{site.url}/f").read_bytes() == CONTENT
    assert site.hits["/f"] == 2


def test_after_a_broken_try_nothing_of_it_is_left_in_the_file(site, get):
    broken = answer(200, b"other bytes", [("Content-Length", "5000")])

    def page(request):
        (broken if site.hits["/f"] == 1 else answer(200, CONTENT[:5]))(request)

    site.pages["/f"] = page
    assert get(f"{site.url}/f").read_bytes() == CONTENT[:5]


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


# ---- trying again ----


def test_the_pause_that_a_server_asks_for_is_made(site, get):
    def page(request):
        (answer(503, headers=[("Retry-After", "1")]) if site.hits["/f"] == 1 else answer(200, CONTENT))(request)

    site.pages["/f"] = page
    start_s = time.monotonic()
    assert get(f"{site.url}/f").read_bytes() == CONTENT
    assert 1 <= time.monotonic() - start_s < 3


def test_a_pause_beyond_the_time_limit_is_not_waited_for(site, get):
    site.pages["/f"] = answer(429, headers=[("Retry-After", "30")])
    start_s = time.monotonic()
    with pytest.raises(DownloadFailed, match=r"HTTP 429"):
        get(f"{site.url}/f", timeout_s=10.0)
    assert time.monotonic() - start_s < 2
    assert site.hits["/f"] == 1


def test_pauses_grow_and_vary(site, get, monkeypatch):
    waits = []
    monkeypatch.setattr(assets, "RETRY_PAUSES_S", (1.0, 4.0))
    monkeypatch.setattr(threading.Event, "wait", lambda _, seconds=None: waits.append(seconds))
    site.pages["/f"] = answer(503)
    for _ in range(4):
        with pytest.raises(DownloadFailed):
            get(f"{site.url}/f", timeout_s=100.0)
    waits = [seconds for seconds in waits if seconds is not None]
    firsts, seconds = [w for w in waits if 0.5 <= w <= 1.5], [w for w in waits if 2 <= w <= 6]
    assert len(set(firsts)) == len(set(seconds)) == 4


def test_a_cancelled_job_ends_a_pause_at_once(site, tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "RETRY_PAUSES_S", (60.0,))
    site.pages["/f"] = answer(503)
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    start_s = time.monotonic()
    with pytest.raises(Cancelled):
        fetch_all([Source("wav_url", f"{site.url}/f", MB)], tmp_path, 600.0, stop.is_set)
    assert time.monotonic() - start_s < 2
    _wait_for_the_end_of("fetch wav_url")


def resumable(content, breaks_at, tag='"v1"', changes_to=None):
    """A page that breaks off at one byte after the other, and goes on from there if asked to; what was asked."""
    asked = []

    def page(request):
        first = int(request.headers.get("Range", "bytes=0-")[6:-1])
        asked.append((first, request.headers.get("If-Range")))
        whole = changes_to if changes_to and len(asked) > 1 else content
        now = '"v2"' if whole is changes_to else tag
        stop = breaks_at[len(asked) - 1] if len(asked) <= len(breaks_at) else len(whole)
        if first and request.headers["If-Range"] == now:
            headers = [("Content-Range", f"bytes {first}-{len(whole) - 1}/{len(whole)}")]
            answer(206, whole[first:stop], [*headers, ("ETag", now), ("Content-Length", len(whole) - first)])(request)
        else:
            answer(200, whole[:stop], [("ETag", now), ("Content-Length", len(whole))])(request)

    return page, asked


def test_a_download_that_broke_off_goes_on_from_there(site, get, small_chunks):
    site.pages["/f"], asked = resumable(CONTENT, [300, 700])
    assert get(f"{site.url}/f").read_bytes() == CONTENT
    assert asked == [(0, None), (300, '"v1"'), (700, '"v1"')]


def test_a_file_that_changed_meanwhile_is_fetched_from_its_beginning(site, get, small_chunks):
    other = CONTENT[::-1]
    site.pages["/f"], asked = resumable(CONTENT, [300], changes_to=other)
    assert get(f"{site.url}/f").read_bytes() == other
    assert asked == [(0, None), (300, '"v1"')]


def test_without_a_lasting_name_of_its_state_a_file_is_fetched_from_its_beginning(site, get, small_chunks):
    site.pages["/f"], asked = resumable(CONTENT, [300], tag='W/"v1"')
    assert get(f"{site.url}/f").read_bytes() == CONTENT
    assert asked == [(0, None), (0, None)]


@pytest.mark.parametrize("second", [(416, []), (206, [("Content-Range", "bytes 5-9/10")]), (206, [])])
def test_a_server_that_goes_on_elsewhere_is_asked_for_the_whole(site, get, small_chunks, second):
    broken = answer(200, CONTENT[:300], [("ETag", '"v1"'), ("Content-Length", len(CONTENT))])
    answers = [broken, answer(second[0], b"wrong", second[1]), answer(200, CONTENT)]
    site.pages["/f"] = lambda request: answers[site.hits["/f"] - 1](request)
    assert get(f"{site.url}/f").read_bytes() == CONTENT


def test_the_limit_counts_what_came_before_the_break(site, get, small_chunks):
    first = answer(200, bytes(600_000), [("ETag", '"v1"'), ("Content-Length", 700_000)])
    second = answer(206, bytes(600_000), [("Content-Range", "bytes 600000-")])
    site.pages["/f"] = lambda request: (first if site.hits["/f"] == 1 else second)(request)
    with pytest.raises(TooLarge):
        get(f"{site.url}/f")


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
        raise assets.socket.gaierror(assets.socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", resolve)
    with pytest.raises(InvalidInput, match=r"wav_url: there is no server of this name"):
        get("https://no-such-host.example/f")


def test_a_failing_name_lookup_is_retryable(monkeypatch, get):
    def resolve(*_, **__):
        raise assets.socket.gaierror(assets.socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr("socket.getaddrinfo", resolve)
    with pytest.raises(DownloadFailed, match=r"wav_url: the server's name could not be looked up"):
        get("https://cdn.example/f")


def test_a_silent_server_is_given_up(site, get, monkeypatch):
    monkeypatch.setattr(assets, "IDLE_LIMIT_S", 0.1)
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
    _wait_for_the_end_of("fetch wav_url")


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
    monkeypatch.setattr(assets, "RETRY_PAUSES_S", (60.0,))
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
    _wait_for_the_end_of("fetch image_url")


def test_a_cancelled_job_stops_downloading(site, tmp_path):
    def page(request):
        answer(200)(request)
        site.drip(request, seconds_apart=0.02)

    site.pages["/f"] = page
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(Cancelled):
        fetch_all([Source("wav_url", f"{site.url}/f", MB)], tmp_path, 60.0, stop.is_set)
    _wait_for_the_end_of("fetch wav_url")


def _wait_for_the_end_of(thread_name):
    for thread in threading.enumerate():
        if thread.name == thread_name:
            thread.join(timeout=2)
            assert not thread.is_alive()


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
    ["data:audio/wav;base64,@@@@", "data:audio/wav;base64,AAA", "data:audio/wav;base64,é", "data:,plain", "data:"],
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
