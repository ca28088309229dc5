"""Downloads that fail at first: when they are tried again, after which pause, and from which byte on."""

import threading
import time

import pytest

from infinitetalk.errors import Cancelled, DownloadFailed, TooLarge
from infinitetalk.transfer import downloads
from infinitetalk.transfer.downloads import Source, fetch_all
from tests.support.downloads import CONTENT, MB, answer, wait_for_the_end_of

pytestmark = pytest.mark.usefixtures("short_pauses")


@pytest.fixture
def small_chunks(monkeypatch):
    """What came since the last whole chunk is lost when a connection breaks."""
    monkeypatch.setattr(downloads, "CHUNK_BYTES", 100)


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
    monkeypatch.setattr(downloads, "RETRY_PAUSES_S", (1.0, 4.0))
    monkeypatch.setattr(threading.Event, "wait", lambda _, seconds=None: waits.append(seconds))
    site.pages["/f"] = answer(503)
    for _ in range(4):
        with pytest.raises(DownloadFailed):
            get(f"{site.url}/f", timeout_s=100.0)
    waits = [seconds for seconds in waits if seconds is not None]
    firsts, seconds = [w for w in waits if 0.5 <= w <= 1.5], [w for w in waits if 2 <= w <= 6]
    assert len(set(firsts)) == len(set(seconds)) == 4


def test_a_cancelled_job_ends_a_pause_at_once(site, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "RETRY_PAUSES_S", (60.0,))
    site.pages["/f"] = answer(503)
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    start_s = time.monotonic()
    with pytest.raises(Cancelled):
        fetch_all([Source("wav_url", f"{site.url}/f", MB)], tmp_path, 600.0, stop.is_set)
    assert time.monotonic() - start_s < 2
    wait_for_the_end_of("fetch wav_url")


# ---- going on where it broke off ----


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
