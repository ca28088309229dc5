"""Whole jobs on the miniature, from files to an mp4: what comes out, and that every field is honoured."""

import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from infinitetalk.contract.presets import load_mode
from infinitetalk.contract.request import Request
from infinitetalk.contract.result import DryRun, Result
from infinitetalk.contract.settings import Settings
from infinitetalk.contract.values import LOCAL_FILES
from infinitetalk.errors import (
    Cancelled,
    InvalidInput,
    JobError,
    MediaUnreadable,
    ModelMissing,
    OutOfMemory,
    TimedOut,
    TooLarge,
)
from infinitetalk.job.control import Control
from infinitetalk.job.run import run_job
from infinitetalk.media.encode import hash_streams
from infinitetalk.media.probe import probe
from infinitetalk.models.opening import Models
from infinitetalk.progress import Progress, TimeLimit
from infinitetalk.startup.opening import open_models
from infinitetalk.transfer.delivery import Delivered
from infinitetalk.transfer.exchange import Exchange, local_exchange, local_files
from tests.support.media_samples import read_frames, write_picture, write_talking_video, write_tone

SETTINGS = Settings.from_env({})


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """URLs of a picture, a video and two voices of 0.36 and 0.2 s."""
    folder = tmp_path_factory.mktemp("media")
    return {
        "image_url": write_picture(folder / "face.png").as_uri(),
        "video_url": write_talking_video(folder / "head.mp4", seconds=0.2).as_uri(),
        "wav_url": write_tone(folder / "voice.wav", seconds=0.36, frequency_hz=180).as_uri(),
        "wav_url_2": write_tone(folder / "voice_2.wav", seconds=0.2, frequency_hz=110).as_uri(),
    }


@pytest.fixture
def run(models: Models, media: dict[str, str], tmp_path: Path) -> Callable[..., tuple[Any, Path]]:
    """Runs a job of the given fields (media where the kind of job needs them) on the miniature."""

    def run(
        on_progress: Callable[[Progress], None] = lambda _: None,
        should_stop: Callable[[], bool] = lambda: False,
        settings: Settings = SETTINGS,
        time_limit: TimeLimit | None = None,
        **fields: Any,
    ) -> tuple[Any, Path]:
        needed = ["video_url" if fields.get("input_type") == "video" else "image_url", "wav_url"]
        if fields.get("person_count") == "multi":
            needed.append("wav_url_2")
        job = {"seed": 1, "speed_mode": "turbo"} | {name: media[name] for name in needed} | fields
        output = tmp_path / "out.mp4"
        result = run_job(
            Request.parse(job, LOCAL_FILES),
            models,
            settings,
            local_exchange(output),
            Control("job", on_progress, should_stop, time_limit),
        )
        return result, output

    return run


def digest(path: Path) -> str:
    """Of the streams: the signature beside them is another one each time."""
    return repr(hash_streams(path))


Kept = dict[str, tuple[Result, Path]]  # results and videos, by the fields of their jobs


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> tuple[Kept, Path]:
    """What several tests look at, and the folder where the videos lie."""
    return {}, tmp_path_factory.mktemp("shelf")


@pytest.fixture
def made(run: Callable[..., tuple[Any, Path]], shelf: tuple[Kept, Path]) -> Callable[..., tuple[Result, Path]]:
    """The result and the video of a job of these fields, made for the first test that looks at it."""
    kept, folder = shelf

    def made(**fields: Any) -> tuple[Result, Path]:
        key = repr(sorted(fields.items()))
        if key not in kept:
            result, path = run(**fields)
            kept[key] = result, path.rename(folder / f"{len(kept)}.mp4")
        return kept[key]

    return made


