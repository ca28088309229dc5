"""What becomes of a pass, of the other ranks and of the job when a rank is lost."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from infinitetalk.errors import DeviceFailed, Internal, OutOfMemory, RankFailed
from infinitetalk.job.faults import classify_failure, within_memory
from infinitetalk.models.opening import Models
from infinitetalk.ranks.group import Ranks
from infinitetalk.ranks.sharing import share_models
from tests.models.test_transformer import Case
from tests.support.golden import Loop, load_golden_models, loop_variants, wan_folder
from tests.support.greedy import Greedy

ROOT = Path(__file__).parents[2]
LATENTS = torch.zeros(1, 16, 1, 8, 8)


@pytest.fixture
def ranks(start_ranks: Callable[[int], Ranks]) -> Ranks:
    return start_ranks(2)


@pytest.fixture
def models(ranks: Ranks, tmp_path: Path) -> Models:
    return share_models(load_golden_models(wan_folder(tmp_path)), ranks)


def predict(models: Models) -> torch.Tensor:
    with torch.inference_mode():
        return Case("dit_single", models.transformer).predict("cond", 0, 0)


def have_ended(ranks: Ranks) -> bool:
    return all(process.poll() is not None for process in ranks._processes)


def test_a_rank_that_dies_ends_the_pass_and_the_others(ranks: Ranks, models: Models) -> None:
    assert predict(models).isfinite().all()
    ranks._processes[0].kill()
    with pytest.raises(RankFailed, match=r"^rank \d has ended") as failed:
        predict(models)
    time.sleep(0.2)
    assert have_ended(ranks)
    with pytest.raises(RankFailed, match=re.escape(str(failed.value))):  # and none follows
        models.to_video(LATENTS)
    answer = classify_failure(failed.value)
    assert isinstance(answer, DeviceFailed)
    assert answer.refresh_worker
    assert answer.retryable
    assert "has ended" in str(answer)


def test_a_rank_that_dies_between_orders_is_noticed(ranks: Ranks) -> None:
    ranks.check()
    ranks._processes[0].kill()
    ranks._processes[0].wait()
    with pytest.raises(RankFailed, match=r"^rank 1 has ended"):
        ranks.check()


def test_ranks_end_while_they_still_import_what_they_need() -> None:
    ranks = Ranks(3, torch.device("cpu"))
    started_s = time.monotonic()
    ranks.close()
    assert time.monotonic() - started_s < 2
    assert have_ended(ranks)


def test_a_rank_that_hangs_is_given_up_after_its_time(ranks: Ranks, models: Models) -> None:
    ranks._processes[0].send_signal(signal.SIGSTOP)
    started_s = time.monotonic()
    with pytest.raises(RankFailed, match=r"rank 1.* did not answer in time"), ranks.together("decode", LATENTS, 2.0):
        models.decoder.decoder(LATENTS)
    assert 1.5 < time.monotonic() - started_s < 30
    time.sleep(0.2)
    assert have_ended(ranks)


def test_memory_that_runs_out_on_a_rank_is_the_jobs_error(ranks: Ranks) -> None:
    def work() -> None:
        with ranks.together("predict", Greedy()):
            pass

    plan = Loop(*loop_variants()[0]).plan
    with pytest.raises(OutOfMemory, match="too little memory for") as failed:
        within_memory(plan, work)
    assert failed.value.refresh_worker
    assert not failed.value.retryable
    time.sleep(0.2)
    assert have_ended(ranks)


def test_memory_that_runs_out_here_ends_the_others(ranks: Ranks, models: Models) -> None:
    with pytest.raises(RankFailed, match="rank 0") as failed, ranks.together("decode", LATENTS):
        raise torch.OutOfMemoryError("none left")
    assert failed.value.is_memory
    time.sleep(0.2)
    assert have_ended(ranks)


def test_an_order_that_fails_says_what_and_where(ranks: Ranks) -> None:
    with pytest.raises(RankFailed, match=r"rank \d: AttributeError") as failed, ranks.together("no_such_order", 1):
        pass
    assert not failed.value.is_memory
    assert isinstance(classify_failure(failed.value), Internal)


def test_the_other_ranks_end_with_the_worker_however_it_ends() -> None:
    """Whatever they are doing, too."""
    script = """
        import os, signal, time, torch
        from infinitetalk.ranks.group import Ranks
        class Sleep:
            def __reduce__(self):
                return time.sleep, (600,)
        ranks = Ranks(3, torch.device("cpu"))
        ranks.join()
        print(*[process.pid for process in ranks._processes], flush=True)
        with ranks.together("decode", Sleep()):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    worker = subprocess.run(  # until its output ends, which the ranks write to, too
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, cwd=ROOT, timeout=100
    )
    assert worker.returncode == -signal.SIGKILL
    pids = [int(pid) for pid in worker.stdout.split()]
    assert len(pids) == 2
    deadline_s = time.monotonic() + 10
    while any(is_running(pid) for pid in pids) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert not any(is_running(pid) for pid in pids)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] != "Z"


def test_a_rank_that_cannot_join_is_an_error_at_once() -> None:
    """Rank 0 would wait for it for minutes. It is another process here, since one that cannot join has to end."""
    script = """
        import torch
        from dataclasses import replace
        from infinitetalk.errors import RankFailed
        from infinitetalk.ranks.group import Ranks
        tell, ranks = Ranks._tell, Ranks(2, torch.device("cpu"))
        ranks._tell = lambda rank, connection, joining: tell(ranks, rank, connection, replace(joining, backend="none"))
        try:
            ranks.join()
        except RankFailed as error:
            print(error)
        ranks.close()
        print(ranks._processes[0].returncode)
    """
    worker = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, cwd=ROOT, timeout=100
    )
    told, status = worker.stdout.splitlines()
    assert told.startswith("rank 1: AssertionError at infinitetalk.ranks.joining:")
    assert int(status) in (0, -signal.SIGKILL)
    assert worker.returncode == 0


def test_a_rank_has_our_modules_and_no_keys_and_signals_are_not_for_it(
    start_ranks: Callable[[int], Ranks], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queue.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BUCKET_SECRET_ACCESS_KEY", "never-handed-on")
    monkeypatch.setenv("RUNPOD_AI_API_KEY", "never-handed-on")
    monkeypatch.setenv("NCCL_DEBUG", "WARN")
    (process,) = start_ranks(2)._processes
    environment = Path(f"/proc/{process.pid}/environ").read_bytes()
    assert b"never-handed-on" not in environment
    assert b"NCCL_DEBUG=WARN" in environment
    assert os.getpgid(process.pid) != os.getpgid(0)


def test_a_second_group_is_refused(ranks: Ranks) -> None:
    with pytest.raises(RankFailed, match="uses torch"):
        Ranks(2, torch.device("cpu"))
    assert not have_ended(ranks)


def test_ranks_that_cannot_start_are_an_error_and_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    ranks = Ranks(2, torch.device("cpu"))
    with pytest.raises(RankFailed, match="rank 1 has ended"):
        ranks.join()
    ranks.close()
    assert have_ended(ranks)
