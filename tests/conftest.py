"""What all tests share: an environment without this machine's settings, the miniature, a web server that misbehaves."""

import logging
import os
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler

import pytest
import torch

from infinitetalk.contract.settings import Settings
from infinitetalk.models.opening import Models
from infinitetalk.transfer import downloads
from tests.support.downloads import MB
from tests.support.loopback import serving
from tests.support.miniature import open_miniature

OTHER_VARIABLES = (
    "ALL_PROXY",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS",
    "RUNPOD_DEBUG_LEVEL",
    "RUNPOD_ENDPOINT_ID",
    "RUNPOD_LOG_LEVEL",
    "RUNPOD_REALTIME_PORT",
    "RUNPOD_WEBHOOK_GET_JOB",
    "RUNPOD_WEBHOOK_POST_OUTPUT",
)


def pytest_configure(config):
    config.addinivalue_line("markers", "requires_cuda: needs an NVIDIA GPU; skipped where there is none")
    config.addinivalue_line("markers", "long: starts many processes or whole jobs; run by make test-long alone")


def pytest_xdist_auto_num_workers():
    """One process more than cores, since tests also wait for programs and time limits. Each takes up to 2 GB."""
    return min((os.cpu_count() or 1) + 1, 5)


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("requires_cuda"):
                item.add_marker(pytest.mark.skip(reason="no GPU"))


@pytest.fixture(autouse=True)
def clean_environ(monkeypatch):
    """Tests see the defaults, whatever is set where they run."""
    ours = [name for name, _, _ in Settings.variables()]
    for name in (*ours, *OTHER_VARIABLES, *(name.lower() for name in OTHER_VARIABLES)):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def clean_logging():
    """What a test, or a command that it runs, changes in the logging of this process is put back."""
    root, ours, hook = logging.getLogger(), logging.getLogger("infinitetalk"), threading.excepthook
    handlers, level, our_level = root.handlers[:], root.level, ours.level
    yield
    logging.captureWarnings(False)
    logging.disable(logging.NOTSET)
    threading.excepthook = hook
    root.handlers[:] = handlers
    root.setLevel(level)
    ours.setLevel(our_level)


@pytest.fixture(scope="session")
def models() -> Models:
    """The miniature, opened once a process: tests leave it as it is."""
    return open_miniature()


class Site:
    """A web server on loopback. `pages` holds bytes, or functions that answer a request by themselves."""

    def __init__(self, server):
        self.url = f"http://127.0.0.1:{server.server_port}"
        self.pages = {}
        self.hits = Counter()
        self.closing = threading.Event()

    def drip(self, request, seconds_apart):
        """Send a byte now and then, until the client leaves or the test ends."""
        while not self.closing.is_set():
            request.wfile.write(b"x")
            request.wfile.flush()
            time.sleep(seconds_apart)


@pytest.fixture
def site(monkeypatch):
    """A running Site whose address the worker may fetch from."""
    monkeypatch.setenv("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS", "1")

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.split("?")[0]
            site.hits[path] += 1
            page = site.pages.get(path)
            try:
                if callable(page):
                    page(self)
                elif page is None:
                    self.send_error(404)
                else:
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(page)))
                    self.end_headers()
                    if self.command == "GET":
                        self.wfile.write(page)
            except OSError:
                pass  # the client left

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    with serving(Answer) as server:
        site = Site(server)
        yield site
        site.closing.set()


@pytest.fixture
def short_pauses(monkeypatch):
    """Downloads that failed are tried again almost at once."""
    monkeypatch.setattr(downloads, "RETRY_PAUSES_S", (0.01, 0.01))


@pytest.fixture
def get(tmp_path):
    """Fetches one address as a job's voice; returns the file."""

    def get(url, max_bytes=MB, timeout_s=10.0):
        return downloads.fetch(url, "wav_url", tmp_path, max_bytes, timeout_s)

    return get
