"""A video in parts: together they are the whole, without a gap in picture or sound."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from infinitetalk.media.ffmpeg import FfmpegError
from infinitetalk.media.hls import HEADER, HlsParts, Part, packet_times, part_name, playlist
from infinitetalk.media.probe import probe
from tests.support.media_samples import ffmpeg
from tests.support.streams import frame_times, sound_of, write_chirp, write_pieces

NTSC = Fraction(30_000, 1001)


def make(
    folder: Path, counts: list[int], rate_hz: int = 44_100, size: tuple[int, int] = (96, 64), rate: Fraction = NTSC
) -> tuple[list[Part | None], list[bytes], Path]:
    """The parts of a video of so many frames each, the header that each part had, and the playlist of all."""
    soundtrack = write_chirp(folder / "sound.m4a", float(sum(counts) / rate), rate_hz)
    maker, parts, headers = HlsParts(folder, soundtrack, size, rate), [], []
    for index, piece in enumerate(write_pieces(folder, counts, size, rate)):
        parts.append(maker.add(index, piece))
        headers.append((folder / HEADER).read_bytes())
    path = folder / "all.m3u8"
    path.write_text(playlist([part for part in parts if part], 3.0, str, is_whole=True))
    return parts, headers, path


@pytest.mark.parametrize(("rate", "rate_hz"), [(Fraction(25), 44_100), (NTSC, 48_000), (Fraction(25), 8_000)])
def test_parts_follow_each_other_without_a_gap(rate: Fraction, rate_hz: int, tmp_path: Path) -> None:
    counts = [33, 12, 1, 29]
    parts, headers, path = make(tmp_path, counts, rate_hz, rate=rate)
    assert parts == [Part(part_name(index), count / rate) for index, count in enumerate(counts)]
    assert len(set(headers)) == 1
    np.testing.assert_allclose(frame_times(path), np.arange(75) / float(rate), atol=2 / 90_000)
    heard, whole = sound_of(path), sound_of(tmp_path / "sound.m4a")
    # The packet before the first one primes the decoder and is in no part: the first 1024 samples fade in, and what
    # the decoder draws by chance is other noise. A sample's delay would be a difference of hundreds.
    np.testing.assert_allclose(heard[1024 : len(whole) - 1024], whole[1024:-1024], atol=60)
    assert len(whole) <= len(heard) < len(whole) + 1024
    assert np.abs(whole).max() > 5_000


def test_parts_show_the_frames_of_their_pieces(tmp_path: Path) -> None:
    _, _, path = make(tmp_path, [20, 9])
    grey = np.frombuffer(ffmpeg("-i", path, "-pix_fmt", "rgb24", "-f", "rawvideo", "-"), np.uint8)
    levels = grey.reshape(29, -1).mean(axis=1)
    np.testing.assert_allclose(levels, 20 + np.arange(29), atol=2.5)


def test_a_part_begins_where_it_belongs_and_with_a_key_frame(tmp_path: Path) -> None:
    _, header, _ = make(tmp_path, [20, 9], rate=Fraction(25))
    alone = tmp_path / "alone.mp4"
    alone.write_bytes(header[0] + (tmp_path / part_name(1)).read_bytes())
    times = frame_times(alone)
    assert len(times) == 9
    assert times[0] == pytest.approx(0.8, abs=0.001)


def test_a_piece_without_frames_is_no_part(tmp_path: Path) -> None:
    parts, _, path = make(tmp_path, [9, 0, 9])
    assert [part and part.name for part in parts] == ["00000.m4s", None, "00002.m4s"]
    assert len(frame_times(path)) == 18


@pytest.mark.parametrize(
    ("size", "shown"), [((1280, 720), (854, 480)), ((720, 1280), (480, 854)), ((96, 62), (96, 62))]
)
def test_large_videos_are_shown_smaller(size: tuple[int, int], shown: tuple[int, int], tmp_path: Path) -> None:
    make(tmp_path, [2], size=size)
    (tmp_path / "whole.mp4").write_bytes((tmp_path / HEADER).read_bytes() + (tmp_path / part_name(0)).read_bytes())
    info = probe(tmp_path / "whole.mp4", "preview")
    assert (info.width, info.height) == shown


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "100 %, 'quoted': name"
    folder.mkdir()
    make(folder, [3, 3])
    assert (folder / part_name(1)).is_file()


def test_a_playlist_grows_and_ends() -> None:
    parts = [Part("00000.m4s", Fraction(81, 25)), Part("00001.m4s", Fraction(72, 25))]
    begun = playlist(parts[:1], 31.2, lambda name: f"https://example.com/{name}?signed", is_whole=False)
    assert begun.splitlines() == [
        "#EXTM3U",
        "#EXT-X-VERSION:7",
        "#EXT-X-TARGETDURATION:32",
        "#EXT-X-MEDIA-SEQUENCE:0",
        "#EXT-X-PLAYLIST-TYPE:EVENT",
        "#EXT-X-INDEPENDENT-SEGMENTS",
        "#EXT-X-START:TIME-OFFSET=0",
        '#EXT-X-MAP:URI="https://example.com/init.mp4?signed"',
        "#EXTINF:3.240000,",
        "https://example.com/00000.m4s?signed",
    ]
    ended = playlist(parts, 31.2, lambda name: f"https://example.com/{name}?signed", is_whole=True)
    assert ended.startswith(begun), "what a player has read stays true"
    assert ended.splitlines()[-3:] == ["#EXTINF:2.880000,", "https://example.com/00001.m4s?signed", "#EXT-X-ENDLIST"]


def test_packets_begin_with_the_one_that_primes_the_decoder(tmp_path: Path) -> None:
    times = packet_times(write_chirp(tmp_path / "sound.m4a", 1.0, 48_000))
    assert times[:3] == [Fraction(-1024, 48_000), Fraction(0), Fraction(1024, 48_000)]


def test_what_is_no_piece_is_an_error(tmp_path: Path) -> None:
    maker = HlsParts(tmp_path, write_chirp(tmp_path / "sound.m4a", 1.0), (96, 64), Fraction(25))
    (tmp_path / "piece.mp4").write_bytes(b"no video")
    with pytest.raises(FfmpegError):
        maker.add(0, tmp_path / "piece.mp4")
