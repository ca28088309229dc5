"""The page, served by its own command, and a browser to look at it with."""

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
START_LIMIT_S = 120.0
_BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "/usr/lib/chromium/chromium-headless-shell",
    "/usr/lib/chromium/chromium",
)


def missing() -> str | None:
    """What is missing to look at the page in a browser; None if nothing is."""
    for module in ("gradio", "playwright"):
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed"
    return None if find_browser() else "there is no Chromium"


def find_browser() -> str | None:
    """This machine's Chromium, or the one that `playwright install chromium` brings; None if there is none."""
    found = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        from playwright.sync_api import sync_playwright

        with sync_playwright() as playwright:
            own = playwright.chromium.executable_path
        found = own if Path(own).exists() else None
    return found


@contextmanager
def browser():
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Chromium's sandbox does not start for root in a container.
        opened = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        yield opened
        opened.close()


@contextmanager
def page_command(folder: Path, *options: str, **env: str):
    """`infinitetalk page` in a process of its own, in `folder`, where its videos go to out; gives its address."""
    command = [sys.executable, "-m", "infinitetalk.cli", "page", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WORK_DIR": str(folder), "PYTHONPATH": str(ROOT), **env}
    log = folder / "page.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=file)
        try:
            yield _address(process, log)
        finally:
            process.terminate()
            process.wait(60)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    until = time.monotonic() + START_LIMIT_S
    while time.monotonic() < until and process.poll() is None:
        for line in log.read_text().splitlines():
            if line.startswith("The page is at "):
                return line.split()[4].rstrip("/")
        time.sleep(0.1)
    raise AssertionError(f"The page did not start: {log.read_text()}")
