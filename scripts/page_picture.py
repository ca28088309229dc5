"""Make docs/page.png: the page in this machine's Chromium, with the bundled samples and what the miniature made.

python -m scripts.page_picture
"""

import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image

from tests.support.page import ROOT, browser, page_command

SAMPLES = ROOT / "samples"
PICTURE = ROOT / "docs" / "page.png"
MAX_BYTES = 150_000
COLORS = 128
SIZE = {"width": 1320, "height": 900}
JOB_LIMIT_MS = 120_000


def main() -> None:
    """Two people, two voices, a plan, and the video in the middle of it."""
    with tempfile.TemporaryDirectory() as folder, page_command(Path(folder)) as address, browser() as chromium:
        page = chromium.new_page(viewport=SIZE)
        page.goto(address)
        page.locator("#it-source input[type=file]").set_input_files(SAMPLES / "two_people.png")
        page.locator("#it-voice-1 input[type=file]").set_input_files(SAMPLES / "voice.wav")
        page.locator("#it-voice-2 input[type=file]").set_input_files(SAMPLES / "voice_2.flac")
        page.wait_for_selector("#it-picture img")
        page.wait_for_selector("#it-pointed")
        box = page.locator("#it-picture img").bounding_box()
        for x in (0.29, 0.71):
            page.locator("#it-picture img").click(position={"x": x * box["width"], "y": 0.45 * box["height"]})
            page.wait_for_timeout(1500)
        page.locator("#it-mode label", has_text="Fast").click()
        page.locator("#it-plan").click()
        page.wait_for_selector("#it-plans table")
        page.locator("#it-start:not([disabled])").click()
        page.wait_for_selector("#it-result .it-facts", timeout=JOB_LIMIT_MS)
        page.evaluate("() => { document.querySelector('#it-video video').currentTime = 1.2; }")
        page.wait_for_timeout(1500)
        shot = Image.open(BytesIO(page.screenshot(full_page=True)))
    shot.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE).save(PICTURE, optimize=True)
    n_bytes = PICTURE.stat().st_size
    if n_bytes > MAX_BYTES:
        raise SystemExit(f"{PICTURE} has {n_bytes} bytes, more than {MAX_BYTES}")
    print(f"{PICTURE}: {shot.width}x{shot.height}, {n_bytes} bytes")


if __name__ == "__main__":
    main()
