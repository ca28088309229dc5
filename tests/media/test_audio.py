import json
import os
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import soundfile
from safetensors.numpy import load_file

from infinitetalk.errors import JobError, MediaUnreadable, TooLarge
from infinitetalk.media.audio import Track, load_audio, load_song, normalise_loudness, place_voices, write_soundtrack
from infinitetalk.media.ffmpeg import run
from infinitetalk.media.probe import probe
from infinitetalk.planning.speakers import speaker_starts
from tests.support.golden import GOLDEN
from tests.support.media_samples import cut_off, ffmpeg, write_picture, write_talking_video, write_tone

LOUDNESS = GOLDEN / "loudness"
REFERENCE = load_file(LOUDNESS / "reference.safetensors")
LIMIT_S = 600.0


def load(path, max_duration_s=None, limit_s=LIMIT_S):
    with TemporaryDirectory() as folder:
        return load_audio(path, "wav_url", max_duration_s, limit_s, Path(folder)).wave


def track(path, start_s, length_s):
    return Track(load_audio(path, "wav_url", None, LIMIT_S, path.parent).sound, start_s, length_s)


def samples(path):
    """A file's own samples, as (n, channels) float32, at its own rate."""
    data = run("-i", str(path), "-map", "0:a:0", "-af", "aformat=sample_fmts=flt", "-f", "f32le", "-")
    channels = probe(path, "file").channels
    return np.frombuffer(data, np.float32).reshape(-1, channels)


# --- loading


def test_loading_equals_librosa(tmp_path):
    librosa = pytest.importorskip("librosa")
    rng = np.random.default_rng(0)
    path = tmp_path / "stereo.wav"
    soundfile.write(path, rng.uniform(-0.9, 0.9, (44_100, 2)), 44_100)
    expected, _ = librosa.load(path, sr=16_000)
    np.testing.assert_allclose(load(path), expected, atol=1e-6)


def test_a_16_khz_mono_wave_is_read_exactly():
    stored, _ = soundfile.read(LOUDNESS / "clip_a.wav", dtype="float32")
    np.testing.assert_array_equal(load(LOUDNESS / "clip_a.wav"), stored)


CONTAINERS = {
    "wav": (),
    "w64": (),
    "aiff": (),
    "au": (),
    "caf": (),
    "flac": (),
    "mp3": (),
    "m4a": (),
    "aac": (),
    "ogg": (),
    "opus": (),
    "webm": (),
    "mka": (),
    "wma": (),
    "mp4": ("-movflags", "frag_keyframe+empty_moov"),
    "mov": ("-movflags", "+faststart"),
}


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_any_container_is_read(suffix, tmp_path):
    tone = write_tone(tmp_path / "tone.wav", 2.0, 44_100)
    path = tmp_path / f"file.{suffix}"
    ffmpeg("-i", tone, *CONTAINERS[suffix], path)
    wave = load(path)
    assert len(wave) / 16_000 == pytest.approx(2.0, abs=0.05)
    middle = wave[8_000:24_000]
    assert np.abs(np.fft.rfft(middle)).argmax() == 440
    assert np.abs(middle).max() == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("suffix", ["wav", "webm", "flac", "mp3", "ogg"])
def test_a_file_written_through_a_pipe_is_read(suffix, tmp_path):
    """Its header was written before anyone knew how long it would be."""
    tone = write_tone(tmp_path / "tone.wav", 2.0)
    streamed = tmp_path / f"streamed.{suffix}"
    streamed.write_bytes(ffmpeg("-i", tone, "-f", suffix, "-"))
    assert len(load(streamed)) / 16_000 == pytest.approx(2.0, abs=0.1)


def test_a_wav_of_unknown_length_is_read_to_its_end(tmp_path):
    path = write_tone(tmp_path / "tone.wav", 2.0)
    data = path.read_bytes()
    at = data.index(b"data") + 4
    path.write_bytes(data[:at] + bytes(4) + data[at + 4 :])
    assert len(load(path)) == 32_000


