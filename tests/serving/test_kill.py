"""A short run of benchmarks/kill.py."""

import re

import pytest

from benchmarks import kill


@pytest.mark.long  # five workers, one after the other
def test_killed_workers_jobs_go_on_in_the_next_worker(capsys: pytest.CaptureFixture[str]) -> None:
    assert kill.kill(kills=2, window_frames=13, device="cpu", seed=1) == []
    printed = capsys.readouterr().out
    assert len(re.findall(r"^kill .* bytes equal$", printed, re.MULTILINE)) == 2
    assert "2 videos of equal bytes" in printed
