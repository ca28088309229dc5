import itertools
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from infinitetalk.errors import Internal
from infinitetalk.media import child, encode
from infinitetalk.media.audio import Track, load_audio, write_soundtrack
from infinitetalk.media.encode import VideoWriter
from infinitetalk.media.ffmpeg import FfmpegError
from infinitetalk.media.probe import probe
from infinitetalk.media.video import SourceVideo
from tests.support.media_samples import DARKEST, write_frames, write_tone


def moving(n_frames, width=96, height=64):
    """Smooth colours that wander."""
    t, y, x = np.mgrid[:n_frames, :height, :width]
    return np.stack([2 * x + t, 3 * y + 2 * t, x + y + 5 * t], axis=-1).astype(np.uint8)


def write(path, frames, soundtrack=None):
    _, height, width, _ = frames.shape
    with VideoWriter(path, width, height, soundtrack=soundtrack) as writer:
        for chunk in np.array_split(frames, min(3, len(frames))):
            write_frames(writer, chunk)
        writer.finish(len(frames))
    return path


def sound(folder, seconds):
    path = folder / "sound.m4a"
    tone = write_tone(folder / "tone.wav", seconds, 44_100)
    write_soundtrack([Track(load_audio(tone, "wav_url", None, 600.0, folder).sound, 0.0, seconds)], seconds, path)
    return path


def boxes(path):
    """Names of an mp4 file's outer boxes, in order."""
    data, at, names = path.read_bytes(), 0, []
    while at < len(data):
        names.append(data[at + 4 : at + 8].decode())
        at += int.from_bytes(data[at : at + 4], "big")
    return names


def test_frames_come_back_in_order(tmp_path):
    levels = np.arange(DARKEST, DARKEST + 50, dtype=np.uint8)
    frames = np.broadcast_to(levels[:, None, None, None], (50, 64, 96, 3))
    video = SourceVideo.open(write(tmp_path / "video.mp4", frames), "video", 96, 64)
    np.testing.assert_allclose(video.clip(0, 50).mean(axis=(1, 2, 3)), levels, atol=1.5)
    assert video.duration_s == 2.0


@pytest.mark.parametrize(("width", "height"), [(480, 848), (1280, 720)])
def test_flat_colors_survive(width, height, tmp_path):
    colors = np.array(list(itertools.product((0, 100, 255), repeat=3)), np.uint8)
    frames = np.broadcast_to(colors[:, None, None], (len(colors), height, width, 3))
    video = SourceVideo.open(write(tmp_path / "video.mp4", frames), "video", 16, 16)
    returned = video.clip(0, len(colors)).mean(axis=(1, 2))
    np.testing.assert_allclose(returned, colors, atol=2.5)


def test_detail_survives(tmp_path):
    frames = moving(20)
    frames[..., 1:] = frames[..., :1]  # grey: colours have half the resolution in yuv420p
    video = SourceVideo.open(write(tmp_path / "video.mp4", frames), "video", 96, 64)
    error = video.clip(0, 20).astype(float) - frames
    assert np.abs(error).mean() < 2


def test_the_format_is_what_players_want(tmp_path):
    path = write(tmp_path / "video.mp4", moving(25), sound(tmp_path, 1.0))
    said = described(path)
    assert "Video: h264" in said
    assert "yuv420p(tv, bt709, progressive), 96x64" in said
    assert "25 fps" in said
    assert "Audio: aac" in said
    names = boxes(path)
    assert names.index("moov") < names.index("mdat")


def described(path):
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


@pytest.mark.parametrize("n_frames", [1, 2, 13, 50])
def test_sound_and_picture_last_equally_long(n_frames, tmp_path):
    seconds = n_frames / 25
    path = write(tmp_path / "video.mp4", moving(n_frames), sound(tmp_path, seconds))
    assert SourceVideo.open(path, "video", 96, 64).duration_s == pytest.approx(seconds)
    assert len(load_audio(path, "video", None, 600.0, tmp_path).wave) / 16_000 == pytest.approx(seconds, abs=0.04)
    assert probe(path, "video").stated_duration_s == pytest.approx(seconds, abs=0.04)


def test_the_sound_is_in_place(tmp_path):
    path = write(tmp_path / "video.mp4", moving(50), sound(tmp_path, 2.0))
    returned = load_audio(path, "video", None, 600.0, tmp_path).wave
    original = load_audio(tmp_path / "tone.wav", "wav_url", None, 600.0, tmp_path).wave
    middle = slice(4_000, 28_000)
    assert np.abs(returned[middle] - original[middle]).max() < 0.02  # a sample's delay would be 0.05


def test_same_frames_same_bytes(tmp_path):
    frames, track = moving(40), sound(tmp_path, 1.6)
    first, second = (write(tmp_path / name, frames, track) for name in ("a.mp4", "b.mp4"))
    assert first.read_bytes() == second.read_bytes()


def test_the_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "video.mp4"
    with VideoWriter(path, 96, 64) as writer:
        write_frames(writer, moving(5))
        assert not path.exists()
        writer.finish(5)
    assert [file.name for file in tmp_path.iterdir()] == ["video.mp4"]


def test_an_exception_leaves_nothing(tmp_path):
    path = tmp_path / "video.mp4"
    with pytest.raises(KeyError), VideoWriter(path, 96, 64) as writer:
        write_frames(writer, moving(5))
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    assert not any(child.is_running for child in writer._children)


def test_a_failure_of_ffmpeg_is_an_internal_error_with_its_log(tmp_path):
    broken = tmp_path / "sound.m4a"
    broken.write_bytes(b"no sound")
    path = tmp_path / "video.mp4"
    with pytest.raises(Internal) as failure, VideoWriter(path, 96, 64, soundtrack=broken) as writer:
        write_frames(writer, moving(25))
        writer.finish(25)
    assert isinstance(failure.value.__cause__, FfmpegError)
    assert "Invalid data" in str(failure.value.__cause__)
    assert str(tmp_path) not in str(failure.value)
    assert list(tmp_path.iterdir()) == [broken]


