import itertools
import subprocess

import numpy as np
import pytest

from infinitetalk.errors import Internal
from infinitetalk.media.audio import Track, load_audio, write_soundtrack
from infinitetalk.media.encode import VideoWriter
from infinitetalk.media.ffmpeg import FfmpegError, probe
from infinitetalk.media.video import SourceVideo
from tests.media_samples import DARKEST, write_tone


def moving(n_frames, width=96, height=64):
    """Smooth colours that wander."""
    t, y, x = np.mgrid[:n_frames, :height, :width]
    return np.stack([2 * x + t, 3 * y + 2 * t, x + y + 5 * t], axis=-1).astype(np.uint8)


def write(path, frames, soundtrack=None):
    _, height, width, _ = frames.shape
    with VideoWriter(path, width, height, soundtrack=soundtrack) as writer:
        for chunk in np.array_split(frames, 3):
            writer.write(chunk)
    return path


def sound(folder, seconds):
    path = folder / "sound.m4a"
    tone = write_tone(folder / "tone.wav", seconds, 44_100)
    write_soundtrack([Track(tone, 0.0, seconds)], seconds, path)
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
    assert len(load_audio(path, "video", None, 600.0)) / 16_000 == pytest.approx(seconds, abs=0.04)
    assert probe(path, "video").stated_duration_s == pytest.approx(seconds, abs=0.04)


def test_the_sound_is_in_place(tmp_path):
    path = write(tmp_path / "video.mp4", moving(50), sound(tmp_path, 2.0))
    returned = load_audio(path, "video", None, 600.0)
    original = load_audio(tmp_path / "tone.wav", "wav_url", None, 600.0)
    middle = slice(4_000, 28_000)
    assert np.abs(returned[middle] - original[middle]).max() < 0.02  # a sample's delay would be 0.05


def test_same_frames_same_bytes(tmp_path):
    frames, track = moving(40), sound(tmp_path, 1.6)
    first, second = (write(tmp_path / name, frames, track) for name in ("a.mp4", "b.mp4"))
    assert first.read_bytes() == second.read_bytes()


def test_the_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "video.mp4"
    with VideoWriter(path, 96, 64) as writer:
        writer.write(moving(5))
        assert not path.exists()
    assert [file.name for file in tmp_path.iterdir()] == ["video.mp4"]


def test_an_exception_leaves_nothing(tmp_path):
    path = tmp_path / "video.mp4"
    with pytest.raises(KeyError), VideoWriter(path, 96, 64) as writer:
        writer.write(moving(5))
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    assert writer._process.returncode is not None


def test_a_failure_of_ffmpeg_is_an_internal_error_with_its_log(tmp_path):
    broken = tmp_path / "sound.m4a"
    broken.write_bytes(b"no sound")
    path = tmp_path / "video.mp4"
    with pytest.raises(Internal) as failure, VideoWriter(path, 96, 64, soundtrack=broken) as writer:
        for _ in range(100):
            writer.write(moving(25))
    assert isinstance(failure.value.__cause__, FfmpegError)
    assert "Invalid data" in str(failure.value.__cause__)
    assert str(tmp_path) not in str(failure.value)
    assert list(tmp_path.iterdir()) == [broken]


def test_a_video_without_frames_is_an_error(tmp_path):
    with pytest.raises(Internal), VideoWriter(tmp_path / "video.mp4", 96, 64):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("frames", [np.zeros((1, 64, 95, 3), np.uint8), np.zeros((1, 64, 96, 3), np.float32)])
def test_frames_of_another_kind_are_refused(frames, tmp_path):
    with pytest.raises(ValueError, match="frames must be uint8"), VideoWriter(tmp_path / "v.mp4", 96, 64) as writer:
        writer.write(frames)
