"""Many jobs in a row on one worker: does it grow, and does anything stay behind?

    python -m benchmarks.soak [--jobs 200] [--settled 20] [--seconds 0.4]

Runs the handler's own function on the miniature, with all speed modes, one and two people, pictures and videos mixed.
Every third job is hostile: it has damaged or enormous media, addresses of a private network, a bucket that is none, or
fields that make no sense, and has to be refused by a named error. Every tenth of the others is cancelled while it runs,
and sent again. Prints resident memory, threads and open files after the job number `settled` and after the last one,
and what is left in the folders. Exits 1 if memory grew by more than 2 % or anything was left.
"""

import argparse
import asyncio
import base64
import gc
import itertools
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, get_args

import soundfile
from PIL import Image

from infinitetalk.contract.request import SpeakerOrder, SpeedModeName
from infinitetalk.contract.settings import Settings
from infinitetalk.logs import configure_logging
from infinitetalk.serving.jobs import make_handler
from infinitetalk.startup.opening import open_models

SAMPLES = Path(__file__).parents[1] / "samples"
MAX_GROWTH = 1.02
CANCEL_EVERY = 10
HOSTILE_EVERY = 3

Json = dict[str, Any]


@dataclass(frozen=True)
class State:
    """What the process holds: resident memory in MiB, its threads (the system's count), its open files."""

    rss_mib: float
    threads: int
    files: int

    @classmethod
    def now(cls) -> "State":
        gc.collect()
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        rss_kib = int(status["VmRSS"].split()[0])
        return cls(rss_kib / 1024, int(status["Threads"]), len(os.listdir("/proc/self/fd")))  # noqa: PTH208

    def __str__(self) -> str:
        return f"{self.rss_mib:.1f} MiB, {self.threads} threads, {self.files} open files"


def data_uri(mime_type: str, content: bytes) -> str:
    return f"data:{mime_type};base64,{base64.b64encode(content).decode()}"


def voice(start_s: float, seconds: float) -> str:
    """A piece of the sample voice as a data: URI."""
    path, content = SAMPLES / "voice.wav", BytesIO()
    rate_hz = soundfile.info(path).samplerate
    samples, _ = soundfile.read(path, round(seconds * rate_hz), round(start_s * rate_hz), dtype="int16")
    soundfile.write(content, samples, rate_hz, "PCM_16", format="WAV")
    return data_uri("audio/wav", content.getvalue())


