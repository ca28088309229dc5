"""The translation from the SDK's job to run_job and back, with a run_job that the tests play themselves.

At the end, the worker as RunPod runs it: the real SDK's job loop and the miniature, against a stand-in platform.
"""

import asyncio
import base64
import functools
import io
import json
import logging
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
import wave
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from runpod.serverless.modules import rp_job
from runpod.serverless.modules.rp_fastapi import WorkerAPI
from runpod.serverless.modules.rp_logger import RunPodLogger

import handler as worker
from infinitetalk.errors import Cancelled, DownloadFailed, Internal, InvalidInput, OutOfMemory
from infinitetalk.progress import Progress
from infinitetalk.settings import Settings

INPUT = {"image_url": "https://example.com/face.png", "wav_url": "https://example.com/voice.wav"}


class Finished:
    """A Result as far as the handler knows it."""

    def to_json(self):
        return {"video_url": "https://bucket.example/job-1.mp4", "seed": 7, "warnings": []}


RESULT = Finished()


class Play:
    """Stands in for run_job: `act` decides what happens. Remembers how it was called."""

    def __init__(self):
        self.calls = []
        self.act = lambda **_: RESULT

    def __call__(self, request, **details):
        self.calls.append((request, details))
        return self.act(**details)


@pytest.fixture
def play(monkeypatch):
    play = Play()
    monkeypatch.setattr(worker, "run_job", play)
    return play


@pytest.fixture
def sent():
    return []


@pytest.fixture
def handler(play, sent):
    return worker.make_handler("the models", Settings(), lambda job, progress: sent.append((job["id"], progress)))


def ask(handler, job_input=INPUT, **more):
    return asyncio.run(handler({"id": "job-1", "input": job_input, **more}))


def at_step(step):
    return Progress("denoise", 1, 2, step, 5, 20.0 * step, 4.0)


# ---- results ----


def test_a_job_becomes_a_request_and_its_result_the_answer(handler, play):
    answer = ask(handler, INPUT | {"seed": 7, "speed_mode": "turbo"})
    assert answer == RESULT.to_json()
    json.dumps(answer)
    request, details = play.calls[0]
    assert (request.image_url, request.seed, request.speed_mode) == (INPUT["image_url"], 7, "turbo")
    assert (details["job_id"], details["models"], details["settings"]) == ("job-1", "the models", Settings())


def test_jobs_run_beside_the_event_loop(handler, play):
    play.act = lambda **_: threading.current_thread() is threading.main_thread() or RESULT
    assert ask(handler) == RESULT.to_json()


def test_jobs_run_one_at_a_time(handler, play):
    running = []

    def act(job_id, **_):
        running.append(job_id)
        time.sleep(0.02)
        assert running == [job_id]
        running.remove(job_id)
        return RESULT

    async def several():
        return await asyncio.gather(*(handler({"id": str(i), "input": INPUT}) for i in range(4)))

    play.act = act
    assert asyncio.run(several()) == [RESULT.to_json()] * 4


# ---- failures ----


def test_bad_input_is_answered_without_running_anything(handler, play):
    answer = ask(handler, INPUT | {"width": 100})
    assert answer["error_code"] == "invalid_input"
    assert answer["retryable"] is False
    assert "width" in answer["error"]
    assert play.calls == []


@pytest.mark.parametrize("job_input", [None, [], "text", 3])
def test_an_input_that_is_no_object_is_answered(handler, job_input):
    assert ask(handler, job_input)["error_code"] == "invalid_input"


def test_a_job_without_input_is_answered(handler):
    assert asyncio.run(handler({"id": "job-1"}))["error_code"] == "invalid_input"


def test_a_bucket_given_with_the_job_is_refused_not_ignored(handler, play):
    answer = ask(handler, s3Config={"endpointUrl": "https://s3.example.com", "accessSecret": "SECRET"})
    assert answer["error_code"] == "invalid_input"
    assert "s3Config" in answer["error"]
    assert "SECRET" not in answer["error"]
    assert play.calls == []


