"""An endpoint that stumbles: what is asked again, what is not, and what its words mean."""

import json

import pytest

from infinitetalk.client import endpoint as endpoint_module
from infinitetalk.client import following
from infinitetalk.client.endpoint import EndpointFailed, JobGone, NotAnswered, RemoteEndpoint
from infinitetalk.client.following import JobFailed, JobView, follow, outcome, read_progress
from tests.support.runpod_platform import small_job

SHORT_S = 0.2
FAILURE = {"error_code": "internal", "retryable": True}


@pytest.fixture
def views():
    return []


@pytest.fixture(autouse=True)
def short_pauses_between_tries(monkeypatch):
    monkeypatch.setattr(endpoint_module, "SEND_PAUSES_S", (0.01, 0.01))
    monkeypatch.setattr(following, "LONGEST_PAUSE_S", 0.05)


def test_a_job_is_followed_by_the_workers_own_progress(endpoint, views):
    job_id = endpoint.send({"input": small_job(SHORT_S)})
    result = outcome(follow(endpoint, job_id, views.append))
    assert result["settings"]["frames"] == 5
    stages = [view.progress.stage for view in views if view.progress is not None]
    assert stages
    assert views[-1].status == "COMPLETED"
    told = [view.progress for view in views if view.progress is not None and view.progress.windows]
    assert told[-1].estimated_cost_usd > 0
    assert told[-1].cost_usd > 0


def test_a_network_that_stumbles_loses_no_job(endpoint, platform, views):
    job_id = endpoint.send({"input": small_job(SHORT_S)})
    platform.odd_calls.extend([502, "cut", 429, 503, "cut", 404, 404])
    view = follow(endpoint, job_id, views.append)
    assert view.status == "COMPLETED"
    assert view.trouble is None
    assert {view.trouble for view in views if view.trouble} >= {"HTTP 502: {}", "the connection to the endpoint broke"}
    assert len(platform.asked) == 1


def test_an_endpoint_that_stays_away_is_given_up(endpoint, platform, views, monkeypatch):
    monkeypatch.setattr(following, "UNREACHABLE_LIMIT_S", 0.2)
    platform.odd_calls.extend([500] * 100)
    with pytest.raises(EndpointFailed, match="could not be asked"):
        follow(endpoint, "job-1", views.append)


def test_a_job_is_sent_again_only_if_it_certainly_was_not_taken(endpoint, platform):
    platform.odd_calls.append(429)
    endpoint.send({"input": small_job(SHORT_S)})
    assert platform.calls == [("POST", "run")] * 2
    for odd in (500, "cut"):
        platform.odd_calls.append(odd)
        with pytest.raises(EndpointFailed, match="not known whether the endpoint took the job"):
            endpoint.send({"input": {}})
    assert len(platform.asked) == 1


@pytest.mark.parametrize("answer", [{}, {"id": ""}, {"id": 7}, {"status": "IN_QUEUE"}])
def test_an_answer_without_a_job_may_mean_that_there_is_one(endpoint, monkeypatch, answer):
    monkeypatch.setattr(RemoteEndpoint, "_ask", lambda *_: answer)
    with pytest.raises(NotAnswered, match="not known whether it took the job") as raised:
        endpoint.send({"input": {}})
    assert raised.value.was_sent


@pytest.mark.parametrize(("status", "sentence"), [(404, "There is no endpoint"), (403, "HTTP 403"), (400, "HTTP 400")])
def test_a_refusal_is_told(endpoint, platform, status, sentence):
    platform.odd_calls.append(status)
    with pytest.raises(EndpointFailed, match=sentence):
        endpoint.send({"input": {}})


def test_an_expired_result_is_told(endpoint, platform, views):
    platform.gone.add("job-1")
    with pytest.raises(JobGone, match="no longer kept"):
        follow(endpoint, "job-1", views.append)
    assert len(platform.calls) == following.GONE_TRIES


@pytest.mark.parametrize(("name", "code"), [("cancelled", "cancelled"), ("timed_out", "timeout")])
def test_what_the_platform_did_is_told(endpoint, platform, views, name, code):
    getattr(platform, name).add("job-1")
    with pytest.raises(JobFailed) as failed:
        outcome(follow(endpoint, "job-1", views.append))
    assert failed.value.code == code
    assert not failed.value.retryable


def test_the_workers_failure_keeps_its_code(endpoint, views):
    job_id = endpoint.send({"input": small_job(SHORT_S, image_url="data:image/png;base64,AAAA")})
    with pytest.raises(JobFailed, match="image_url") as failed:
        outcome(follow(endpoint, job_id, views.append))
    assert (failed.value.code, failed.value.retryable) == ("media_unreadable", False)


@pytest.mark.parametrize(
    ("view", "sentence", "code", "retryable"),
    [
        (JobView("a", "COMPLETED", output=FAILURE | {"error": "bad."}), "bad.", "internal", True),
        (JobView("a", "FAILED", output=FAILURE, error="bad."), "bad.", "internal", True),
        (JobView("a", "FAILED", error=json.dumps({"error_message": "boom"})), "worker failed: boom", "unknown", False),
        (JobView("a", "FAILED", error="job timed out"), "job timed out", "unknown", False),
        (JobView("a", "FAILED"), "does not say why", "unknown", False),
        (JobView("a", "COMPLETED"), "without a result", "unknown", False),
        (JobView("a", "COMPLETED", output="text"), "without a result", "unknown", False),
    ],
)  # fmt: skip
def test_an_end_without_a_video_says_why(view, sentence, code, retryable):
    with pytest.raises(JobFailed, match=sentence) as failed:
        outcome(view)
    assert (failed.value.code, failed.value.retryable) == (code, retryable)


def test_progress_of_another_version_is_read_as_far_as_it_goes():
    report = {"stage": "denoise", "window": 1, "windows": 2, "step": 3, "steps": 4, "percent": 5, "new": 1}
    assert read_progress(report).window == 1
    assert read_progress(report | {"cost_usd": "much", "warnings": None}).cost_usd is None
    assert read_progress(report | {"window": None}) is None
    assert read_progress({}) is None


def test_a_preview_is_shown_as_the_worker_names_it():
    assert JobView("a", report={"preview_url": "https://a.b/c.m3u8"}).preview == "https://a.b/c.m3u8"
    assert JobView("a").preview is None


def test_the_last_part_of_an_address_is_the_sdks_endpoint_id():
    for url in ("http://localhost:8000", "https://example.com/v2/abc/"):
        remote = RemoteEndpoint.at(url)
        sdk = remote._sdk
        assert f"{sdk.rp_client.endpoint_url_base}/{sdk.endpoint_id}" == url.rstrip("/")
        assert remote.place == ("--url", url.rstrip("/"))


def test_queue_numbers_are_told(endpoint, platform, views):
    platform.hold_s = 0
    for _ in range(3):
        job_id = endpoint.send({"input": small_job(SHORT_S, dry_run=True)})
    follow(endpoint, job_id, views.append)
    assert any("waiting, workers: 1 running" in (view.queue or "") for view in views)
