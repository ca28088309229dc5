"""A user at a terminal, a worker's local API in a process of its own, and Ctrl-C."""

import json
import os
import pty
import select
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from infinitetalk.client.notes import read_note
from infinitetalk.media.probe import probe

ROOT = Path(__file__).parents[2]
START_LIMIT_S = 120
CTRL_C = b"\x03"

pytestmark = pytest.mark.long  # processes of the worker and of the command line


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """`python handler.py --rp_serve_api`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("worker")
    env = os.environ | {"PYTHONPATH": str(ROOT), "OUTPUT": "base64", "WORK_DIR": str(folder)}
    command = [sys.executable, str(ROOT / "handler.py"), "--rp_serve_api", "--rp_api_port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    address, deadline_s = f"http://localhost:{port}", time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline_s:
        try:
            requests.get(f"{address}/health", timeout=1)
            break
        except requests.RequestException:
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.2)
    yield address
    process.kill()
    process.wait()


def at_a_terminal(folder, arguments, answers):
    """Run the command at a terminal; type each answer when its cue is seen. What was shown, and the exit status."""
    process, screen = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.environ.update(PYTHONPATH=str(ROOT), TERM="xterm", COLUMNS="200")
        os.execv(sys.executable, [sys.executable, "-m", "infinitetalk.cli", *map(str, arguments)])
    seen, told, waiting, deadline_s = b"", 0, list(answers), time.monotonic() + 120
    while time.monotonic() < deadline_s:
        if select.select([screen], [], [], 0.1)[0]:
            try:
                part = os.read(screen, 4096)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            seen += part
        if waiting and waiting[0][0] in seen[told:]:
            told = len(seen)
            os.write(screen, waiting.pop(0)[1])
    os.close(screen)
    return seen.decode(errors="replace"), os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def test_ctrl_c_asks_and_leaves_or_cancels(url, tmp_path):
    job = ["submit", "--image", ROOT / "samples" / "portrait.png", "--audio", ROOT / "samples" / "voice.wav"]
    job += ["--speed-mode", "turbo", "--url", url, "-o", tmp_path / "out.mp4"]
    seen, status = at_a_terminal(tmp_path, job, [(b"of about $", CTRL_C), (b"Cancel job", CTRL_C)])
    assert status == 130
    sent = read_note(tmp_path / "out.mp4")
    assert f"infinitetalk submit --resume {sent.job_id} --url {url} -o" in seen
    seen, status = at_a_terminal(tmp_path, ["submit", "--resume", sent.job_id, "-o", tmp_path / "out.mp4"], [])
    assert status == 0
    assert "window 3/3" in seen
    assert probe(tmp_path / "out.mp4", "video").has_video

    (tmp_path / "out.mp4").unlink()
    bar, question = b"of about $", b"Cancel job"
    answers = [(bar, CTRL_C), (question, b"n\n"), (bar, CTRL_C), (question, b"y\n")]
    seen, status = at_a_terminal(tmp_path, job, answers)
    assert (status, (tmp_path / "out.mp4").exists()) == (1, False)
    assert "The job was cancelled" in seen


def test_a_stopped_batch_comes_back_to_its_jobs(url, tmp_path):
    for name, suffix in (("portrait", "png"), ("voice", "wav")):
        shutil.copy(ROOT / "samples" / f"{name}.{suffix}", tmp_path / f"anna.{suffix}")
    command = ["batch", "--pairs", tmp_path, "-o", tmp_path / "out", "--url", url, "--speed-mode", "turbo"]
    seen, status = at_a_terminal(tmp_path, command, [(b"of about $", CTRL_C), (b"leave them running", CTRL_C)])
    assert status == 130
    assert "Jobs left running: 1." in seen
    seen, status = at_a_terminal(tmp_path, command, [])
    assert status == 0
    assert probe(tmp_path / "out" / "anna.mp4", "video").has_video
    events = [json.loads(line)["event"] for line in (tmp_path / "out" / "batch.jsonl").read_text().splitlines()]
    assert events == ["begun", "sent", "sent", "done"]
