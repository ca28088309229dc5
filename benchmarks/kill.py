"""Workers killed in the middle of a job: does the next one go on, and does it give the same streams?

    python -m benchmarks.kill [--kills 20] [--window 17] [--device cpu] [--seed 0]

A job of three windows runs on the miniature, once without a kill. Then, for each kill, a new process takes the job and
is ended by SIGKILL at a random moment: a random number of progress reports into the job and a random time after that,
so that other work on the machine does not move it. Another process then takes the same job again. Prints when each
process was killed, what it had finished, what the next one made, and the times. Exits 1 if a video differs, a finished
window was made again, or anything is left behind.
"""

import argparse
import base64
import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from infinitetalk.contract.presets import load_mode
from infinitetalk.contract.request import Request
from infinitetalk.contract.result import Result
from infinitetalk.contract.settings import Settings
from infinitetalk.job.control import Control
from infinitetalk.job.resume import FOLDER
from infinitetalk.job.run import run_job
from infinitetalk.logs import configure_logging
from infinitetalk.media.encode import hash_streams
from infinitetalk.progress import Progress
from infinitetalk.startup.opening import open_models
from infinitetalk.transfer.delivery import FOLDER as OUTPUT_FOLDER
from infinitetalk.transfer.exchange import network_exchange

ROOT = Path(__file__).parents[1]

N_WINDOWS, OVERLAP_FRAMES, RATE_HZ = 3, 9, 16_000
JOB_ID = "kill-1"


@dataclass(frozen=True)
class Setup:
    """What all processes of a run share.

    Args:
        window_frames: the length of each window; all but nine of them are new.
    """

    folder: Path
    window_frames: int
    device: str

    def environment(self, name: str) -> dict[str, str]:
        """Settings of a worker whose volume has that name."""
        return {
            "VOLUME_DIR": str(self.folder / name),
            "WORK_DIR": str(self.folder / "work"),
            "OUTPUT": "volume",
            "DEVICE": self.device,
            "LOG_LEVEL": "ERROR",
        }


def data_uri(path: Path, mime_type: str) -> str:
    return f"data:{mime_type};base64,{base64.b64encode(path.read_bytes()).decode()}"