def test_a_failed_job_says_why_and_whether_to_try_again(handler, play):
    def act(**_):
        raise DownloadFailed("wav_url: the server answered HTTP 503; try again later.")

    play.act = act
    assert ask(handler) == {
        "error": "wav_url: the server answered HTTP 503; try again later.",
        "error_code": "download_failed",
        "retryable": True,
    }


def test_an_unforeseen_failure_shows_its_details_in_the_log_only(handler, play, caplog):
    def act(**_):
        raise KeyError("detail of the inside")

    play.act = act
    answer = ask(handler)
    assert (answer["error_code"], answer["retryable"]) == ("internal", True)
    assert "detail" not in json.dumps(answer)
    assert "KeyError: 'detail of the inside'" in caplog.text


def test_the_log_gets_the_cause_where_the_worker_is_at_fault(handler, play, caplog):
    def act(error, **_):
        raise error from RuntimeError("what ffmpeg said")

    for error, told in ((Internal("try again."), True), (OutOfMemory("smaller."), True), (InvalidInput("no."), False)):
        caplog.clear()
        play.act = functools.partial(act, error)
        assert "ffmpeg" not in ask(handler)["error"]
        assert ("what ffmpeg said" in caplog.text) is told


def test_the_next_job_runs_after_a_failed_one(handler, play):
    def act(**_):
        raise KeyError

    good, play.act = play.act, act
    ask(handler)
    play.act = good
    assert ask(handler) == RESULT.to_json()


def test_the_sdk_marks_a_failure_failed_and_keeps_its_code(handler, play):
    answer = asyncio.run(rp_job.run_job(handler, {"id": "job-1", "input": {}}))
    assert "wav_url" in answer["error"]
    assert answer["output"] == {"error_code": "invalid_input", "retryable": False}


def test_the_sdk_passes_a_result_on(handler):
    answer = asyncio.run(rp_job.run_job(handler, {"id": "job-1", "input": INPUT}))
    assert answer == {"output": RESULT.to_json()}


def test_the_local_api_answers_like_runpod(handler, play):
    with TestClient(WorkerAPI({"handler": handler}).rp_app) as client:
        good = client.post("/runsync", json={"input": INPUT}).json()
        bad = client.post("/runsync", json={"input": INPUT | {"seed": "x"}}).json()
    assert (good["status"], good["output"]) == ("COMPLETED", RESULT.to_json())
    assert bad["status"] == "FAILED"
    assert "seed" in bad["error"]


# ---- cancelling ----


@pytest.mark.parametrize("times", [1, 3])
def test_a_cancelled_job_has_stopped_when_the_handler_returns(handler, play, times):
    began, ended = threading.Event(), threading.Event()

    def act(should_stop, **_):
        began.set()
        while not should_stop():
            time.sleep(0.005)
        time.sleep(0.1)  # the step that was under way
        ended.set()
        raise Cancelled("The job was cancelled.")

    async def cancel():
        task = asyncio.create_task(handler({"id": "job-1", "input": INPUT}))
        await asyncio.to_thread(began.wait)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0.02)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    play.act = act
    asyncio.run(cancel())


def test_a_job_cancelled_while_it_waits_never_runs(handler, play):
    began, go_on = threading.Event(), threading.Event()

    def act(**_):
        began.set()
        go_on.wait(5)
        return RESULT

    async def cancel_second():
        first = asyncio.create_task(handler({"id": "first", "input": INPUT}))
        await asyncio.to_thread(began.wait)
        second = asyncio.create_task(handler({"id": "second", "input": INPUT}))
        await asyncio.sleep(0.02)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        go_on.set()
        assert await first == RESULT.to_json()

    play.act = act
    asyncio.run(cancel_second())
    assert [details["job_id"] for _, details in play.calls] == ["first"]


def test_a_job_that_is_not_cancelled_is_not_told_to_stop(handler, play):
    def act(should_stop, **_):
        assert not should_stop()
        return RESULT

    play.act = act
    assert ask(handler) == RESULT.to_json()


# ---- progress ----


def test_progress_is_passed_on_as_json(handler, play, sent):
    def act(on_progress, **_):
        on_progress(at_step(1))
        return RESULT

    play.act = act
    ask(handler)
    position = {"stage": "denoise", "window": 1, "windows": 2, "step": 1, "steps": 5, "percent": 20.0}
    assert sent == [("job-1", position | {"seconds_left": 4.0})]


