"""Jobs that can be watched while they run: what a player sees, what stays, and that no video depends on it."""

import base64
import io
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from infinitetalk.contract.request import Request
from infinitetalk.contract.result import Result
from infinitetalk.contract.settings import Settings
from infinitetalk.contract.values import LOCAL_FILES
from infinitetalk.errors import Cancelled, DeliveryFailed
from infinitetalk.job import preview as preview_module
from infinitetalk.job.control import Control
from infinitetalk.job.run import run_job
from infinitetalk.media import hls
from infinitetalk.media.encode import hash_streams
from infinitetalk.media.ffmpeg import FfmpegError
from infinitetalk.media.sheet import MOST_CHARS
from infinitetalk.models.opening import Models
from infinitetalk.progress import Preview, Progress, StepCounter
from infinitetalk.transfer.bucket import BucketError
from infinitetalk.transfer.exchange import Exchange, local_files
from infinitetalk.transfer.output_file import ToFile
from infinitetalk.transfer.preview_folder import CheckJob, VolumeFolder
from infinitetalk.transfer.volume import Volume
from tests.support.small_jobs import N_FRAMES, make_small, small_media
from tests.support.streams import frame_times, served, sound_of

NAMES = {"preview.m3u8", "init.mp4", "00000.m4s", "00001.m4s", "00002.m4s"}


# A player that is content with 0.36 s before it shows anything (3.24 s of a real window are enough for ffmpeg's own
# defaults), and does not give up while this test waits.
EAGER = ["-analyzeduration", "0", "-probesize", "32", "-fpsprobesize", "0", "-threads", "1", "-max_reload", "100"]


class Killed(BaseException):
    """Stands for a SIGKILL."""


class Rooms(VolumeFolder):
    """A folder of previews that notes what each playlist says."""

    def write(self, files: Mapping[str, bytes | Path], check_job: CheckJob) -> None:
        super().write(files, check_job)
        LISTS.append(files["preview.m3u8"].decode())  # type: ignore[union-attr]


LISTS: list[str] = []


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the preview of the job lies, on a volume."""
    (tmp_path / "volume").mkdir()
    LISTS.clear()
    return tmp_path / "volume" / "previews" / "job-1"


@pytest.fixture
def run(
    models: Models, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Result, str]]:
    """Runs job-1; returns its result and its video's digest."""
    make_small(monkeypatch)
    for limit in ("END_LIMIT_S", "KEEP_LIMIT_S"):  # so that a busy machine shows the last window too
        monkeypatch.setattr(preview_module, limit, 60.0)
    media = small_media(tmp_path)

    def run(
        kind: type[VolumeFolder] | None = Rooms,
        on_progress: Callable[[Progress], None] = lambda _: None,
        should_stop: Callable[[], bool] = lambda: False,
        deliver: Callable[[Path], Any] | None = None,
        keep: bool = False,
        **fields: Any,
    ) -> tuple[Result, str]:
        output = ToFile(tmp_path / "out.mp4", tmp_path)
        if deliver is not None:
            output = Refusing(output.path, tmp_path)
        settings = Settings(volume_dir=tmp_path / "volume", work_dir=tmp_path, keep_preview=keep)
        folder = None if kind is None else kind(Volume(tmp_path / "volume"), "previews/job-1")
        exchange = Exchange(local_files, output, lambda: folder, previews_unasked=folder is not None)
        request = Request.parse({"seed": 1, "speed_mode": "turbo"} | media | fields, LOCAL_FILES)
        result = run_job(request, models, settings, exchange, Control("job-1", on_progress, should_stop))
        assert isinstance(result, Result)
        return result, repr(hash_streams(output.path))

    return run


class Refusing(ToFile):
    """A delivery that fails."""

    def deliver(self, video: Path) -> Any:
        raise DeliveryFailed("no room")


PLAIN: list[str] = []


@pytest.fixture
def plain(run: Callable[..., tuple[Result, str]], place: Path) -> str:
    """The digest of the same job's video without a preview."""
    if not PLAIN:
        PLAIN.append(run(preview=False)[1])
        assert not place.exists()
    return PLAIN[0]


def wait_until(true: Callable[[], object], seconds: float = 20.0) -> None:
    deadline_s = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def names(place: Path) -> set[str]:
    return {file.name for file in place.iterdir()} if place.is_dir() else set()


def warnings(result: Result) -> list[str]:
    return [warning for warning in result.warnings if "preview" in warning.lower()]


def test_a_job_that_wants_no_preview_has_none(run: Callable[..., tuple[Result, str]], place: Path) -> None:
    reports: list[Preview] = []
    run(preview=False, on_progress=lambda progress: reports.append(progress.preview))
    assert set(reports) == {Preview()}

    def watch(progress: Progress) -> None:
        reports.append(progress.preview)
        if progress.window == 3:
            wait_until((place / "preview.m3u8").exists)

    run(on_progress=watch)
    assert any(report.preview_path for report in reports)


# ---- what a player sees ----