def test_windows_follow_each_other_without_a_gap(tmp_path):
    path = tmp_path / "video.mp4"
    frames = moving(60)
    with VideoWriter(path, 96, 64, soundtrack=sound(tmp_path, 2.4)) as writer:
        for start, stop in ((0, 25), (25, 57), (57, 58), (58, 60)):
            write_frames(writer, frames[start:stop])
        writer.finish(60)
    times = packet_times(path)
    assert {duration for _, _, duration in times} == {512}  # 1/25 s of 1/12800
    decoding = [decoded for decoded, _, _ in times]
    assert decoding == list(range(decoding[0], decoding[0] + 60 * 512, 512))
    assert sorted(shown for _, shown, _ in times) == list(range(0, 60 * 512, 512))
    error = SourceVideo.open(path, "video", 96, 64).clip(0, 60).astype(float) - frames
    assert np.abs(error).mean(axis=(1, 2, 3)).max() < 4  # each frame in its place


def packet_times(path):
    """(decoding time, time shown, duration) of the video's packets, as a player reads them."""
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-map", "0:v", "-c", "copy", "-f", "framecrc", "-"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "#tb 0: 1/12800" in lines
    return [tuple(map(int, line.split(",")[1:4])) for line in lines if not line.startswith("#")]


def test_where_windows_join_nothing_is_seen(tmp_path):
    """A key frame of its own would show: the frames before have collected the errors of a still picture's coding."""
    y, x = np.mgrid[:128, :192]
    still = np.stack([x, y, x + y], axis=-1) + np.random.default_rng(0).normal(0, 8, (128, 192, 3))
    frames = np.clip(still + np.arange(60)[:, None, None, None] * 0.2, 0, 255).astype(np.uint8)
    path = tmp_path / "video.mp4"
    with VideoWriter(path, 192, 128) as writer:
        for start in range(0, 60, 20):
            write_frames(writer, frames[start : start + 20])
        writer.finish(60)
    returned = SourceVideo.open(path, "video", 192, 128).clip(0, 60).astype(float)
    change = np.abs(np.diff(returned, axis=0)).mean(axis=(1, 2, 3))
    joins = change[[19, 39]]
    assert joins.max() <= np.percentile(np.delete(change, [19, 39]), 95)


def test_a_piece_of_an_earlier_writer_is_as_good_as_a_new_one(tmp_path):
    frames, track, pieces = moving(60), sound(tmp_path, 2.4), []
    whole, resumed = tmp_path / "whole.mp4", tmp_path / "resumed.mp4"
    with VideoWriter(whole, 96, 64, soundtrack=track) as writer:
        for chunk in np.array_split(frames, 3):
            pieces.append(writer.pack(chunk))
            writer.append(pieces[-1])
        writer.finish(60)
    with VideoWriter(resumed, 96, 64, soundtrack=track) as writer:
        writer.append(pieces[0])
        writer.append(pieces[1])
        write_frames(writer, frames[40:])
        writer.finish(60)
    assert resumed.read_bytes() == whole.read_bytes()


def test_an_ffmpeg_that_hangs_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "TIME_LIMIT_S", 0.5)
    monkeypatch.setattr(encode, "command", lambda *_: [sys.executable, "-c", "import time; time.sleep(60)"])
    started = time.monotonic()
    with pytest.raises(Internal), VideoWriter(tmp_path / "video.mp4", 960, 640) as writer:
        writer.pack(moving(5, 960, 640))  # more than a pipe holds
        pytest.fail("the failure was not told")
    assert time.monotonic() - started < 10
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_piece_is_an_internal_error_with_its_log(tmp_path):
    with pytest.raises(Internal) as failure, VideoWriter(tmp_path / "video.mp4", 96, 64) as writer:
        write_frames(writer, moving(5))
        writer.append(b"no piece")
        writer.finish(5)
    assert "Invalid data" in str(failure.value.__cause__)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wanted", [4, 6])
def test_a_video_of_another_number_of_frames_is_never_finished(wanted, tmp_path):
    with pytest.raises(Internal) as failure, VideoWriter(tmp_path / "video.mp4", 96, 64) as writer:
        write_frames(writer, moving(5))
        writer.finish(wanted)
    assert str(failure.value.__cause__) == f"5 of {wanted} frames were written"
    assert list(tmp_path.iterdir()) == []


def test_the_encoder_sees_nothing_of_ours_and_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setenv("BUCKET_SECRET_ACCESS_KEY", "SECRET")
    with VideoWriter(tmp_path / "video.mp4", 96, 64) as writer:
        write_frames(writer, moving(5))
        process = writer._encoder._process
        assert b"SECRET" not in Path(f"/proc/{process.pid}/environ").read_bytes()
        assert resource.prlimit(process.pid, resource.RLIMIT_AS) == (child.MEMORY_BYTES, child.MEMORY_BYTES)


def test_a_video_without_frames_is_an_error(tmp_path):
    with pytest.raises(Internal), VideoWriter(tmp_path / "video.mp4", 96, 64) as writer:
        writer.finish(0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "frames",
    [np.zeros((1, 64, 95, 3), np.uint8), np.zeros((1, 64, 96, 3), np.float32), np.zeros((0, 64, 96, 3), np.uint8)],
)
def test_frames_of_another_kind_are_refused(frames, tmp_path):
    with pytest.raises(ValueError, match="frames must be uint8"), VideoWriter(tmp_path / "v.mp4", 96, 64) as writer:
        write_frames(writer, frames)
