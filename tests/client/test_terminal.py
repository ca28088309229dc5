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
from tests.support.media_samples import write_tone

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
    seen, status = at_a_terminal(tmp_path, [*command, "--seed", "1"], [])
    assert "was made from another job" in seen
    assert status == 1


@pytest.mark.parametrize("where", ["endpoint", "machine"])
def test_a_killed_batch_makes_each_video_once(url, tmp_path, where):
    for name in ("anna", "ben"):
        shutil.copy(ROOT / "samples" / "portrait.png", tmp_path / f"{name}.png")
        write_tone(tmp_path / f"{name}.wav", 0.5)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "infinitetalk.cli", "batch", "--pairs", tmp_path, "-o", out]
    command += ["--speed-mode", "turbo", *(["--url", url] if where == "endpoint" else [])]
    env = os.environ | {"PYTHONPATH": str(ROOT)}

    def told(event):
        journal = out / "batch.jsonl"
        return journal.read_text().count(f'"event": "{event}"') if journal.exists() else 0

    def jobs():
        return sum(requests.get(f"{url}/health", timeout=5).json()["jobs"].values())

    n_before = jobs()
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    event, n_enough = ("sent", 2) if where == "endpoint" else ("begun", 1)
    while told(event) < n_enough:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert told("done") < 2
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in out.iterdir()} == {"anna.mp4", "ben.mp4", "batch.jsonl"}
    if where == "endpoint":
        assert jobs() - n_before == 2
