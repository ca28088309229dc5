from pathlib import Path

import numpy as np
import pytest

from infinitetalk.errors import JobError, MediaUnreadable, TooLarge
from infinitetalk.media import decoding, frames
from infinitetalk.media import video as module
from infinitetalk.media.video import SourceVideo
from tests.support.media_samples import (
    DARKEST,
    X264,
    cut_off,
    ffmpeg,
    read_frames,
    write_numbered_video,
    write_picture,
    write_talking_video,
    write_tone,
    write_video,
)


def numbers(frames):
    """The frame numbers in a clip of a numbered video."""
    return frames.mean(axis=(1, 2, 3)) - DARKEST


@pytest.mark.parametrize("fps", [10, 24, 25, 30, 60])
def test_a_frame_is_what_is_on_screen_at_its_time(fps, tmp_path):
    n_frames = 2 * fps
    video = SourceVideo.open(write_numbered_video(tmp_path / "video.mp4", n_frames, fps), "video_url", 32, 32)
    expected = [min(i * fps // 25, n_frames - 1) for i in range(60)]
    np.testing.assert_allclose(numbers(video.clip(0, 60)), expected, atol=1.1)
    assert video.duration_s == pytest.approx(2.0)


def test_a_variable_frame_rate_is_followed(tmp_path):
    """Frames 0 to 9, then a second in which frame 9 stands, then every third."""
    steady = write_numbered_video(tmp_path / "steady.mp4", 75, 25)
    keep = "select='lt(n,10)+gt(n,35)*not(mod(n,3))'"
    ffmpeg("-i", steady, "-vf", keep, "-fps_mode", "vfr", *X264, tmp_path / "varied.mp4")
    video = SourceVideo.open(tmp_path / "varied.mp4", "video_url", 32, 32)
    expected = [*range(10), *[9] * 26, *(i // 3 * 3 for i in range(36, 75))]
    np.testing.assert_allclose(numbers(video.clip(0, 75)), expected, atol=1.1)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov", "webm", "avi", "ts", "flv", "mpg", "wmv", "gif"])
def test_single_frames_equal_those_of_the_whole_clip(suffix, tmp_path):
    """Wherever the keyframes are, in containers with and without an index, in any order."""
    source = write_numbered_video(tmp_path / "source.mkv", 90, 30)
    path = tmp_path / f"video.{suffix}"
    kept = suffix in ("mp4", "mkv", "mov", "ts", "flv")
    ffmpeg("-i", source, *(["-c", "copy"] if kept else ["-q:v", "2", "-g", "40"]), path)
    video = SourceVideo.open(path, "video_url", 48, 32)
    whole = video.clip(0, 90)
    assert whole.shape == (90, 32, 48, 3)
    for index in (60, 0, 1, 74, 33, 49, 75, 89):
        np.testing.assert_array_equal(video.frame(index), whole[index])
    np.testing.assert_array_equal(video.clip(40, 10), whole[40:50])
    assert numbers(whole)[:75] == pytest.approx([i * 30 // 25 for i in range(75)], abs=6)


def test_the_last_frame_holds(tmp_path):
    video = SourceVideo.open(write_numbered_video(tmp_path / "video.mp4", 30, 25), "video_url", 32, 32)
    np.testing.assert_allclose(numbers(video.clip(25, 10)), [25, 26, 27, 28, *[29] * 6], atol=1.1)
    for index in (29, 30, 31, 1000, 10**6):
        np.testing.assert_array_equal(video.frame(index), video.frame(29))


def test_sound_before_and_after_the_picture_moves_nothing(tmp_path):
    """Times count from where the file begins, and its video ends with its last frame."""
    source = write_numbered_video(tmp_path / "source.mkv", 25, 25)
    path = tmp_path / "late.mkv"
    ffmpeg("-f", "lavfi", "-i", "sine=d=3", "-itsoffset", "0.4", "-i", source, "-c:v", "copy", path)
    video = SourceVideo.open(path, "video_url", 32, 32)
    np.testing.assert_allclose(numbers(video.clip(0, 50)), [*[0] * 10, *range(25), *[24] * 15], atol=1.1)
    assert video.duration_s == pytest.approx(1.4, abs=0.01)


def test_a_cut_made_without_encoding_starts_where_it_was_made(tmp_path):
    source = write_numbered_video(tmp_path / "source.mp4", 75, 25)
    ffmpeg("-ss", "1.2", "-i", source, "-c", "copy", tmp_path / "part.mp4")
    video = SourceVideo.open(tmp_path / "part.mp4", "video_url", 32, 32)
    np.testing.assert_allclose(numbers(video.clip(0, 45)), np.arange(30, 75), atol=2.1)


def halves(height=64, width=96):
    """Left half red, right half blue; upper left corner white."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[:, : width // 2], frame[:, width // 2 :] = (200, 60, 30), (20, 120, 220)
    frame[: height // 2, : width // 4] = 255
    return np.broadcast_to(frame, (5, *frame.shape))


def test_rotation_is_applied(tmp_path):
    source = write_video(tmp_path / "source.mp4", halves(), 25)
    turned = tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", "90", "-i", source, "-c", "copy", turned)
    video = SourceVideo.open(turned, "video_url", 64, 96)
    assert video.source_size == (64, 96)
    upright = SourceVideo.open(source, "video_url", 96, 64).frame(0)
    np.testing.assert_allclose(video.frame(0), np.rot90(upright), atol=12)


def test_pixels_that_are_not_square_are_stretched(tmp_path):
    path = write_video(tmp_path / "wide.mp4", halves(), 25, (*X264, "-vf", "setsar=2/1"))
    video = SourceVideo.open(path, "video_url", 192, 64)
    assert video.source_size == (192, 64)
    square = SourceVideo.open(write_video(tmp_path / "square.mp4", halves(), 25), "video_url", 96, 64)
    np.testing.assert_allclose(video.frame(0)[:, 5:-5:2].mean(axis=0), square.frame(0)[:, 2:-3].mean(axis=0), atol=40)
    assert np.abs(video.frame(0)[40, 60].astype(int) - square.frame(0)[40, 30]).max() < 6


@pytest.mark.parametrize("size", [(480, 848), (848, 480), (208, 112)])
def test_the_centre_is_kept_undistorted(size, tmp_path):
    y, x = np.mgrid[:300, :500]
    circle = np.where((x - 249.5) ** 2 + (y - 149.5) ** 2 < 100**2, 0, 255).astype(np.uint8)
    path = write_video(tmp_path / "circle.mp4", np.repeat(circle[None, ..., None], 3, axis=3), 25)
    width, height = size
    frame = SourceVideo.open(path, "video_url", width, height).frame(0)
    assert frame.shape == (height, width, 3)
    assert frame.flags.writeable
    scale = max(width / 500, height / 300)
    y, x = np.mgrid[:height, :width]
    expected = (x - (width - 1) / 2) ** 2 + (y - (height - 1) / 2) ** 2 < (100 * scale) ** 2
    assert ((frame[..., 0] < 128) == expected).mean() > 0.97


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize(
    ("matrix", "tagged", "height"),
    [("bt709", True, 64), ("bt601", True, 64), ("bt601", True, 720), ("bt601", False, 64), ("bt709", False, 720)],
)
def test_colors_survive(matrix, tagged, height, full_range, tmp_path):
    """With a tag, by the tag; without, BT.709 from 720 lines on and BT.601 below."""
    space = {"bt709": "bt709", "bt601": "smpte170m"}[matrix]
    value = "pc" if full_range else "tv"
    conversion = f"scale=out_color_matrix={matrix}:out_range={value}:flags=accurate_rnd,format=yuv420p"
    named = f"{conversion},setparams=colorspace={space if tagged else 'unknown'}:range={value}"
    path = write_video(tmp_path / "video.mp4", halves(height)[:1], 25, (*X264, "-vf", named))
    frame = SourceVideo.open(path, "video_url", 96, 64).frame(0).astype(int)
    for place, color in (((50, 30), (200, 60, 30)), ((50, 70), (20, 120, 220)), ((10, 8), (255, 255, 255))):
        assert np.abs(frame[place] - color).max() <= 3


@pytest.mark.parametrize("name", ["a.mp4", "fast.mp4", "fragmented.mp4", "a.mkv", "a.webm", "a.avi", "a.wmv", "a.gif"])
def test_truncated_videos_are_refused(name, tmp_path):
    flags = {"fast.mp4": "+faststart", "fragmented.mp4": "frag_keyframe+empty_moov"}.get(name)
    source = write_talking_video(tmp_path / "source.mp4")
    ffmpeg("-i", source, "-g", "10", *(["-movflags", flags] if flags else []), tmp_path / name)
    SourceVideo.open(tmp_path / name, "video_url", 32, 32)
    for part in (0.5, 0.85):
        with pytest.raises(MediaUnreadable, match=r"^video_url: the file is truncated"):
            SourceVideo.open(cut_off(tmp_path / name, part), "video_url", 32, 32)


def test_a_gif_without_its_trailer_is_refused(tmp_path):
    path = tmp_path / "a.gif"
    ffmpeg("-i", write_talking_video(tmp_path / "source.mp4"), path)
    data = path.read_bytes()
    path.write_bytes(data + b"bytes behind the end")
    SourceVideo.open(path, "video_url", 32, 32)
    path.write_bytes(data[:-1])
    with pytest.raises(MediaUnreadable, match=r"^video_url: the file is truncated"):
        SourceVideo.open(path, "video_url", 32, 32)


@pytest.mark.parametrize("options", [("-c:v", "wmv2", "-f", "asf"), ("-c:v", "mpeg4", "-f", "avi")])
def test_videos_that_were_written_to_a_pipe_are_read(options, tmp_path):
    data = ffmpeg("-i", write_talking_video(tmp_path / "source.mp4"), "-an", *options, "-")
    (tmp_path / "a").write_bytes(data)
    whole = SourceVideo.open(tmp_path / "source.mp4", "video_url", 32, 32)
    piped = SourceVideo.open(tmp_path / "a", "video_url", 32, 32)
    assert piped.duration_s == pytest.approx(whole.duration_s, abs=0.1)


def test_files_without_frames_are_refused(tmp_path):
    tone = write_tone(tmp_path / "tone.wav", 0.5)
    empty = tmp_path / "empty.mkv"
    ffmpeg("-i", write_talking_video(tmp_path / "full.mp4"), "-c", "copy", "-bsf:v", "noise=drop=1", empty)
    page = tmp_path / "page.mp4"
    page.write_text("<!DOCTYPE html><html>not found</html>")
    picture = write_picture(tmp_path / "picture.png")
    cases = ((tone, "no video"), (empty, "no frames"), (page, "a web page"), (picture, "a picture"))
    for path, message in cases:
        with pytest.raises(MediaUnreadable, match=f"^video_url: .*{message}"):
            SourceVideo.open(path, "video_url", 32, 32)


def test_frames_that_are_too_large_are_refused(tmp_path, monkeypatch):
    path = write_talking_video(tmp_path / "video.mp4", seconds=0.2)
    monkeypatch.setattr(decoding, "MAX_VIDEO_PIXELS", 96 * 64 - 1)
    with pytest.raises(TooLarge, match="video_url: the video is 96x64"):
        frames.survey(path, "video_url")


def test_damaged_videos_end_in_an_error_or_in_frames(tmp_path):
    rng = np.random.default_rng(0)
    source = write_talking_video(tmp_path / "source.mp4", seconds=1)
    for suffix in ("mp4", "webm", "ts"):
        path = tmp_path / f"video.{suffix}"
        ffmpeg("-i", source, path)
        data = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(5):
            damaged = data.copy()
            damaged[rng.integers(0, len(data), 30)] = rng.integers(0, 256, 30)
            path.write_bytes(damaged.tobytes())
            try:
                assert SourceVideo.open(path, "video_url", 32, 32).clip(20, 10).shape == (10, 32, 32, 3)
            except JobError as error:
                assert str(error).startswith("video_url: ")
                assert str(tmp_path) not in str(error)


def test_a_video_is_footage_that_moves(tmp_path):
    video = SourceVideo.open(write_talking_video(tmp_path / "video.mp4"), "video_url", 32, 32)
    assert not video.is_still
    assert video.frame(0).shape == (32, 32, 3)


def test_the_bundled_video_is_read():
    path = Path(__file__).parents[2] / "samples" / "talking_head.mp4"
    video = SourceVideo.open(path, "video_url", 96, 176)
    assert video.source_size == (360, 640)
    assert video.duration_s == 4.0
    moved = np.abs(video.frame(0).astype(int) - video.frame(50))
    assert moved.mean() > 1


def test_a_size_that_changes_is_followed(tmp_path):
    """As in a call whose picture is scaled down for a while, and turned: the frames go on."""
    parts = []
    for i, size in enumerate(("64x64", "32x32", "48x96")):
        levels = np.arange(DARKEST + 20 * i, DARKEST + 20 * i + 20, dtype=np.uint8)
        part = write_video(
            tmp_path / f"{i}.mkv",
            np.broadcast_to(levels[:, None, None, None], (20, 64, 64, 3)),
            25,
            ("-vf", f"scale={size.replace('x', ':')}", "-c:v", "libvpx", "-crf", "4", "-b:v", "2M", "-f", "ivf"),
        )
        parts.append(part.read_bytes()[32 if i else 0 :])
    whole = bytearray(b"".join(parts))
    at = 32
    for n in range(60):  # the frames' numbers are their times
        whole[at + 4 : at + 12] = n.to_bytes(8, "little")
        at += 12 + int.from_bytes(whole[at : at + 4], "little")
    (tmp_path / "joined.ivf").write_bytes(whole)
    ffmpeg("-i", tmp_path / "joined.ivf", "-c", "copy", tmp_path / "joined.webm")
    video = SourceVideo.open(tmp_path / "joined.webm", "video_url", 32, 32)
    np.testing.assert_allclose(numbers(video.clip(0, 60)), np.arange(60), atol=3)
    np.testing.assert_array_equal(video.frame(45), video.clip(40, 10)[5])


def combing(frame):
    """How much rows alternate."""
    rows = frame.astype(float).mean(axis=2)
    return float(np.abs(rows[1:-1] - 0.5 * (rows[:-2] + rows[2:])).mean())


@pytest.mark.parametrize("suffix", ["mpg", "mp4", "mov"])
def test_what_is_marked_interlaced_is_deinterlaced(suffix, tmp_path):
    moving = ["-f", "lavfi", "-i", "testsrc2=s=256x128:r=50:d=1,scroll=h=0.02,gblur=2"]
    codec = ["-c:v", "mpeg2video", "-q:v", "2"] if suffix == "mpg" else ["-c:v", "libx264", "-qp", "4"]
    flags = ["-vf", "interlace=lowpass=off", "-flags", "+ilme+ildct", *codec, "-pix_fmt", "yuv420p"]
    ffmpeg(*moving, *flags, tmp_path / f"interlaced.{suffix}")
    ffmpeg(*moving, "-r", "25", *codec, "-pix_fmt", "yuv420p", tmp_path / f"progressive.{suffix}")
    shown, wanted = (
        SourceVideo.open(tmp_path / f"{name}.{suffix}", "video_url", 256, 128).clip(0, 20)
        for name in ("interlaced", "progressive")
    )
    raw = read_frames(tmp_path / f"interlaced.{suffix}", 256, 128)
    assert combing(raw[10]) > 2 * combing(wanted[10])
    assert combing(shown[10]) < 1.3 * combing(wanted[10])
    video = SourceVideo.open(tmp_path / f"interlaced.{suffix}", "video_url", 256, 128)
    for index in (0, 7, 12):
        np.testing.assert_array_equal(video.frame(index), shown[index])


def test_a_video_of_one_key_frame_is_decoded_once(tmp_path, monkeypatch):
    path = write_numbered_video(tmp_path / "video.mp4", 60, 30, (*X264, "-g", "600"))
    before = SourceVideo.open(path, "video_url", 32, 48)
    monkeypatch.setattr(module, "MAX_GROUP_PIXELS", 64 * 64 * 59)
    video = SourceVideo.open(path, "video_url", 32, 48, needed_s=1.5)
    assert video.path != path
    assert video.duration_s == before.duration_s
    np.testing.assert_array_equal(video.clip(0, 37), before.clip(0, 37))
    np.testing.assert_array_equal(video.frame(30), before.frame(30))
    monkeypatch.setattr(module, "COPY_TIME_LIMIT_S", 0.01)
    with pytest.raises(MediaUnreadable, match=r"^video_url: .* too few key frames .* key frame every second"):
        SourceVideo.open(path, "video_url", 32, 48, needed_s=1.5)


def test_b_frames_without_time_stamps_keep_their_order(tmp_path):
    """An avi knows the order of packets only."""
    video = SourceVideo.open(write_numbered_video(tmp_path / "video.avi", 50, 25), "video_url", 32, 32)
    shown = numbers(video.clip(0, 50))
    assert (np.diff(shown) > -1.1).all()
    np.testing.assert_allclose(shown[4:46], np.arange(4, 46), atol=3.1)


@pytest.mark.parametrize(
    ("extend", "expected"),
    [
        ("hold", [*range(10), *[9] * 15]),
        ("loop", [*range(10), *range(10), *range(5)]),
        ("ping-pong", [*range(10), *range(8, -1, -1), *range(1, 7)]),
    ],
)
def test_a_short_video_goes_on_as_asked(extend, expected, tmp_path):
    path = write_numbered_video(tmp_path / "video.mp4", 10, 25)
    video = SourceVideo.open(path, "video_url", 32, 32, extend=extend)
    np.testing.assert_allclose(numbers(video.clip(0, 25)), expected, atol=1.1)
    whole = video.clip(0, 25)
    for start, length in ((7, 6), (9, 11), (23, 2), (12, 1)):
        np.testing.assert_array_equal(video.clip(start, length), whole[start : start + length])


def test_a_video_is_not_searched_for_cuts_for_ever(tmp_path, monkeypatch):
    video = SourceVideo.open(write_numbered_video(tmp_path / "video.mp4", 10, 25), "video_url", 32, 32)
    monkeypatch.setattr(module, "CUTS_TIME_LIMIT_S", 0.01)
    assert video.cuts(10) is None
