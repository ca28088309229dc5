"""A job whose worker was killed goes on where it was and gives the same streams; what does not fit it is left alone.

Here the kill is an exception that no code catches; benchmarks/kill.py and test_kill.py kill real processes.
"""

import dataclasses
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from infinitetalk.arithmetic import Arithmetic
from infinitetalk.contract.presets import load_profile
from infinitetalk.contract.request import Request
from infinitetalk.contract.result import Result
from infinitetalk.contract.settings import Settings
from infinitetalk.contract.values import LOCAL_FILES
from infinitetalk.errors import Cancelled, DeliveryFailed, InvalidInput, TimedOut
from infinitetalk.generation.joins import Handover
from infinitetalk.job import resume
from infinitetalk.job import run as job
from infinitetalk.job.control import Control
from infinitetalk.job.resume import FOLDER, KeptWindows, fingerprint, kept_windows, sweep
from infinitetalk.job.run import run_job
from infinitetalk.job.sinks import FinishedWindow
from infinitetalk.media.encode import hash_streams
from infinitetalk.models.opening import Models
from infinitetalk.planning.plan import Plan, make_plan
from infinitetalk.progress import Progress
from infinitetalk.transfer.exchange import local_exchange
from infinitetalk.transfer.volume import Volume
from tests.support.small_jobs import MODE, N_FRAMES, make_small, small_media


class Killed(BaseException):
    """Stands for a SIGKILL."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A volume, and on it the folder of job-1."""
    (tmp_path / "volume").mkdir()
    return tmp_path / "volume" / FOLDER / "job-1"


def kept_at(folder: Path) -> KeptWindows:
    return KeptWindows(Volume(folder.parents[1]), folder.name)


@pytest.fixture
def settings(folder: Path) -> Settings:
    return Settings.from_env({"VOLUME_DIR": str(folder.parents[1])})


@pytest.fixture
def run(
    models: Models, settings: Settings, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Result, str, list[int]]]:
    """Runs job-1; returns its result, its video's digest, and which of the windows 1 to 3 it made."""
    make_small(monkeypatch)
    media = small_media(tmp_path)

    def run(
        killed_in: int = 0,
        settings: Settings = settings,
        on_progress: Callable[[Progress], None] = lambda _: None,
        **fields: Any,
    ) -> tuple[Result, str, list[int]]:
        made: list[int] = []

        def watch(progress: Progress) -> None:
            on_progress(progress)
            if progress.window not in (0, *made):
                made.append(progress.window)
            if killed_in and (progress.window == killed_in or progress.stage == "deliver"):
                while len(list(folder.glob("*.window"))) < killed_in - 1:  # the encoder may still be at it
                    time.sleep(0.01)
                raise Killed

        output = tmp_path / "out.mp4"
        result = run_job(
            Request.parse({"seed": 1, "speed_mode": "turbo"} | media | fields, LOCAL_FILES),
            models,
            settings,
            local_exchange(output),
            Control("job-1", watch),
        )
        assert isinstance(result, Result)
        return result, repr(hash_streams(output)), made

    return run


UNBROKEN: list[str] = []  # the digest of the plain job, made once


@pytest.fixture
def unbroken(run: Callable[..., tuple[Result, str, list[int]]], folder: Path) -> str:
    """The digest of the job on a worker without a volume, which keeps nothing."""
    if not UNBROKEN:
        _, digest, made = run(settings=Settings.from_env({"VOLUME_DIR": str(folder / "none")}))
        assert made == [1, 2, 3]
        assert not folder.parent.exists()
        UNBROKEN.append(digest)
    return UNBROKEN[0]


@pytest.mark.parametrize(("killed_in", "left_to_make"), [(1, [1, 2, 3]), (2, [2, 3]), (3, [3]), (4, [])])
def test_a_killed_job_goes_on_after_its_last_finished_window_and_gives_the_same_streams(
    killed_in: int,
    left_to_make: list[int],
    run: Callable[..., tuple[Result, str, list[int]]],
    unbroken: str,
    folder: Path,
) -> None:
    with pytest.raises(Killed):
        run(killed_in)
    result, digest, made = run()
    assert made == left_to_make
    assert digest == unbroken
    told = [warning for warning in result.warnings if warning.startswith("An earlier run of this job had finished")]
    assert len(told) == (1 if killed_in > 1 else 0)
    assert not folder.exists(), "leftovers of a delivered job"


