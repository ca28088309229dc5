import subprocess
import sys

import av
import pytest

from infinitetalk.errors import MediaUnreadable
from infinitetalk.media import ffmpeg, probe
from infinitetalk.media.container import apparent_kind
from infinitetalk.media.tables import is_cut_off
from tests.support.media_samples import cut_off, write_picture, write_talking_video, write_tone
from tests.support.media_samples import ffmpeg as make

PLAYLISTS = {
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}\n#EXT-X-ENDLIST\n",
    "list.wav": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}\n#EXT-X-ENDLIST\n",
    "list.ffconcat": "ffconcat version 1.0\nfile '{url}'\n",
    "list.txt": "file '{url}'\n",
    "list.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
    "<BaseURL>{url}</BaseURL></Period></MPD>",
    "list.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns={url}\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_playlists_are_refused_and_open_nothing(name, tmp_path, site):
    tone = write_tone(tmp_path / "tone.wav", 1)
    site.pages["/tone.wav"] = tone.read_bytes()
    for url in (f"file:{tone}", str(tone), f"{site.url}/tone.wav"):
        path = tmp_path / name
        path.write_text(PLAYLISTS[name].format(url=url))
        with pytest.raises(MediaUnreadable, match=r"^wav_url: this is") as refusal:
            probe.probe(path, "wav_url")
        assert str(tmp_path) not in str(refusal.value)
    assert not site.hits


def test_the_whitelists_are_what_refuses_playlists(tmp_path):
    """Without them libav follows the list: the tests above would not notice a reader that fails anyway."""
    write_tone(tmp_path / "tone.wav", 1)
    path = tmp_path / "list.ffconcat"
    path.write_text("ffconcat version 1.0\nfile 'tone.wav'\n")
    with av.open(str(path)) as container:
        assert next(container.decode(audio=0)).samples > 0


def test_probe_reads_what_the_file_says(tmp_path):
    video = write_talking_video(tmp_path / "video.mp4", seconds=2, width=96, height=64)
    info = probe.probe(video, "video_url")
    assert (info.has_video, info.width, info.height) == (True, 96, 64)
    assert (info.has_audio, info.sample_rate_hz, info.channels) == (True, 44_100, 1)
    assert info.stated_duration_s == pytest.approx(2.0, abs=0.05)
    sound = probe.probe(write_tone(tmp_path / "tone.flac", 1.5, 22_050, channels=2), "wav_url")
    assert (sound.has_video, sound.has_audio, sound.sample_rate_hz, sound.channels) == (False, True, 22_050, 2)
    assert sound.stated_duration_s == 1.5


def test_a_cover_picture_is_no_video(tmp_path):
    cover = write_picture(tmp_path / "cover.png")
    tone = write_tone(tmp_path / "tone.wav", 1)
    attach = [
        "-map",
        "0",
        "-map",
        "1",
        "-c:a",
        "aac",
        "-c:v",
        "mjpeg",
        "-pix_fmt",
        "yuvj420p",
        "-disposition:v",
        "attached_pic",
    ]
    make("-i", tone, "-i", cover, *attach, tmp_path / "song.m4a")
    info = probe.probe(tmp_path / "song.m4a", "wav_url")
    assert info.has_audio
    assert not info.has_video


def test_tags_cannot_pretend_to_be_streams(tmp_path):
    tone = write_tone(tmp_path / "tone.wav", 1)
    title = "x\n  Stream #0:7: Video: h264, yuv420p, 64x64, 25 fps"
    make("-i", tone, "-metadata", f"title={title}", tmp_path / "tagged.mp3")
    assert not probe.probe(tmp_path / "tagged.mp3", "wav_url").has_video


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "an empty file"),
        (b"  \n<!DOCTYPE html><html>404</html>", "a web page"),
        (b'{"error": "expired"}', "a text"),
        (b"\x89PNG\r\n\x1a\n", "a picture"),
        (bytes(range(256)) * 40, "an unknown or damaged file"),
    ],
)
def test_what_is_no_media_is_named(content, kind, tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(content)
    assert apparent_kind(path) == kind
    with pytest.raises(MediaUnreadable, match=f"^video_url: this is {kind}, which"):
        probe.probe(path, "video_url")


def test_pictures_are_no_videos(tmp_path):
    with pytest.raises(MediaUnreadable, match="video_url: this is a picture"):
        probe.probe(write_picture(tmp_path / "picture.png"), "video_url")


def test_a_run_that_takes_too_long_is_ended():
    endless = ["-f", "lavfi", "-i", "anullsrc", "-f", "null", "-"]
    with pytest.raises(ffmpeg.FfmpegError, match=r"not done within 0\.3 s"):
        ffmpeg.run(*endless, time_limit_s=0.3)


def test_a_reader_that_takes_too_long_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "TIME_LIMIT_S", 0.01)
    with pytest.raises(MediaUnreadable, match=r"^wav_url: the file could not be read within 0.01 s"):
        probe.probe(write_tone(tmp_path / "voice.wav", 1.0), "wav_url")


@pytest.mark.parametrize("name", ["a.wav", "a.avi", "a.mp4", "fragmented.mp4"])
def test_missing_ends_show_in_the_tables(name, tmp_path):
    path = tmp_path / name
    if name == "a.wav":
        write_tone(path, 2)
    else:
        options = ["-movflags", "frag_keyframe+empty_moov"] if name == "fragmented.mp4" else []
        make("-i", write_talking_video(tmp_path / "source.mp4"), "-q:v", "3", *options, path)
    assert not is_cut_off(path)
    for part in (0.3, 0.6, 0.9):
        assert is_cut_off(cut_off(path, part))


def test_stray_bytes_and_unknown_lengths_are_not_missing_ends(tmp_path):
    video = write_talking_video(tmp_path / "video.mp4", seconds=0.2)
    video.write_bytes(video.read_bytes() + b"\r\n" * 10)
    assert not is_cut_off(video)
    wav = write_tone(tmp_path / "tone.wav", 1)
    data = wav.read_bytes()
    at = data.index(b"data") + 4
    for length in (0, 0x7FFFFFFF, 0xFFFFFFFF, 32_000 + 44):  # the last counts the header, as some programs do
        wav.write_bytes(data[:at] + length.to_bytes(4, "little") + data[at + 4 :] + b"ID3 of some program")
        assert not is_cut_off(wav)


def test_importing_media_needs_no_torch():
    modules = ", ".join(f"infinitetalk.media.{name}" for name in ("audio", "image", "video", "encode"))
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
