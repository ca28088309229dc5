"""Data: URIs as tools print them, cookies along a redirect, and links to a share's page."""

import base64
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import ClassVar

import pytest
from runpod.serverless.utils import rp_ssrf

from infinitetalk.contract.request import Request
from infinitetalk.errors import InvalidInput, JobError, MediaUnreadable
from infinitetalk.transfer import downloads
from infinitetalk.transfer.share_links import direct_link
from tests.support.loopback import serving

CONTENT = bytes(range(256)) + b"x"
CODED = base64.b64encode(CONTENT).decode()
PREFIX = "data:image/png;base64,"


def fetched(url, folder, field="image_url"):
    return downloads.fetch(url, field, folder, 1 << 20, 5.0).read_bytes()


@pytest.mark.parametrize(
    "text",
    [
        CODED,
        "\n".join(CODED[i : i + 76] for i in range(0, len(CODED), 76)) + "\n",  # as base64 prints it
        "\r\n".join(CODED[i : i + 64] for i in range(0, len(CODED), 64)),
        "\n" + CODED,
        f" {CODED}\t",
        CODED.rstrip("="),
        CODED.replace("+", "%2B").replace("=", "%3D"),
        CODED[:40] + "%0A" + CODED[40:],
    ],
)
def test_base64_is_read_as_browsers_read_it(text, tmp_path):
    url = PREFIX + text
    request = Request.parse({"image_url": url, "wav_url": "https://example.com/a.wav"})
    assert fetched(request.image_url, tmp_path) == CONTENT


@pytest.mark.parametrize(
    "text",
    [
        CODED[:41].rstrip("=") + "====",
        CODED[:-1] + "!",
        CODED + "=",
        "a",
        "ab=c",
        CODED[:20] + "=" + CODED[20:],
        "-_-_",
    ],
)
def test_garbage_is_no_base64(text, tmp_path):
    with pytest.raises(InvalidInput, match=r"^image_url: the data: URI is not valid base64"):
        fetched(PREFIX + text, tmp_path)


# ---- cookies ----


class Share(BaseHTTPRequestHandler):
    """Sets a cookie on its redirect and gives the file to those who bring it."""

    seen: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self):
        Share.seen.append((self.headers["Host"], self.headers["Cookie"]))
        port = self.server.server_port
        targets = {
            "/share": (f"http://127.0.0.2:{port}/file", "key=abc; path=/"),
            "/itself": ("/itself2", "key=abc"),
            "/elsewhere": (f"http://127.0.0.3:{port}/file", "key=abc; path=/"),
            "/for-all": (f"http://127.0.0.3:{port}/file", "key=abc; path=/; domain=127.0.0.3"),
        }
        with suppress(OSError):
            if self.path in targets:
                location, cookie = targets[self.path]
                self.send_response(302)
                self.send_header("Set-Cookie", cookie)
                self.send_header("Location", location)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            ok = self.headers["Cookie"] == "key=abc"
            self.send_response(200 if ok else 403)
            self.send_header("Content-Length", str(len(CONTENT) if ok else 0))
            self.end_headers()
            self.wfile.write(CONTENT if ok else b"")

    def log_message(self, *_):
        pass


@pytest.fixture
def share(monkeypatch):
    guard = rp_ssrf.is_safe_address
    monkeypatch.setattr(
        rp_ssrf, "is_safe_address", lambda address: address in ("127.0.0.2", "127.0.0.3") or guard(address)
    )
    Share.seen = []
    with serving(Share, "0.0.0.0") as server:
        yield f"http://127.0.0.2:{server.server_port}"


@pytest.mark.parametrize("path", ["/share", "/itself"])
def test_cookies_are_kept_along_the_redirects_of_one_download(path, share, tmp_path):
    assert fetched(share + path, tmp_path) == CONTENT
    with pytest.raises(InvalidInput, match="403"):  # and no longer
        fetched(share + "/file", tmp_path)


@pytest.mark.parametrize("path", ["/elsewhere", "/for-all"])
def test_cookies_do_not_go_to_another_site(path, share, tmp_path):
    with pytest.raises(InvalidInput, match="403"):
        fetched(share + path, tmp_path)
    assert [cookie for _, cookie in Share.seen] == [None, None]


# ---- pages ----


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://drive.google.com/file/d/1AbC/view?usp=sharing", "uc?export=download&id=FILE_ID"),
        ("https://docs.google.com/uc?export=download&id=1AbC", "large files"),
        ("https://www.dropbox.com/s/abc/voice.wav?dl=0", "dl=1"),
        ("https://www.dropbox.com/scl/fi/abc/voice.wav?rlkey=secret", "dl=1"),
        ("https://1drv.ms/u/s!abc", "download=1"),
        ("https://onedrive.live.com/?id=abc", "download=1"),
        ("https://contoso-my.sharepoint.com/:u:/g/personal/a/b?e=c", "download=1"),
    ],
)
def test_links_to_a_share_are_told_which_to_use(url, words):
    assert words in direct_link(url)
    assert "secret" not in direct_link(url)


@pytest.mark.parametrize(
    "url", ["https://example.com/a", "https://notdropbox.com/a", "https://dropbox.com.evil.test/", "data:"]
)
def test_others_are_not(url):
    assert direct_link(url) is None


def test_the_page_of_a_share_is_refused_with_the_link_to_use(tmp_path, site, monkeypatch):
    site.pages["/page"] = b"<!DOCTYPE html><html>Dropbox</html>"
    monkeypatch.setattr(downloads, "direct_link", lambda _: direct_link("https://www.dropbox.com/s/a?dl=0"))
    for page, kind in (("/page", MediaUnreadable), ("/nothing", InvalidInput)):
        with pytest.raises(
            JobError, match=r"^wav_url: .*; for Dropbox, end the link in dl=1 instead of dl=0\.$"
        ) as error:
            fetched(site.url + page, tmp_path, "wav_url")
        assert isinstance(error.value, kind)
