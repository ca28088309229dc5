"""Sounds on the time line of their time stamps: what is heard is where it belongs, or the file is refused by name."""

import io
import struct
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from infinitetalk.errors import MediaUnreadable
from infinitetalk.media import audio
from infinitetalk.media.audio import Track, load_audio, write_soundtrack
from tests.support.media_samples import ffmpeg, write_tone

RATE_HZ = 48_000
OPUS = ("-c:a", "libopus", "-b:a", "64k")


def noise(seconds, rate_hz=RATE_HZ, seed=0, channels=1):
    """Speech-like noise, different at every time, so that a shift shows in the correlation."""
    rng = np.random.default_rng(seed)
    smooth = np.convolve(rng.standard_normal(round(seconds * rate_hz)), np.hanning(24) / 12, "same")
    envelope = 0.15 + 0.1 * np.sin(2 * np.pi * 3 * np.arange(len(smooth)) / rate_hz)
    return np.repeat((0.3 * smooth * envelope / 0.25)[:, None], channels, axis=1).astype(np.float32)


def write(path, wave, rate_hz=RATE_HZ, **how):
    soundfile.write(path, wave, rate_hz, **how)
    return path


def read(path, max_duration_s=None):
    return load_audio(path, "wav_url", max_duration_s, 600.0, path.parent)


def seconds(voice):
    return len(voice.wave) / 16_000


def loud(voice, step_s=0.5):
    """Whether it is heard, half second by half second."""
    step = round(step_s * 16_000)
    return [bool(np.abs(voice.wave[i : i + step]).max() > 0.02) for i in range(0, len(voice.wave) - step // 2, step)]


def soundtrack(voice, folder):
    """What the finished video plays: mono, 16 kHz."""
    length_s = seconds(voice)
    write_soundtrack([Track(voice.sound, 0.0, length_s)], length_s, folder / "soundtrack.m4a")
    return np.frombuffer(ffmpeg("-i", folder / "soundtrack.m4a", "-ac", "1", "-ar", "16000", "-f", "f32le", "-"), "<f4")


def check_in_step(voice, folder):
    """What the model hears and what the video plays agree in every half second, to a tenth of a frame."""
    heard, played = voice.wave, soundtrack(voice, folder)
    assert abs(len(heard) - len(played)) <= 16
    for start in range(1_000, len(heard) - 9_000, 8_000):
        part = heard[start : start + 8_000]
        if np.abs(part).max() < 0.02:
            assert np.abs(played[start + 800 : start + 7_200]).max() < 0.02
            continue
        shifts = range(-640, 641, 16)
        found = [np.dot(part, played[start + s : start + s + 8_000]) for s in shifts]
        assert abs(shifts[int(np.argmax(found))]) <= 64


# ---- changes of layout, rate and stream ----


def mono_then_stereo(folder, suffix, *options):
    """Two parts of 2 s, the second in two channels and at another rate where `options` allow it, joined as bytes."""
    parts = []
    for i, channels in enumerate((1, 2)):
        source = write(folder / f"{i}.wav", noise(2.0, seed=i, channels=channels))
        ffmpeg("-i", source, *options, folder / f"{i}.{suffix}")
        parts.append((folder / f"{i}.{suffix}").read_bytes())
    path = folder / f"joined.{suffix}"
    path.write_bytes(b"".join(parts))
    return path


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("mp3", ("-write_xing", "0", "-id3v2_version", "0")),
        ("mp3", ()),  # the second part's tag stands in the middle
        ("ogg", OPUS),
        ("ogg", ("-c:a", "libvorbis")),
        ("flac", ()),
        ("aac", ()),
        ("ac3", ()),
    ],
)
def test_a_change_of_channels_is_followed(suffix, options, tmp_path):
    path = mono_then_stereo(tmp_path, suffix, *options)
    voice = read(path)
    assert seconds(voice) == pytest.approx(4.0, abs=0.15)
    assert loud(voice) == [True] * 8
    assert voice.warnings == ()
    check_in_step(voice, tmp_path)


def test_a_change_of_rate_is_followed(tmp_path):
    parts = []
    for i, rate_hz in enumerate((44_100, 24_000, 48_000)):
        source = write(tmp_path / f"{i}.wav", noise(1.0, rate_hz, i), rate_hz)
        ffmpeg("-i", source, "-write_xing", "0", "-id3v2_version", "0", tmp_path / f"{i}.mp3")
        parts.append((tmp_path / f"{i}.mp3").read_bytes())
    (tmp_path / "joined.mp3").write_bytes(b"".join(parts))
    voice = read(tmp_path / "joined.mp3")
    assert seconds(voice) == pytest.approx(3.1, abs=0.15)
    assert loud(voice)[:6] == [True] * 6
    check_in_step(voice, tmp_path)


