"""The translation from the SDK's job to run_job and back, with a run_job that the tests play themselves.

test_loop.py has the worker as RunPod runs it.
"""

import asyncio
import json
import logging
import re
import socket
import threading
import time

import pytest
import torch
from fastapi.testclient import TestClient
from runpod.serverless.modules import rp_job
from runpod.serverless.modules.rp_fastapi import WorkerAPI

from infinitetalk.contract.settings import Settings
from infinitetalk.errors import Cancelled, DownloadFailed, Internal, OutOfMemory
from infinitetalk.progress import Progress, TimeLimit
from infinitetalk.serving import jobs, updates
from infinitetalk.transfer.delivery import ToBucket

INPUT = {"image_url": "https://example.com/face.png", "wav_url": "https://example.com/voice.wav"}


class Finished:
    """A Result as far as the handler knows it."""

    def to_json(self):
        return {"video_url": "https://bucket.example/job-1.mp4", "seed": 7, "warnings": []}

    def model_dump(self, include):
        return {"gpu_seconds": 4.2} if "gpu_seconds" in include else {}


RESULT = Finished()


class Play:
    """Stands in for run_job: `act` decides what happens. Remembers how it was called."""

    def __init__(self):
        self.calls = []
        self.act = lambda **_: RESULT

    def __call__(self, request, models, settings, exchange, control, faces, marker):
        given = {"models": models, "settings": settings, "exchange": exchange, "faces": faces, "marker": marker}
        details = given | vars(control)
        self.calls.append((request, details))
        return self.act(**details)


@pytest.fixture
def play(monkeypatch):
    play = Play()
    monkeypatch.setattr(jobs, "run_job", play)
    return play


@pytest.fixture
def sent():
    return []


@pytest.fixture
def retired():
    return []


@pytest.fixture
def handler(play, sent, retired):
    return make_handler(lambda job, progress: sent.append((job["id"], progress)), retire=lambda: retired.append(True))


def make_handler(send, settings=None, retire=lambda: None):
    return jobs.make_handler(
        lambda: "the models", settings or Settings(), send, retire, load_faces=lambda: "finder", marker="the marker"
    )


def ask(handler, job_input=INPUT, **more):
    return asyncio.run(handler({"id": "job-1", "input": job_input, **more}))


def wait_until(true):
    deadline_s = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


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
    assert (details["faces"], details["marker"]) == ("finder", "the marker")


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


def test_a_bucket_given_with_the_job_is_used(handler, play):
    bucket = {"endpointUrl": "https://1.1.1.1", "bucketName": "videos", "accessId": "i", "accessSecret": "SECRET"}
    assert ask(handler, s3Config=bucket) == RESULT.to_json()
    delivery = play.calls[0][1]["exchange"].delivery
    assert isinstance(delivery, ToBucket)
    assert delivery.bucket.owner == "job"


def test_half_a_bucket_given_with_the_job_is_refused(handler, play):
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


def test_an_unforeseen_failure_is_logged_by_type_and_place_without_its_text(handler, play, caplog):
    def act(**_):
        raise KeyError("SECRET")

    play.act = act
    answer = ask(handler)
    assert (answer["error_code"], answer["retryable"]) == ("internal", True)
    (record,) = [record for record in caplog.records if record.message == "job failed"]
    assert re.fullmatch(r"KeyError at infinitetalk\.serving\.jobs:\d+", record.fields["cause"][0])
    assert "SECRET" not in json.dumps(answer) + repr(record.fields) + caplog.text


def test_the_log_tells_what_a_failure_came_from(handler, play, caplog):
    def act(**_):
        raise Internal("try again.") from RuntimeError("what a library said")

    play.act = act
    ask(handler)
    (record,) = [record for record in caplog.records if record.message == "job failed"]
    assert [cause.split()[0] for cause in record.fields["cause"]] == ["Internal", "RuntimeError"]
    assert (record.fields["code"], record.fields["error"]) == ("internal", "try again.")


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [(torch.AcceleratorError("CUDA error"), True), (OutOfMemory("smaller."), False), (KeyError("bug"), False)],
)
def test_a_worker_without_its_gpu_asks_to_be_replaced_and_retires(handler, play, retired, error, is_lost):
    def act(**_):
        raise error

    play.act = act
    assert ask(handler).get("refresh_worker", False) is is_lost
    assert retired == [True] * is_lost


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
        assert await asyncio.to_thread(began.wait, 10)
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
        wait_until(lambda: sent)
        return RESULT

    play.act = act
    ask(handler)
    position = {"stage": "denoise", "window": 1, "windows": 2, "step": 1, "steps": 5, "percent": 20.0}
    dollars = {"cost_usd": None, "estimated_cost_usd": None}
    assert sent == [("job-1", position | dollars | {"seconds_left": 4.0, "warnings": ()})]


