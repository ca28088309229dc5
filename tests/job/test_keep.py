"""Jobs of which only the speakers come from the model, jobs of films with cuts, and sources shorter than the sound.

Faces are given by tests.support.faces, since the model's frames here are too small for a real finder.
"""

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from infinitetalk.contract.presets import load_mode, load_profile
from infinitetalk.contract.request import LOCAL_FILES, Extend, Request
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import InvalidInput, ModelMissing
from infinitetalk.faces.finder import FaceFinder
from infinitetalk.generation import pipeline
from infinitetalk.job import run as job
from infinitetalk.job.control import Control
from infinitetalk.job.keep import keep_speakers
from infinitetalk.job.resume import FOLDER
from infinitetalk.job.run import run_job
from infinitetalk.media.encode import VideoWriter, hash_streams
from infinitetalk.media.video import SourceVideo
from infinitetalk.models.opening import Models
from infinitetalk.planning.extension import cuts_of_clip
from infinitetalk.planning.windows import plan_windows
from infinitetalk.progress import Progress
from infinitetalk.transfer.exchange import local_exchange
from tests.support.faces import FixedFinder
from tests.support.media_samples import X264, ffmpeg, write_picture, write_tone

MODE = load_mode("turbo").model_copy(update={"window_frames": 9, "overlap_frames": 5, "steps": 1})
SMALL = load_profile("miniature").model_copy(update={"sizes": {"480p": {"9:16": (32, 48)}}})
SECONDS = 0.68  # 17 frames: windows of 9, 4 and 4 new ones
WIDTH, HEIGHT = 96, 144


class Killed(BaseException):
    """Stands for a SIGKILL."""


@pytest.fixture
def media(tmp_path: Path) -> dict[str, str]:
    film = tmp_path / "film.mp4"
    source = f"testsrc2=d={SECONDS}:r=30:s={WIDTH}x{HEIGHT}"
    ffmpeg("-f", "lavfi", "-i", source, "-pix_fmt", "yuv420p", *X264, film)
    return {
        "video_url": film.as_uri(),
        "image_url": write_picture(tmp_path / "face.png", WIDTH, HEIGHT).as_uri(),
        "wav_url": write_tone(tmp_path / "voice.wav", seconds=SECONDS, frequency_hz=180).as_uri(),
    }


