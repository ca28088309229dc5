"""Media files that strangers send, to break, to fill or to stall the worker, or just odd ones.

Each is read as a job reads it (a voice to its wave, a picture to its pixels, a video to the frames of a window) within
a limit of time and memory, leaves nothing behind, and either gives the right result or the right error.
"""

import os
import resource
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infinitetalk.contract import values
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import Internal, JobError, MediaUnreadable, TooLarge
from infinitetalk.media import child, ffmpeg, frames, image, probe
from infinitetalk.media.audio import Track, load_audio, write_soundtrack
from infinitetalk.media.image import load_image
from infinitetalk.media.tables import is_cut_off
from infinitetalk.media.video import SourceVideo
from infinitetalk.transfer import downloads, safe_http
from tests.support.hostile_files import FRAMES, PICTURES, SECRET, SOUNDS, VIDEOS, scans
from tests.support.loading import watched
from tests.support.media_samples import DARKEST, write_numbered_video, write_tone
from tests.support.media_samples import ffmpeg as make

TIME_LIMIT_S = 15.0  # two busy cores; alone, the slowest takes 3
MEMORY_LIMIT_KIB = 1_500_000  # 1.5 GB, of a program that reads


# ---- reading ----


def read_sound(path):
    voice = load_audio(path, "wav_url", None, 600.0, path.parent)
    length_s = len(voice.wave) / 16_000
    write_soundtrack([Track(voice.sound, 0.0, length_s)], length_s, path.with_name("soundtrack.m4a"))
    path.with_name("soundtrack.m4a").unlink()
    return voice.wave


def read_picture(path):
    return load_image(path, "image_url", 48, 32).pixels


def read_video(path):
    return SourceVideo.open(path, "video_url", 32, 32).clip(0, FRAMES)


def check_wave(wave, _):
    assert len(wave) / 16_000 == pytest.approx(2.0, abs=0.06)
    middle = wave[8_000:24_000]
    assert np.abs(np.fft.rfft(middle)).argmax() == 440
    assert np.abs(middle).max() == pytest.approx(0.3, abs=0.03)


def check_pixels(pixels, color):
    assert pixels.shape == (32, 48, 3)
    if color is not None:
        assert np.abs(pixels.astype(int) - color).max() <= 6


def check_frames(frames, numbers):
    assert frames.shape == (FRAMES, 32, 32, 3)
    if numbers is not None:
        assert np.abs(frames.mean(axis=(1, 2, 3)) - DARKEST - np.array(list(numbers))).max() <= 2.2


@contextmanager
def most_memory_of_programs():
    """Collects, every few milliseconds, the peak memory in KiB of each program that this process has started.

    The system's account of ended children cannot be used: a child has this process's memory until it becomes another
    program, and that counts.
    """
    most_kib = [0]
    command = Path("/proc/self/cmdline").read_bytes()

    def look():
        with suppress(OSError, StopIteration):  # a thread or a program has ended
            for task in Path("/proc/self/task").iterdir():
                for pid in (task / "children").read_text().split():
                    if Path("/proc", pid, "cmdline").read_bytes() != command:
                        lines = Path("/proc", pid, "status").read_text().splitlines()
                        most_kib.append(int(next(line for line in lines if "VmHWM" in line).split()[1]))

    with watched(look):
        yield most_kib


CASES = [
    *(("wav_url", name, read_sound, check_wave) for name in SOUNDS),
    *(("image_url", name, read_picture, check_pixels) for name in PICTURES),
    *(("video_url", name, read_video, check_frames) for name in VIDEOS),
]