def test_a_player_shows_the_windows_while_the_job_runs(
    run: Callable[..., tuple[Result, str]], plain: str, place: Path, tmp_path: Path
) -> None:
    """The player is ffmpeg, which reads a growing playlist over HTTP and writes down each frame that it decodes."""
    shown, seen = tmp_path / "shown.txt", []
    quiet = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-nostdin"]
    decode = ["-map", "0:v", "-fps_mode", "passthrough", "-flush_packets", "1", "-f", "framecrc", str(shown)]
    players = []

    def frames() -> int:
        return sum(not line.startswith("#") for line in shown.read_text().splitlines()) if shown.exists() else 0

    place.mkdir(parents=True)
    with served(place) as address:

        def watch(progress: Progress) -> None:
            seen.append(progress.preview)
            if progress.window == 3 and not players:  # window 1 is on its way, or finished, for a while
                wait_until((place / "preview.m3u8").exists)
                source = f"{address}/preview.m3u8"
                players.append(subprocess.Popen([*quiet, *EAGER, "-i", source, *decode]))
                wait_until(lambda: frames() >= 5)  # the decoder may hold a few back
                assert "#EXT-X-ENDLIST" not in (place / "preview.m3u8").read_text()

        try:
            result, digest = run(on_progress=watch, keep=True)
            assert players[0].wait(30) == 0
        finally:
            for player in players:
                player.kill()
                player.wait()
    assert frames() == N_FRAMES
    assert digest == plain
    assert names(place) == NAMES
    assert result.preview_path == str(place / "preview.m3u8")
    assert Preview(preview_path=result.preview_path) in seen
    assert warnings(result) == []
    # The whole of it is the finished video.
    playlist = place / "preview.m3u8"
    assert playlist.read_text().count("#EXTINF") == 3
    assert playlist.read_text().endswith("#EXT-X-ENDLIST\n")
    np.testing.assert_allclose(frame_times(playlist), np.arange(N_FRAMES) / 25, atol=2 / 90_000)
    heard, final = sound_of(playlist), sound_of(tmp_path / "out.mp4")
    np.testing.assert_allclose(heard[1024 : len(final)], final[1024:], atol=60)


def test_when_the_video_is_delivered_nothing_of_the_preview_is_left(
    run: Callable[..., tuple[Result, str]], plain: str, place: Path
) -> None:
    seen = []

    def watch(progress: Progress) -> None:
        seen.append(progress.preview.preview_path)
        if progress.window == 3:
            wait_until((place / "preview.m3u8").exists)

    result, digest = run(on_progress=watch)
    assert str(place / "preview.m3u8") in seen
    assert digest == plain
    assert not place.exists()
    assert (result.preview_path, result.preview_url, warnings(result)) == (None, None, [])


