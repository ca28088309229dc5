"""RunPod's side of a worker, on loopback: hands out jobs and stop signals, takes pings, progress and results.

The addresses go to the worker as RunPod gives them, by environment; the worker runs in a process of its own.
"""

import base64
import io
import json
import os
import queue
import re
import signal
import subprocess
import sys
import time
from collections import deque
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import soundfile
from PIL import Image

from tests.support.loopback import serving

ROOT = Path(__file__).parents[2]
POLL_S = 0.2  # how long a request for a job or a stop signal is held
API_KEY = "SECRET-api-key"
HOOK_TOKEN = "SECRET-hook"


class Cut(Exception):
    """The connection breaks off in the middle of an answer."""


class Platform:
    """jobs, stops: what the worker gets when it asks next; a list is a batch of jobs.

    odd_takes, odd_results: how the next requests for a job, and the next results, are answered instead: a status,
    "cut", "slow", "no json", "no id".
    deaf_to: ids of jobs whose results are answered 500.
    hold_s: how long a request for a job or a stop signal is held.
    posts: (job id, body, time) as they came.
    worker: the process that is attached.
    """

    worker = None

    def __init__(self):
        self.jobs = queue.Queue()
        self.stops = queue.Queue()
        self.odd_takes = deque()
        self.odd_results = deque()
        self.deaf_to = set()
        self.hold_s = POLL_S
        self.posts = []
        self.pings = []

    def route(self, method, path, body, headers=None):
        """Status and content of one request."""
        if "/ping/" in path:
            self.pings.append(path)
            return 200, b"{}"
        if method == "POST":
            job_id, content = unquote(re.search(r"/job-done/([^/?]+)", path)[1]), json.loads(body)
            if job_id in self.deaf_to and is_final(content):
                return 500, b""
            if self.odd_results and is_final(content):
                return self._odd(self.odd_results.popleft())
            self.posts.append((job_id, content, time.monotonic()))
            return 200, b"{}"
        if "/job-stop/" in path:
            return self._next(self.stops, lambda job_id: {"jobsToStop": [job_id]})
        if self.odd_takes:
            return self._odd(self.odd_takes.popleft())
        return self._next(self.jobs, lambda job: job)

    def _odd(self, kind):
        if kind == "cut":
            raise Cut
        if kind == "slow":
            time.sleep(1)
            return 204, b""
        if kind == "no json":
            return 200, b'{"id": "half'
        if kind == "no id":
            return 200, b'{"input": {}}'
        return kind, b""

    def _next(self, waiting, wrap):
        try:
            return 200, json.dumps(wrap(waiting.get(timeout=self.hold_s))).encode()
        except queue.Empty:
            return 204, b""

    def of(self, job_id):
        """What was posted about a job, in order."""
        return [body for posted_id, body, _ in list(self.posts) if posted_id == job_id]

    def wait_for(self, job_id, found, timeout_s=120):
        """The first post about a job that satisfies `found`."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            for body in self.of(job_id):
                if found(body):
                    return body
            if self.worker is not None and self.worker.process.poll() is not None and not self.of(job_id):
                break
            time.sleep(0.02)
        printed = self.worker.printed()[-3000:] if self.worker else ""
        raise AssertionError(f"nothing fitting about {job_id} among {self.of(job_id)}; the worker printed {printed}")

    def result(self, job_id):
        """A job's result, waited for."""
        return self.wait_for(job_id, is_final)


def is_progress(body):
    return body.get("status") == "IN_PROGRESS"


def is_final(body):
    return not is_progress(body)


@contextmanager
def serve(platform):
    """The platform's address while the `with` block runs."""

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.answer("GET")

        def do_POST(self):
            self.answer("POST")

        def answer(self, method):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                status, content = platform.route(method, self.path, body, self.headers)
            except Cut:
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{")
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with serving(Answer) as server:
        yield f"http://127.0.0.1:{server.server_port}/v2/endpoint"


class Worker:
    """A worker process and what it has printed, stdout and stderr together."""

    def __init__(self, process, log):
        self.process = process
        self._log = log

    def printed(self):
        return self._log.read_text("utf-8")

    def lines(self):
        """The log's events."""
        return [json.loads(line) for line in self.printed().splitlines() if line.startswith("{")]

    def end(self):
        """As RunPod ends a worker."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s=60):
        """Exit status."""
        return self.process.wait(timeout_s)


@contextmanager
def start_worker(address, folder, script="handler.py"):
    """A worker process attached to the platform at that address, its videos on a volume at `folder`."""
    env = os.environ | {
        "RUNPOD_ENDPOINT_ID": "endpoint",
        "RUNPOD_POD_ID": "worker-1",
        "RUNPOD_AI_API_KEY": API_KEY,
        "RUNPOD_WEBHOOK_GET_JOB": f"{address}/job-take/$ID?gpu=none&token={HOOK_TOKEN}",
        "RUNPOD_WEBHOOK_POST_OUTPUT": f"{address}/job-done/$ID/$RUNPOD_POD_ID?gpu=none&token={HOOK_TOKEN}",
        "RUNPOD_WEBHOOK_PING": f"{address}/ping/$RUNPOD_POD_ID?token={HOOK_TOKEN}",
        "RUNPOD_PING_INTERVAL": "1000",
        "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
        "RUNPOD_SKIP_GPU_CHECK": "true",
        "PYTHONPATH": str(ROOT),
        "OUTPUT": "volume",
        "VOLUME_DIR": str(folder),
        "WORK_DIR": str(folder / "work"),
    }
    log = folder / "log"
    with log.open("wb") as output:
        command = [sys.executable, str(ROOT / script)]
        process = subprocess.Popen(command, env=env, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield Worker(process, log)
    finally:
        process.kill()
        process.wait()


def small_job(seconds, **fields):
    """A job with a grey picture and a buzzing voice inside."""
    picture, voice = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (64, 64), "grey").save(picture, "PNG")
    buzz = np.repeat(np.int16([4096, -4096]), 40)  # 200 Hz
    soundfile.write(voice, np.tile(buzz, round(200 * seconds)), 16_000, "PCM_16", format="WAV")
    return {
        "image_url": data_uri("image/png", picture.getvalue()),
        "wav_url": data_uri("audio/wav", voice.getvalue()),
        "speed_mode": "turbo",
        **fields,
    }


def data_uri(mime_type, content):
    return f"data:{mime_type};base64,{base64.b64encode(content).decode()}"
