"""RunPod's side of a caller, beside its side of a worker: /run, /status, /cancel, /health, with a key.

A worker process may be attached (`start_worker`), or a thread of this process answers the jobs with the worker's own
code (`answering`).
"""

import json
import queue
import re
import threading
import time
import uuid
from collections import deque
from contextlib import contextmanager
from urllib.parse import unquote

from infinitetalk.serving.jobs import answer
from tests.support.runpod_platform import Cut, Platform, is_final, is_progress

CALLER_KEY = "SECRET-caller-key"


class CallerPlatform(Platform):
    """odd_calls: how the next of a caller's questions are answered instead: a status, or "cut".

    calls: (method, path) of each question as it came; asked: the bodies of /run.
    cancelled, timed_out, gone, endless: ids of jobs that are that.
    """

    def __init__(self):
        super().__init__()
        self.odd_calls = deque()
        self.calls = []
        self.asked = []
        self.cancelled, self.timed_out, self.gone, self.endless = set(), set(), set(), set()

    def route(self, method, path, body, headers=None):
        call = re.fullmatch(r"/v2/endpoint/(run|health|status/(?P<s>.+)|cancel/(?P<c>.+))", path)
        if call is None:
            return super().route(method, path, body)
        self.calls.append((method, call[1].split("/")[0]))
        if headers["Authorization"] != f"Bearer {CALLER_KEY}":
            return 401, b'{"error": "unauthorized"}'
        if self.odd_calls and (odd := self.odd_calls.popleft()):
            if odd == "cut":
                raise Cut
            return odd, b"{}"
        job_id = unquote(call["s"] or call["c"] or "")
        if call[1] == "run":
            job_id = f"job-{uuid.uuid4()}"
            self.asked.append(json.loads(body))
            self.jobs.put(self.asked[-1] | {"id": job_id})
        elif call[1] == "health":
            return 200, json.dumps({"jobs": {"inQueue": self.jobs.qsize()}, "workers": {"running": 1}}).encode()
        elif call["c"]:
            self.cancelled.add(job_id)
            self.stops.put(job_id)
        state = self.state(job_id)
        return (404, b"{}") if state is None else (200, json.dumps(state).encode())

    def state(self, job_id):
        """A job's status; None if it is gone."""
        if job_id in self.gone:
            return None
        if job_id in self.cancelled:
            return {"id": job_id, "status": "CANCELLED"}
        if job_id in self.timed_out:
            return {"id": job_id, "status": "TIMED_OUT"}
        posts = self.of(job_id)
        if job_id in self.endless:
            return {"id": job_id, "status": "IN_PROGRESS"}
        for post in filter(is_final, posts):
            return {"id": job_id, "status": "FAILED" if "error" in post else "COMPLETED"} | post
        reports = [post["output"] for post in posts if is_progress(post)]
        return {"id": job_id, "status": "IN_QUEUE"} | (
            {"status": "IN_PROGRESS", "output": reports[-1]} if reports else {}
        )


@contextmanager
def answering(platform, models, settings):
    """The platform's jobs are run by a thread of this process, as a worker runs and answers them."""
    ended = threading.Event()

    def post(job, content):
        platform.posts.append((job["id"], content, time.monotonic()))

    def work():
        while not ended.is_set():
            try:
                job = platform.jobs.get(timeout=0.05)
            except queue.Empty:
                continue
            stop = threading.Event()

            def report(job, progress, stop=stop):
                if job["id"] in platform.cancelled:
                    stop.set()
                post(job, {"status": "IN_PROGRESS", "output": progress})

            reply = answer(job, lambda: models, settings, report, stop)
            error = {"error": reply.pop("error")} if "error" in reply else {}
            post(job, {"output": reply} | error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