def test_updates_are_spaced(handler, play, sent, monkeypatch):
    monkeypatch.setattr(worker, "PROGRESS_INTERVAL_S", 0.1)

    def act(on_progress, **_):
        for _ in range(25):
            on_progress(at_step(1))
            time.sleep(0.01)
        return RESULT

    play.act = act
    ask(handler)
    assert 2 <= len(sent) <= 4


def test_one_update_is_on_its_way_at_a_time_and_none_after_the_result(play, monkeypatch):
    monkeypatch.setattr(worker, "PROGRESS_INTERVAL_S", 0.0)
    arrived = []

    def post(progress):
        time.sleep(0.05)
        arrived.append(progress["step"])

    def send(_, progress):  # as the SDK does it
        threading.Thread(target=post, args=(progress,), daemon=True).start()

    def act(on_progress, **_):
        for step in range(30):
            on_progress(at_step(step))
            time.sleep(0.005)
        return RESULT

    play.act = act
    ask(worker.make_handler("the models", Settings(), send))
    before = list(arrived)
    assert 2 <= len(before) <= 4
    assert before == sorted(before)
    time.sleep(0.1)
    assert arrived == before


def test_an_update_that_never_arrives_does_not_hold_the_result_forever(play, monkeypatch):
    monkeypatch.setattr(worker, "PROGRESS_POST_S", 0.1)

    def act(on_progress, **_):
        on_progress(at_step(1))
        return RESULT

    play.act = act
    stuck = threading.Event()
    handler = worker.make_handler(
        "the models", Settings(), lambda *_: threading.Thread(target=stuck.wait, daemon=True).start()
    )
    assert ask(handler) == RESULT.to_json()
    stuck.set()


def test_without_runpod_progress_goes_to_the_log(caplog):
    caplog.set_level(logging.INFO, "infinitetalk")
    worker.log_progress({"id": "job-1"}, {"stage": "denoise", "step": 2, "percent": 33.333, "seconds_left": None})
    assert caplog.messages == ["Job 'job-1': stage denoise, step 2, percent 33.3"]


# ---- start ----


@pytest.fixture
def keep_logging():
    """main() sets up logging for the whole process."""
    root, ours = logging.getLogger(), logging.getLogger("infinitetalk")
    handlers, level, our_level = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    ours.setLevel(our_level)


@pytest.mark.usefixtures("keep_logging")
@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({"OUTPUT": "fax"}, "OUTPUT"),
        ({"MODEL_PROFILE": "no-such-model"}, "no-such-model"),
        ({"MODEL_PROFILE": "infinitetalk-14b"}, "MODELS_DIR"),
        ({"MODEL_PROFILE": "infinitetalk-14b", "MODELS_DIR": "/nowhere"}, "/nowhere"),
    ],
)
def test_a_worker_that_cannot_start_says_why_in_one_line(monkeypatch, env, named):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as caught:
        worker.main()
    message = str(caught.value.code)
    assert named in message
    assert "\n" not in message


@pytest.mark.usefixtures("keep_logging")
@pytest.mark.parametrize(
    ("ours", "sdks"), [("DEBUG", "INFO"), ("INFO", "INFO"), ("WARNING", "WARN"), ("ERROR", "ERROR")]
)
def test_the_sdk_logs_no_answers(monkeypatch, ours, sdks):
    """Its DEBUG level would: the video or its URL."""
    monkeypatch.setenv("LOG_LEVEL", ours)
    monkeypatch.setattr(worker, "open_models", lambda _: None)
    monkeypatch.setattr(worker.runpod.serverless, "start", lambda _: None)
    before = RunPodLogger().level
    worker.main()
    level = RunPodLogger().level
    RunPodLogger().set_level(before)
    assert level == sdks


# ---- the worker as RunPod runs it ----