def test_without_a_folder_progress_has_a_contact_sheet(
    run: Callable[..., tuple[Result, str]], plain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheets, told, previewed = [], [], StepCounter.previewed

    def noted(counter: StepCounter, *arguments: Any) -> None:
        previewed(counter, *arguments)
        told.append(arguments)

    monkeypatch.setattr(StepCounter, "previewed", noted)

    def watch(progress: Progress) -> None:
        if progress.preview.preview_jpeg not in (None, *sheets):
            sheets.append(progress.preview.preview_jpeg)
        if progress.window == 3 and progress.stage == "decode":
            wait_until(lambda: told)

    result, digest = run(kind=None, preview=True, on_progress=watch)
    assert digest == plain
    assert sheets
    for sheet in sheets:
        assert len(sheet) <= MOST_CHARS
        with Image.open(io.BytesIO(base64.b64decode(sheet.partition(",")[2]))) as picture:
            assert (picture.format, picture.size[1]) == ("JPEG", 48)
    assert warnings(result) == []


def test_a_job_of_one_window_has_a_preview_only_where_it_asks(
    run: Callable[..., tuple[Result, str]], place: Path
) -> None:
    run(max_duration_s=0.2)
    assert LISTS == []
    run(max_duration_s=0.2, keep=True)
    assert LISTS[-1].count("#EXTINF") == 1
    assert names(place) == {"preview.m3u8", "init.mp4", "00000.m4s"}


# ---- jobs without a video ----


def test_a_cancelled_job_leaves_what_was_finished(run: Callable[..., tuple[Result, str]], place: Path) -> None:
    seen: list[Progress] = []
    stream = place / "preview.m3u8"

    def show(progress: Progress) -> None:
        seen.append(progress)
        if (progress.window, progress.stage) == (3, "decode"):
            wait_until(stream.exists)

    with pytest.raises(Cancelled):
        run(on_progress=show, should_stop=stream.exists)
    count = LISTS[-1].count("#EXTINF")
    assert count >= 1
    assert LISTS[-1].endswith("#EXT-X-ENDLIST\n")
    assert len(frame_times(place / "preview.m3u8")) == (9, 13, 17)[count - 1]
    assert seen[-1].preview == Preview(preview_path=str(place / "preview.m3u8"))


def test_a_video_that_cannot_be_delivered_can_still_be_watched(
    run: Callable[..., tuple[Result, str]], place: Path
) -> None:
    with pytest.raises(DeliveryFailed):
        run(deliver=lambda _: None)
    assert LISTS[-1].endswith("#EXT-X-ENDLIST\n")
    assert len(frame_times(place / "preview.m3u8")) == N_FRAMES


def test_a_killed_jobs_preview_goes_on_where_it_was(
    run: Callable[..., tuple[Result, str]], plain: str, place: Path
) -> None:
    def die(progress: Progress) -> None:
        if progress.stage == "deliver":
            wait_until(lambda: LISTS and LISTS[-1].count("#EXTINF") >= 2)
            raise Killed

    with pytest.raises(Killed):
        run(on_progress=die)
    before = LISTS[-1].count("#EXTINF")
    assert "#EXT-X-ENDLIST" not in LISTS[-1], "a killed worker says nothing"
    LISTS.clear()
    result, digest = run(keep=True)
    assert digest == plain
    assert any("An earlier run" in warning for warning in result.warnings)
    assert LISTS[0].count("#EXTINF") >= before, "what was seen does not vanish"
    assert names(place) == NAMES
    assert len(frame_times(place / "preview.m3u8")) == N_FRAMES


def test_what_a_killed_worker_left_goes_when_the_job_is_delivered(
    run: Callable[..., tuple[Result, str]], place: Path
) -> None:
    def die(progress: Progress) -> None:
        if progress.stage == "deliver":
            wait_until(lambda: LISTS and LISTS[-1].count("#EXTINF") == 3)
            raise Killed

    with pytest.raises(Killed):
        run(on_progress=die)
    assert names(place) == NAMES
    run()  # takes all windows from the earlier run and is done before the preview is
    assert not place.exists()


# ---- faults ----


class Full(Rooms):
    """A folder that takes nothing."""

    def write(self, files: Mapping[str, bytes | Path], check_job: CheckJob) -> None:
        raise BucketError("AccessDenied")


class FullAtFirst(Rooms):
    """A folder that takes nothing the first time."""

    def write(self, files: Mapping[str, bytes | Path], check_job: CheckJob) -> None:
        LISTS.append("")
        if len(LISTS) == 1:
            raise OSError(28, "No space left on device")
        super().write(files, check_job)


class Stuck(Rooms):
    """A folder that is never done."""

    def write(self, files: Mapping[str, bytes | Path], check_job: CheckJob) -> None:
        LISTS.append("")
        while True:
            check_job()
            time.sleep(0.01)


class Immovable(Rooms):
    """A folder from which nothing can be removed."""

    def remove(self, names: Sequence[str]) -> None:
        raise BucketError("AccessDenied")


@pytest.mark.parametrize("keep", [False, True])
def test_a_folder_that_fails_costs_a_warning(
    keep: bool, run: Callable[..., tuple[Result, str]], plain: str, place: Path
) -> None:
    result, digest = run(kind=Full, keep=keep, on_progress=slowly)
    assert digest == plain
    assert len(warnings(result)) == 1
    assert "the bucket failed: AccessDenied" in warnings(result)[0]
    assert result.preview_path is None


def slowly(progress: Progress) -> None:
    """Let the preview keep pace with a small model."""
    if progress.window == 3 and progress.stage in ("decode", "deliver"):
        time.sleep(0.6)


def test_what_could_not_be_written_is_written_with_the_next_window(
    run: Callable[..., tuple[Result, str]], place: Path
) -> None:
    result, _ = run(kind=FullAtFirst, keep=True)
    assert warnings(result) == []
    assert names(place) == NAMES


def test_a_folder_that_hangs_holds_no_job_back(
    run: Callable[..., tuple[Result, str]], plain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun(progress: Progress) -> None:
        if (progress.window, progress.stage) == (3, "decode"):
            wait_until(lambda: LISTS)

    started_s = time.monotonic()
    result, digest = run(kind=Stuck, on_progress=begun)
    took_s = time.monotonic() - started_s
    assert digest == plain
    assert LISTS
    assert took_s < 15
    assert result.timings_s["deliver"] < 2


def test_ffmpeg_that_fails_costs_a_warning(
    run: Callable[..., tuple[Result, str]], plain: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> bytes:
        raise FfmpegError("of a test")

    monkeypatch.setattr(hls, "run", fail)
    result, digest = run()
    assert digest == plain
    assert warnings(result) == ["The preview broke off (ffmpeg failed); the video is whole."]
    assert not place.exists()


def test_windows_that_would_fill_the_memory_end_the_preview(
    run: Callable[..., tuple[Result, str]], plain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview_module, "MOST_WAITING_BYTES", 10)
    result, digest = run(kind=Stuck)
    assert digest == plain
    assert warnings(result) == ["The preview broke off (it could not keep up); the video is whole."]


def test_files_that_cannot_be_removed_are_named(run: Callable[..., tuple[Result, str]], place: Path) -> None:
    result, _ = run(kind=Immovable)
    (warning,) = warnings(result)
    assert str(place) in warning
    assert "AccessDenied" in warning