@pytest.fixture
def run(models: Models, media: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs a job of the small profile; returns its result and its file."""
    monkeypatch.setattr(job, "load_mode", lambda _: MODE)
    monkeypatch.setattr(job, "profile_of", lambda _: SMALL)
    (tmp_path / "volume").mkdir()
    settings = Settings.from_env({"VOLUME_DIR": str(tmp_path / "volume"), "CHECKS": "off"})

    def run(
        faces: FixedFinder | FaceFinder | None = None,
        on_progress: Callable[[Progress], None] = lambda _: None,
        **fields: Any,
    ) -> tuple[Any, Path]:
        source = "video_url" if fields.get("input_type") == "video" else "image_url"
        request = {"seed": 1, "speed_mode": "turbo", "wav_url": media["wav_url"], source: media[source]} | fields
        output = tmp_path / "out.mp4"
        output.unlink(missing_ok=True)
        control = Control("job-1", on_progress)
        made = Request.parse(request, LOCAL_FILES)
        result = run_job(made, models, settings, local_exchange(output), control, faces=faces)  # type: ignore[arg-type]
        return result, output

    return run


def luma(path: Path, width: int, height: int) -> np.ndarray:
    raw = ffmpeg("-i", path, "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "gray", "pipe:1")
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width).astype(float)


def test_a_videos_size_rate_and_pixels_are_kept(run: Callable[..., Any], media: dict[str, str], tmp_path: Path) -> None:
    result, output = run(FixedFinder((0.5, 0.4, 0.3)), input_type="video", keep="speakers")
    told = result.settings
    assert (told.width, told.height, told.fps, told.frames, told.generated) == (WIDTH, HEIGHT, 30, 20, "32x48")
    assert told.keep == "speakers"
    own, made = luma(tmp_path / "film.mp4", WIDTH, HEIGHT)[:20], luma(output, WIDTH, HEIGHT)
    assert made.shape == own.shape
    assert np.abs(made - own)[:, 110:].mean() < 1.5  # below the region: what H.264 costs
    assert np.abs(made - own)[:, 45:70, 38:58].mean() > 10  # in the face


def test_a_pictures_background_stands_still(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[np.ndarray] = []
    pack = VideoWriter.pack

    def record(writer: VideoWriter, frames: np.ndarray) -> bytes:
        packed.append(frames.copy())
        return pack(writer, frames)

    monkeypatch.setattr(VideoWriter, "pack", record)
    result, _ = run(FixedFinder((0.3, 0.4, 0.15)), keep="speakers")
    assert (result.settings.width, result.settings.height, result.settings.fps) == (32, 48, 25)
    frames = np.concatenate(packed)
    assert len(frames) == 17
    assert (frames[:, :, 24:] == frames[0, :, 24:]).all()  # beside the speaker
    assert (frames[1:, 12:30, 4:16] != frames[0, 12:30, 4:16]).mean() > 0.5


def test_a_killed_job_goes_on_to_the_same_streams(run: Callable[..., Any], tmp_path: Path) -> None:
    finder, fields = FixedFinder((0.5, 0.4, 0.3)), {"input_type": "video", "keep": "speakers"}
    whole = hash_streams(run(finder, **fields)[1])
    folder = tmp_path / "volume" / FOLDER / "job-1"

    def kill(progress: Progress) -> None:
        if progress.window == 3:
            while len(list(folder.glob("*.window"))) < 2:
                time.sleep(0.01)
            raise Killed

    with pytest.raises(Killed):
        run(finder, kill, **fields)
    result, output = run(finder, **fields)
    assert any("had finished 2 of 3 windows" in warning for warning in result.warnings)
    assert hash_streams(output) == whole


def test_faces_are_needed(run: Callable[..., Any]) -> None:
    with pytest.raises(
        ModelMissing, match=r"keep is speakers, which needs .* `pip install .*` brings them; or set keep"
    ):
        run(None, keep="speakers")
    for fields, field in (({}, "image_url"), ({"input_type": "video"}, "video_url")):
        with pytest.raises(InvalidInput, match=f"no speaker's face is found in {field}: send one"):
            run(FixedFinder(), keep="speakers", **fields)


def test_faces_that_the_model_does_not_make_are_not_followed(run: Callable[..., Any], tmp_path: Path) -> None:
    wide = tmp_path / "wide.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=d=0.2:r=25:s=288x144", "-pix_fmt", "yuv420p", *X264, wide)
    fields = {"input_type": "video", "keep": "speakers", "video_url": wide.as_uri(), "dry_run": True}
    with pytest.raises(InvalidInput, match=r"found in video_url: .* aspect_ratio \(what it cuts off is not made\)"):
        run(FixedFinder((0.1, 0.4, 0.15), (0.9, 0.4, 0.15)), **fields)  # both are beside the centre
    result, _ = run(FixedFinder((0.1, 0.4, 0.3)), **fields)
    assert any("is moved to the left" in warning for warning in result.warnings)
    result, _ = run(FixedFinder((0.1, 0.4, 0.3), (0.5, 0.4, 0.2)), **fields)
    assert any("keep: nobody is chosen as the speaker, so the largest" in warning for warning in result.warnings)
    result, _ = run(FixedFinder((0.5, 0.4, 0.2)), **fields)
    assert not any("nobody is chosen" in warning for warning in result.warnings)
    assert "(keep) was not measured: its time is left out" in result.estimate.basis


def test_advice_for_a_picture_names_nothing_that_is_for_videos(run: Callable[..., Any]) -> None:
    class Gone(FixedFinder):
        def follow(self, frames: Any, first: Any) -> Any:
            for _ in frames:
                yield (None,) * len(first)

    result, _ = run(Gone((0.3, 0.4, 0.15)), keep="speakers")
    (told,) = (warning for warning in result.warnings if warning.startswith("keep: at"))
    assert "video_strength" not in told and "source" not in told


def test_extend_is_for_videos(run: Callable[..., Any]) -> None:
    with pytest.raises(InvalidInput, match="extend is only for input_type video"):
        run(extend="loop")


@pytest.mark.parametrize("keep", ["all", "speakers"])
@pytest.mark.parametrize(("extend", "said"), [("loop", "begins again"), ("ping-pong", "backwards and forwards")])
def test_a_short_video_goes_on(run: Callable[..., Any], tmp_path: Path, extend: str, said: str, keep: str) -> None:
    short = tmp_path / "short.mp4"
    ffmpeg("-f", "lavfi", "-i", f"testsrc2=d=0.4:r=25:s={WIDTH}x{HEIGHT}", "-pix_fmt", "yuv420p", *X264, short)
    fields = {"input_type": "video", "video_url": short.as_uri(), "extend": extend, "keep": keep}
    result, output = run(FixedFinder((0.5, 0.4, 0.3)), **fields)
    assert any(said in warning for warning in result.warnings)
    assert result.settings.extend == extend
    assert result.settings.cuts_s == ([0.4] if extend == "loop" else None)
    if keep == "speakers":
        own, made = luma(short, WIDTH, HEIGHT), luma(output, WIDTH, HEIGHT)
        order = [*range(10), *range(7)] if extend == "loop" else [*range(10), *range(8, 1, -1)]
        assert np.abs(made - own[order])[:, 110:].mean() < 2


def test_windows_begin_at_cuts_and_each_scene_has_its_own_reference(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = tmp_path / "cut.mp4"
    scenes = [f"{name}=d=0.36:r=25:s={WIDTH}x{HEIGHT}" for name in ("testsrc2", "smptebars", "rgbtestsrc")]
    inputs = [part for scene in scenes for part in ("-f", "lavfi", "-i", scene)]
    ffmpeg(*inputs, "-filter_complex", "[0:v][1:v][2:v]concat=n=3,format=yuv420p", *X264, film)
    references: list[np.ndarray] = []
    embed = pipeline.embed_reference

    def record(models: Models, frame: np.ndarray) -> Any:
        references.append(frame)
        return embed(models, frame)

    monkeypatch.setattr(pipeline, "embed_reference", record)
    result, _ = run(input_type="video", video_url=film.as_uri())
    assert result.settings.cuts_s == [0.36]
    assert any("video_url is cut at 0.36 s" in warning for warning in result.warnings)
    windows = plan_windows(17, 9, 5, [9])
    assert result.settings.windows == len(windows) == len(references) == 2
    assert np.abs(references[0].astype(int) - references[1]).mean() > 20  # of the other scene
    dry, _ = run(input_type="video", video_url=film.as_uri(), dry_run=True)
    assert dry.settings.cuts_s == [0.36]


@pytest.mark.parametrize("extend", ["hold", "loop", "ping-pong"])
@pytest.mark.parametrize(("rate", "cut"), [(24, 26), (25, 26), (30, 35), (60, 70)])
def test_a_scene_begins_with_its_own_first_frame_at_any_rate(
    tmp_path: Path, rate: int, cut: int, extend: Extend
) -> None:
    film = tmp_path / "cut.mp4"
    scenes = [f"{name}=d={n / rate}:r={rate}:s=96x96" for name, n in (("testsrc", cut), ("smptebars", rate // 2))]
    inputs = [part for scene in scenes for part in ("-f", "lavfi", "-i", scene)]
    ffmpeg(*inputs, "-filter_complex", "[0:v][1:v]concat=n=2,format=yuv420p", *X264, film)
    video = SourceVideo.look(film, "video_url", 32, 32, extend).ready()
    cuts, n_frames = video.cuts(video.n_frames), 150
    assert cuts is not None
    assert len(cuts) == 1
    windows = plan_windows(n_frames, 49, 5, cuts_of_clip(cuts, n_frames, video.n_frames, extend))
    plan = SimpleNamespace(n_frames=n_frames, size=(32, 32), windows=windows)
    kept = keep_speakers(
        video,
        plan,
        [(None,)] * 8,
        0.5,
        cuts,
        FixedFinder((0.5, 0.5, 0.4)),
        lambda: None,  # type: ignore[arg-type]
    )
    assert kept.tracks.scenes == (0, cut)
    for window in windows:
        own = range(*(kept.source.frames_until(edge) for edge in (window.keep_start, window.keep_stop)))
        stored = [kept.source.stored_index(index) for index in own]
        assert len({index >= cut for index in stored}) == 1
        assert extend != "loop" or stored == sorted(stored)


def test_a_film_without_cuts_is_planned_as_if_nobody_had_looked(run: Callable[..., Any]) -> None:
    result, _ = run(input_type="video")
    assert result.settings.cuts_s is None
    assert (result.settings.frames, result.settings.windows) == (17, 3)
    assert result.settings.keep is None
