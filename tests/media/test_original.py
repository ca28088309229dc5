"""Source videos at their own size and rate: every value of every frame, in order."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from infinitetalk.errors import MediaUnreadable
from infinitetalk.media import original as module
from infinitetalk.media import pipe
from infinitetalk.media.encode import VideoWriter
from infinitetalk.media.original import Original, result_rate
from infinitetalk.media.video import SourceVideo
from infinitetalk.planning.extension import source_index
from tests.support.media_samples import X264, ffmpeg, write_numbered_video


def own(path, extend="hold"):
    return Original.of(SourceVideo.open(path, "video_url", 32, 32, extend=extend))


def decoded(path, width, height):
    raw = ffmpeg("-i", path, "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "yuv420p", "pipe:1")
    return np.frombuffer(raw, np.uint8).reshape(-1, height * 3 // 2, width)


def film(path, rate, *options, size="130x98"):
    ffmpeg("-f", "lavfi", "-i", f"testsrc2=d=1.2:r={rate}:s={size}", *options, *X264, path)
    return path


@pytest.mark.parametrize("rate", ["24000/1001", "25", "30000/1001", "50", "60"])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_frames_are_the_decoders_bit_for_bit(rate, suffix, tmp_path):
    path = film(tmp_path / f"film.{suffix}", rate, "-pix_fmt", "yuv420p")
    video, expected = own(path), decoded(path, 130, 98)
    assert (video.size, video.rate, video.n_frames) == ((130, 98), Fraction(rate), len(expected))
    np.testing.assert_array_equal(list(video.planes(0, video.n_frames, lambda: None)), expected)
    np.testing.assert_array_equal(list(video.planes(17, 5, lambda: None)), expected[17:22])


def test_they_pass_into_a_piece_and_out_again_unchanged(tmp_path):
    path = film(tmp_path / "film.mp4", "30", "-pix_fmt", "yuv420p")
    video, expected = own(path), decoded(path, 130, 98)
    with VideoWriter(tmp_path / "out.mp4", *video.size, video.rate, colors=video.colors) as writer:
        piece = writer.pack_planes(video.planes(0, 20, lambda: None))
        (tmp_path / "piece.mp4").write_bytes(piece)
        np.testing.assert_array_equal(decoded(tmp_path / "piece.mp4", 130, 98), expected[:20])
        assert writer.pack_planes(iter(())) == b""
        writer.append(b"")
        writer.append(piece)
        writer.finish(20)
    assert own(tmp_path / "out.mp4").rate == 30


def test_the_named_colours_are_the_sources(tmp_path):
    path = tmp_path / "film.mp4"
    tags = ["-colorspace", "smpte170m", "-color_primaries", "smpte170m", "-color_trc", "smpte170m"]
    film(path, "25", "-pix_fmt", "yuvj420p", *tags)
    video = own(path)
    assert (video.colors.matrix, video.colors.range) == (6, 2)
    with VideoWriter(tmp_path / "out.mp4", *video.size, video.rate, colors=video.colors) as writer:
        writer.append(writer.pack_planes(video.planes(0, 5, lambda: None)))
        writer.finish(5)
    assert own(tmp_path / "out.mp4").colors == video.colors


def test_an_odd_column_is_left_out(tmp_path):
    path = film(tmp_path / "film.mkv", "25", "-pix_fmt", "yuv444p", size="131x97")
    video = own(path)
    assert video.size == (130, 96)
    assert len(list(video.planes(0, 3, lambda: None))) == 3


@pytest.mark.parametrize(
    ("extend", "expected"),
    [
        ("hold", [*range(10), *[9] * 8]),
        ("loop", [*range(10), *range(8)]),
        ("ping-pong", [*range(10), *range(8, 0, -1)]),
    ],
)
def test_a_short_video_goes_on_as_asked_without_all_of_it_in_memory(extend, expected, tmp_path, monkeypatch):
    path = write_numbered_video(tmp_path / "film.mp4", 10, 25)
    video = own(path, extend)
    stored = decoded(path, *video.size)
    monkeypatch.setattr(module, "_BACKWARDS_BYTES", 3 * stored[0].size)
    shown = list(video.planes(0, 18, lambda: None))
    np.testing.assert_array_equal(shown, stored[expected])
    np.testing.assert_array_equal(list(video.planes(12, 4, lambda: None)), stored[expected[12:16]])


@pytest.mark.parametrize(
    ("rate", "expected"),
    [("25", "25"), ("24000/1001", "24000/1001"), ("12", "24"), ("15", "30"), ("10", "30"), ("1", "23"), ("60", "60"),
     ("120", "60"), ("240", "60"), ("60000/1001", "60000/1001"), ("100", "50")],
)  # fmt: skip
def test_the_results_rate_is_the_sources_or_a_simple_multiple(rate, expected):
    assert result_rate(Fraction(rate)) == Fraction(expected)


@pytest.mark.parametrize(("rate", "n_frames"), [("24", 60), ("30000/1001", 75), ("60", 150), ("25", 62)])
@pytest.mark.parametrize("extend", ["hold", "loop", "ping-pong"])
def test_a_source_of_any_rate_goes_on_together_with_the_clip(rate, n_frames, extend):
    facts = {"path": Path("film.mp4"), "field": "video_url", "size": (2, 2), "source_size": (2, 2), "zero_s": "0"}
    film = SourceVideo(**facts, duration_s=2.5, last_frame_s=2.46, aspect="1", extend=extend)
    video = Original(film, (2, 2), Fraction(rate), n_frames, None)  # type: ignore[arg-type]
    for index in range(video.frames_until(60 * 25)):
        in_clip = source_index(video.clip_frame(index), film.n_frames, extend)
        own_s, clip_s = (video.stored_index(index) + 0.5) / float(video.rate), (in_clip + 0.5) / 25
        assert abs(own_s - clip_s) <= 1.5 / 25


def test_frames_and_the_clips_frames_go_together():
    video = Original(None, (2, 2), Fraction(30), 100, None)  # type: ignore[arg-type]
    assert [video.clip_frame(index) for index in range(6)] == [0, 1, 2, 2, 3, 4]
    assert [video.frames_until(frame) for frame in range(6)] == [0, 1, 2, 4, 5, 6]
    for frame in range(200):
        assert video.clip_frame(video.frames_until(frame)) >= frame > video.clip_frame(video.frames_until(frame) - 1)


def test_a_check_ends_the_reading(tmp_path, monkeypatch):
    class Stopped(Exception):
        pass

    def stop():
        raise Stopped

    video = own(film(tmp_path / "film.mp4", "25"))
    monkeypatch.setattr(pipe, "_POLL_S", 0.001)
    with pytest.raises(Stopped):
        list(video.planes(0, 30, stop))


def test_a_file_that_ends_early_is_told(tmp_path):
    video = own(film(tmp_path / "film.mp4", "25"))
    (tmp_path / "film.mp4").write_bytes(b"nothing")
    with pytest.raises(MediaUnreadable, match="video_url"):
        list(video.planes(0, 30, lambda: None))
