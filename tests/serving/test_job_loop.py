"""The guards around the SDK's job loop. test_platform_faults.py has them in a worker."""

import asyncio
from typing import Any

import pytest
from runpod.http_client import TooManyRequests
from runpod.serverless.modules import worker_state

from infinitetalk.serving import loop
from infinitetalk.serving.job_ids import id_in_address, plain_id, usable_job
from infinitetalk.serving.loop import JobLoop


@pytest.mark.parametrize("job_id", ["e1b2-u1", "a/b", "ünï-☃", " lead", "$ID", "x" * 6000, "../../x"])
def test_an_id_that_fits_everywhere_stays_as_it_is(job_id: str) -> None:
    assert plain_id(job_id) == job_id


@pytest.mark.parametrize(
    ("job_id", "plain"),
    [
        ("a\nb", "a%0Ab"),
        ("a\r\nX: 1", "a%0D%0AX%3A%201"),
        ("a\0b", "a%00b"),
        ("\ud800", "%ED%A0%80"),
        ("50%", "50%25"),
        (7, "7"),
    ],
)
def test_another_id_is_written_so_that_it_fits(job_id: object, plain: str) -> None:
    assert plain_id(job_id) == plain
    assert id_in_address(plain) == plain


@pytest.mark.parametrize("job_id", [None, True, 1.5, ["l"], {"a": 1}, "", ".", ".."])
def test_what_no_answer_could_be_addressed_to_is_no_id(job_id: object) -> None:
    assert plain_id(job_id) is None
    assert usable_job({"id": job_id, "input": {}}) is None


@pytest.mark.parametrize("job", [None, 5, "x", [], ["id"], {}, {"input": {}}])
def test_what_is_no_job_is_not_used(job: object) -> None:
    assert usable_job(job) is None


def test_a_job_keeps_the_fields_that_are_read_and_no_others() -> None:
    """The SDK makes attributes of all of them: `self` and `__class__` break it."""
    read = {"id": "job-1", "input": {"a": 1}, "policy": {"executionTimeout": 5}, "s3Config": {}}
    job = usable_job(read | {"self": 1, "__class__": 2, "webhook": 5})
    assert job == read
    worker_state.Job(**job)


def test_an_address_holds_an_id_as_one_part() -> None:
    assert id_in_address("../a b?c#d") == "..%2Fa%20b%3Fc%23d"
    assert id_in_address("e1b2-u1") == "e1b2-u1"


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(loop.time, "monotonic", lambda: clock.now_s)
    monkeypatch.setattr(loop.asyncio, "sleep", clock.sleep)
    return clock


def job_loop(monkeypatch: pytest.MonkeyPatch, *answers: Any) -> JobLoop:
    """One that is answered, one request after the other; the last answer stands for ever."""
    waiting = list(answers)

    async def get_job(_session: object, _n_jobs: int) -> Any:
        answer = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(loop, "get_job", get_job)
    return JobLoop(lambda *_: None, {"handler": None})


def take(jobs: JobLoop, times: int = 1) -> list[Any]:
    async def several() -> list[Any]:
        taken = []
        for _ in range(times):
            try:
                taken.append(await jobs._take(None, 1))  # type: ignore[arg-type]
            except Exception as error:
                taken.append(error)
        return taken

    return asyncio.run(several())


def test_a_worker_that_cannot_ask_for_jobs_asks_less_and_less_and_ends(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    jobs, started_s = job_loop(monkeypatch, OSError("no route")), clock.now_s
    asked = 0
    while jobs.is_alive():
        take(jobs)
        asked += 1
    assert loop.UNREACHABLE_LIMIT_S < clock.now_s - started_s < loop.UNREACHABLE_LIMIT_S + 2 * loop.LONGEST_PAUSE_S
    assert asked < 40


def test_failures_between_answers_do_not_add_up(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    """However long the jobs in between take."""
    answers = (OSError(), None, OSError(), [{"id": "a", "input": {}}], OSError(), TooManyRequests(None, ()), OSError())  # type: ignore[arg-type]
    jobs = job_loop(monkeypatch, *answers)
    for _ in answers:
        take(jobs)
        clock.now_s += loop.UNREACHABLE_LIMIT_S
        assert jobs.is_alive()


def test_of_a_batch_what_is_a_job_is_run(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    good = {"id": "good", "input": {}}
    jobs = job_loop(monkeypatch, [5, good, None, {"id": ["l"], "input": {}}])
    assert take(jobs) == [[good]]
    assert "jobs without a usable id are refused" in caplog.text


def test_a_platform_that_sends_no_job_but_nonsense_is_not_asked_without_pause(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    jobs, started_s = job_loop(monkeypatch, [5, "x"]), clock.now_s
    assert take(jobs, times=10) == [[]] * 10
    assert clock.now_s - started_s == 10 * loop.FIRST_PAUSE_S


def test_a_stop_signal_finds_its_job_under_any_id(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = job_loop(monkeypatch, None)

    async def stop() -> bool:
        jobs.jobs_tasks["a%0Ab"] = asyncio.create_task(asyncio.sleep(10))
        return await jobs.stop_job("a\nb")

    assert asyncio.run(stop())
