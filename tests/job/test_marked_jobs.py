"""Whole jobs whose videos are marked: whichever way they go, with the result that says so."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from infinitetalk.contract.request import LOCAL_FILES, Request
from infinitetalk.contract.result import Result
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import MarkingFailed
from infinitetalk.job.control import Control
from infinitetalk.job.resume import FOLDER
from infinitetalk.job.run import run_job
from infinitetalk.marking.credentials import read
from infinitetalk.marking.xmp import read_source_type
from infinitetalk.media.encode import hash_streams
from infinitetalk.models.opening import Models
from infinitetalk.transfer.delivery import Delivery, choose_delivery
from infinitetalk.transfer.exchange import Exchange, local_files
from infinitetalk.transfer.output_file import ToFile
from tests.support.certificates import make_chain
from tests.support.media_samples import write_picture, write_talking_video, write_tone

CHAIN = make_chain()
PROMPT = "A secret prompt about somebody"


@pytest.fixture
def run(models: Models, tmp_path: Path) -> Callable[..., Result]:
    """Runs a job of five frames with that delivery and these settings."""
    (tmp_path / "volume").mkdir()
    voice = write_tone(tmp_path / "whose-voice.wav", seconds=0.2)

    def run(way: str = "volume", input_type: str = "image", **changed: Any) -> Result:
        settings = Settings(work_dir=tmp_path / "work", volume_dir=tmp_path / "volume").model_copy(update=changed)
        media = {"wav_url": voice.as_uri(), "input_type": input_type}
        if input_type == "image":
            media["image_url"] = write_picture(tmp_path / "whose-face.png").as_uri()
        else:
            media["video_url"] = write_talking_video(tmp_path / "whose-head.mp4", seconds=0.2).as_uri()
        job = {"seed": 1, "speed_mode": "turbo", "prompt": PROMPT} | media
        delivery: Delivery = ToFile(tmp_path / "out.mp4", tmp_path)
        if way != "file":
            delivery = choose_delivery(way, settings, "job-1")  # type: ignore[arg-type]
        request = Request.parse(job, LOCAL_FILES)
        result = run_job(request, models, settings, Exchange(local_files, delivery), Control("job-1"))
        assert isinstance(result, Result)
        return result

    return run


def video_of(result: Result, tmp_path: Path) -> Path:
    if result.video is None:
        assert result.video_path is not None
        return Path(result.video_path)
    path = tmp_path / "answered.mp4"
    path.write_bytes(base64.b64decode(result.video.partition(",")[2]))
    return path


@pytest.mark.parametrize("way", ["base64", "volume", "file"])
def test_whichever_way_a_video_goes_it_is_the_signed_one(way: str, run: Callable[..., Result], tmp_path: Path) -> None:
    result = run(way)
    assert result.to_json()["marking"] == {
        "digital_source_type": "trainedAlgorithmicMedia",
        "signed_by": "InfiniteTalk worker (own certificate)",
        "note": "own certificate: readers will show it as untrusted",
    }
    assert result.timings_s["mark"] > 0
    video = video_of(result, tmp_path)
    assert (read(video).verdict, read_source_type(video)) == ("untrusted", "trainedAlgorithmicMedia")
    for secret in (PROMPT, "whose-face", "whose-voice", "job-1", str(tmp_path)):
        assert secret.encode() not in video.read_bytes(), secret
    assert not list((tmp_path / "work").iterdir())


def test_a_video_out_of_a_video_is_a_composite_signed_by_the_operator(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    chain = {"sign_cert": CHAIN.certificates, "sign_key": SecretStr(CHAIN.key)}
    result = run(input_type="video", **chain)
    assert result.marking is not None
    assert (result.marking.signed_by, result.marking.note) == ("Example Films", None)
    found = read(video_of(result, tmp_path), CHAIN.root)
    assert (found.verdict, found.source_types) == ("trusted", ("compositeWithTrainedAlgorithmicMedia",))


def test_mark_off_gives_the_same_streams_and_says_nothing(run: Callable[..., Result], tmp_path: Path) -> None:
    marked = hash_streams(video_of(run(), tmp_path))
    result = run(mark="off")
    assert "marking" not in result.to_json()
    assert read(video_of(result, tmp_path)).verdict == "none"
    assert hash_streams(video_of(result, tmp_path)) == marked


def test_a_job_whose_video_cannot_be_signed_fails_and_keeps_its_windows(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    with pytest.raises(MarkingFailed):
        run(sign_tsa="http://127.0.0.1:9")
    assert list((tmp_path / "volume" / FOLDER / "job-1").glob("*.window"))
    assert not list((tmp_path / "volume").rglob("*.mp4"))
    result = run(sign_tsa="http://127.0.0.1:9", mark="optional")
    assert result.marking is None
    assert any("carries no content credentials" in warning for warning in result.warnings)
    assert any("An earlier run of this job had finished" in warning for warning in result.warnings)
    assert read(video_of(result, tmp_path)).verdict == "none"
