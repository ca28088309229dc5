"""Finished answers on the volume, until they have arrived."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from infinitetalk.contract.result import ResolvedSettings, Result
from infinitetalk.contract.settings import Settings
from infinitetalk.job.resume import FOLDER, kept_windows
from infinitetalk.serving import answers as answers_module
from infinitetalk.serving.answers import KeptAnswers
from infinitetalk.transfer.delivery import video_name

RESOLVED = ResolvedSettings(
    profile="miniature", window=49, overlap=5, windows=1, steps=3, forwards=3, scheduler="euler", shift=11.0, width=96,
    height=160, fps=25, frames=3, duration_s=0.12, lane="exact", precision="float32", attention="native",
)  # fmt: skip
JOB: dict[str, Any] = {"id": "job-1", "input": {"wav_url": "https://example.com/voice.wav", "seed": 1}}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(volume_dir=tmp_path)


@pytest.fixture
def answers(settings: Settings) -> KeptAnswers:
    return KeptAnswers(settings)


def result(**place: str) -> Result:
    return Result(
        **place, seed=1, speed_mode="turbo", settings=RESOLVED, timings_s={"decode": 1.5}, gpu_seconds=2.0, cost_usd=0.1
    )


@pytest.fixture
def on_volume(settings: Settings) -> Result:
    """The answer of JOB, whose video lies on the volume."""
    path = settings.volume_dir / video_name("job-1")
    path.parent.mkdir()
    path.write_bytes(b"video")
    return result(video_path=str(path))


@pytest.fixture
def kept(settings: Settings) -> Path:
    """The file of JOB's answer."""
    return settings.volume_dir / FOLDER / "job-1" / "answer"


def test_a_job_that_comes_back_finds_its_answer(answers: KeptAnswers, on_volume: Result) -> None:
    assert answers.find(JOB) is None
    answers.keep(JOB, on_volume)
    assert answers.find(JOB) == on_volume.to_json()
    reordered = {"input": dict(reversed(JOB["input"].items())), "id": "job-1", "policy": {"executionTimeout": 5}}
    assert answers.find(reordered) == on_volume.to_json()


@pytest.mark.parametrize(
    "place", [{"video_url": "https://s3.example.com/x?signature=y"}, {"video": "data:video/mp4;base64,AA"}]
)
def test_answers_of_every_kind_are_kept(place: dict[str, str], answers: KeptAnswers) -> None:
    answers.keep(JOB, result(**place))
    assert answers.find(JOB) == result(**place).to_json()


@pytest.mark.parametrize(
    "other",
    [
        {"input": JOB["input"] | {"seed": 2}},
        {"input": None},
        {"s3Config": {"endpointUrl": "https://s3.example.com"}},
    ],
)
def test_another_job_under_the_same_id_is_not_answered_by_it(
    other: dict[str, Any], answers: KeptAnswers, on_volume: Result
) -> None:
    """And the first job, whose video the second one replaces, neither."""
    answers.keep(JOB, on_volume)
    assert answers.find(JOB | other) is None
    assert answers.find(JOB) is None


def test_an_answer_whose_video_is_gone_does_not_count(
    answers: KeptAnswers, on_volume: Result, settings: Settings
) -> None:
    answers.keep(JOB, on_volume)
    (settings.volume_dir / video_name("job-1")).unlink()
    assert answers.find(JOB) is None


@pytest.mark.parametrize("what", ["another", "empty", "link"])
def test_an_answer_whose_video_is_another_does_not_count(
    what: str, answers: KeptAnswers, on_volume: Result, settings: Settings, tmp_path: Path
) -> None:
    answers.keep(JOB, on_volume)
    video = settings.volume_dir / video_name("job-1")
    video.unlink()
    if what == "link":
        (tmp_path / "same size").write_bytes(b"video")
        video.symlink_to(tmp_path / "same size")
    else:
        video.write_bytes(b"another" if what == "another" else b"")
    assert answers.find(JOB) is None


def test_an_answer_leads_to_its_own_jobs_video_only(answers: KeptAnswers, tmp_path: Path, on_volume: Result) -> None:
    planted = on_volume.model_copy(update={"video_path": "/etc/passwd"})
    answers.keep(JOB, planted)
    assert answers.find(JOB) is None


def test_a_signed_url_that_has_expired_does_not_count(answers: KeptAnswers, monkeypatch: pytest.MonkeyPatch) -> None:
    answers.keep(JOB, result(video_url="https://s3.example.com/x"))
    now_s = answers_module.time.time()
    monkeypatch.setattr(answers_module.time, "time", lambda: now_s + 5 * 86_400)
    assert answers.find(JOB) is None


PLANTED = {
    "empty": b"",
    "not JSON": b"\x00\xff" * 100,
    "another thing": b'{"job": 5}',
    "deep": b"[" * 100_000,
    "no numbers": b'{"job": "x", "time_s": NaN, "answer": {}}',
}


@pytest.mark.parametrize("planted", PLANTED)
def test_what_cannot_be_read_costs_the_answer_only(planted: str, answers: KeptAnswers, kept: Path) -> None:
    kept.parent.mkdir(parents=True)
    kept.write_bytes(PLANTED[planted])
    assert answers.find(JOB) is None


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/etc/passwd")])
def test_what_is_no_plain_file_is_neither_followed_nor_waited_for(make: Any, answers: KeptAnswers, kept: Path) -> None:
    kept.parent.mkdir(parents=True)
    make(kept)
    assert answers.find(JOB) is None


def test_an_answer_that_cannot_be_kept_costs_nothing(
    answers: KeptAnswers, on_volume: Result, kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept.parent.mkdir(parents=True)
    kept.mkdir()
    answers.keep(JOB, on_volume)
    assert "answer is not kept" in caplog.text


@pytest.mark.parametrize(
    ("sent", "goes"),
    [
        ({"output": {"video_path": "x"}}, True),
        ({"output": {"video_path": "x"}, "stopPod": True}, True),
        ({"error": "timeout", "output": {"error_code": "timeout"}}, False),
        ({"output": {"dry_run": True}}, False),
        ({"error": "{}"}, False),
    ],
)
def test_with_a_videos_arrival_all_that_was_kept_of_its_job_goes(
    sent: dict[str, Any], goes: bool, answers: KeptAnswers, on_volume: Result, kept: Path
) -> None:
    answers.keep(JOB, on_volume)
    (kept.parent / "00000.window").write_bytes(b"window")
    answers.arrived("job-1", sent)
    assert kept.parent.exists() is not goes
    assert Path(on_volume.video_path or "").exists()


def test_windows_stay_until_the_answer_has_arrived(settings: Settings, kept: Path) -> None:
    for stay in (True, False):
        with kept_windows(settings, "job-1", stay=stay):
            kept.parent.mkdir(parents=True, exist_ok=True)
        assert kept.parent.exists() is stay


@pytest.mark.parametrize("changed", [{"resume_hours": 0.0}, {"volume_dir": Path("/nowhere")}])
def test_without_a_place_nothing_is_kept(changed: dict[str, Any], settings: Settings, on_volume: Result) -> None:
    answers = KeptAnswers(settings.model_copy(update=changed))
    answers.keep(JOB, on_volume)
    assert answers.find(JOB) is None
    answers.arrived("job-1", {"output": {}})
    assert not (settings.volume_dir / FOLDER).exists()


def test_a_kept_answer_is_json(answers: KeptAnswers, on_volume: Result, kept: Path) -> None:
    answers.keep(JOB, on_volume)
    assert json.loads(kept.read_bytes())["answer"] == on_volume.to_json()
