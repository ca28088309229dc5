"""What the command line writes: where it cannot be is known before the work, and nothing that was made is lost."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infinitetalk import cli_machine
from infinitetalk.cli import READER_LEFT, main
from infinitetalk.contract.request import Request
from infinitetalk.errors import DeliveryFailed, InvalidInput
from infinitetalk.transfer import output_file
from infinitetalk.transfer.exchange import local_exchange
from infinitetalk.transfer.output_file import ToFile, check_place
from tests.support.media_samples import write_picture, write_talking_video, write_tone

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def face(tmp_path: Path) -> str:
    return str(write_picture(tmp_path / "face.png"))


@pytest.fixture
def voice(tmp_path: Path) -> str:
    return str(write_tone(tmp_path / "voice.wav", 0.2))


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that takes long is begun."""
    monkeypatch.setattr(cli_machine, "open_models", lambda *_: pytest.fail("the models were opened"))


def refusal(*arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    message = str(stopped.value)
    assert message.startswith("infinitetalk: ")
    assert "\n" not in message
    return message


# ---- before the work ----


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("name", ["out.webm", "out.mov", "out", "out.mp4.part", ".mp4"])
def test_what_is_no_mp4_by_its_name_is_refused(name: str, face: str, voice: str, tmp_path: Path) -> None:
    output = tmp_path / name
    assert f"{output} does not end in .mp4" in refusal("generate", "--image", face, "--audio", voice, "-o", str(output))


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("same", ["the file", "a symbolic link", "a hard link", "another spelling"])
def test_an_output_that_is_an_input_is_refused(
    same: str, face: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    voice = write_talking_video(tmp_path / "voice.mp4", seconds=0.2)
    content, output = voice.read_bytes(), tmp_path / "out.mp4"
    monkeypatch.chdir(tmp_path)
    if same == "a symbolic link":
        output.symlink_to(voice)
    elif same == "a hard link":
        output.hardlink_to(voice)
    else:
        output = voice if same == "the file" else Path("../", tmp_path.name, "voice.mp4")
    message = refusal("generate", "--image", face, "--audio", str(voice), "-o", str(output))
    assert f"{output} is the file of wav_url, which would be lost" in message
    assert voice.read_bytes() == content


def test_python_code_is_refused_the_same(face: str, tmp_path: Path) -> None:
    voice = write_talking_video(tmp_path / "voice.mp4", seconds=0.2)
    exchange = local_exchange(voice)
    with pytest.raises(InvalidInput, match="is the file of wav_url"):
        exchange.fetch(Request.of_files(audio=voice, image=face), tmp_path)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("place", ["/proc/out.mp4", "/proc/new/out.mp4", "/dev/null/out.mp4"])
def test_a_place_that_cannot_be_written_to_is_known_before_the_work(place: str, face: str, voice: str) -> None:
    assert f"{place} cannot be written (" in refusal("generate", "--image", face, "--audio", voice, "-o", place)


@pytest.mark.usefixtures("no_work")
def test_a_full_disk_is_known_before_the_work(
    face: str, voice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def write(self, _: bytes) -> None:
            raise FULL

    monkeypatch.setattr(output_file.tempfile, "TemporaryFile", lambda **_: Full())
    output = str(tmp_path / "out.mp4")
    assert "No space left" in refusal("generate", "--image", face, "--audio", voice, "-o", output)
    assert "No space left" in refusal("calibrate", "-o", str(tmp_path / "gpu.toml"))


def test_a_file_that_is_there_and_no_file_to_write_to_is_left_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "out.mp4")
    with pytest.raises(InvalidInput, match="no file that may be written to"):
        check_place(tmp_path / "out.mp4")


def test_too_little_room_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("usage", (), {"free": 1_000_000})
    monkeypatch.setattr(output_file.shutil, "disk_usage", lambda _: usage)
    way = ToFile(tmp_path / "out.mp4", tmp_path)
    way.check_fits(1_000_000)
    with pytest.raises(DeliveryFailed, match=r"will take 2\.0 MB or more and there are 1\.0 MB left"):
        way.check_fits(2_000_000)


@pytest.mark.parametrize("output", ["gpu.txt", "gpu"])
def test_a_calibration_goes_to_a_toml_file(output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_machine, "open_models", lambda *_: pytest.fail("the models were opened"))
    assert "does not end in .toml" in refusal("calibrate", "-o", str(tmp_path / output))


# ---- after the work ----


@pytest.fixture
def video(tmp_path: Path) -> Path:
    (tmp_path / "job").mkdir()
    path = tmp_path / "job" / "result.mp4"
    path.write_bytes(b"video")
    return path


def test_a_video_that_cannot_be_put_there_after_all_is_named_where_it_is(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "there" / "out.mp4"
    replace = Path.replace

    def refuse(source: Path, target: Path) -> None:
        if target == output:
            raise FULL
        replace(source, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(DeliveryFailed, match=r"out.mp4 could not be written \(No space left on device\)") as failed:
        ToFile(output, tmp_path).deliver(video)
    left = Path(str(failed.value).rpartition("the video is ")[2])
    assert left.parent == tmp_path
    assert left.read_bytes() == b"video"


def test_a_video_goes_to_another_disk_whole(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out.mp4"
    output.write_bytes(b"an older one")
    replace = Path.replace

    def refuse(source: Path, target: Path) -> None:
        if source == video:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        replace(source, target)

    monkeypatch.setattr(Path, "replace", refuse)
    delivered = ToFile(output, tmp_path).deliver(video)
    assert delivered.video_path == str(output)
    assert output.read_bytes() == b"video"
    assert not video.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"job", "out.mp4"}


# ---- quality ----


@pytest.fixture
def head(tmp_path: Path) -> Path:
    return write_talking_video(tmp_path / "head.mp4", seconds=0.2)


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_numbers_are_printed_though_their_picture_cannot_be_written(
    as_json: list[str], head: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refusal("quality", str(head), "--picture", "/proc/head.png", *as_json)
    assert "/proc/head.png cannot be written" in message
    assert "--picture" in message
    shown = capsys.readouterr().out
    assert json.loads(shown)["frames"] == 5 if as_json else "sharpness" in shown


@pytest.mark.parametrize("option", ["--audio", "--against", "--result"])
def test_a_picture_takes_no_inputs_place(option: str, head: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    other.write_bytes(b"not to be lost")
    assert "would be lost" in refusal("quality", str(head), option, str(other), "--picture", str(other))
    assert other.read_bytes() == b"not to be lost"
    assert "does not end in .png" in refusal("quality", str(head), "--picture", str(head))


# ---- names, and readers who leave ----


def test_names_need_not_be_text(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    folder = tmp_path / os.fsdecode(b"folder \xff")
    folder.mkdir()
    face, voice = folder / os.fsdecode(b"f\xfe.png"), folder / os.fsdecode(b"v\xfd.wav")
    write_picture(face)
    voice.write_bytes(write_tone(tmp_path / "voice.wav", 0.12).read_bytes())
    output = folder / os.fsdecode(b"o\xfc.mp4")
    main(["generate", "--image", str(face), "--audio", str(voice), "--speed-mode", "turbo", "-o", str(output)])
    printed = json.loads(capsysbinary.readouterr().out)
    assert os.fsencode(printed["video_path"]) == os.fsencode(output)
    main(["quality", str(output)])
    assert b"o\xfc.quality.png\n" in capsysbinary.readouterr().out
    assert (folder / os.fsdecode(b"o\xfc.quality.png")).is_file()
    with pytest.raises(SystemExit, match="is the file of image_url"):
        main(["generate", "--image", str(output), "--audio", str(voice), "-o", str(output)])


@pytest.mark.long  # in a process of its own
@pytest.mark.parametrize("name", ["schema", "plan"])
def test_a_reader_who_leaves_ends_the_command_without_a_word(name: str, face: str, voice: str) -> None:
    job = ["--image", face, "--audio", voice] if name == "plan" else []
    command = [sys.executable, "-m", "infinitetalk.cli", name, *job]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == READER_LEFT
