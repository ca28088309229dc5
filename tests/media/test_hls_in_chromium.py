"""The preview as a stranger's page plays it while it grows: hls.js in Chromium."""

import shutil
import subprocess
import tarfile
from fractions import Fraction
from pathlib import Path

import pytest

from infinitetalk.media.hls import HlsParts, Part, playlist
from tests.support.page import browser, missing
from tests.support.streams import served, write_chirp, write_pieces

pytestmark = pytest.mark.long
COUNTS = (81, 76, 76)  # frames of three windows
PAGE = """<video id="video" muted autoplay></video><script src="hls.min.js"></script><script>
  window.faults = [];
  const hls = new Hls();
  hls.on(Hls.Events.ERROR, (_, data) => window.faults.push(`${data.details} ${data.fatal}`));
  hls.loadSource("./preview.m3u8");
  hls.attachMedia(document.getElementById("video"));
</script>"""
LEVEL = """async (seconds) => {
  const canvas = new OffscreenCanvas(96, 64).getContext("2d");
  await new Promise((done) => { video.onseeked = done; video.currentTime = seconds; });
  canvas.drawImage(video, 0, 0);
  return canvas.getImageData(48, 32, 1, 1).data[0];
}"""


def fetch_hls_js(folder: Path) -> None:
    """hls.min.js from npm; skips the test where that cannot be had."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("there is no npm, which brings hls.js")
    packed = subprocess.run([npm, "pack", "--silent", "hls.js@1.7.4"], cwd=folder, capture_output=True, timeout=120)
    if packed.returncode:
        pytest.skip("npm cannot fetch hls.js")
    with tarfile.open(next(folder.glob("hls.js-*.tgz"))) as package:
        library = package.extractfile("package/dist/hls.min.js")
        assert library is not None
        (folder / "hls.min.js").write_bytes(library.read())


def test_hls_js_plays_a_preview_that_grows(tmp_path: Path) -> None:
    if missing() is not None:
        pytest.skip(f"nothing can be looked at in a browser: {missing()}")
    fetch_hls_js(tmp_path)
    (tmp_path / "index.html").write_text(PAGE)
    seconds = sum(COUNTS) / 25
    parts = HlsParts(tmp_path, write_chirp(tmp_path / "sound.m4a", seconds), (96, 64), Fraction(25))
    pieces = write_pieces(tmp_path, COUNTS)
    made: list[Part] = []

    def grow() -> None:
        part = parts.add(len(made), pieces[len(made)])
        assert part is not None
        made.append(part)
        text = playlist(made, 4.0, str, is_whole=len(made) == len(pieces))
        (tmp_path / "preview.new").write_text(text)
        (tmp_path / "preview.new").replace(tmp_path / "preview.m3u8")

    grow()
    with served(tmp_path) as address, browser() as chromium:
        page = chromium.new_page()
        page.goto(address)
        page.wait_for_function("video.currentTime > 1", timeout=120_000)
        assert page.evaluate("video.duration") == pytest.approx(COUNTS[0] / 25, abs=0.1), "only a window is there"
        grow()
        grow()
        page.wait_for_function("video.ended", timeout=240_000)
        assert page.evaluate("video.duration") == pytest.approx(seconds, abs=0.1)
        assert page.evaluate("[video.buffered.length, video.videoWidth, video.videoHeight]") == [1, 96, 64]
        for frame in (0, 80, 81, 156, 157, 232):  # the first and the last of each window
            level = page.evaluate(LEVEL, (frame + 0.5) / 25)
            assert level == pytest.approx(20 + frame, abs=2), frame
        assert page.evaluate("faults") == []