def test_an_mp3_between_tags_and_garbage_is_read(tmp_path):
    tone = write_tone(tmp_path / "tone.wav", 2.0)
    path = tmp_path / "odd.mp3"
    bare = ffmpeg("-i", tone, "-write_xing", "0", "-id3v2_version", "0", "-f", "mp3", "-")
    tag = b"ID3\x04\0\0\0\0\x02\0" + bytes(256)
    path.write_bytes(tag + b"garbage" * 20 + bare + b"TAG" + bytes(125))
    assert len(load(path)) / 16_000 == pytest.approx(2.0, abs=0.15)


def test_the_sound_of_a_video_is_read(tmp_path):
    assert len(load(write_talking_video(tmp_path / "video.mp4", seconds=2))) == 32_000


@pytest.mark.parametrize(("name", "seconds"), [("voice.wav", 5.0), ("voice_2.flac", 4.1)])
def test_the_bundled_voices_are_read(name, seconds):
    wave = load(Path(__file__).parents[2] / "samples" / name)
    assert len(wave) / 16_000 == pytest.approx(seconds, abs=0.1)
    assert 0.1 < np.abs(wave).max() <= 1


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_a_song_is_read_in_stereo_as_loud_as_its_channels_are(channels, tmp_path):
    path = write_tone(tmp_path / "tone.wav", 1.0, 48_000, channels)
    song = load_song(load_audio(path, "wav_url", None, 600.0, tmp_path).sound, 0.5, 44_100)
    assert song.shape == (22_050, 2)
    np.testing.assert_allclose(song[:, 0], song[:, 1], atol=1e-6)
    assert np.abs(song[2_000:-2_000]).max() == pytest.approx(0.3, rel=0.01)


def test_a_songs_channels_stay_apart(tmp_path):
    path = tmp_path / "apart.flac"
    sound = np.zeros((44_100, 2), np.float32)
    sound[:, 1] = 0.25
    soundfile.write(path, sound, 44_100)
    song = load_song(load_audio(path, "wav_url", None, 600.0, tmp_path).sound, 1.0, 44_100)
    np.testing.assert_allclose(song, sound, atol=1e-4)


def test_max_duration_cuts(tmp_path):
    path = write_tone(tmp_path / "tone.wav", 2.0, 44_100)
    np.testing.assert_array_equal(load(path, max_duration_s=0.5), load(path)[:8000])
    assert len(load(path, max_duration_s=5.0)) == 32_000


def test_more_than_the_limit_is_refused_and_says_what_to_set(tmp_path):
    path = write_tone(tmp_path / "tone.wav", 2.0)
    with pytest.raises(TooLarge, match=r"^wav_url: .*longer than 1.5 s.*max_duration_s to 1.5"):
        load(path, limit_s=1.5)
    with pytest.raises(TooLarge, match="max_duration_s"):
        load(path, max_duration_s=1.75, limit_s=1.5)
    assert len(load(path, max_duration_s=1.5, limit_s=1.5)) == 24_000
    assert len(load(path, limit_s=2.0)) == 32_000


def test_three_hours_are_refused_without_decoding_them(tmp_path):
    path = write_tone(tmp_path / "long.wav", 1.0, 8_000, subtype="PCM_U8")
    data = path.read_bytes()
    at = data.index(b"data") + 4
    path.write_bytes(data[:at] + (10_800 * 8_000).to_bytes(4, "little") + data[at + 4 :])
    os.truncate(path, at + 4 + 10_800 * 8_000)
    assert probe(path, "wav_url").stated_duration_s in (None, 10_800)
    with pytest.raises(TooLarge, match="wav_url"):
        load(path, limit_s=1.0)
    assert len(load(path, max_duration_s=1.0)) == 16_000


