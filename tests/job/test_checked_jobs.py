"""Whole jobs whose finished files are looked at: what the result says, and that the video goes out whatever it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from infinitetalk.contract.presets import load_mode, load_profile
from infinitetalk.contract.request import LOCAL_FILES, Request
from infinitetalk.contract.result import Result
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import Cancelled
from infinitetalk.job import checks, render
from infinitetalk.job import run as job
from infinitetalk.job.control import Control
from infinitetalk.job.run import run_job
from infinitetalk.models.opening import Models
from infinitetalk.progress import Progress
from infinitetalk.transfer.exchange import local_exchange
from tests.support.faces import FixedFinder
from tests.support.media_samples import X264, ffmpeg, write_tone

MODE = load_mode("turbo").model_copy(update={"window_frames": 9, "overlap_frames": 5, "steps": 1})
SMALL = load_profile("miniature").model_copy(update={"sizes": {"480p": {"9:16": (32, 48)}}})
SECONDS = 0.68  # 17 frames: windows of 9, 4 and 4 new ones


@pytest.fixture
def run(models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Result, Path]]:
    """Runs a job of the small profile; returns its result and its file."""
    monkeypatch.setattr(job, "load_mode", lambda _: MODE)
    monkeypatch.setattr(job, "profile_of", lambda _: SMALL)
    film = tmp_path / "film.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=d=0.4:r=30:s=96x144", "-pix_fmt", "yuv420p", *X264, film)
    shades = np.linspace(20, 230, 32 * 48).reshape(48, 32, 1).repeat(3, 2)
    Image.fromarray(shades.astype(np.uint8)).save(tmp_path / "face.png")
    media = {
        "image_url": (tmp_path / "face.png").as_uri(),
        "video_url": film.as_uri(),
        "wav_url": write_tone(tmp_path / "voice.wav", SECONDS, frequency_hz=180).as_uri(),
    }

    def run(
        control: Control | None = None, settings: Settings | None = None, faces: Any = None, **fields: Any
    ) -> tuple[Result, Path]:
        source = "video_url" if fields.get("input_type") == "video" else "image_url"
        request = {"seed": 1, "speed_mode": "turbo", "wav_url": media["wav_url"], source: media[source]} | fields
        output = tmp_path / "out.mp4"
        made = Request.parse(request, LOCAL_FILES)
        exchange = local_exchange(output)
        result = run_job(made, models, settings or Settings(), exchange, control or Control("job-1"), faces=faces)
        assert isinstance(result, Result)
        return result, output

    return run


def outcomes(result: Result) -> dict[str, str]:
    assert result.checks is not None
    return {one.name: one.outcome for one in result.checks.details}


def test_a_job_is_looked_at_by_its_file(run: Callable[..., tuple[Result, Path]]) -> None:
    result, _ = run()
    told = result.to_json()["checks"]
    assert told["seconds"] <= result.timings_s["check"]
    found = outcomes(result)
    assert (found["frames"], found["sound_length"], found["sound"]) == ("ok", "ok", "ok")
    assert found["lip_sync"] == "not measured"
    assert {one["name"] for one in told["details"]} == set(found)


def test_one_window_alone_repeats_and_joins_none(run: Callable[..., tuple[Result, Path]]) -> None:
    found = outcomes(run(max_duration_s=0.2)[0])
    assert (found["repeated"], found["joins"]) == ("not measured", "not measured")


def test_a_film_whose_speakers_alone_are_made_is_looked_at_in_its_own_frames(
    run: Callable[..., tuple[Result, Path]],
) -> None:
    result, _ = run(faces=FixedFinder((0.5, 0.4, 0.3)), input_type="video", keep="speakers")
    found = outcomes(result)
    assert result.settings.fps == 30
    assert result.checks is not None
    (frames,) = (one for one in result.checks.details if one.name == "frames")
    assert (frames.outcome, frames.value) == ("ok", 20)
    assert (found["sound"], found["repeated"], found["color"]) == ("ok", "not measured", "ok")
    (sharpness,) = (one for one in result.checks.details if one.name == "sharpness")
    assert sharpness.unit == "times the source's", "it is that of the generated face alone"
    # The film ends after 0.4 s and its last frame is held; that is no fault of the result.
    assert found["frozen"] == "ok"


def test_nothing_is_looked_at_where_the_setting_says_so(run: Callable[..., tuple[Result, Path]]) -> None:
    result, output = run(settings=Settings.from_env({"CHECKS": "off"}))
    assert "checks" not in result.to_json()
    assert "check" not in result.timings_s
    assert output.is_file()


def test_a_bad_video_is_delivered_with_what_may_help(
    run: Callable[..., tuple[Result, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    to_bytes = render.to_bytes
    monkeypatch.setattr(render, "to_bytes", lambda frames: np.zeros_like(to_bytes(frames)))
    result, output = run()
    assert output.is_file()
    assert result.checks is not None
    assert result.checks.verdict == "look at it"
    assert result.checks.look_at == ["Second 0.00 to 0.68 is black."]
    assert result.checks.retryable_with == {"seed": 2}
    assert set(result.checks.retryable_with) <= set(Request.model_fields)


def test_checks_that_fail_as_a_whole_measure_nothing_and_say_so(
    run: Callable[..., tuple[Result, Path]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(checks, "expected_of", broken)
    result, output = run()
    assert set(outcomes(result).values()) == {"not measured"}
    assert result.checks is not None
    assert all("the worker's log says where" in (one.note or "") for one in result.checks.details)
    assert output.is_file()
    assert any("looking at the finished video failed" in record.message for record in caplog.records)


def test_a_job_is_cancelled_while_its_file_is_looked_at(run: Callable[..., tuple[Result, Path]]) -> None:
    stages: list[str] = []

    def on_progress(progress: Progress) -> None:
        stages.append(progress.stage)

    control = Control("job-1", on_progress, should_stop=lambda: stages[-1:] == ["check"])
    with pytest.raises(Cancelled):
        run(control)
    assert stages[-1] == "check"


def test_nothing_is_begun_just_before_the_time_limit() -> None:
    looked = checks.checked(None, None, None, None, None, 0.5)  # type: ignore[arg-type]
    assert {one.note for one in looked.details} == {"The job's time limit is near."}