@pytest.mark.parametrize(
    ("field", "name", "read", "check"), CASES, ids=[f"{field}: {name}" for field, name, _, _ in CASES]
)
def test_hostile_and_odd_media(field, name, read, check, tmp_path, monkeypatch, caplog):
    content, expected = {"wav_url": SOUNDS, "image_url": PICTURES, "video_url": VIDEOS}[field][name]
    path = tmp_path / field
    if callable(content):
        content(path)
    else:
        path.write_bytes(content)
    monkeypatch.setattr(image, "TIME_LIMIT_S", 2.0)  # a million scans would take it all
    monkeypatch.setattr(probe, "TIME_LIMIT_S", 10.0)
    before = set(tmp_path.iterdir())
    start_s = time.monotonic()
    try:
        with most_memory_of_programs() as most_kib:
            result = read(path)
    except JobError as error:
        assert error.code == expected, error
        message = str(error)
        assert message.startswith(f"{field}: ")
        assert message.endswith(".")
        assert "\n" not in message
        assert len(message) < 300
        assert not any(inside in message + caplog.text for inside in (str(tmp_path), SECRET, "Traceback"))
    else:
        assert not isinstance(expected, str), f"was read, not {expected}"
        check(result, expected)
    assert time.monotonic() - start_s < TIME_LIMIT_S
    assert 0 < max(most_kib) < MEMORY_LIMIT_KIB
    assert {one for one in tmp_path.iterdir() if one.suffix != ".f32"} <= before  # .f32: the decoded sound


def test_the_sound_of_a_file_with_a_huge_cover_is_read(tmp_path):
    """Only pictures that would be decoded count."""
    cover = tmp_path / "cover.png"
    Image.new("L", (12_000, 4_000)).save(cover)
    source = write_tone(tmp_path / "tone.wav", 2.0)
    make(
        "-i",
        source,
        "-i",
        cover,
        *["-map", "0", "-map", "1", "-c:v", "copy", "-disposition:v", "attached_pic"],
        tmp_path / "a.mp3",
    )
    check_wave(load_audio(tmp_path / "a.mp3", "wav_url", None, 600.0, tmp_path).wave, None)


def test_a_video_of_too_many_frames_is_refused(tmp_path, monkeypatch):
    path = write_numbered_video(tmp_path / "video.mp4", 50, 25)
    monkeypatch.setattr(frames, "MAX_FRAMES", 50)
    frames.survey(path, "video_url")
    monkeypatch.setattr(frames, "MAX_FRAMES", 49)
    with pytest.raises(TooLarge, match="video_url: the video has more than 49 frames"):
        frames.survey(path, "video_url")


def test_an_ffmpeg_that_hangs_is_killed_and_named(tmp_path, monkeypatch):
    """A pipe that nobody writes to, in place of a file."""
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(ffmpeg.imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(program))
    monkeypatch.setattr(ffmpeg, "TIME_LIMIT_S", 0.3)
    start_s = time.monotonic()
    with pytest.raises(Internal, match="could not be resampled"):
        load_audio(write_tone(tmp_path / "voice.wav", 1.0), "wav_url", None, 600.0, tmp_path)
    assert time.monotonic() - start_s < 5