def test_a_job_killed_again_and_again_makes_each_window_once(
    run: Callable[..., tuple[Result, str, list[int]]], unbroken: str
) -> None:
    for killed_in in (2, 3, 4):
        with pytest.raises(Killed):
            run(killed_in)
    assert run()[1:] == (unbroken, [])


def test_a_killed_job_without_a_fade_goes_on_too(
    run: Callable[..., tuple[Result, str, list[int]]], unbroken: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "load_mode", lambda _: MODE.model_copy(update={"join_fade_frames": 0}))
    _, digest, made = run(settings=Settings.from_env({"VOLUME_DIR": str(folder / "none")}))
    assert made == [1, 2, 3]
    assert digest != unbroken, "the fade changes nothing"
    with pytest.raises(Killed):
        run(3)
    assert run()[1:] == (digest, [3])


def test_a_drawn_seed_survives(run: Callable[..., tuple[Result, str, list[int]]]) -> None:
    with pytest.raises(Killed):
        run(2, seed=None)
    result, digest, made = run(seed=None)
    assert made == [2, 3]
    assert run(seed=result.seed)[1] == digest
    assert run(seed=None)[0].seed != result.seed, "the seed of a finished job"


def cut(content: bytes) -> bytes:
    return content[:-1]


def flip(content: bytes) -> bytes:
    return content[:1000] + bytes([content[1000] ^ 1]) + content[1001:]


