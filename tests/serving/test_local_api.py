"""The local API answers as RunPod does: a job runs once, can be watched and cancelled, and its result is kept."""

import threading
import time

import pytest
from fastapi.testclient import TestClient
from runpod.serverless.modules import rp_fastapi
from runpod.serverless.modules.rp_logger import RunPodLogger

from infinitetalk.serving import local_api
from infinitetalk.serving.local_api import LocalApi, LocalProgress


class Worker:
    """A handler that waits until it is let go, or is cancelled."""

    def __init__(self):
        self.jobs = []
        self.let_go = threading.Event()
        self.answer = {"video_path": "a.mp4"}

    async def __call__(self, job):
        import asyncio

        self.jobs.append(job)
        while not self.let_go.is_set():
            await asyncio.sleep(0.01)
        return dict(self.answer)


@pytest.fixture
def worker(monkeypatch):
    monkeypatch.setattr(RunPodLogger(), "level", "ERROR")
    return Worker()


@pytest.fixture
def progress():
    return LocalProgress()


@pytest.fixture
def api(worker, progress):
    with TestClient(LocalApi(progress, {"handler": worker}).rp_app) as client:
        yield client


def wait_for(api, job_id, status):
    for _ in range(500):
        found = api.get(f"/status/{job_id}").json()
        if found["status"] == status:
            return found
        time.sleep(0.01)
    raise AssertionError(found)


def test_a_job_runs_once_and_its_result_is_kept(api, worker, progress, monkeypatch):
    sent = api.post("/run", json={"input": {"a": 1}, "policy": {"executionTimeout": 1000}}).json()
    assert sent["status"] == "IN_QUEUE"
    progress.note({"id": sent["id"]}, {"stage": "denoise"})
    for ask in (api.get, api.post, api.get):  # RunPod has GET; the SDK's local API has POST
        assert ask(f"/status/{sent['id']}").json() == {"status": "IN_PROGRESS", "output": {"stage": "denoise"}} | {
            "id": sent["id"]
        }
    worker.let_go.set()
    for _ in range(2):
        assert wait_for(api, sent["id"], "COMPLETED")["output"] == {"video_path": "a.mp4"}
    assert worker.jobs == [{"id": sent["id"], "input": {"a": 1}, "policy": {"executionTimeout": 1000}}]
    monkeypatch.setattr(local_api, "KEPT_S", -1.0)
    assert api.get(f"/status/{sent['id']}").status_code == 404
    assert progress.of(sent["id"]) is None


def test_a_failure_keeps_its_code(api, worker):
    worker.answer = {"error": "bad.", "error_code": "invalid_input", "retryable": False}
    worker.let_go.set()
    found = wait_for(api, api.post("/run", json={"input": {}}).json()["id"], "FAILED")
    assert (found["error"], found["output"]) == ("bad.", {"error_code": "invalid_input", "retryable": False})


def test_a_cancelled_job_is_ended(api, worker):
    job_id = api.post("/run", json={"input": {}}).json()["id"]
    assert api.post(f"/cancel/{job_id}").json()["status"] == "CANCELLED"
    worker.let_go.set()
    assert wait_for(api, job_id, "CANCELLED") == {"id": job_id, "status": "CANCELLED"}


def test_jobs_are_counted(api, worker, progress):
    first = api.post("/run", json={"input": {}}).json()["id"]
    api.post("/run", json={"input": {}})
    progress.note({"id": first}, {"stage": "denoise"})
    health = api.get("/health").json()
    assert (health["jobs"]["inProgress"], health["jobs"]["inQueue"]) == (1, 1)
    worker.let_go.set()


def test_what_is_no_job_is_refused(api):
    assert api.post("/run", json={"inputs": {}}).status_code == 400
    assert api.get("/status/nobody").status_code == 404
    assert api.post("/cancel/nobody").status_code == 404


def test_the_sdk_serves_this_api(monkeypatch, worker, progress):
    monkeypatch.setattr(rp_fastapi, "WorkerAPI", rp_fastapi.WorkerAPI)
    local_api.serve_as_runpod(progress)
    assert isinstance(rp_fastapi.WorkerAPI({"handler": worker}), LocalApi)
