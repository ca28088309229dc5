"""How runpod 1.12 loses jobs, in one file without this package: python scripts/sdk_faults.py CASE

A platform on loopback, and a worker that answers every job with {"ok": 1}. `ok` shows what is right; serving/loop.py
guards against the others, and docs/limits.md says what each does.
"""

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CASES = {
    "ok": {"id": "1", "input": {}},
    "post": {"id": "1", "input": {}},  # the connection breaks when the result is posted
    "sigterm": {"id": "1", "input": {}},  # the worker is told to end while its request for a job is open
    "id": {"id": "a\nb", "input": {}},
    "batch": [5],
}


class Platform(BaseHTTPRequestHandler):
    """Hands out the case's job once, and takes results."""

    case = ""
    jobs: list[object] = []  # noqa: RUF012

    def do_GET(self) -> None:
        body = b""
        if "/job-take/" in self.path and self.jobs:
            if self.case == "sigterm":
                threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()
                time.sleep(2)
            body = json.dumps(self.jobs.pop()).encode()
        time.sleep(0.2)
        self.send_response(200 if body else 204)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        print("a result arrives:", self.path, flush=True)
        if self.case != "post":
            self.send_response(200)
            self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing but the SDK's own lines."""


def main(case: str) -> None:
    """Run the worker. Stop it with Ctrl-C."""
    Platform.case, Platform.jobs = case, [CASES[case]]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Platform)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/v2/endpoint"
    os.environ |= {
        "RUNPOD_WEBHOOK_GET_JOB": f"{address}/job-take/$ID?gpu=none",
        "RUNPOD_WEBHOOK_POST_OUTPUT": f"{address}/job-done/$ID/worker?gpu=none",
        "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
        "RUNPOD_SKIP_GPU_CHECK": "true",
        "RUNPOD_DEBUG_LEVEL": "INFO",
    }
    import runpod  # reads its addresses when it is imported

    runpod.serverless.start({"handler": lambda _: {"ok": 1}})


if __name__ == "__main__":
    main(sys.argv[1])
