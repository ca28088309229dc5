import json
import re

import pytest
from pydantic import ValidationError

from infinitetalk import errors
from infinitetalk.contract.result import DryRun, Estimate, Failure, ResolvedSettings, Result

SETTINGS = ResolvedSettings(
    profile="miniature",
    window=81,
    overlap=9,
    windows=3,
    steps=5,
    forwards=15,
    scheduler="dpm++_sde",
    shift=11.0,
    width=96,
    height=160,
    fps=25,
    frames=200,
    duration_s=8.0,
    lane="exact",
    precision="float32",
    attention="native",
)
RESULT = {
    "seed": 7,
    "speed_mode": "balanced",
    "settings": SETTINGS,
    "timings_s": {"denoise": 3.5},
    "gpu_seconds": 4.0,
    "cost_usd": 0.0044,
    "warnings": ["The weights are random."],
}
JOB_ERRORS = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, errors.JobError) and value is not errors.JobError
]


@pytest.mark.parametrize("place", ["video_url", "video", "video_path"])
def test_a_result_is_json_without_empty_fields(place):
    reply = json.loads(json.dumps(Result(**RESULT, **{place: "somewhere"}).to_json()))
    assert reply == RESULT | {place: "somewhere", "settings": SETTINGS.to_json()}


@pytest.mark.parametrize("places", [{}, {"video": "a", "video_url": "b"}])
def test_a_result_has_exactly_one_place(places):
    with pytest.raises(ValidationError, match="exactly one of video_url, video and video_path"):
        Result(**RESULT, **places)


def test_a_dry_run_has_an_estimate_instead_of_a_video():
    estimate = Estimate(seconds=10.0, cost_usd=0.011, basis="Measured.")
    reply = DryRun(seed=7, speed_mode="turbo", settings=SETTINGS, estimate=estimate).to_json()
    assert reply["dry_run"] is True
    assert reply["estimate"] == {"seconds": 10.0, "cost_usd": 0.011, "basis": "Measured."}
    assert reply["warnings"] == []
    assert not {"video", "video_url", "video_path"} & set(reply)


@pytest.mark.parametrize("error", JOB_ERRORS)
def test_a_failure_takes_code_and_retry_from_the_class(error):
    refresh = {"refresh_worker": True} if error in (errors.DeviceFailed, errors.RankOutOfMemory) else {}
    assert Failure.of(error("seed is 1.5.")).to_json() == {
        "error": "seed is 1.5.",
        "error_code": error.code,
        "retryable": error.retryable,
        **refresh,
    }


def test_the_drawn_tree_is_the_errors():
    rows = re.findall(r"(\w+)  +([a-z_]+)  +(yes|no) ", errors.__doc__)
    drawn = {name: (code, retryable == "yes") for name, code, retryable in rows}
    assert drawn == {error.__name__: (error.code, error.retryable) for error in JOB_ERRORS}
