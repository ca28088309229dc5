"""A platform that loses results, sends nonsense, or hands out a job to a worker that it has told to end."""

import time
from pathlib import Path

import pytest

from tests.support.runpod_platform import Platform, serve, small_job, start_worker

pytestmark = pytest.mark.long  # two workers, and waits of seconds

SHORT_S = 0.12  # one window of five frames


@pytest.fixture(scope="module")
def platform(volume):
    """A platform with a worker attached, which ends with the last test."""
    platform = Platform()
    with serve(platform) as address, start_worker(address, volume, "tests/support/hasty_worker.py") as platform.worker:
        yield platform


def wait_until(true, timeout_s=60):
    deadline_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def events(platform, job_id):
    return [line["message"] for line in platform.worker.lines() if line["requestId"] == job_id]


def lose_result(platform, job_id, seed):
    """Have a job run whose result does not arrive."""
    platform.deaf_to.add(job_id)
    platform.jobs.put({"id": job_id, "input": small_job(SHORT_S, seed=seed)})
    wait_until(lambda: "result did not arrive" in events(platform, job_id))
    platform.deaf_to.clear()
    assert platform.of(job_id) == [] or not [body for body in platform.of(job_id) if "seed" in body.get("output", {})]


def test_a_result_that_did_not_arrive_is_answered_at_once_when_its_job_comes_back(platform, volume):
    lose_result(platform, "lost", seed=3)
    kept = volume / "infinitetalk-unfinished" / "lost"
    assert {path.name for path in kept.iterdir()} == {"answer", "00000.window"}
    video = volume / "infinitetalk-output" / "lost.mp4"
    written = video.stat()

    platform.jobs.put({"id": "lost", "input": small_job(SHORT_S, seed=3)})
    answer = platform.result("lost")["output"]
    assert (answer["seed"], answer["video_path"]) == (3, str(video))
    assert events(platform, "lost").count("job planned") == 1, "it was made again"
    assert video.stat() == written
    wait_until(lambda: not kept.exists())


def test_another_job_under_the_id_of_a_lost_result_is_made(platform):
    lose_result(platform, "twice", seed=4)
    platform.jobs.put({"id": "twice", "input": small_job(SHORT_S, seed=5)})
    answer = platform.result("twice")["output"]
    assert answer["seed"] == 5
    assert Path(answer["video_path"]).is_file()


def test_a_result_whose_connection_breaks_is_sent_again(platform):
    platform.odd_results.extend(["cut", 503])
    platform.jobs.put({"id": "cut", "input": {"speed_mode": "warp"}})
    assert platform.result("cut")["output"]["error_code"] == "invalid_input"
    assert not platform.odd_results


@pytest.mark.parametrize("job_id", ["a\nb", "a\r\nX-Evil: 1", "a\0b", "../../x", "a?b=c#d", "50%", 123])
def test_a_job_is_answered_whatever_its_id(job_id, platform):
    platform.jobs.put({"id": job_id, "input": {"speed_mode": "warp"}})
    assert platform.result(str(job_id))["output"]["error_code"] == "invalid_input"


def test_what_cannot_be_answered_does_not_make_the_worker_deaf(platform):
    nonsense = [{"id": job_id, "input": {}} for job_id in (None, ["l"], {"a": 1}, True, 1.5, "", "..")]
    for batch in ([5, None, "x"], *nonsense, nonsense, [{"id": "in-batch", "input": {}, "self": 1}, 7]):
        platform.jobs.put(batch)
    platform.jobs.put({"id": "\ud800", "input": {}})
    platform.jobs.put({"id": "after", "input": {}})
    assert platform.result("in-batch")["output"]["error_code"] == "invalid_input"
    assert platform.result("after")["output"]["error_code"] == "invalid_input"
    assert "Traceback" not in platform.worker.printed()


def test_a_job_that_comes_on_an_open_request_after_the_signal_to_end_is_run(platform):
    platform.hold_s = 4
    platform.jobs.put({"id": "before", "input": {}})
    platform.result("before")
    time.sleep(1.5)  # the next request is open now
    platform.worker.end()
    time.sleep(0.5)
    platform.jobs.put({"id": "late", "input": small_job(SHORT_S, seed=6)})
    assert platform.result("late")["output"]["seed"] == 6
    assert platform.worker.wait() == 0