@pytest.mark.parametrize("suffix", ["webm", "mka", "ts", "flac", "ogg", "mp3"])
def test_recordings_that_were_joined_as_bytes_are_read_to_the_end(suffix, tmp_path):
    ffmpeg("-i", write(tmp_path / "a.wav", noise(2.0)), tmp_path / f"a.{suffix}")
    data = (tmp_path / f"a.{suffix}").read_bytes()
    (tmp_path / f"b.{suffix}").write_bytes(data * 3)
    assert seconds(read(tmp_path / f"b.{suffix}")) == pytest.approx(6.0, abs=0.3)


@pytest.mark.parametrize("suffix", ["wav", "aiff", "caf", "m4a", "mov", "flv"])
def test_joined_recordings_of_which_only_the_first_can_be_read_are_refused(suffix, tmp_path):
    ffmpeg("-i", write(tmp_path / "a.wav", noise(1.0), 44_100), tmp_path / f"a1.{suffix}")
    (tmp_path / f"b.{suffix}").write_bytes((tmp_path / f"a1.{suffix}").read_bytes() * 2)
    with pytest.raises(MediaUnreadable, match=r"^wav_url: the file holds several recordings .* join them"):
        read(tmp_path / f"b.{suffix}")


# ---- time stamps ----


def shifted(path, source, shift, *options):
    """A sound whose packets' time stamps are moved by an expression of the setts filter (seconds)."""
    ffmpeg("-i", source, "-c", "copy", "-bsf:a", f"setts=ts='PTS+({shift})/TB'", *options, path)
    return path


@pytest.mark.parametrize("suffix", ["ogg", "webm", "mka", "mp4", "mov"])
def test_a_gap_is_silent(suffix, tmp_path):
    coded = tmp_path / f"a.{suffix}"
    ffmpeg("-i", write(tmp_path / "a.wav", noise(4.0)), *(OPUS if suffix != "mov" else ("-c:a", "aac")), coded)
    path = shifted(tmp_path / f"gap.{suffix}", coded, "gte(PTS*TB,2)*2")
    voice = read(path)
    assert seconds(voice) == pytest.approx(6.0, abs=0.06)
    assert loud(voice)[:12] == [True] * 4 + [False] * 4 + [True] * 4 or sum(loud(voice)) in (8, 9)
    assert "holds nothing for 2.0" in voice.warnings[0]
    check_in_step(voice, tmp_path)


def test_many_small_gaps_add_up(tmp_path):
    """A call in which every fifth packet of 20 ms was lost on its way."""
    ffmpeg("-i", write(tmp_path / "a.wav", noise(4.0)), *OPUS, tmp_path / "a.ogg")
    ffmpeg("-i", tmp_path / "a.ogg", "-c", "copy", "-bsf:a", "noise=drop='not(mod(n,5))*gt(n,0)'", tmp_path / "b.mka")
    voice = read(tmp_path / "b.mka")
    assert seconds(voice) == pytest.approx(4.0, abs=0.11)
    check_in_step(voice, tmp_path)


@pytest.mark.parametrize("suffix", ["ogg", "webm", "mka", "mp4"])
def test_a_late_start_is_silent(suffix, tmp_path):
    coded = tmp_path / f"a.{suffix}"
    ffmpeg("-i", write(tmp_path / "a.wav", noise(2.0)), *OPUS, coded)
    path = shifted(tmp_path / f"late.{suffix}", coded, "1.5")
    voice = read(path)
    assert seconds(voice) == pytest.approx(3.5, abs=0.06)
    assert loud(voice)[:7] == [False] * 3 + [True] * 4
    assert "begins 1.5" in voice.warnings[0]
    check_in_step(voice, tmp_path)


@pytest.mark.parametrize(("suffix", "offset_s"), [("mka", 90_000), ("ts", 10), ("ts", 95_442), ("ogg", 7_200)])
def test_a_clock_that_counts_from_elsewhere_is_no_silence(suffix, offset_s, tmp_path):
    codec = OPUS if suffix == "ogg" else ("-c:a", "aac")
    ffmpeg("-i", write(tmp_path / "a.wav", noise(2.0)), *codec, "-f", "matroska", tmp_path / "a.mkv")
    ffmpeg("-i", tmp_path / "a.mkv", "-c", "copy", "-output_ts_offset", str(offset_s), tmp_path / f"b.{suffix}")
    voice = read(tmp_path / f"b.{suffix}")
    assert seconds(voice) == pytest.approx(2.0, abs=0.06)
    assert voice.warnings == ()


