"""Whole jobs of the miniature on two ranks, as the worker runs them."""

import base64
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from infinitetalk.contract.presets import load_mode, profile_of
from infinitetalk.contract.request import Request
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import Cancelled
from infinitetalk.job import render
from infinitetalk.job.control import Control
from infinitetalk.job.resume import fingerprint
from infinitetalk.job.run import run_job
from infinitetalk.models.opening import Models
from infinitetalk.planning.plan import make_plan
from infinitetalk.progress import Progress
from infinitetalk.serving.jobs import answer
from infinitetalk.startup.opening import open_models
from infinitetalk.transfer.exchange import local_exchange
from tests.support.miniature import open_miniature

ROOT = Path(__file__).parents[2]
FILES = {"image": str(ROOT / "samples" / "two_people.png"), "audio": str(ROOT / "samples" / "voice.wav")}
PEOPLE = {"audio_2": str(ROOT / "samples" / "voice_2.flac"), "person_count": "multi"}
SETTINGS = Settings(gpus=2, volume_dir=Path("/nowhere"))


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    models = open_models(SETTINGS)
    yield models
    models.transformer.ranks.close()


def frames_of(models: Models, request: Request, folder: Path, monkeypatch: pytest.MonkeyPatch, **control: object):
    """The job's frames before they become a file, and its result."""
    frames: list[torch.Tensor] = []
    to_bytes = render.to_bytes
    monkeypatch.setattr(render, "to_bytes", lambda part: (frames.append(part.clone()), to_bytes(part))[1])
    result = run_job(request, models, SETTINGS, local_exchange(folder / "out.mp4"), Control(**control))
    return torch.cat(frames, dim=1), result


def request_for(seconds: float, **fields: object) -> Request:
    return Request.of_files(**FILES, **PEOPLE, speed_mode="turbo", seed=7, max_duration_s=seconds, **fields)


def test_a_job_gives_the_same_frames_and_a_cancelled_one_leaves_the_ranks_ready(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for(2.0, text_guidance=2.0)  # two windows, two passes a step
    for stage, step in (("denoise", 2), ("decode", 3)):  # a step and a window's decoding are no rank's to leave
        stop = threading.Event()
        seen: list[tuple[str, int]] = []

        def cancel(progress: Progress, last=(stage, step), stop=stop, seen=seen) -> None:
            seen.append((progress.stage, progress.step))
            if seen[-1] == last:
                stop.set()

        with pytest.raises(Cancelled):
            frames_of(models, request, tmp_path, monkeypatch, on_progress=cancel, should_stop=stop.is_set)
        assert seen[-1] == (stage, step)
    two, result = frames_of(models, request, tmp_path, monkeypatch)
    assert result.settings.gpus == 2
    assert result.cost_usd == pytest.approx(2 * result.gpu_seconds / 3600 * SETTINGS.gpu_price_per_hour, rel=0.01)
    one, _ = frames_of(open_miniature(), request, tmp_path, monkeypatch)
    torch.testing.assert_close(two, one, rtol=0, atol=1e-4)


def test_windows_of_another_number_of_gpus_are_not_gone_on_with(models: Models) -> None:
    plan = make_plan(request_for(1), profile_of(SETTINGS), load_mode("turbo"), 25, 7)
    prints = {fingerprint(plan, [], replace(models, n_gpus=count), SETTINGS) for count in (1, 2, 4)}
    assert len(prints) == 3


def test_a_job_whose_rank_dies_is_answered_and_the_worker_retires(models: Models, tmp_path: Path) -> None:
    """The last test here, since it ends the ranks."""
    settings = SETTINGS.model_copy(update={"output": "base64", "work_dir": tmp_path})
    ranks = models.transformer.ranks
    models.transformer.transformer.register_forward_pre_hook(lambda *_: ranks._processes[0].kill())
    urls = {"image_url": _uri(FILES["image"], "image/png"), "wav_url": _uri(FILES["audio"], "audio/wav")}
    job = {"id": "job-1", "input": {**urls, "speed_mode": "turbo", "max_duration_s": 1.0}}
    for _ in range(2):
        reply = answer(job, lambda: models, settings, lambda *_: None, threading.Event())
        assert reply["error_code"] == "internal"
        assert "lost one of its GPUs' processes (rank 1 has ended)" in reply["error"]
        assert (reply["retryable"], reply["refresh_worker"]) == (True, True)
        job = {**job, "input": {**job["input"], "image_url": "https://nowhere.example/a.png"}}  # not even downloaded


def _uri(path: str, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(Path(path).read_bytes()).decode('ascii')}"
