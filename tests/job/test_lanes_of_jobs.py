"""Jobs in the lanes of one worker: each makes the video of a worker with that lane alone, and says so."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infinitetalk.contract.presets import load_mode, profile_of
from infinitetalk.contract.request import Request
from infinitetalk.contract.result import DryRun, Result
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import InvalidInput
from infinitetalk.job.resume import fingerprint
from infinitetalk.job.run import run_job
from infinitetalk.media.encode import hash_streams
from infinitetalk.models.opening import Models
from infinitetalk.planning.estimate import Work
from infinitetalk.planning.plan import make_plan
from infinitetalk.startup import calibration
from infinitetalk.startup.calibration import TRIALS, Sample
from infinitetalk.startup.opening import open_models
from infinitetalk.transfer.exchange import local_exchange
from tests.support.media_samples import write_picture, write_tone
from tests.support.miniature import quicken

BOTH = Settings.from_env({"LANES": "sparse_30,exact", "DEVICE": "cpu"})
ALONE = {
    "exact": Settings.from_env({"DEVICE": "cpu"}),
    "sparse_30": Settings.from_env({"SPARSE_ATTENTION": "0.3", "DEVICE": "cpu"}),
}


def opened(settings: Settings) -> Models:
    models = open_models(settings)
    quicken(models.vae)
    return models


@pytest.fixture(scope="module")
def both() -> Models:
    return opened(BOTH)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., tuple[Any, str]]:
    """Runs a job of 9 frames in turbo; returns its answer and its streams' hashes."""
    picture, voice = write_picture(tmp_path / "face.png"), write_tone(tmp_path / "voice.wav", seconds=0.36)

    def run(models: Models, settings: Settings, **fields: Any) -> tuple[Any, str]:
        output = tmp_path / "out.mp4"
        request = Request.of_files(image=picture, audio=voice, speed_mode="turbo", seed=1, **fields)
        result = run_job(request, models, settings, local_exchange(output))
        return result, "" if isinstance(result, DryRun) else repr(hash_streams(output))

    return run


def test_a_lane_gives_the_streams_of_a_worker_that_has_it_alone(both: Models, run: Callable[..., Any]) -> None:
    videos = {}
    for lane, settings in ALONE.items():
        result, videos[lane] = run(both, BOTH, lane=lane)
        assert isinstance(result, Result)
        assert result.settings.lane == lane
        alone, expected = run(opened(settings), settings)
        assert (videos[lane], result.settings) == (expected, alone.settings)
    assert videos["exact"] != videos["sparse_30"]
    assert run(both, BOTH)[1] == videos["sparse_30"]  # the first one is the default


def test_a_dry_run_names_the_lane_and_estimates_it(both: Models, run: Callable[..., Any]) -> None:
    answers = {lane: run(both, BOTH, lane=lane, dry_run=True)[0] for lane in ALONE}
    for lane, answer in answers.items():
        assert answer.settings.lane == lane
    assert answers["exact"].settings.precision == "float32"
    assert answers["sparse_30"].settings.precision == "float32, sparse_30"
    assert "30 % of the self-attention" in answers["sparse_30"].settings.attention
    assert "The lane sparse_30 was not measured" in answers["sparse_30"].estimate.basis
    assert "lane" not in answers["exact"].estimate.basis


def test_a_lane_that_the_worker_does_not_have_is_refused_first(
    both: Models, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infinitetalk.job.run.job_folder", lambda *_: pytest.fail("the job began"))
    with pytest.raises(InvalidInput, match="lane must be one of sparse_30, exact, not 'fp8': the worker's LANES"):
        run(both, BOTH, lane="fp8")
    with pytest.raises(InvalidInput, match="lane must be exact, not 'turbo': the worker's LANES"):
        run(both, ALONE["exact"], lane="turbo")


def test_the_only_lane_may_be_named(both: Models, run: Callable[..., Any]) -> None:
    answer, _ = run(both.in_lane("exact"), ALONE["exact"], lane="exact", dry_run=True)
    assert answer.settings.lane == "exact"


def test_finished_windows_count_for_their_lane_only(both: Models) -> None:
    request = Request.parse({"image_url": "https://a.b/c.png", "wav_url": "https://a.b/c.wav"})
    plan = make_plan(request, profile_of(BOTH), load_mode("turbo"), 9, 1)
    found = {lane: fingerprint(plan, [], both.in_lane(lane), BOTH) for lane in (None, *BOTH.arithmetics)}
    assert found[None] == found["sparse_30"] != found["exact"]


def test_calibration_measures_every_lane(both: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(tokens=10, tokens_squared=100, shared_tokens=0, to_video=1.0, to_latents=1.0, frames=9)

    def run_sample(job: dict[str, Any], _mode: object, models: Models, *_: object) -> tuple[Sample, None]:
        return Sample(work, models.in_lane(job["lane"]).arithmetic, {"denoise": 2.0}, 0.5), None

    monkeypatch.setattr(calibration, "run_sample", run_sample)
    samples = [sample for _, sample in calibration.measure(both, BOTH)]
    assert [sample.arithmetic.lane for sample in samples] == ["sparse_30"] * len(TRIALS) + ["exact"] * len(TRIALS)
    hardware = calibration.calibrated("here", samples, profile_of(BOTH), None, "today", "a test")
    assert set(hardware.lanes) == {"sparse_30", "exact"}
