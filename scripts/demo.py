"""Runs one job on the bundled samples by handler.py, with the job in the SDK's option --test_input.

The samples are served on loopback, since a worker gets its inputs from URLs. The SDK prints the result as a Python
dict. The end of the output shows it as the JSON that a caller gets.
"""

import ast
import json
import os
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "samples"
OUT = Path("out")
RESULT = "Job result: "


class Samples(SimpleHTTPRequestHandler):
    """The files of samples/, without a log line per request."""

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    """Run the job; exit as handler.py does."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Samples, directory=SAMPLES))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    samples = f"http://127.0.0.1:{server.server_port}"
    job = {
        "id": "demo",
        "input": {
            "image_url": f"{samples}/portrait.png",
            "wav_url": f"{samples}/voice.wav",
            "speed_mode": "turbo",
            "seed": 1,
        },
    }
    OUT.mkdir(exist_ok=True)
    worker = {
        "OUTPUT": "volume",
        "VOLUME_DIR": str(OUT),
        "LOG_LEVEL": "INFO",
        "RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS": "1",
    }
    command = [sys.executable, str(ROOT / "handler.py"), "--test_input", json.dumps(job)]
    print(f"python handler.py --test_input '{command[-1]}'", flush=True)
    result = None
    with subprocess.Popen(command, env=os.environ | worker, stdout=subprocess.PIPE, text=True) as handler:
        assert handler.stdout is not None
        for line in handler.stdout:
            print(line, end="", flush=True)
            if RESULT in line:
                result = ast.literal_eval(line.split(RESULT, 1)[1])
    if handler.returncode:
        sys.exit(handler.returncode)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
