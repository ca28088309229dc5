"""Finished videos read back from their files: frames one after the other, and the sound as the model hears it."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from infinitetalk.media.audio import Track, heard_in, heard_of, load_audio, write_soundtrack
from infinitetalk.media.ffmpeg import FfmpegError
from infinitetalk.media.finished import read_frames
from infinitetalk.shapes import SAMPLE_RATE_HZ
from tests.support.media_samples import write_result


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, Path]:
    """Twelve frames of growing brightness, and their file."""
    frames = np.zeros((12, 48, 80, 3), np.uint8)
    frames += np.arange(60, 180, 10, dtype=np.uint8)[:, None, None, None]
    return frames, write_result(tmp_path_factory.mktemp("finished") / "video.mp4", frames)


@pytest.mark.parametrize("size", [(80, 48), (40, 24), (20, 12)])
def test_all_frames_come_in_their_order_at_the_size(video: tuple[np.ndarray, Path], size: tuple[int, int]) -> None:
    frames, path = video
    read = np.stack(list(read_frames(path, size)))
    assert read.shape == (12, size[1], size[0], 3)
    assert np.abs(read.mean((1, 2, 3)) - frames.mean((1, 2, 3))).max() <= 1  # of YUV's steps


def test_a_file_that_is_no_video_is_told(tmp_path: Path) -> None:
    path = tmp_path / "no.mp4"
    path.write_bytes(b"no video")
    with pytest.raises(FfmpegError):
        list(read_frames(path, (16, 16)))
    with pytest.raises(FfmpegError):
        heard_in(path)


def test_reading_ends_with_the_job(video: tuple[np.ndarray, Path]) -> None:
    seen: list[int] = []

    def check() -> None:
        if len(seen) == 3:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        for frame in read_frames(video[1], (16, 16), check=check):
            seen.append(len(frame))
    assert len(seen) == 3


@pytest.mark.parametrize("channels", [1, 2])
def test_the_sound_of_a_file_is_what_its_tracks_say(channels: int, tmp_path: Path) -> None:
    random, tracks = np.random.default_rng(0), []
    for number, (start_s, seconds) in enumerate([(0.0, 1.0), (0.6, 0.8)]):
        path = tmp_path / f"{number}.wav"
        shape = (round(seconds * SAMPLE_RATE_HZ), channels)
        soundfile.write(path, random.normal(0, 0.1, shape).clip(-0.4, 0.4), SAMPLE_RATE_HZ)
        tracks.append(Track(load_audio(path, "wav_url", None, 60, tmp_path).sound, start_s, seconds))
    write_soundtrack(tracks, 1.4, tmp_path / "sound.m4a")
    heard, wanted = heard_in(tmp_path / "sound.m4a"), heard_of(tracks, 1.4)
    assert len(heard) == len(wanted) == round(1.4 * SAMPLE_RATE_HZ)
    assert np.corrcoef(heard, wanted)[0, 1] > 0.95
