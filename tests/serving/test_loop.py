"""The worker as RunPod runs it: the real SDK's job loop and the miniature in a process of their own.

One worker serves the whole module, in order; the last of its tests ends it.
"""

import itertools
import time
from pathlib import Path

import pytest

from tests.support.runpod_platform import Platform, data_uri, is_final, is_progress, serve, small_job, start_worker

pytestmark = pytest.mark.long  # real workers, which wait for seconds as RunPod's do

SHORT_S = 0.12  # one window of five frames


@pytest.fixture(scope="module")
def platform(volume):
    """A platform with a worker attached."""
    platform = Platform()
    # What the worker meets before its first job.
    platform.odd_takes.extend([204, 400, 429, 500, "cut", "slow", "no json", "no id"])
    with serve(platform) as address, start_worker(address, volume, "tests/support/faulty_worker.py") as platform.worker:
        yield platform


def test_odd_answers_of_the_platform_cost_no_job(platform, volume):
    platform.odd_results.extend([500, 503])
    platform.jobs.put({"id": "good-1", "input": small_job(SHORT_S, seed=3)})
    final = platform.result("good-1")
    assert not platform.odd_takes and not platform.odd_results
    assert final["output"]["seed"] == 3
    assert final["output"]["settings"]["frames"] == 3
    video = Path(final["output"]["video_path"])
    assert video == volume / "infinitetalk-output" / "good-1.mp4"
    assert video.stat().st_size > 1000


def test_a_bad_job_fails_with_its_code(platform):
    platform.jobs.put({"id": "bad-1", "input": {"speed_mode": "warp"}})
    final = platform.result("bad-1")
    assert "speed_mode" in final["error"]
    assert final["output"] == {"error_code": "invalid_input", "retryable": False}


def test_a_batch_of_jobs_runs_one_after_the_other(platform):
    platform.jobs.put([{"id": f"batch-{i}", "input": small_job(SHORT_S, seed=i)} for i in (1, 2)])
    assert [platform.result(f"batch-{i}")["output"]["seed"] for i in (1, 2)] == [1, 2]
    order = [
        (line["requestId"], line["message"])
        for line in platform.worker.lines()
        if str(line["requestId"]).startswith("batch") and line["message"].startswith("job ")
    ]
    events = ("job started", "job planned", "job finished")
    assert order == [(f"batch-{i}", event) for i in (1, 2) for event in events]


def test_a_stopped_job_makes_room_for_the_next_at_once(platform, volume):
    platform.jobs.put({"id": "stopped", "input": small_job(20)})
    platform.wait_for("stopped", lambda body: is_progress(body) and body["output"]["window"])
    platform.jobs.put({"id": "next", "input": small_job(SHORT_S)})
    platform.stops.put("stopped")
    assert "video_path" in platform.result("next")["output"]
    assert not any(is_final(body) for body in platform.of("stopped"))
    assert not (volume / "infinitetalk-output" / "stopped.mp4").exists()
    ends = [
        line for line in platform.worker.lines() if line["requestId"] == "stopped" and line["message"] == "job failed"
    ]
    assert [line["code"] for line in ends] == ["cancelled"]


def test_progress_is_spaced_rises_and_ends_before_the_result(platform):
    platform.jobs.put({"id": "steps", "input": small_job(2.2)})
    platform.result("steps")
    time.sleep(0.3)
    posts = [(body, at_s) for job_id, body, at_s in platform.posts if job_id == "steps"]
    assert [is_final(body) for body, _ in posts] == [False] * (len(posts) - 1) + [True]
    updates = [body["output"] for body, _ in posts[:-1]]
    assert len(updates) >= 2
    percents = [update["percent"] for update in updates]
    assert percents == sorted(percents)
    assert all(later - sooner > 0.5 for (_, sooner), (_, later) in itertools.pairwise(posts[:-1]))
    assert {"stage", "window", "windows", "step", "steps", "percent", "seconds_left"} <= set(updates[-1])
    assert updates[-1]["windows"] == 2


@pytest.mark.parametrize(
    ("fault", "code", "retryable"), [("out of memory", "out_of_memory", False), ("bug", "internal", True)]
)
def test_a_job_that_fails_inside_says_so_and_the_next_runs(platform, fault, code, retryable):
    platform.jobs.put({"id": code, "input": small_job(SHORT_S, prompt=fault)})
    platform.jobs.put({"id": f"after-{code}", "input": small_job(SHORT_S)})
    final = platform.result(code)
    assert final["output"] == {"error_code": code, "retryable": retryable}
    assert "stopPod" not in final
    assert "video_path" in platform.result(f"after-{code}")["output"]