def inputs(seconds: float) -> Iterator[Json]:
    """Endless job inputs. Each is another combination of mode, people, kind of input and order."""
    picture = data_uri("image/png", (SAMPLES / "portrait.png").read_bytes())
    video = data_uri("video/mp4", (SAMPLES / "talking_head.mp4").read_bytes())
    voices = [voice(start_s, seconds) for start_s in (0.5, 2.0)]
    kinds: list[Json] = [{"image_url": picture}, {"input_type": "video", "video_url": video}]
    people: list[Json] = [{}] + [
        {"person_count": "multi", "wav_url_2": voices[1], "speaker_order": order} for order in get_args(SpeakerOrder)
    ]
    for number in itertools.count():
        mode = get_args(SpeedModeName)[number % 4]
        yield {"speed_mode": mode, "wav_url": voices[0]} | kinds[number // 4 % 2] | people[number // 8 % 4]


def hostile_jobs(seconds: float) -> Iterator[Json]:
    """Endless jobs without ids, each of which has to be refused."""
    good = next(inputs(seconds))
    png = (SAMPLES / "portrait.png").read_bytes()
    sound = base64.b64decode(good["wav_url"].partition(",")[2])
    video = (SAMPLES / "talking_head.mp4").read_bytes()
    bomb = BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
    of_video = good | {"image_url": None, "input_type": "video"}
    bucket = {"endpointUrl": "http://127.0.0.1:9", "bucketName": "videos", "accessId": "a", "accessSecret": "b"}
    jobs: list[Json] = [
        {"input": good | {"image_url": data_uri("image/png", png[: len(png) // 2])}},
        {"input": good | {"image_url": data_uri("image/png", bomb.getvalue())}},
        {"input": good | {"image_url": data_uri("image/png", b"<svg onload='x'>" * 1000)}},
        {"input": good | {"wav_url": data_uri("audio/wav", sound[: len(sound) // 2])}},
        {"input": good | {"wav_url": data_uri("audio/wav", bytes(100_000))}},
        {"input": of_video | {"video_url": data_uri("video/mp4", video[: len(video) // 2])}},
        {"input": good | {"wav_url": "http://127.0.0.1:9/voice.wav"}},
        {"input": good | {"wav_url": "file:///etc/passwd"}},
        {"input": good, "s3Config": bucket},
        {"input": good | {"seed": 1e308, "aspect_ratio": ["16:9"] * 1000, "nonsense": {"a": "b" * 100_000}}},
        {"input": good | {"person_count": "multi", "wav_url_2": good["wav_url"], "speaker_boxes": [[0, 0, 9, 9]] * 2}},
        {"input": [good]},
    ]
    return itertools.cycle(jobs)


def run(work: Callable[[Json], Any], job: Json, cancel: bool) -> Json | None:
    """A job's answer, or None if it was cancelled."""

    async def ask() -> Json | None:
        task = asyncio.create_task(work(job))
        if cancel:
            await asyncio.sleep(1.0)
            task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            return None

    return asyncio.run(ask())


def soak(n_jobs: int, settled: int, seconds: float) -> list[str]:
    """Run the jobs. Returns what was wrong."""
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        env = {"WORK_DIR": str(root / "work"), "OUTPUT": "volume", "VOLUME_DIR": str(root)}
        settings = Settings.from_env(env)
        models = open_models(settings)
        work = make_handler(lambda: models, settings, lambda *_: None, lambda: problems.append("it retired"))
        before, threads = State.now(), set(threading.enumerate())
        cancelled, refused, hostile = 0, 0, hostile_jobs(seconds)
        started_s = time.monotonic()
        for number, job_input in enumerate(itertools.islice(inputs(seconds), n_jobs), 1):
            if number == settled + 1:
                before, threads = State.now(), set(threading.enumerate())
                print(f"after job {settled}: {before}", flush=True)
            if number % HOSTILE_EVERY == 0:
                reply = run(work, {"id": f"soak-{number}"} | next(hostile), cancel=False)
                if reply is None or reply.get("error_code") in (None, "internal"):
                    problems.append(f"hostile job {number}: {reply}")
                refused += 1
                continue
            job = {"id": f"soak-{number}", "input": job_input}
            reply = run(work, job, cancel=number % CANCEL_EVERY == 0)
            if reply is None:
                cancelled += 1
                reply = run(work, job, cancel=False)
            if reply is None or "video_path" not in reply:
                problems.append(f"job {number}: {reply}")
        after = State.now()
        videos = list((root / "infinitetalk-output").iterdir())
        others = [path for path in root.rglob("*") if path.is_file() and path not in videos]
        left = [*others, *(root / "work").iterdir()]
        print(f"after job {n_jobs}: {after}, {after.rss_mib / before.rss_mib:.4f} times the memory")
        took_s = time.monotonic() - started_s
        print(
            f"{len(videos)} videos, {refused} hostile jobs, {cancelled} jobs cancelled and sent again, {took_s:.0f} s"
        )
        print(f"left behind: {len(left)} files, {len(set(threading.enumerate()) - threads)} threads")
        if after.rss_mib > before.rss_mib * MAX_GROWTH:
            problems.append("memory grew")
        if left or len(videos) != n_jobs - refused:
            problems.append(f"{len(videos)} videos of {n_jobs - refused} jobs, and {left}")
        if set(threading.enumerate()) - threads or after.threads > before.threads or after.files > before.files:
            problems.append("threads or open files were left")
    return problems


def main() -> None:
    """Soak and print the figures; exit 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--settled", type=int, default=20, help="job after which memory should no longer grow")
    parser.add_argument("--seconds", type=float, default=0.4, help="length of the voices")
    options = parser.parse_args()
    configure_logging("ERROR", sys.stderr)
    problems = soak(options.jobs, options.settled, options.seconds)
    if problems:
        sys.exit("WRONG: " + "; ".join(problems))


if __name__ == "__main__":
    main()