def test_updates_are_spaced_and_the_latest_is_not_lost(handler, play, sent, monkeypatch):
    monkeypatch.setattr(updates, "PROGRESS_INTERVAL_S", 0.2)

    def act(on_progress, **_):
        for step in range(40):
            on_progress(at_step(step))
            time.sleep(0.01)
        wait_until(lambda: sent[-1][1]["step"] == 39)
        return RESULT

    play.act = act
    ask(handler)
    assert 3 <= len(sent) <= 5


def test_updates_arrive_in_order_and_none_after_the_result(play, monkeypatch):
    monkeypatch.setattr(updates, "PROGRESS_INTERVAL_S", 0.0)
    arrived = []

    def send(_, progress):
        time.sleep(0.05)
        arrived.append(progress["step"])

    def act(on_progress, **_):
        for step in range(30):
            on_progress(at_step(step))
            time.sleep(0.005)
        return RESULT

    play.act = act
    ask(make_handler(send))
    before = list(arrived)
    assert len(before) >= 2
    assert before == sorted(before)
    time.sleep(0.1)
    assert arrived == before


def test_an_update_that_never_arrives_does_not_hold_the_result_forever(play, monkeypatch):
    monkeypatch.setattr(updates, "PROGRESS_POST_S", 0.1)
    stuck = threading.Event()
    began = threading.Event()

    def send(*_):
        began.set()
        stuck.wait()

    def act(on_progress, **_):
        on_progress(at_step(1))
        began.wait()
        return RESULT

    play.act = act
    assert ask(make_handler(send)) == RESULT.to_json()
    stuck.set()


def test_a_platform_that_does_not_answer_an_update_is_given_up_on(monkeypatch):
    monkeypatch.setattr(updates, "PROGRESS_POST_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"http://127.0.0.1:{deaf.getsockname()[1]}/job-done/$ID?gpu=none"
        monkeypatch.setattr("runpod.serverless.modules.rp_http.JOB_DONE_URL", address)
        started_s = time.monotonic()
        updates.post_progress({"id": "job-1"}, {"stage": "denoise"})
        assert time.monotonic() - started_s < 5


def test_without_runpod_progress_goes_to_the_log(caplog):
    caplog.set_level(logging.INFO, "infinitetalk")
    updates.log_progress({"id": "job-1"}, {"stage": "denoise", "step": 2})
    assert [(record.message, record.fields) for record in caplog.records] == [
        ("progress", {"stage": "denoise", "step": 2})
    ]


# ---- time ----


@pytest.mark.parametrize(
    ("policy", "timeout_s", "expected"),
    [
        (None, None, TimeLimit(600, is_certain=False)),
        ({"ttl": 5000}, None, TimeLimit(600, is_certain=False)),
        (None, 900.0, TimeLimit(900, is_certain=True)),
        ({"executionTimeout": 1_800_000}, 900.0, TimeLimit(1800, is_certain=True)),
        ({"executionTimeout": 0}, 900.0, TimeLimit(900, is_certain=True)),
    ],
)
def test_the_time_limit_is_the_jobs_or_the_endpoints_or_runpods(play, policy, timeout_s, expected):
    ask(make_handler(lambda *_: None, Settings(execution_timeout_s=timeout_s)), policy=policy)
    assert play.calls[0][1]["time_limit"] == expected


@pytest.mark.parametrize("value", ["1000", True, -5, float("nan"), [1], 10**400])
def test_a_time_limit_that_is_no_number_is_refused(handler, play, value):
    answer = ask(handler, policy={"executionTimeout": value})
    assert answer["error_code"] == "invalid_input"
    assert "policy.executionTimeout" in answer["error"]
    assert play.calls == []