def test_a_job_that_cannot_end_in_time_is_warned_and_stops_itself(platform):
    platform.jobs.put({"id": "late", "input": small_job(20), "policy": {"executionTimeout": 1500}})
    final = platform.result("late")
    assert final["output"]["error_code"] == "timeout"
    assert "1.5 s" in final["error"]
    warned = [body["output"]["warnings"] for body in platform.of("late") if is_progress(body)]
    assert any("execution timeout is 1.5 s" in " ".join(warnings) for warnings in warned)


def test_nothing_of_a_callers_own_is_printed(platform):
    """Every secret in these jobs and in the platform's own addresses says so."""
    secret_png = data_uri("image/png", b"SECRET-picture" * 30)
    voice = small_job(SHORT_S)["wav_url"]
    jobs = [
        {"image_url": "http://SECRET-user:SECRET-pass@127.0.0.1/SECRET-path?token=SECRET-query#SECRET-f"},
        {"image_url": "https://127.0.0.1:9/SECRET-path?X-Amz-Signature=SECRET-query"},
        {"image_url": "ftp://example.com/SECRET-path?token=SECRET-query"},
        {"image_url": secret_png},
        {"image_url": secret_png.replace(";base64", "")},
        {"image_url": 5, "SECRET-field/x?y=SECRET-query": "data:SECRET", "prompt": "data:text/plain,SECRET"},
        {"seed": "/home/SECRET-path", "image_url": secret_png},
    ]
    # Short texts in the wrong place: quoted to whoever sent them, and to nobody else.
    short = [
        {"seed": "SECRET-short", "speed_mode": "SECRET-mode", "speaker_boxes": 'SECRET \\" boxes', "dry_run": "SECRET"},
        {"SECRET": 1, "SECRET-more": 2, "prompt": ["SECRET"]},
    ]
    for i, fields in enumerate(short):
        platform.jobs.put({"id": f"short-{i}", "input": {"wav_url": voice, **fields}})
    configs = ["SECRET-text", {"SECRET-name": 1}, {"endpointUrl": "SECRET", "bucketName": "SECRET!"}]
    for i, config in enumerate(configs):
        platform.jobs.put({"id": f"config-{i}", "input": small_job(SHORT_S), "s3Config": config})
    for i, fields in enumerate(jobs):
        platform.jobs.put({"id": f"secret-{i}", "input": {"wav_url": voice, **fields}})
    bucket = {"accessId": "SECRET-id", "accessSecret": "SECRET-key", "endpointUrl": "https://SECRET.example/?SECRET"}
    platform.jobs.put({"id": "secret-s3", "input": small_job(SHORT_S), "s3Config": bucket | {"bucketName": 5}})
    assert "SECRET-short" in platform.result("short-0")["error"]
    answers = [platform.result(f"secret-{i}") for i in (*range(len(jobs)), "s3")]
    assert all(answer["output"]["error_code"] in ("invalid_input", "media_unreadable") for answer in answers)
    for word in ("SECRET", "U0VDUkVU", "Traceback", 'File "', "site-packages"):  # the second is base64
        assert word not in str(answers).replace("SECRET-field", "")
        assert word not in platform.worker.printed()
    lines = platform.worker.printed().splitlines()
    assert all(line.startswith("{") for line in lines if not line.startswith("--- Starting Serverless Worker"))


def test_jobs_are_pinged_while_they_run(platform):
    assert any("job_id=late" in ping or "job_id=steps" in ping or "job_id=stopped" in ping for ping in platform.pings)


def test_nothing_is_left_of_these_jobs(volume):
    assert not list((volume / "work").iterdir())


def test_a_worker_whose_gpu_is_lost_asks_for_another_and_takes_no_job(platform):
    platform.jobs.put({"id": "lost", "input": small_job(SHORT_S, prompt="illegal access")})
    platform.jobs.put({"id": "not taken", "input": small_job(SHORT_S)})
    final = platform.result("lost")
    assert final["stopPod"] is True
    assert final["output"] == {"error_code": "internal", "retryable": True}
    assert platform.worker.wait() == 0
    assert platform.jobs.qsize() == 1
    assert platform.of("not taken") == []


def test_a_worker_told_to_end_finishes_its_job_and_takes_no_other(tmp_path):
    platform = Platform()
    with serve(platform) as address, start_worker(address, tmp_path) as platform.worker:
        platform.jobs.put({"id": "running", "input": small_job(0.4)})
        platform.wait_for("running", is_progress)
        platform.jobs.put({"id": "not taken", "input": small_job(SHORT_S)})
        platform.worker.end()
        assert "video_path" in platform.result("running")["output"]
        assert platform.worker.wait() == 0
    assert platform.jobs.qsize() == 1
