"""What a dry run says of other GPUs."""

from infinitetalk.arithmetic import Arithmetic
from infinitetalk.contract.presets import load_mode, load_profile
from infinitetalk.contract.request import Request
from infinitetalk.contract.result import DryRun, Estimate
from infinitetalk.job.forecast import dry_run
from infinitetalk.planning.comparison import alternatives
from infinitetalk.planning.plan import make_plan

JOB = {"image_url": "https://example.com/face.png", "wav_url": "https://example.com/voice.wav", "speed_mode": "turbo"}


def answer(profile_name: str) -> DryRun:
    profile = load_profile(profile_name)
    plan = make_plan(Request.parse(JOB), profile, load_mode("turbo"), 100, 7)
    return dry_run(plan, "turbo", profile, Estimate(basis="Unknown."), Arithmetic("_flash_3"), [], n_gpus=2)


def test_a_dry_run_has_the_jobs_own_mode_and_lane_on_other_gpus() -> None:
    large = load_profile("infinitetalk-14b")
    plan = make_plan(Request.parse(JOB), large, load_mode("turbo"), 100, 7)
    found = answer("infinitetalk-14b")
    assert found.alternatives == alternatives(plan, large.timing, Arithmetic("_flash_3"))
    assert found.settings.gpus == 2
    first = found.to_json()["alternatives"][0]
    assert list(first) == ["gpu", "gpus", "seconds", "cost_usd", "is_measured"]


def test_a_profile_without_known_times_on_gpus_has_none() -> None:
    assert "alternatives" not in answer("miniature").to_json()