@pytest.mark.parametrize("spoil", [cut, flip, lambda _: b"", lambda _: b"x" * 5000])
def test_a_damaged_window_is_made_anew_with_a_warning(
    spoil: Callable[[bytes], bytes],
    run: Callable[..., tuple[Result, str, list[int]]],
    unbroken: str,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(Killed):
        run(3)
    second = folder / "00001.window"
    second.write_bytes(spoil(second.read_bytes()))
    _, digest, made = run()
    assert made == [2, 3]
    assert digest == unbroken
    assert "00001.window of job 'job-1' is not used" in caplog.text


def as_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("replace", [as_fifo, as_folder, as_link])
def test_what_is_no_file_in_a_windows_place_holds_up_nothing(
    replace: Callable[[Path], None],
    run: Callable[..., tuple[Result, str, list[int]]],
    unbroken: str,
    folder: Path,
) -> None:
    with pytest.raises(Killed):
        run(3)
    replace(folder / "00000.window")
    started_s = time.monotonic()
    assert run()[1:] == (unbroken, [1, 2, 3])
    assert time.monotonic() - started_s < 30


def test_a_window_that_cannot_be_put_into_the_video_is_made_anew(
    run: Callable[..., tuple[Result, str, list[int]]], unbroken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Killed):
        run(3)
    write_bytes, pieces = Path.write_bytes, []

    def full_for_a_moment(path: Path, data: bytes) -> int:
        if path.name == "piece.mp4":
            pieces.append(path)
            if len(pieces) == 2:
                raise OSError(28, "No space left on device")
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", full_for_a_moment)
    assert run()[1:] == (unbroken, [2, 3])


def test_a_seed_that_is_no_file_holds_up_nothing(settings: Settings, folder: Path) -> None:
    folder.mkdir(parents=True)
    os.mkfifo(folder / "seed")
    with kept_windows(settings, "job-1") as kept:
        assert 0 <= kept.seed(None) < 1 << 32
    assert not folder.exists()


def test_a_link_in_place_of_a_jobs_folder_leads_nowhere(settings: Settings, folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    folder.parent.mkdir()
    folder.symlink_to(outside)
    with kept_windows(settings, "job-1") as kept:
        kept.seed(None)
        kept.take(FinishedWindow(0, b"piece", None))
        assert list(outside.iterdir()) == []
    assert not folder.is_symlink()


def test_a_volume_that_goes_away_is_not_made_anew_elsewhere(
    run: Callable[..., tuple[Result, str, list[int]]], unbroken: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    volume = folder.parents[1]

    def unmount(progress: Progress) -> None:
        if progress.window == 2 and volume.exists():
            shutil.move(volume, volume.with_name("unmounted"))

    assert run(on_progress=unmount)[1:] == (unbroken, [1, 2, 3])
    assert "no further window is kept" in caplog.text
    assert not volume.exists()


def test_a_window_in_anothers_place_is_not_used(
    run: Callable[..., tuple[Result, str, list[int]]], unbroken: str, folder: Path
) -> None:
    with pytest.raises(Killed):
        run(3)
    shutil.copy(folder / "00000.window", folder / "00001.window")
    assert run()[1:] == (unbroken, [2, 3])


def test_another_jobs_windows_are_not_used(
    run: Callable[..., tuple[Result, str, list[int]]], unbroken: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Killed):
        run(3, prompt="Someone else's job of the same id")
    assert run()[1:] == (unbroken, [1, 2, 3])
    assert "00000.window of job 'job-1' is not used: it is damaged, or of another job" in caplog.text


def test_a_volume_that_cannot_be_written_to_costs_nothing_but_a_warning(
    run: Callable[..., tuple[Result, str, list[int]]],
    unbroken: str,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_: Volume, name: str, __: object) -> None:
        raise OSError(122, "Disk quota exceeded", name)

    monkeypatch.setattr(Volume, "write", fail)
    assert run()[1:] == (unbroken, [1, 2, 3])
    assert caplog.text.count("no further window is kept: Disk quota exceeded") == 1
    assert str(folder.parents[1]) not in caplog.text


def test_the_last_gigabyte_is_left_to_finished_videos(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Volume, "free_bytes", lambda _: resume.RESERVE_BYTES)
    kept_at(folder).take(FinishedWindow(0, b"piece", None))
    assert not folder.exists()
    assert "the volume has 1.0 GB left" in caplog.text


def test_a_window_that_is_too_large_to_be_read_again_is_not_written(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume, "_MAX_WINDOW_BYTES", 10)
    kept_at(folder).take(FinishedWindow(0, b"piece", None))
    assert not folder.exists()
    assert "no further window is kept: it has 0.0 GB, and at most 0.0 are read" in caplog.text


def test_a_window_without_a_frame_is_kept_too(folder: Path, inputs: tuple[Plan, list[Path], Models, Settings]) -> None:
    kept = kept_at(folder)
    kept.identify(len(inputs[0].windows), lambda: fingerprint(*inputs))
    kept.take(FinishedWindow(0, b"", None, b"state"))
    assert next(kept.finished()) == FinishedWindow(0, b"", None, b"state")


def test_without_a_volume_nothing_is_computed_or_kept(folder: Path) -> None:
    settings = Settings.from_env({"VOLUME_DIR": str(folder / "none")})
    for off in (settings, settings.model_copy(update={"volume_dir": folder.parents[1], "resume_hours": 0.0})):
        with kept_windows(off, "job-1") as kept:
            kept.seed(None)
            kept.identify(1, lambda: pytest.fail("computed"))
            assert list(kept.finished()) == []
            kept.take(FinishedWindow(0, b"piece", Handover(torch.zeros(1), torch.zeros(1))))
        assert list(folder.parents[1].iterdir()) == []


@pytest.mark.parametrize(
    ("error", "stays"),
    [
        (Killed(), True),
        (RuntimeError(), True),
        (Cancelled("stopped, perhaps by a time limit"), True),
        (TimedOut("go on in a retry"), True),
        (DeliveryFailed("try again"), True),
        (InvalidInput("never"), False),
        (None, False),
    ],
)
def test_windows_stay_where_the_job_may_come_back(
    error: BaseException | None, stays: bool, settings: Settings, folder: Path
) -> None:
    def broken_off() -> None:
        with kept_windows(settings, "job-1") as kept:
            kept.take(FinishedWindow(0, b"piece", None))
            if error is not None:
                raise error

    if error is None:
        broken_off()
    else:
        with pytest.raises(type(error)):
            broken_off()
    assert folder.exists() == stays


def test_jobs_that_did_not_come_back_are_swept(settings: Settings, folder: Path) -> None:
    outputs = folder.parents[1] / "infinitetalk-output"
    outputs.mkdir()
    old, young = time.time() - 25 * 3600, time.time() - 23 * 3600
    for name, age in (("old", old), ("young", young)):
        kept_at(folder.with_name(name)).take(FinishedWindow(0, b"piece", None))
        os.utime(folder.with_name(name), (age, age))
        for output in (outputs / f".{name}.part", outputs / f"{name}.mp4"):
            output.write_bytes(b"")
            os.utime(output, (age, age))
    sweep(Volume(settings.volume_dir), settings.resume_hours * 3600)
    assert [path.name for path in folder.parent.iterdir()] == ["young"]
    assert {path.name for path in outputs.iterdir()} == {".young.part", "young.mp4", "old.mp4"}


def test_no_job_id_leads_out_of_the_folder(settings: Settings, folder: Path) -> None:
    with pytest.raises(Killed), kept_windows(settings, "../../etc") as kept:
        kept.take(FinishedWindow(0, b"piece", None))
        raise Killed
    (inside,) = folder.parent.iterdir()
    assert inside.name.startswith("______etc-")


# ---- what has to be equal ----


def test_what_a_window_hands_over_is_kept_without_loss(
    inputs: tuple[Plan, list[Path], Models, Settings], folder: Path
) -> None:
    motion, last_frame = torch.randn(1, 16, 2, 4, 6), torch.rand(3, 32, 48) * 2 - 1
    kept = kept_at(folder)
    kept.identify(len(inputs[0].windows), lambda: fingerprint(*inputs))
    assert list(kept.finished()) == []
    kept.take(FinishedWindow(0, b"piece", Handover(motion, last_frame)))
    again = kept_at(folder)
    again.identify(len(inputs[0].windows), lambda: fingerprint(*inputs))
    (found,) = again.finished()
    assert (found.index, found.piece) == (0, b"piece")
    assert found.handover is not None
    assert torch.equal(found.handover.motion, motion)
    assert torch.equal(found.handover.last_frame, last_frame)


@pytest.fixture
def inputs(models: Models, tmp_path: Path) -> tuple[Plan, list[Path], Models, Settings]:
    media = tmp_path / "media"
    media.write_bytes(b"voice")
    urls = {"image_url": "https://example.com/a.png", "wav_url": "https://example.com/a.wav"}
    return make_plan(Request.parse(urls), load_profile("miniature"), MODE, N_FRAMES, 1), [media], models, Settings()


def test_the_same_job_has_the_same_fingerprint(inputs: tuple[Plan, list[Path], Models, Settings]) -> None:
    assert fingerprint(*inputs) == fingerprint(*inputs)


def test_everything_that_decides_the_bytes_changes_the_fingerprint(
    inputs: tuple[Plan, list[Path], Models, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, files, models, settings = inputs
    seen = {fingerprint(*inputs)}
    values: dict[str, Any] = {"separated_chunks": 2}
    values |= {"seed": 2, "prompt": "x", "shift": 5.0, "color_correction": 0.5, "size": (112, 160), "windows": ()}
    changes: list[dict[str, Any]] = [{name: value} for name, value in values.items()]
    changes += [{"mode": MODE.model_copy(update=update)} for update in ({"steps": 9}, {"join_fade_frames": 0})]
    for change in changes:
        seen.add(fingerprint(dataclasses.replace(plan, **change), files, models, settings))
    for arithmetic in (Arithmetic("native", density=0.2), Arithmetic("_native_cudnn")):
        seen.add(fingerprint(plan, files, dataclasses.replace(models, arithmetic=arithmetic), settings))
    seen.add(fingerprint(plan, files, models, settings.model_copy(update={"compile": False})))
    singing = dataclasses.replace(plan, separated_chunks=2)
    with_separator = dataclasses.replace(models, separator=torch.nn.Linear(2, 2))
    seen.add(fingerprint(singing, files, with_separator, settings))
    assert fingerprint(plan, files, with_separator, settings) == fingerprint(*inputs), "nothing uses it"
    with monkeypatch.context() as patch:
        profile = load_profile("miniature").model_copy(update={"dtype": "bfloat16"})
        patch.setattr(resume, "profile_of", lambda _: profile)
        seen.add(fingerprint(*inputs))
    expected = 1 + len(changes) + 5

    with torch.no_grad():
        weight = models.vae.decoder.conv_in.weight
        before = weight.clone()
        weight += 1
        seen.add(fingerprint(*inputs))
        weight.copy_(before)
    files[0].write_bytes(b"another voice")
    seen.add(fingerprint(*inputs))
    files[0].write_bytes(b"voice")
    for target, value in (
        ("infinitetalk.job.resume._code_digest", lambda: b"other"),
        ("importlib.metadata.version", lambda _: "0"),
        ("infinitetalk.job.resume._version", lambda _: "another"),
        ("torch.get_num_threads", lambda: 99),
        ("torch.backends.cpu.get_cpu_capability", lambda: "another"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, value)
            seen.add(fingerprint(*inputs))
    assert len(seen) == expected + 7


def test_warnings_name_no_path(settings: Settings, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    folder.parent.write_text("a file where the folder should be")
    kept_at(folder).take(FinishedWindow(0, b"piece", None))
    assert "no further window is kept" in caplog.text
    assert str(folder.parent) not in caplog.text