def test_a_reader_that_hangs_is_killed_and_named(tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(probe, "TIME_LIMIT_S", 0.3)
    path = write_tone(tmp_path / "voice.wav", 1.0)
    reads = (
        lambda: probe.probe(path, "wav_url"),
        lambda: load_audio(path, "wav_url", None, 600.0, tmp_path),
        lambda: SourceVideo.open(path, "wav_url", 32, 32),
    )
    for read in reads:
        start_s = time.monotonic()
        with pytest.raises(MediaUnreadable, match=r"^wav_url: the file could not be read within 0\.3 s"):
            read()
        assert time.monotonic() - start_s < 3


def run_python(code, time_limit_s=20.0):
    return child.run_child([sys.executable, "-c", code], time_limit_s)


def test_a_child_has_no_more_memory_than_it_may_and_nothing_of_ours(monkeypatch):
    monkeypatch.setenv("BUCKET_SECRET_ACCESS_KEY", "hunter2")
    assert run_python("import os; print(dict(os.environ))").data.count(b"hunter2") == 0
    monkeypatch.setattr(child, "MEMORY_BYTES", 1 << 28)
    late = "import time; time.sleep(0.3)\n"  # the limit is set when the program has begun
    assert run_python(f"{late}bytes(1 << 26)").status == 0
    done = run_python(f"{late}bytes(1 << 28)")
    assert done.status == 1
    assert "MemoryError" in done.log


def test_a_child_writes_no_more_than_it_may(tmp_path, monkeypatch):
    monkeypatch.setattr(child, "FILE_BYTES", 1 << 20)
    path = tmp_path / "file"
    done = run_python(f"import time; time.sleep(0.3); open({str(path)!r}, 'wb').write(bytes(1 << 21))")
    assert done.status != 0
    assert path.stat().st_size <= 1 << 20


def test_a_child_reads_nothing_from_us():
    assert run_python("import sys; print(sys.stdin.read())").data == b"\n"


def test_walking_through_a_file_of_tiny_chunks_ends(tmp_path):
    for name, content in (
        ("riff", b"RIFF\xff\xff\xff\x7fWAVE" + (b"junk" + bytes(4)) * 2_000_000),
        ("boxes", b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\0\x08free" * 2_000_000),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        start_s = time.process_time()
        assert not is_cut_off(path)
        assert time.process_time() - start_s < 1


def test_no_thread_or_process_is_left(tmp_path, monkeypatch):
    before = threading.active_count()
    path = tmp_path / "picture"
    scans(path)
    monkeypatch.setattr(image, "TIME_LIMIT_S", 0.5)
    with pytest.raises(MediaUnreadable, match="not decoded within"):
        read_picture(path)
    assert threading.active_count() == before
    with pytest.raises(ChildProcessError):  # there are none, running or ended
        os.waitpid(-1, os.WNOHANG)


def test_the_published_limits_are_the_ones_enforced():
    text = (Path(__file__).parents[2] / "docs" / "limits.md").read_text("utf-8")
    settings = Settings()
    for words in (
        f"| Length of a URL | {values.MAX_URL_CHARS} characters",
        f"| {values.MAX_DATA_URI_CHARS:,} characters",
        f"| Redirects | {safe_http.MAX_REDIRECTS},",
        f"`MAX_IMAGE_MB` {settings.max_image_mb:g}, `MAX_AUDIO_MB` {settings.max_audio_mb:g}, "
        f"`MAX_VIDEO_MB` {settings.max_video_mb:g}",
        f"`DOWNLOAD_TIMEOUT_S` {settings.download_timeout_s:g} s",
        f"| Time without a byte | {downloads.IDLE_LIMIT_S:g} s",
        "about {:g}, {:g} and {:g} seconds".format(*downloads.RETRY_PAUSES_S),
        f"| {image.MAX_PIXELS // 10**6} million |",
        f"| Smallest side | {image.MIN_SIDE} pixels",
        f"in a process of its own | {image.TIME_LIMIT_S:g} s",
        f"`MAX_AUDIO_S` {settings.max_audio_s:g} s",
        f"{probe.RATES_HZ[0]} to {probe.RATES_HZ[-1]:,} Hz",
        f"| Channels | {probe.MAX_CHANNELS},",
        f"| Tracks in the file | {probe.MAX_STREAMS} |",
        f"| Frames | {frames.MAX_FRAMES:,} in all, {frames.MAX_FPS} in one second",
        f"at least {frames.MIN_SIDE} pixels on each side, and no side more than {frames.MAX_ASPECT} times as long",
        f"{probe.TIME_LIMIT_S:g} s",
        f"{child.MEMORY_BYTES >> 30} GiB of memory, at most {child.FILE_BYTES >> 30} GiB of files",
    ):
        assert words in " ".join(text.split()), words


def test_a_lower_limit_of_the_system_stays():
    """No process but root's may raise a hard limit, and the worker may run under one."""
    with subprocess.Popen(["sleep", "20"]) as process:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        child.limit(process)
        assert resource.prlimit(process.pid, resource.RLIMIT_FSIZE) == (1 << 20, 1 << 20)
        assert resource.prlimit(process.pid, resource.RLIMIT_AS) == (child.MEMORY_BYTES, child.MEMORY_BYTES)
        process.kill()
