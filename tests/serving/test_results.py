"""Results on their way to a platform that is played by a session."""

import asyncio
import json
import logging
from typing import Any

import aiohttp
import pytest

from infinitetalk.serving import results
from infinitetalk.serving.results import post_result

RESULT = {"output": {"seed": 3, "prompt": "ü\ud800"}}


class Response:
    def __init__(self, status: int) -> None:
        self.status = status
        self.ok = status < 400

    async def __aenter__(self) -> "Response":
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def read(self) -> bytes:
        return b"{}"


class Session:
    """Answers one try after the other by a status, or fails as told; the last one for ever."""

    def __init__(self, *answers: int | Exception) -> None:
        self.answers = list(answers)
        self.posts: list[tuple[str, dict[str, Any]]] = []

    def post(self, url: str, **kwargs: Any) -> Response:
        self.posts.append((url, kwargs))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return Response(answer)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between tries, which take no time; the clock goes on by them."""
    made: list[float] = []

    async def sleep(seconds: float) -> None:
        made.append(seconds)

    monkeypatch.setattr(results.asyncio, "sleep", sleep)
    monkeypatch.setattr(results.time, "monotonic", lambda: sum(made))
    monkeypatch.setattr(results, "JOB_DONE_URL", "http://platform/job-done/$ID/worker?token=t")
    return made


def post(session: Session, job_id: str = "job-1") -> bool:
    return asyncio.run(post_result(session, job_id, RESULT))  # type: ignore[arg-type]


def test_a_result_goes_to_its_jobs_address(pauses: list[float]) -> None:
    session = Session(200)
    assert post(session, "a/b")
    ((url, kwargs),) = session.posts
    assert url == "http://platform/job-done/a%2Fb/worker?token=t&isStream=false"
    assert json.loads(kwargs["data"]) == RESULT
    assert kwargs["data"].isascii()
    assert kwargs["headers"]["X-Request-ID"] == "a/b"
    assert pauses == []


@pytest.mark.parametrize(
    "failure", [500, 503, 408, 429, aiohttp.ServerDisconnectedError(), TimeoutError(), ConnectionResetError()], ids=str
)
def test_a_failure_that_may_pass_is_tried_again_until_it_has(failure: int | Exception, pauses: list[float]) -> None:
    session = Session(failure, failure, failure, failure, 200)
    assert post(session)
    assert len(session.posts) == 5
    assert len({kwargs["data"] for _, kwargs in session.posts}) == 1
    assert pauses == [1, 2, 4, 8]


def test_a_platform_that_stays_away_is_given_up_in_time(pauses: list[float], caplog: pytest.LogCaptureFixture) -> None:
    session = Session(aiohttp.ServerDisconnectedError())
    assert not post(session)
    assert results.RESULT_LIMIT_S - results.LONGEST_PAUSE_S <= sum(pauses) <= results.RESULT_LIMIT_S
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.message == "result did not arrive"
    assert vars(record)["fields"] == {"tries": len(session.posts), "problem": "ServerDisconnectedError"}


@pytest.mark.parametrize("status", [400, 401, 404, 410, 413])
def test_a_result_that_is_refused_is_not_tried_for_long(status: int, pauses: list[float]) -> None:
    session = Session(status)
    assert not post(session)
    assert len(session.posts) == results.REFUSED_TRIES
    assert sum(pauses) < 10