# ---- damage ----


@pytest.mark.parametrize("suffix", ["m4a", "mp4", "mov", "flac", "ogg", "opus", "wma", "ts", "mp3"])
def test_damage_in_the_middle_never_shortens_in_silence(suffix, tmp_path):
    source = write(tmp_path / "a.wav", noise(5.0, 44_100), 44_100)
    path = tmp_path / f"a.{suffix}"
    ffmpeg("-i", source, path)
    length_s = seconds(read(path))
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(1)
    for part in (0.02, 0.08, 0.2):
        damaged = data.copy()
        n_bytes, middle = int(len(data) * part), len(data) // 2
        damaged[middle : middle + n_bytes] = rng.integers(0, 256, n_bytes, np.uint8).tobytes()
        path.write_bytes(damaged)
        try:
            voice = read(path)
        except MediaUnreadable as error:
            assert str(error).startswith("wav_url: the file is ")
            continue
        assert seconds(voice) == pytest.approx(length_s, abs=0.1)
        if suffix not in ("flac", "mp3", "ts", "wma"):  # whose decoders make noise of some damage
            assert any(words in " ".join(voice.warnings) for words in ("damaged", "holds nothing"))
        check_in_step(voice, tmp_path)


def test_more_than_a_tenth_of_damage_is_refused(tmp_path):
    ffmpeg("-i", write(tmp_path / "a.wav", noise(5.0)), tmp_path / "a.m4a")
    data = bytearray((tmp_path / "a.m4a").read_bytes())
    start = data.index(b"mdat") + len(data) // 3
    data[start : start + len(data) // 5] = bytes(len(data) // 5)
    (tmp_path / "a.m4a").write_bytes(data)
    with pytest.raises(MediaUnreadable, match=r"^wav_url: the file is damaged"):
        read(tmp_path / "a.m4a")


TRUNCATED = {
    "wav": (),
    "w64": (),
    "rf64.wav": ("-rf64", "always"),
    "flac": (),
    "mp3": (),
    "m4a": (),
    "fast.m4a": ("-movflags", "+faststart"),
    "fragmented.mp4": ("-movflags", "frag_keyframe+empty_moov", "-frag_duration", "500000"),
    "mov": (),
    "ogg": (),
    "opus": (),
    "webm": (),
    "live.webm": ("-live", "1"),
    "mka": (),
    "avi": (),
    "aiff": (),
    "caf": (),
    "au": (),
    "flv": ("-ar", "44100"),
    "wma": (),
}


@pytest.mark.parametrize("name", TRUNCATED)
def test_what_is_really_truncated_is_refused(name, tmp_path):
    path = tmp_path / f"a.{name}"
    ffmpeg("-i", write(tmp_path / "voice.wav", noise(3.0)), *TRUNCATED[name], path)
    assert seconds(read(path)) == pytest.approx(3.0, abs=0.1)
    data = path.read_bytes()
    for part in (0.4, 0.77, 0.9):
        path.write_bytes(data[: int(len(data) * part)])
        with pytest.raises(MediaUnreadable, match=r"^wav_url: the file is truncated"):
            read(path)


@pytest.mark.parametrize(("suffix", "links"), [("opus", 1), ("ogg", 1), ("ogg", 2)])
def test_an_ogg_without_an_end_mark_is_told(suffix, links, tmp_path):
    path = tmp_path / f"a.{suffix}"
    ffmpeg("-i", write(tmp_path / "voice.wav", noise(3.0)), path)
    data = path.read_bytes() * links
    path.write_bytes(data)
    assert read(path).warnings == ()
    last = data.rindex(b"OggS")
    for size in (last, last + 1):  # at a page's end, and in the next one's header
        path.write_bytes(data[:size])
        assert read(path).warnings == ("wav_url has no end mark; if it was cut off, its end is missing.",)
        assert read(path, max_duration_s=1.0).warnings == ()


# ---- headers and what stands behind ----


@pytest.mark.parametrize(
    "length", [0, 0x7FFFFFFF, 0x7FFFF000, 0x80000000, 0xFFFFFFFF, 0xFFFFFF00, 2_000_000_000, 1_000_000_000]
)
@pytest.mark.parametrize("riff", [None, 0, 0xFFFFFFFF])
def test_placeholders_in_a_wav_mean_until_the_end(length, riff, tmp_path):
    data = bytearray(write(tmp_path / "a.wav", noise(1.0)).read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", length)
    if riff is not None:
        data[4:8] = struct.pack("<I", riff)
    (tmp_path / "a.wav").write_bytes(data)
    assert seconds(read(tmp_path / "a.wav")) == 1.0


def test_a_nonsensical_fact_does_not_count(tmp_path):
    tone = write_tone(tmp_path / "a.wav", 1.0, 8_000, subtype="ULAW")
    data = bytearray(tone.read_bytes())
    at = data.index(b"fact") + 8
    data[at : at + 4] = b"\x00\xf0\xff\x7f"
    tone.write_bytes(data)
    assert seconds(read(tone)) == 1.0


def test_placeholders_of_other_headers_mean_until_the_end(tmp_path):
    wave = write(tmp_path / "a.wav", noise(1.0))
    changes = {
        "aiff": [(b"FORM", 4, b"\x7f\0\0\x2e"), (b"SSND", 4, b"\x7f\0\0\x08")],  # as sox writes to a pipe
        "au": [(b".snd", 8, b"\xff\xff\xff\xff")],
        "caf": [(b"data", 4, b"\xff" * 8)],
    }
    for suffix, patches in changes.items():
        ffmpeg("-i", wave, tmp_path / f"a.{suffix}")
        data = bytearray((tmp_path / f"a.{suffix}").read_bytes())
        for name, offset, value in patches:
            at = data.index(name) + offset
            data[at : at + len(value)] = value
        (tmp_path / f"a.{suffix}").write_bytes(data)
        assert seconds(read(tmp_path / f"a.{suffix}")) == pytest.approx(1.0, abs=0.01), suffix


PIPED = {
    "avi": ("-c:a", "libmp3lame", "-f", "avi"),
    "avi of samples": ("-c:a", "pcm_s16le", "-f", "avi"),
    "asf": ("-c:a", "wmav2", "-f", "asf"),
    "rf64": ("-rf64", "always", "-f", "wav"),
}


@pytest.mark.parametrize("kind", PIPED)
def test_what_was_written_to_a_pipe_is_read_to_the_end(kind, tmp_path):
    data = ffmpeg("-i", write(tmp_path / "voice.wav", noise(3.0)), *PIPED[kind], "-")
    (tmp_path / "a").write_bytes(data)
    assert seconds(read(tmp_path / "a")) == pytest.approx(3.0, abs=0.1)


BEHIND = {
    "an APE tag": b"APETAGEX" + struct.pack("<IIII8x", 2000, 80, 1, 0x80000000) + b"x" * 80,
    "an ID3v1 tag": b"TAG" + b"Title".ljust(125, b"\0"),
    "an ID3v2 tag": b"ID3\x04\0\0\0\0\x02\0" + bytes(256),
    "line breaks": b"\r\n" * 40,
    "zeros": bytes(4000),
    "a text": b"-- created by a program that says so at the end --" * 5,
}


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("suffix", ["wav", "mp3", "m4a", "flac", "ogg", "webm", "aiff"])
def test_bytes_behind_the_end_are_ignored(suffix, behind, tmp_path):
    path = tmp_path / f"a.{suffix}"
    ffmpeg("-i", write(tmp_path / "voice.wav", noise(2.0)), path)
    length_s = seconds(read(path))
    path.write_bytes(path.read_bytes() + BEHIND[behind])
    assert seconds(read(path)) == pytest.approx(length_s, abs=0.03)


# ---- levels and channels ----


def distortion_db(wave, played):
    gain = wave @ played / (wave @ wave)
    return 10 * np.log10(gain**2 * (wave @ wave) / ((played - gain * wave) ** 2).sum())


@pytest.mark.parametrize("peak", [1.5, 4.0, 32_767.0, 2.0**31])
def test_sound_above_full_scale_is_turned_down_as_a_whole(peak, tmp_path):
    """12 dB too loud, or whole numbers written as floats."""
    quiet = noise(1.0)
    quiet *= 0.9 / np.abs(quiet).max()
    expected = read(write(tmp_path / "quiet.wav", quiet, subtype="FLOAT"))
    voice = read(write(tmp_path / "loud.wav", quiet * (peak / 0.9), subtype="FLOAT"))
    assert np.abs(soundtrack(voice, tmp_path)).max() <= 1.0
    assert distortion_db(soundtrack(expected, tmp_path), soundtrack(voice, tmp_path)) > 30
    heard, wanted = (audio.normalise_loudness(one.wave) for one in (voice, expected))
    np.testing.assert_allclose(heard, wanted, atol=1e-3)


def test_two_voices_above_full_scale_are_mixed_without_clipping(tmp_path):
    voices = [read(write(tmp_path / f"{i}.wav", 8 * noise(1.0, seed=i), subtype="FLOAT")) for i in (0, 1)]
    write_soundtrack([Track(voice.sound, 0.0, 1.0) for voice in voices], 1.0, tmp_path / "mix.m4a")
    played = np.frombuffer(ffmpeg("-i", tmp_path / "mix.m4a", "-f", "f32le", "-"), "<f4")
    assert 0.5 < np.abs(played).max() <= 1.0


@pytest.mark.parametrize(
    ("left", "right", "cancels"),
    [(1, -1, True), (1, -0.9, True), (1, 1, False), (1, 0, False), (0, 1, False), (1, 0.5, False)],
)
def test_channels_that_cancel_are_heard_and_told(left, right, cancels, tmp_path):
    wave = noise(2.0)
    voice = read(write(tmp_path / "a.wav", np.hstack([left * wave, right * wave])))
    assert any("cancel" in warning for warning in voice.warnings) == cancels
    assert np.abs(voice.wave).max() > 0.2 * np.abs(wave).max()


def test_channels_that_cancel_for_a_while_are_heard_throughout(tmp_path):
    wave = noise(4.0)
    other = wave.copy()
    other[RATE_HZ : 3 * RATE_HZ] *= -1
    voice = read(write(tmp_path / "a.wav", np.hstack([wave, other])))
    assert loud(voice) == [True] * 8
    assert "cancel" in voice.warnings[0]


@pytest.mark.parametrize("level", [0.0, 1e-5])
def test_a_silent_voice_is_told(level, tmp_path):
    voice = read(write(tmp_path / "a.wav", level * noise(1.0), subtype="FLOAT"))
    assert voice.warnings == ("wav_url is silent: the mouth of the one who has this voice stays still.",)


def test_64_channels_are_averaged(tmp_path):
    wave = noise(0.5)
    file = io.BytesIO()
    soundfile.write(file, np.repeat(wave, 64, axis=1), RATE_HZ, format="WAV")
    (tmp_path / "a.wav").write_bytes(file.getvalue())
    expected = read(write(tmp_path / "mono.wav", wave))
    np.testing.assert_allclose(read(tmp_path / "a.wav").wave, expected.wave, atol=1e-4)


# ---- metadata ----


def test_chapters_and_titles_cannot_hide_the_sound(tmp_path):
    """60,000 chapters, and what ffmpeg prints, as a title."""
    chapters = "".join(
        f"[CHAPTER]\nTIMEBASE=1/1000\nSTART={i}\nEND={i + 1}\ntitle=Stream mapping: {i}\n" for i in range(60_000)
    )
    (tmp_path / "meta.txt").write_text(f";FFMETADATA1\ntitle=Stream mapping:\n{chapters}")
    source = write(tmp_path / "a.wav", noise(1.0))
    ffmpeg("-i", source, "-i", tmp_path / "meta.txt", "-map_metadata", "1", "-map_chapters", "1", tmp_path / "a.mka")
    assert seconds(read(tmp_path / "a.mka")) == pytest.approx(1.0, abs=0.02)


def test_a_full_disk_is_not_told_as_no_sound(tmp_path, monkeypatch):
    """The decoded sound has no room: the worker's fault, and named so."""
    path = write(tmp_path / "a.wav", noise(1.0))
    (tmp_path / "a.wav.f32").symlink_to("/dev/full")
    with pytest.raises(audio.Internal, match=r"^wav_url: the worker has no room for the decoded sound"):
        read(path)


def test_readers_do_not_load_libav_into_the_worker():
    code = "import sys, infinitetalk.media.audio, infinitetalk.media.video; assert 'av' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["frames", "image", "own_frames", "sound", "stream"])
def test_programs_that_read_files_load_nothing_slow(name):
    """A job starts many of them."""
    code = f"import sys, infinitetalk.media.{name}; print({{'scipy', 'pydantic', 'torch'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout == b"set()\n"