def test_a_job_gives_a_video_as_long_as_the_voice_with_its_sound(run: Callable[..., tuple[Result, Path]]) -> None:
    result, path = run()
    info = probe(path, "result")
    assert (info.width, info.height) == (96, 160) == (result.settings.width, result.settings.height)
    assert info.has_audio
    assert info.stated_duration_s == pytest.approx(0.36, abs=0.04)
    frames = read_frames(path, 96, 160)
    assert len(frames) == 9 == result.settings.frames
    assert np.diff(frames.astype(int), axis=0).any(), "the video stands still"
    assert result.video_path == str(path)
    assert result.seed == 1
    assert result.settings.windows == 1
    assert result.settings.forwards == result.settings.steps == 3
    made = {"audio", "text", "image", "condition", "denoise", "decode", "color", "bytes"}
    assert set(result.timings_s) == {"download", "read_media", "encode", "check", "mark", "deliver"} | made
    assert result.gpu_seconds >= sum(result.timings_s.values()) * 0.99
    assert result.cost_usd == pytest.approx(result.gpu_seconds / 3600 * 3.96, rel=0.01)
    assert result.settings.gpus == 1
    assert any("drawn faces only" in warning for warning in result.warnings)


def test_same_job_and_seed_give_the_same_streams_and_another_seed_does_not(
    run: Callable[..., tuple[Result, Path]], made: Callable[..., tuple[Result, Path]]
) -> None:
    first = digest(made()[1])
    assert digest(run(seed=1)[1]) == first
    assert digest(run(seed=2)[1]) != first


def test_a_seed_is_drawn_and_returned_and_gives_the_video_again(run: Callable[..., tuple[Result, Path]]) -> None:
    result, path = run(seed=None)
    first = digest(path)
    assert digest(run(seed=result.seed)[1]) == first


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "A man sings."},
        {"speed_mode": "fast"},
        {"audio_guidance": 2.0},
        {"text_guidance": 3.0},
        {"color_correction": 1.0},
        {"aspect_ratio": "16:9"},
        {"resolution": "720p"},
        {"max_duration_s": 0.2},
        {"input_type": "video"},
        {"person_count": "multi"},
    ],
    ids=str,
)
def test_each_field_changes_the_video(fields: dict[str, Any], made: Callable[..., tuple[Result, Path]]) -> None:
    assert digest(made(**fields)[1]) != digest(made()[1])


@pytest.mark.parametrize(
    ("common", "field", "value"),
    [
        ({"text_guidance": 3.0}, "negative_prompt", "teeth"),
        ({"input_type": "video"}, "video_strength", 0.5),
        ({"person_count": "multi"}, "speaker_boxes", [[0.5, 0, 1, 1], [0, 0, 0.4, 1]]),
        ({"person_count": "multi"}, "speaker_order", "first_then_second"),
        ({"person_count": "multi"}, "speaker_order", "second_then_first"),
    ],
)
def test_fields_of_one_kind_of_job_change_its_video(
    common: dict[str, Any], field: str, value: object, made: Callable[..., tuple[Result, Path]]
) -> None:
    assert digest(made(**common, **{field: value})[1]) != digest(made(**common)[1])


def test_two_voices_together_last_as_long_as_the_longer_and_in_turns_as_both(
    made: Callable[..., tuple[Result, Path]],
) -> None:
    lengths = {}
    for order in ("together", "first_then_second", "second_then_first"):
        result, path = made(person_count="multi", speaker_order=order)
        lengths[order] = len(read_frames(path, 96, 160))
        assert probe(path, "result").stated_duration_s == pytest.approx(result.settings.duration_s, abs=0.04)
    assert lengths == {"together": 9, "first_then_second": 14, "second_then_first": 14}


