"""A very short run of benchmarks/soak.py."""

import itertools

import pytest

from benchmarks import soak
from infinitetalk.contract.settings import Settings
from infinitetalk.models.opening import Models
from infinitetalk.serving.jobs import make_handler

pytestmark = pytest.mark.long  # many jobs


def test_jobs_in_a_row_leave_nothing_behind(
    models: Models, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(soak, "open_models", lambda _: models)
    monkeypatch.setattr(soak, "MAX_GROWTH", 1.5)  # memory settles after some twenty jobs only
    monkeypatch.setattr(soak, "CANCEL_EVERY", 3)
    assert soak.soak(n_jobs=4, settled=2, seconds=0.12) == []
    printed = capsys.readouterr().out
    assert "3 videos, 1 hostile jobs" in printed
    assert "left behind: 0 files, 0 threads" in printed


def test_the_hostile_jobs_are_all_refused_by_name(models: Models) -> None:
    work = make_handler(lambda: models, Settings(), lambda *_: None, lambda: None)
    jobs = itertools.islice(soak.hostile_jobs(0.12), 12)
    codes = [soak.run(work, {"id": "job"} | job, cancel=False)["error_code"] for job in jobs]
    assert set(codes) == {"invalid_input", "media_unreadable", "too_large"}, codes


def test_the_jobs_are_every_mode_with_every_number_of_people() -> None:
    jobs = [job for job, _ in zip(soak.inputs(0.1), range(32), strict=False)]
    kinds = {(job["speed_mode"], job.get("input_type"), job.get("speaker_order")) for job in jobs}
    assert len(kinds) == 32