class Platform:
    """RunPod's side of a worker: hands out jobs and stop signals, keeps what the worker posts."""

    def __init__(self):
        self.jobs = queue.Queue()
        self.stops = queue.Queue()
        self.posts = []  # (job id, body) as they came

    def route(self, method, path, body):
        """Status and JSON of one request. A poll is held for a moment where there is nothing to say."""
        if method == "POST":
            self.posts.append((re.search(r"/job-done/([^?]+)", path)[1], json.loads(body)))
            return 200, {}
        try:
            if "/job-stop/" in path:
                return 200, {"jobsToStop": [self.stops.get(timeout=0.2)]}
            return 200, self.jobs.get(timeout=0.2)
        except queue.Empty:
            return 204, None

    def of(self, job_id):
        return [body for posted_id, body in list(self.posts) if posted_id == job_id]

    def wait_for(self, job_id, found, timeout_s=90):
        """The first post about a job that satisfies `found`."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            for body in self.of(job_id):
                if found(body):
                    return body
            time.sleep(0.05)
        raise AssertionError(f"nothing fitting about {job_id} among {self.of(job_id)}")


def is_progress(body):
    return body.get("status") == "IN_PROGRESS"


def is_final(body):
    return not is_progress(body)


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    return tmp_path_factory.mktemp("volume")


@pytest.fixture(scope="module")
def platform(volume):
    """A Platform with a real worker on the miniature attached to it."""
    platform = Platform()

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.answer("GET")

        def do_POST(self):
            self.answer("POST")

        def answer(self, method):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, answer = platform.route(method, self.path, body)
            content = b"" if answer is None else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/v2/endpoint"
    env = os.environ | {
        "RUNPOD_WEBHOOK_GET_JOB": f"{address}/job-take/$ID?gpu=none",
        "RUNPOD_WEBHOOK_POST_OUTPUT": f"{address}/job-done/$ID?gpu=none",
        "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
        "RUNPOD_SKIP_GPU_CHECK": "true",
        "OUTPUT": "volume",
        "VOLUME_DIR": str(volume),
    }
    handler_file = Path(worker.__file__)
    with subprocess.Popen([sys.executable, str(handler_file)], env=env, cwd=volume) as process:
        yield platform
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()
    server.shutdown()
    server.server_close()


def small_job(seconds, **fields):
    """A job with a grey picture and a buzzing voice inside."""
    picture, voice = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (64, 64), "grey").save(picture, "PNG")
    with wave.open(voice, "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(bytes([0, 16] * 40 + [0, 240] * 40) * (200 * seconds))
    return {
        "image_url": f"data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}",
        "wav_url": f"data:audio/wav;base64,{base64.b64encode(voice.getvalue()).decode()}",
        "speed_mode": "turbo",
        **fields,
    }


def test_a_job_of_the_platform_leaves_its_video(platform, volume):
    platform.jobs.put({"id": "good-1", "input": small_job(1, seed=3)})
    final = platform.wait_for("good-1", is_final)
    assert final["output"]["seed"] == 3
    assert final["output"]["settings"]["frames"] == 25
    video = Path(final["output"]["video_path"])
    assert video == volume / "infinitetalk-output" / "good-1.mp4"
    assert video.stat().st_size > 1000
    assert is_final(platform.of("good-1")[-1])  # no progress after it


def test_a_bad_job_of_the_platform_fails_with_its_code(platform):
    platform.jobs.put({"id": "bad-1", "input": {"speed_mode": "warp"}})
    final = platform.wait_for("bad-1", is_final)
    assert "speed_mode" in final["error"]
    assert final["output"] == {"error_code": "invalid_input", "retryable": False}


def test_a_job_stopped_by_the_platform_makes_room_for_the_next(platform, volume):
    platform.jobs.put({"id": "stopped", "input": small_job(20, speed_mode="maximum_quality")})
    platform.wait_for("stopped", lambda body: is_progress(body) and body["output"]["stage"] == "denoise")
    platform.stops.put("stopped")
    platform.jobs.put({"id": "next", "input": small_job(1)})
    assert "video_path" in platform.wait_for("next", is_final)["output"]
    assert not any(is_final(body) for body in platform.of("stopped"))
    assert not (volume / "infinitetalk-output" / "stopped.mp4").exists()