@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff", "mp3", "m4a", "mka", "webm", "mov"])
def test_a_truncated_file_is_refused(suffix, tmp_path):
    tone = write_tone(tmp_path / "tone.wav", 4.0, 44_100)
    path = tmp_path / f"file.{suffix}"
    ffmpeg("-i", tone, *CONTAINERS.get(suffix, ()), path)
    for part in (0.5, 0.85):
        with pytest.raises(MediaUnreadable, match=r"^wav_url: the file is truncated"):
            load(cut_off(path, part))


def test_an_end_missing_behind_the_cut_does_not_matter(tmp_path):
    path = cut_off(write_tone(tmp_path / "tone.wav", 4.0), 0.5)
    assert len(load(path, max_duration_s=1.0)) == 16_000
    with pytest.raises(MediaUnreadable, match="truncated"):
        load(path, max_duration_s=3.0)


def test_sound_that_ends_before_the_video_is_not_truncated(tmp_path):
    path = tmp_path / "video.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x64:d=3", "-f", "lavfi", "-i", "sine=d=1", path)
    assert len(load(path)) / 16_000 == pytest.approx(1.0, abs=0.05)


def test_a_recording_with_gaps_is_not_truncated(tmp_path):
    """Calls are recorded so: nothing is stored while nobody speaks."""
    tone = write_tone(tmp_path / "tone.wav", 3.0, 48_000)
    path = tmp_path / "gaps.webm"
    ffmpeg("-i", tone, "-af", "aselect='not(between(t,1,2))'", "-c:a", "libopus", path)
    assert probe(path, "wav_url").stated_duration_s == pytest.approx(3.0, abs=0.1)
    assert len(load(path)) / 16_000 == pytest.approx(3.0, abs=0.1)


def write_float_wav(path, wave):
    soundfile.write(path, np.asarray(wave, np.float32), 16_000, subtype="FLOAT")
    return path


@pytest.mark.parametrize(
    ("wave", "message"),
    [
        ([], "0 s long"),
        (np.zeros(320), "0.02 s long; at least 0.04 s"),
        (np.full(16_000, np.nan), "not numbers"),
        (np.full(16_000, np.inf), "not numbers"),
        (np.where(np.arange(16_000) == 5_000, np.nan, 0.1), "not numbers"),
    ],
)
def test_sound_that_is_none_is_refused(wave, message, tmp_path):
    with pytest.raises(MediaUnreadable, match=f"^wav_url: .*{message}"):
        load(write_float_wav(tmp_path / "bad.wav", wave))


def test_the_shortest_sound_is_one_video_frame(tmp_path):
    assert len(load(write_float_wav(tmp_path / "short.wav", np.full(640, 0.1)))) == 640


def test_files_without_sound_are_refused(tmp_path):
    silent = tmp_path / "silent.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x64:d=0.2", silent)
    page = tmp_path / "page.wav"
    page.write_text("<!DOCTYPE html><html>not found</html>")
    picture = write_picture(tmp_path / "picture.png")
    for path, message in ((silent, "no sound"), (page, "a web page"), (picture, "a picture")):
        with pytest.raises(MediaUnreadable, match=f"^wav_url: .*{message}"):
            load(path)


def test_damaged_files_end_in_an_error_or_a_wave(tmp_path):
    tone = write_tone(tmp_path / "tone.wav", 1.0)
    rng = np.random.default_rng(0)
    for suffix in ("wav", "mp3", "m4a", "flac"):
        path = tmp_path / f"file.{suffix}"
        ffmpeg("-i", tone, path)
        data = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(8):
            damaged = data.copy()
            damaged[rng.integers(0, len(data), 20)] = rng.integers(0, 256, 20)
            path.write_bytes(damaged.tobytes())
            try:
                wave = load(path)
            except JobError as error:
                assert str(error).startswith("wav_url: ")
                assert str(tmp_path) not in str(error)
            else:
                assert np.isfinite(wave).all()


