"""Jobs whose input has another shape than the video: all of it shown, with a border and without."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infinitetalk.contract.presets import load_profile
from infinitetalk.contract.request import LOCAL_FILES, Request
from infinitetalk.contract.result import Result
from infinitetalk.contract.settings import Settings
from infinitetalk.job import run as job
from infinitetalk.job.control import Control
from infinitetalk.job.run import run_job
from infinitetalk.models.opening import Models
from infinitetalk.quality.report import read_frames
from infinitetalk.transfer.exchange import local_exchange
from tests.support.faces import FixedFinder
from tests.support.media_samples import X264, ffmpeg
from tests.support.small_jobs import MODE, N_FRAMES, small_media

SMALL = load_profile("miniature").model_copy(
    update={"sizes": {"480p": {"9:16": (64, 112), "1:1": (80, 80), "16:9": (112, 64)}}}
)
INNER = (0, 24, 64, 88)  # of a square source in 64x112


@pytest.fixture
def run(models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Result, np.ndarray]]:
    """Runs a job of a square picture; returns its result and its frames."""
    monkeypatch.setattr(job, "load_mode", lambda _: MODE)
    monkeypatch.setattr(job, "profile_of", lambda _: SMALL)
    media = small_media(tmp_path)
    ffmpeg("-f", "lavfi", "-i", "testsrc2=d=0.7:r=25:s=160x160", "-frames:v", "1", tmp_path / "square.png")
    ffmpeg("-f", "lavfi", "-i", "testsrc2=d=0.7:r=25:s=160x160", *X264, tmp_path / "square.mp4")

    def run(faces: FixedFinder | None = None, **fields: Any) -> tuple[Result, np.ndarray]:
        wanted = {"wav_url": media["wav_url"], "seed": 1, "speed_mode": "turbo"} | fields
        if "input_type" in fields:
            wanted["video_url"] = (tmp_path / "square.mp4").as_uri()
        else:
            wanted["image_url"] = (tmp_path / "square.png").as_uri()
        exchange = local_exchange(tmp_path / "out.mp4", tmp_path)
        settings = Settings(work_dir=tmp_path)
        request, control = Request.parse(wanted, LOCAL_FILES), Control("job-1")
        result = run_job(request, models, settings, exchange, control, faces=faces)  # type: ignore[arg-type]
        assert isinstance(result, Result)
        return result, read_frames(tmp_path / "out.mp4", "video")[0]

    return run


@pytest.mark.parametrize("kind", [{}, {"input_type": "video"}])
def test_the_border_is_taken_off_again(run: Callable[..., tuple[Result, np.ndarray]], kind: dict[str, str]) -> None:
    padded, with_border = run(fit="pad", **kind)
    whole, without = run(fit="whole", **kind)
    assert with_border.shape == (N_FRAMES, 112, 64, 3)
    assert without.shape == (N_FRAMES, 64, 64, 3)
    x0, y0, x1, y1 = INNER
    assert np.abs(with_border[:, y0:y1, x0:x1].astype(int) - without).mean() < 4, "but for H.264, these are the same"
    assert (padded.settings.width, padded.settings.height, padded.settings.generated) == (64, 112, None)
    assert (whole.settings.width, whole.settings.height, whole.settings.generated) == (64, 64, "64x112")
    values = {}
    for name, result in (("padded", padded), ("whole", whole)):
        assert result.checks is not None
        values[name] = {check.name: check.value for check in result.checks.details}
    assert values["whole"]["color"] == pytest.approx(values["padded"]["color"], abs=1.5), "of the same reference"


@pytest.mark.parametrize(("kind", "size"), [({}, (64, 64)), ({"input_type": "video"}, (160, 160))])
def test_what_is_kept_has_no_border(
    run: Callable[..., tuple[Result, np.ndarray]], kind: dict[str, str], size: tuple[int, int]
) -> None:
    """A picture's surroundings stay in the result's size, a video's in its own."""
    result, frames = run(FixedFinder((0.5, 0.5, 0.3)), fit="whole", keep="speakers", **kind)
    assert (result.settings.width, result.settings.height, result.settings.generated) == (*size, "64x112")
    assert frames.shape[1:] == (size[1], size[0], 3)


def test_the_source_chooses_the_shape(run: Callable[..., tuple[Result, np.ndarray]]) -> None:
    for kind in ({}, {"input_type": "video"}):
        result, frames = run(aspect_ratio="source", **kind)
        assert (result.settings.width, result.settings.height) == (80, 80)
        assert frames.shape == (N_FRAMES, 80, 80, 3)
