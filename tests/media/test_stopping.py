"""Cancel and time limit while media are read: the program that reads is ended within a second."""

import sys
import time

import pytest

from infinitetalk.errors import Cancelled, TimedOut
from infinitetalk.job.control import Control
from infinitetalk.media.audio import Track, load_audio, write_soundtrack
from infinitetalk.media.child import ended_by, run_child
from infinitetalk.media.image import load_image
from infinitetalk.media.video import SourceVideo
from infinitetalk.progress import TimeLimit
from tests.support.media_samples import write_numbered_video, write_picture, write_tone


@pytest.fixture
def stuck(tmp_path, monkeypatch):
    """Every program hangs from its start on."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr("infinitetalk.media.ffmpeg.imageio_ffmpeg.get_ffmpeg_exe", lambda: str(program))


def readers(folder):
    voice = load_audio(write_tone(folder / "voice.wav", 1.0), "wav_url", None, 600.0, folder)
    video = SourceVideo.open(write_numbered_video(folder / "video.mp4", 5, 25), "video_url", 32, 32)
    picture = write_picture(folder / "picture.png")
    return {
        "a voice": lambda: load_audio(folder / "voice.wav", "wav_url", None, 600.0, folder),
        "a picture": lambda: load_image(picture, "image_url", 32, 32),
        "a video": lambda: SourceVideo.open(folder / "video.mp4", "video_url", 32, 32),
        "frames": lambda: video.clip(0, 5),
        "the soundtrack": lambda: write_soundtrack([Track(voice.sound, 0.0, 1.0)], 1.0, folder / "sound.m4a"),
    }


@pytest.mark.parametrize("name", ["a voice", "a picture", "a video", "frames", "the soundtrack"])
@pytest.mark.parametrize("reason", [Cancelled, TimedOut])
def test_what_is_being_read_is_ended_with_the_job(name, reason, tmp_path, request):
    read = readers(tmp_path)[name]
    request.getfixturevalue("stuck")
    started_s = time.monotonic()
    if reason is Cancelled:
        control = Control(should_stop=lambda: time.monotonic() - started_s > 0.5)
    else:
        control = Control(time_limit=TimeLimit(0.5, is_certain=True))
    with ended_by(control.start(lambda: None).check), pytest.raises(reason):
        read()
    assert 0.4 < time.monotonic() - started_s < 1.5


def test_the_program_is_gone(tmp_path):
    def stop():
        raise Cancelled("The job was cancelled.")

    mark = tmp_path / "mark"
    code = f"import time; time.sleep(1.0); open({str(mark)!r}, 'w')"
    with ended_by(stop), pytest.raises(Cancelled):
        run_child([sys.executable, "-c", code], 20.0)
    time.sleep(1.5)
    assert not mark.exists()
    assert run_child([sys.executable, "-c", "print(1)"], 20.0).data == b"1\n"  # the check ended with its block


def test_much_output_arrives_whole():
    code = "import sys, time\nfor i in range(5): sys.stdout.buffer.write(bytes([i]) * 1_000_000); time.sleep(0.15)"
    assert run_child([sys.executable, "-c", code], 20.0).data == b"".join(bytes([i]) * 1_000_000 for i in range(5))