def test_windows_join_into_one_clip(run: Callable[..., tuple[Result, Path]], tmp_path: Path) -> None:
    """2.2 s in turbo: 55 frames, a window of 49 and one of the 11 that are left with the overlap, rounded to 13."""
    voice = write_tone(tmp_path / "long.wav", seconds=2.2, frequency_hz=150).as_uri()
    steps: list[tuple[int, int]] = []
    result, path = run(on_progress=lambda p: steps.append((p.window, p.step)), wav_url=voice)
    assert result.settings.windows == 2
    assert len(read_frames(path, 96, 160)) == 55
    assert list(dict.fromkeys(steps)) == [(0, 0), (1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]


def test_a_video_shorter_than_the_sound_holds_its_last_frame_and_says_so(
    made: Callable[..., tuple[Result, Path]],
) -> None:
    result, path = made(input_type="video")
    assert len(read_frames(path, 96, 160)) == 9
    assert any("video_url lasts 0.20 s" in warning for warning in result.warnings)


def test_a_dry_run_plans_and_estimates_without_a_video(run: Callable[..., tuple[DryRun, Path]]) -> None:
    result, path = run(dry_run=True)
    assert isinstance(result, DryRun)
    assert not path.exists()
    assert result.settings.frames == 9
    assert result.estimate.seconds > 0
    assert result.estimate.cost_usd == pytest.approx(result.estimate.seconds / 3600 * 3.96, abs=1e-3)


def test_all_gpus_of_the_worker_are_counted_and_paid_for(models: Models, media: dict[str, str], tmp_path: Path) -> None:
    job = {"image_url": media["image_url"], "wav_url": media["wav_url"], "speed_mode": "turbo"}
    two = replace(models, n_gpus=2)
    made, planned = (
        run_job(Request.parse(job | more, LOCAL_FILES), two, SETTINGS, local_exchange(tmp_path / "out.mp4"))
        for more in ({}, {"dry_run": True})
    )
    assert isinstance(made, Result)
    assert isinstance(planned, DryRun)
    assert made.settings.gpus == planned.settings.gpus == 2
    assert made.cost_usd == pytest.approx(2 * made.gpu_seconds / 3600 * 3.96, rel=0.01)
    assert planned.estimate.cost_usd == pytest.approx(2 * planned.estimate.seconds / 3600 * 3.96, abs=2e-3)
    assert "Several processes on one CPU count as one." in planned.estimate.basis


def test_a_long_prompt_is_used_in_part_and_says_so(run: Callable[..., tuple[DryRun, Path]]) -> None:
    result, _ = run(dry_run=True, prompt="word " * 700)
    assert any("of which the model reads the first 512" in warning for warning in result.warnings)


def test_progress_rises_to_the_end_through_every_stage(run: Callable[..., tuple[Result, Path]]) -> None:
    seen: list[Progress] = []
    result, _ = run(on_progress=seen.append)
    stages = list(dict.fromkeys(progress.stage for progress in seen))
    made = ["audio", "text", "image", "condition", "denoise", "decode", "color", "bytes"]
    assert stages == ["download", "read_media", "encode", *made, "check", "mark", "deliver"]
    assert [progress.step for progress in seen if progress.stage == "denoise"] == [0, 1, 2, 3]
    percents = {progress.stage: progress.percent for progress in seen}
    assert percents == {
        "download": 0,
        "read_media": 0,
        "audio": 0,
        "text": 0,
        "image": 0,
        "condition": 0,
        "denoise": 50,
        "decode": 75,
        "color": 75,
        "bytes": 75,
        "encode": 75,
        "check": 100,
        "mark": 100,
        "deliver": 100,
    }
    assert [progress.percent for progress in seen] == sorted(progress.percent for progress in seen)
    assert seen[-1].seconds_left == 0
    assert all(progress.seconds_left is not None for progress in seen if progress.stage == "decode")
    assert list(seen[-1].warnings) == result.warnings


@pytest.mark.parametrize(
    "stage", ["download", "read_media", "audio", "text", "condition", "denoise", "decode", "encode"]
)
def test_cancelling_takes_effect_at_the_next_step_or_stage_and_the_next_job_runs(
    stage: str, run: Callable[..., tuple[Result, Path]], tmp_path: Path
) -> None:
    seen: list[Progress] = []
    settings = Settings.from_env({"WORK_DIR": str(tmp_path / "work")})
    with pytest.raises(Cancelled):
        run(
            on_progress=seen.append,
            should_stop=lambda: bool(seen) and seen[-1].stage == stage,
            settings=settings,
        )
    assert seen[-1].stage == stage
    assert list((tmp_path / "work").iterdir()) == [], "the job's folder is left behind"
    run(settings=settings, dry_run=True)


def test_a_cancelled_job_takes_no_further_step(run: Callable[..., tuple[Result, Path]]) -> None:
    seen: list[Progress] = []
    with pytest.raises(Cancelled):
        run(on_progress=seen.append, should_stop=lambda: bool(seen) and seen[-1].step == 2)
    assert (seen[-1].stage, seen[-1].step) == ("denoise", 2)


def test_a_cancelled_job_decodes_no_further_frame_and_the_autoencoder_holds_none(
    run: Callable[..., tuple[Result, Path]], models: Models
) -> None:
    decoded: list[None] = []
    hook = models.vae.decoder.register_forward_hook(lambda *_: decoded.append(None))
    with pytest.raises(Cancelled):
        run(should_stop=lambda: len(decoded) == 2)
    hook.remove()
    assert len(decoded) == 2
    assert not any(remembered is not None for remembered in models.vae._feat_map)
    assert not models.vae.decoder._forward_pre_hooks


def test_a_job_past_its_time_stops_before_the_next_step(
    run: Callable[..., tuple[Result, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Progress] = []

    with monkeypatch.context() as patch, pytest.raises(TimedOut, match="timeout of 50 s"):
        clock = time.monotonic
        patch.setattr(
            "infinitetalk.job.control.time.monotonic", lambda: clock() + 49.5 * any(p.step == 2 for p in seen)
        )
        run(on_progress=seen.append, time_limit=TimeLimit(50.0, is_certain=True))
    assert (seen[-1].stage, seen[-1].step) == ("denoise", 2)


@pytest.mark.parametrize(("scheduler", "frames"), [("euler", 3), ("infinitetalk", 2)])
def test_half_a_frame_of_sound_is_a_frame_but_with_the_authors_scheduler(
    scheduler: str, frames: int, models: Models, media: dict[str, str], tmp_path: Path
) -> None:
    job = {
        "image_url": media["image_url"],
        "wav_url": write_tone(tmp_path / "voice.wav", 0.1).as_uri(),
        "dry_run": True,
    }
    mode = load_mode("turbo").model_copy(update={"scheduler": scheduler})
    exchange = local_exchange(tmp_path / "out.mp4")
    planned = run_job(Request.parse(job, LOCAL_FILES), models, SETTINGS, exchange, mode=mode)
    assert planned.settings.frames == frames


@pytest.mark.parametrize("end", [Cancelled, TimedOut])
def test_a_job_that_has_to_end_ends_the_look_at_where_its_video_goes(
    end: type[JobError], models: Models, media: dict[str, str], tmp_path: Path
) -> None:
    """A bucket that came with the job may answer as slowly as it likes."""
    stop = threading.Event()

    class Slow:
        def check_fits(self, video_bytes: int, check_job: Callable[[], object] = lambda: None) -> None:
            if end is Cancelled:
                stop.set()
            while True:
                check_job()
                time.sleep(0.01)

        def deliver(self, video: Path) -> Delivered:
            raise AssertionError("it goes on")

    limit = TimeLimit(5.0 if end is TimedOut else 600.0, is_certain=True)
    request = Request.parse({name: media[name] for name in ("image_url", "wav_url")}, LOCAL_FILES)
    control = Control("job", should_stop=stop.is_set, time_limit=limit)
    with pytest.raises(end):
        run_job(request, models, SETTINGS, Exchange(local_files, Slow()), control)


def test_an_uncertain_time_limit_stops_nothing(run: Callable[..., tuple[Result, Path]]) -> None:
    result, _ = run(time_limit=TimeLimit(0.01, is_certain=False))
    assert any("RunPod stops it after 0.01 s" in warning for warning in result.warnings)


@pytest.mark.parametrize(("limit_s", "is_warned"), [(600.0, False), (0.5, True)])
def test_a_dry_run_warns_of_a_job_that_takes_longer_than_it_may(
    limit_s: float, is_warned: bool, run: Callable[..., tuple[DryRun, Path]]
) -> None:
    result, _ = run(dry_run=True, time_limit=TimeLimit(limit_s, is_certain=True))
    assert any(f"execution timeout is {limit_s:g} s" in warning for warning in result.warnings) is is_warned


def test_a_job_measured_nowhere_has_no_estimate_and_runs(
    run: Callable[..., tuple[DryRun, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infinitetalk.job.forecast.find_hardware", lambda *_: None)
    result, _ = run(dry_run=True, time_limit=TimeLimit(0.01, is_certain=True))
    assert result.estimate.seconds is None
    assert not any("estimated" in warning for warning in result.warnings)


def test_running_out_of_memory_is_named_and_frees_it_and_the_next_job_runs(
    run: Callable[..., tuple[Result, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    freed_when_emptied: list[bool] = []

    def exhausted(*_: object, **__: object) -> None:
        latents = torch.zeros(1000)
        held.append(weakref.ref(latents))
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr("infinitetalk.generation.pipeline.denoise", exhausted)
        patch.setattr("torch.cuda.empty_cache", lambda: freed_when_emptied.append(held[0]() is None))
        with pytest.raises(OutOfMemory, match="96x160"):
            run()
    assert freed_when_emptied == [True]
    run()


@pytest.mark.parametrize(("order", "silent"), [("first_then_second", "wav_url_2"), ("second_then_first", "wav_url")])
def test_a_voice_whose_turn_never_comes_is_warned_of(
    order: str, silent: str, run: Callable[..., tuple[DryRun, Path]]
) -> None:
    def warnings(**fields: object) -> list[str]:
        result, _ = run(dry_run=True, person_count="multi", speaker_order=order, **fields)
        return [warning for warning in result.warnings if "is not heard" in warning]

    assert [warning.split()[0] for warning in warnings(max_duration_s=0.16)] == [silent]
    assert warnings(max_duration_s=0.48) == []
    assert warnings() == []


def test_voices_in_turns_longer_than_the_limit_are_refused(run: Callable[..., tuple[Result, Path]]) -> None:
    settings = Settings.from_env({"MAX_AUDIO_S": "0.4"})
    run(person_count="multi", settings=settings, dry_run=True)
    with pytest.raises(TooLarge, match="one after the other"):
        run(person_count="multi", speaker_order="first_then_second", settings=settings)


@pytest.mark.parametrize(
    ("field", "content", "error"),
    [
        ("image_url", b"<!doctype html><p>404</p>", MediaUnreadable),
        ("wav_url", b"not a sound", MediaUnreadable),
        ("video_url", b"\x00" * 2000, MediaUnreadable),
    ],
)
def test_unreadable_media_name_their_field_before_anything_runs(
    field: str,
    content: bytes,
    error: type[JobError],
    run: Callable[..., tuple[Result, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(content)
    monkeypatch.setattr("infinitetalk.job.render.generate", lambda *_: pytest.fail("the model ran"))
    kind = {"input_type": "video"} if field == "video_url" else {}
    with pytest.raises(error, match=f"^{field}: "):
        run(**kind, **{field: bad.as_uri()})


def test_local_files_must_exist_and_are_refused_from_the_network(
    run: Callable[..., tuple[Result, Path]], media: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="there is no file"):
        run(wav_url=(tmp_path / "nowhere.wav").as_uri())
    with pytest.raises(InvalidInput, match="wav_url"):
        Request.parse({"image_url": "https://example.com/a.png", "wav_url": media["wav_url"]})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="DEVICE is cuda"):
        open_models(Settings.from_env({"DEVICE": "cuda"}))


def test_an_attention_kernel_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("please install it")

    monkeypatch.setattr("infinitetalk.models.transformer.InfiniteTalkTransformer.set_attention_backend", refuse)
    with pytest.raises(ValueError, match="'flash' cannot be used: please install it"):
        open_models(Settings.from_env({"ATTENTION_BACKEND": "flash"}))


def test_models_that_are_not_there_are_named() -> None:
    with pytest.raises(ModelMissing, match="MODELS_DIR"):
        open_models(Settings.from_env({"MODEL_PROFILE": "infinitetalk-14b"}))
    with pytest.raises(ValueError, match="nonsense"):
        open_models(Settings.from_env({"ATTENTION_BACKEND": "nonsense"}))
    with pytest.raises(ValueError, match="no 'nowhere'"):
        open_models(Settings.from_env({"MODEL_PROFILE": "nowhere"}))