def job_input(setup: Setup) -> dict[str, Any]:
    """A job of three windows."""
    n_frames = setup.window_frames + (N_WINDOWS - 1) * (setup.window_frames - OVERLAP_FRAMES)
    voice = setup.folder / "voice.wav"
    if not voice.exists():
        generator = np.random.default_rng(0)
        soundfile.write(voice, generator.standard_normal(n_frames * RATE_HZ // 25).astype(np.float32) * 0.1, RATE_HZ)
    return {
        "image_url": data_uri(ROOT / "samples" / "portrait.png", "image/png"),
        "wav_url": data_uri(voice, "audio/wav"),
        "speed_mode": "turbo",
        "seed": 7,
    }


def work(setup: Setup, volume: str) -> None:
    """What a worker process does: one job. Prints a line for every report of progress, then what became of it."""
    settings = Settings.from_env(setup.environment(volume))
    configure_logging(settings.log_level, sys.stderr)
    models, request = open_models(settings), Request.parse(job_input(setup))
    mode = load_mode("turbo").model_copy(
        update={"window_frames": setup.window_frames, "overlap_frames": OVERLAP_FRAMES}
    )
    made: list[int] = []

    def on_progress(progress: Progress) -> None:
        if progress.window not in (0, *made):
            made.append(progress.window)
        print("progress", flush=True)

    started = time.perf_counter()
    exchange = network_exchange(request, settings, JOB_ID)
    result = run_job(request, models, settings, exchange, Control(JOB_ID, on_progress), mode)
    assert isinstance(result, Result)
    print(json.dumps({"seconds": time.perf_counter() - started, "made": made}), flush=True)


def start(setup: Setup, volume: str) -> subprocess.Popen[str]:
    """A worker process with the job."""
    options = ["--window", str(setup.window_frames), "--device", setup.device]
    command = [sys.executable, "-m", "benchmarks.kill", *options, "--child", str(setup.folder), volume]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, _ = process.communicate(timeout=900)
    if process.returncode != 0:
        raise RuntimeError(f"the worker ended with status {process.returncode}")
    lines = out.splitlines()
    outcome: dict[str, Any] = json.loads(lines[-1])
    return outcome | {"reports": len(lines) - 1}


def digest(setup: Setup, volume: str) -> str:
    video = setup.folder / volume / OUTPUT_FOLDER / f"{JOB_ID}.mp4"
    return repr(hash_streams(video))


def kill_once(setup: Setup, volume: str, reports: int, after_s: float) -> tuple[int, int]:
    """Kill the job `after_s` after that many reports. Returns how many windows were finished, and their bytes."""
    (setup.folder / volume).mkdir()
    process = start(setup, volume)
    assert process.stdout is not None
    for _ in range(reports):
        process.stdout.readline()
    time.sleep(after_s)
    process.kill()
    process.communicate()
    windows = list((setup.folder / volume / FOLDER / JOB_ID).glob("*.window"))
    return len(windows), sum(path.stat().st_size for path in windows)


def kill(kills: int, window_frames: int, device: str, seed: int) -> list[str]:
    """Kill that many workers. Prints figures; returns what went wrong."""
    moments, wrong = random.Random(seed), []
    with tempfile.TemporaryDirectory() as folder:
        setup = Setup(Path(folder), window_frames, device)
        (setup.folder / "plain").mkdir()
        job_input(setup)
        started = time.perf_counter()
        plain = finish(start(setup, "plain"))
        print(f"unbroken: {plain['seconds']:.1f} s for the job, {time.perf_counter() - started:.1f} s with the start")
        expected, saved, sizes = digest(setup, "plain"), 0, []
        pace_s = plain["seconds"] / plain["reports"]
        killed = tries = 0
        while killed < kills:
            tries += 1
            volume = f"volume-{tries}"
            reports = moments.randint(1, plain["reports"] - 1)
            windows, size = kill_once(setup, volume, reports, moments.uniform(0, pace_s))
            if (setup.folder / volume / OUTPUT_FOLDER / f"{JOB_ID}.mp4").exists():
                continue  # it was quicker than the kill: nobody sends this job again
            killed += 1
            second = finish(start(setup, volume))
            equal = digest(setup, volume) == expected
            saved += windows
            sizes += [size / windows] if windows else []
            print(
                f"kill {killed:2} after report {reports:2} of {plain['reports']}: {windows} windows were finished, "
                f"the next worker made {len(second['made'])} in {second['seconds']:.1f} s, "
                f"bytes {'equal' if equal else 'DIFFER'}",
                flush=True,
            )
            if not equal:
                wrong.append(f"kill {killed}: the bytes differ")
            if second["made"] != list(range(windows + 1, N_WINDOWS + 1)):
                wrong.append(f"kill {killed}: windows {second['made']} were made, {windows} had been finished")
            left = [path.name for path in (setup.folder / volume / FOLDER).rglob("*")]
            if left:
                wrong.append(f"kill {killed}: left on the volume: {left}")
    mean_kb = sum(sizes) / len(sizes) / 1000 if sizes else 0.0
    print(
        f"{kills} workers killed, {saved} of {kills * N_WINDOWS} windows not made again, "
        f"{kills - sum('differ' in line for line in wrong)} videos of equal bytes, {mean_kb:.0f} kB a window"
    )
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--window", type=int, default=17, help="frames of a window, 4n+1 and over 9; turbo itself: 49")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--child", nargs=2, metavar=("FOLDER", "VOLUME"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        work(Setup(Path(options.child[0]), options.window, options.device), options.child[1])
        return
    wrong = kill(options.kills, options.window, options.device, options.seed)
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