# --- loudness


@pytest.mark.parametrize("name", [key.removesuffix(".in") for key in REFERENCE if key.endswith(".in")])
def test_loudness_equals_the_authors_values(name):
    before = REFERENCE[f"{name}.in"]
    expected = REFERENCE.get(f"{name}.out", before)
    passed_through = json.loads((LOUDNESS / "info.json").read_text())[name]["passed_through"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after = normalise_loudness(before)
    assert after.dtype == np.float32
    np.testing.assert_allclose(after, expected, atol=1e-5)
    assert np.array_equal(after, before) == passed_through


@pytest.mark.parametrize("clip", [path.stem for path in sorted(LOUDNESS.glob("*.wav"))])
def test_loading_and_normalising_equals_the_authors_values(clip):
    wave = normalise_loudness(load(LOUDNESS / f"{clip}.wav"))
    np.testing.assert_allclose(wave, REFERENCE[f"multi.{clip}.normalized"], atol=1e-5)


def test_a_short_sound_gets_the_loudness_of_its_repetition():
    """The authors' code fails below 400 ms."""
    time = np.arange(16_000) / 16_000
    tone = (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    expected = normalise_loudness(tone)
    for n in (640, 1600, 6399):  # 440 Hz repeats every 400 samples or nearly so
        np.testing.assert_allclose(np.abs(normalise_loudness(tone[:n])).max(), np.abs(expected).max(), rtol=0.02)
    assert np.array_equal(normalise_loudness(np.zeros(640, np.float32)), np.zeros(640))


# --- two speakers


def arrange(waves, order):
    """The speakers' waves as a job of that speaker_order hears them."""
    return place_voices(waves, speaker_starts([len(wave) for wave in waves], order))


def test_one_after_the_other_equals_the_authors_values():
    """Their name for it is `add`; the fixture's clips are a and b, 9600 and 12800 samples."""
    first, second = (REFERENCE[f"multi.clip_{clip}.normalized"] for clip in "ab")
    arranged = arrange((first, second), "first_then_second")
    for wave, person in zip(arranged, ("person1", "person2"), strict=True):
        np.testing.assert_array_equal(wave, REFERENCE[f"multi.add_unequal.{person}"])
    np.testing.assert_array_equal(sum(arranged), REFERENCE["multi.add_unequal.sum"])


def test_together_equals_the_authors_values_and_pads_the_shorter():
    """Their name for it is `para`; with unequal lengths it fails."""
    first, second = (REFERENCE[f"multi.clip_{clip}.normalized"] for clip in "cb")
    for wave, person in zip(arrange((first, second), "together"), ("person1", "person2"), strict=True):
        np.testing.assert_array_equal(wave, REFERENCE[f"multi.para_equal.{person}"])
    short = REFERENCE["multi.clip_a.normalized"]
    padded, whole = arrange((short, second), "together")
    np.testing.assert_array_equal(padded, np.r_[short, np.zeros(3200, np.float32)])
    np.testing.assert_array_equal(whole, second)


def test_the_second_speaker_may_come_first():
    first, second = np.ones(3, np.float32), np.full(2, 2, np.float32)
    wave_1, wave_2 = arrange((first, second), "second_then_first")
    assert wave_1.tolist() == [0, 0, 1, 1, 1]
    assert wave_2.tolist() == [2, 2, 0, 0, 0]
    assert wave_1.dtype == wave_2.dtype == np.float32


# --- soundtrack


def test_one_track_keeps_rate_channels_and_place(tmp_path):
    path = tmp_path / "voice.wav"
    rng = np.random.default_rng(0)
    smooth = np.convolve(rng.standard_normal(96_000), np.hanning(200) / 60, "same")
    soundfile.write(path, np.stack([smooth, -0.5 * smooth], axis=1), 48_000)
    write_soundtrack([track(path, 0.0, 2.0)], 1.5, tmp_path / "sound.m4a")
    info = probe(tmp_path / "sound.m4a", "sound")
    assert (info.sample_rate_hz, info.channels) == (48_000, 2)
    sound, original = samples(tmp_path / "sound.m4a"), samples(path)[:72_000]
    assert len(sound) == 72_000
    for channel in (0, 1):
        middle = slice(5_000, 67_000)
        assert np.corrcoef(sound[middle, channel], original[middle, channel])[0, 1] > 0.999
        assert sound[middle, channel].std() == pytest.approx(original[middle, channel].std(), rel=0.02)


def test_a_track_shorter_than_the_video_is_followed_by_silence(tmp_path):
    path = write_tone(tmp_path / "tone.wav", 1.0, 44_100)
    write_soundtrack([track(path, 0.0, 0.4)], 1.0, tmp_path / "sound.m4a")
    sound = samples(tmp_path / "sound.m4a")
    assert len(sound) == 44_100
    assert np.abs(sound[2_000:16_000]).max() > 0.25
    assert np.abs(sound[20_000:]).max() < 1e-3


def test_tracks_are_heard_at_their_times(tmp_path):
    low = write_tone(tmp_path / "low.wav", 1.0, 16_000, frequency_hz=300)
    high = write_tone(tmp_path / "high.flac", 1.0, 48_000, channels=2, frequency_hz=3000)
    write_soundtrack([track(low, 0.0, 0.5), track(high, 0.5, 0.5)], 1.0, tmp_path / "sound.m4a")
    sound = samples(tmp_path / "sound.m4a")
    assert sound.shape == (48_000, 2)  # the higher rate, stereo since one is
    for start, frequency_hz in ((4_000, 300), (28_000, 3000)):
        part = sound[start : start + 16_000]
        assert np.abs(np.fft.rfft(part[:, 0])).argmax() * 3 == frequency_hz
        np.testing.assert_allclose(np.abs(part).max(axis=0), 0.3, atol=0.02)  # mono is as loud as it was


def test_loud_voices_are_mixed_without_clipping_and_no_quieter_than_needed(tmp_path):
    paths = [write_tone(tmp_path / f"{hz}.wav", 1.0, 44_100, frequency_hz=hz, amplitude=0.9) for hz in (440, 660)]
    write_soundtrack([track(path, 0.0, 1.0) for path in paths], 1.0, tmp_path / "loud.m4a")
    assert 0.9 < np.abs(samples(tmp_path / "loud.m4a")).max() <= 1.0
    paths = [write_tone(tmp_path / f"{hz}.wav", 1.0, 44_100, frequency_hz=hz, amplitude=0.3) for hz in (440, 660)]
    write_soundtrack([track(path, 0.0, 1.0) for path in paths], 1.0, tmp_path / "soft.m4a")
    peak = np.abs(sum(samples(path) for path in paths)).max()
    assert np.abs(samples(tmp_path / "soft.m4a")).max() == pytest.approx(peak, rel=0.06)


def test_the_soundtrack_is_the_same_bytes_each_time(tmp_path):
    paths = [write_tone(tmp_path / f"{hz}.wav", 0.5, 22_050, frequency_hz=hz) for hz in (440, 660)]
    for name in ("a.m4a", "b.m4a"):
        write_soundtrack([track(path, 0.1, 0.4) for path in paths], 0.5, tmp_path / name)
    assert (tmp_path / "a.m4a").read_bytes() == (tmp_path / "b.m4a").read_bytes()


def test_many_channels_are_brought_to_what_aac_holds(tmp_path):
    path = tmp_path / "array.wav"
    soundfile.write(path, np.zeros((8_000, 10)), 16_000)
    write_soundtrack([track(path, 0.0, 0.5)], 0.5, tmp_path / "sound.m4a")
    assert probe(tmp_path / "sound.m4a", "sound").stated_duration_s == pytest.approx(0.5, abs=0.01)
