"""Faults in a finished video are found, each by its check, and nothing is found where there is none."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from benchmarks.planted import FACE_BLURRED, FACE_NOISY, FAULTS, Clip, write_clip
from infinitetalk.checking.check import check_video
from infinitetalk.checking.expected import Stretch
from infinitetalk.checking.findings import picture_checks
from infinitetalk.checking.pictures import Seen, most_alike
from infinitetalk.checking.sound import pieces
from infinitetalk.checking.thresholds import load_thresholds
from infinitetalk.contract.result import CheckName, Checks
from infinitetalk.media.audio import Track, heard_in, heard_of, load_audio, write_soundtrack
from infinitetalk.media.encode import count_frames
from infinitetalk.shapes import SAMPLE_RATE_HZ
from tests.support.finished import make_clip, speech, write
from tests.support.media_samples import ffmpeg

SAMPLES = Path(__file__).parents[2] / "samples"

PLANTED = [name for name, fault in FAULTS.items() if not fault.needs_faces and name not in (FACE_BLURRED, FACE_NOISY)]


@pytest.fixture(scope="module")
def clip() -> Clip:
    return make_clip()


def outcomes(checks: Checks) -> dict[str, str]:
    return {check.name: check.outcome for check in checks.details}


def look(clip: Clip, path: Path) -> Checks:
    write(clip, path)
    return check_video(path, clip.expected, None, 60)


def test_nothing_is_found_where_nothing_is_wrong(clip: Clip, tmp_path: Path) -> None:
    checks = look(clip, tmp_path / "clean.mp4")
    assert (checks.verdict, checks.look_at, checks.retryable_with) == ("ok", [], None)
    measured = {name for name, outcome in outcomes(checks).items() if outcome == "ok"}
    assert measured == set(get_args(CheckName)) - {"lip_sync", "other_voice", "silence"}
    lips = [check for check in checks.details if check.voice == "wav_url"]
    assert [(check.name, check.outcome) for check in lips] == [
        ("lip_sync", "not measured"),
        ("silence", "not measured"),
    ]
    assert all("networks are not installed" in (check.note or "") for check in lips)


@pytest.mark.parametrize("name", PLANTED)
def test_each_fault_is_found(name: str, clip: Clip, tmp_path: Path) -> None:
    fault = FAULTS[name]
    assert fault.fits(clip.expected)
    checks = look(fault.plant(clip), tmp_path / "planted.mp4")
    found = [check for check in checks.details if check.outcome == "look at it"]
    assert checks.verdict == "look at it"
    assert {check.name for check in found} & set(fault.found_by)
    assert len(checks.look_at) == len(found)
    assert all(sentence.startswith(("Second ", "The picture jumps at join ")) for sentence in checks.look_at)
    helps = {"seed", "audio_guidance", "color_correction"}
    is_files = fault.found_by[0] in ("sound", "sound_length", "size", "frames")
    assert (checks.retryable_with is None) == is_files
    assert set(checks.retryable_with or {}) <= helps


def test_a_sentence_says_where(clip: Clip, tmp_path: Path) -> None:
    frames = clip.frames.copy()
    frames[40:50] = 0
    frames[70:] = np.roll(frames[70:], 0)
    checks = look(replace(clip, frames=frames), tmp_path / "black.mp4")
    assert checks.look_at == ["Second 1.60 to 2.00 is black."]
    jumped = look(FAULTS["a jump of 1 % at a join"].plant(clip), tmp_path / "jump.mp4")
    (sentence,) = jumped.look_at
    assert sentence.startswith("The picture jumps at join 2 (second 2.56) by ")


def test_a_file_that_is_cut_off_is_found(clip: Clip, tmp_path: Path) -> None:
    path = write(clip, tmp_path / "whole.mp4")
    assert count_frames(path) == 96
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    checks = check_video(path, clip.expected, None, 60)
    assert outcomes(checks)["frames"] == "look at it"
    assert any("the video ends early" in sentence for sentence in checks.look_at)


def test_a_second_that_is_missing_in_the_sound_is_found(clip: Clip, tmp_path: Path) -> None:
    assert clip.sound is not None
    for first_s, expected in ((0, "Second 0: "), (2, "Second 2: ")):
        sound = clip.sound.copy()
        sound[first_s * SAMPLE_RATE_HZ : (first_s + 1) * SAMPLE_RATE_HZ] = 0
        checks = look(replace(clip, sound=sound), tmp_path / f"{first_s}.mp4")
        assert outcomes(checks)["sound"] == "look at it"
        assert checks.look_at[0].startswith(expected)


def test_a_quieter_voice_that_is_missing_is_found() -> None:
    first, second = speech(250, 1)[0], speech(250, 2)[0] / 2
    assert min(piece.likeness for piece in pieces(first + second, first + second)) > 0.999
    assert min(piece.likeness for piece in pieces(first, first + second)) < 0.8


def test_the_workers_own_encoder_leaves_each_second_alike(tmp_path: Path) -> None:
    voices = [load_audio(SAMPLES / name, "wav_url", None, 60, tmp_path) for name in ("voice.wav", "voice_2.flac")]
    tracks = [Track(voice.sound, start_s, 4.0) for voice, start_s in zip(voices, (0.0, 1.3), strict=True)]
    write_soundtrack(tracks, 5.3, tmp_path / "sound.m4a")
    found = pieces(heard_in(tmp_path / "sound.m4a"), heard_of(tracks, 5.3))
    assert len(found) == 6
    assert min(piece.likeness for piece in found) > 0.99


def test_frames_beyond_the_plan_leave_the_others_measured(clip: Clip, tmp_path: Path) -> None:
    longer = np.concatenate((clip.frames, clip.frames[-4:]))
    found = outcomes(look(replace(clip, frames=longer), tmp_path / "longer.mp4"))
    assert found["frames"] == "look at it"
    assert (found["blank"], found["frozen"], found["joins"]) == ("ok", "ok", "ok")


def test_a_file_without_frames_or_sound_says_so_everywhere(clip: Clip, tmp_path: Path) -> None:
    path = write(clip, tmp_path / "whole.mp4")
    ffmpeg("-i", path, "-map", "0:a", "-c", "copy", tmp_path / "sound.mp4")
    checks = check_video(tmp_path / "sound.mp4", clip.expected, None, 60)
    assert set(outcomes(checks)) == {"size", *outcomes(check_video(path, clip.expected, None, 60))}
    assert checks.look_at == ["Second 0.00: the video ends early: 0 of 96 frames can be decoded."]
    path.write_bytes(b"nothing")
    checks = check_video(path, clip.expected, None, 60)
    assert "Second 0.00: the video has no sound that can be decoded." in checks.look_at
    for n_frames in (1, 2, 33):
        checks = look(replace(clip, frames=clip.frames[:n_frames]), path)
        assert outcomes(checks)["frames"] == "look at it"
        assert not any("itself failed" in (one.note or "") for one in checks.details)


@pytest.mark.parametrize("how", [("-display_rotation", "90"), ("-display_rotation", "180"), ("-display_hflip",)])
def test_a_file_that_is_turned_when_it_is_shown_is_found(how: tuple[str, ...], clip: Clip, tmp_path: Path) -> None:
    ffmpeg(*how, "-i", write(clip, tmp_path / "one.mp4"), "-c", "copy", tmp_path / "turned.mp4")
    assert outcomes(check_video(tmp_path / "turned.mp4", clip.expected, None, 60))["size"] == "look at it"


def test_pixels_that_are_not_square_are_another_size(clip: Clip, tmp_path: Path) -> None:
    wide = ("-c", "copy", "-bsf:v", "h264_metadata=sample_aspect_ratio=2/1")
    ffmpeg("-i", write(clip, tmp_path / "one.mp4"), *wide, tmp_path / "wide.mp4")
    checks = check_video(tmp_path / "wide.mp4", clip.expected, None, 60)
    assert checks.look_at == ["Second 0.00: the video is shown at 192x64 instead of 96x64."]


def test_a_frozen_second_is_found_behind_a_coarser_encoder(clip: Clip, tmp_path: Path) -> None:
    """It goes on refining a picture that stands still."""
    path = write(FAULTS["a second frozen in a window"].plant(clip), tmp_path / "frozen.mp4")
    for crf in ("23", "28"):
        ffmpeg("-i", path, "-c:v", "libx264", "-crf", crf, "-c:a", "copy", tmp_path / f"{crf}.mp4")
        assert outcomes(check_video(tmp_path / f"{crf}.mp4", clip.expected, None, 60))["frozen"] == "look at it"


def kept(clip: Clip, tmp_path: Path) -> Clip:
    """The same as a film of which a face is generated."""
    face = (0.37, 0.25, 0.63, 0.7)
    film = replace(clip.expected, is_source=True, reference=lambda frame: clip.frames[frame], made=lambda _: (face,))
    return replace(clip, expected=replace(film, compared=tuple(Stretch(at, at + 1) for at in (0, 48, 95))))


def test_a_smeared_face_in_a_film_that_is_kept_is_found(clip: Clip, tmp_path: Path) -> None:
    film = kept(clip, tmp_path)
    assert outcomes(look(film, tmp_path / "clean.mp4"))["sharpness"] == "ok"
    for name, words in ((FACE_BLURRED, "the generated face is blurred"), (FACE_NOISY, "noise, or a pattern")):
        assert FAULTS[name].fits(film.expected)
        told = look(FAULTS[name].plant(film), tmp_path / "planted.mp4").look_at
        assert any(words in sentence for sentence in told)
    unseen = replace(film.expected, made=lambda _: ((np.nan,) * 4,))
    checks = look(replace(film, expected=unseen), tmp_path / "unseen.mp4")
    (sharpness,) = (one for one in checks.details if one.name == "sharpness")
    assert (sharpness.outcome, sharpness.value) == ("not measured", None)
    assert "no speaker's face is seen" in (sharpness.note or "")


def test_a_film_that_jumps_by_itself_is_no_fault(clip: Clip, tmp_path: Path) -> None:
    jumping = FAULTS["8 frames moved by 5 %"].plant(kept(clip, tmp_path))
    assert outcomes(look(jumping, tmp_path / "made.mp4"))["jumps"] == "look at it"
    film = replace(jumping.expected, reference=lambda frame: jumping.frames[frame])
    assert outcomes(look(replace(jumping, expected=film), tmp_path / "film.mp4"))["jumps"] == "ok"


def test_what_repeats_has_a_value_or_a_reason(clip: Clip) -> None:
    seen = Seen()
    for _ in seen.passing(clip.frames, clip.expected):
        pass
    assert most_alike(seen, clip.expected) is not None
    silent = replace(clip.expected, moving=np.zeros(96, np.bool_))
    (repeated,) = (one for one in picture_checks(seen, silent, load_thresholds()) if one.name == "repeated")
    assert repeated.outcome == "not measured"


def test_stillness_in_silence_is_no_fault(clip: Clip, tmp_path: Path) -> None:
    frames = clip.frames.copy()
    frames[30:] = frames[29]
    still = replace(clip, frames=frames)
    assert outcomes(look(still, tmp_path / "spoken.mp4"))["frozen"] == "look at it"
    silent = clip.expected.moving.copy()
    silent[29:] = False
    quiet = replace(still, expected=replace(clip.expected, moving=silent))
    assert outcomes(look(quiet, tmp_path / "silent.mp4"))["frozen"] == "ok"


def test_a_film_that_stands_still_or_is_black_by_itself_is_no_fault(clip: Clip, tmp_path: Path) -> None:
    frames = clip.frames.copy()
    frames[20:40] = frames[19]
    frames[60:70] = 5
    film = replace(clip.expected, is_source=True, reference=lambda frame: frames[frame], compared=())
    found = outcomes(look(replace(clip, frames=frames, expected=film), tmp_path / "film.mp4"))
    assert (found["frozen"], found["blank"], found["repeated"]) == ("ok", "ok", "not measured")
    other = replace(film, reference=lambda frame: clip.frames[frame])
    found = outcomes(look(replace(clip, frames=frames, expected=other), tmp_path / "made.mp4"))
    assert (found["frozen"], found["blank"]) == ("look at it", "look at it")


def test_the_cut_to_another_scene_is_no_jump(clip: Clip, tmp_path: Path) -> None:
    frames = clip.frames.copy()
    frames[32:] = frames[32:, ::-1]
    windows = tuple(replace(one, is_join=one.is_join and one.first != 32) for one in clip.expected.windows)
    cut = replace(clip, frames=frames, expected=replace(clip.expected, windows=windows))
    assert outcomes(look(cut, tmp_path / "cut.mp4"))["joins"] == "ok"
    joined = replace(clip, frames=frames)
    assert outcomes(look(joined, tmp_path / "joined.mp4"))["joins"] == "look at it"


def test_other_rates_are_measured_in_their_own_frames(clip: Clip, tmp_path: Path) -> None:
    from fractions import Fraction

    faster = replace(clip.expected, rate=Fraction(30000, 1001))
    checks = look(replace(clip, expected=faster), tmp_path / "faster.mp4")
    assert outcomes(checks)["frames"] == "ok"
    assert faster.at_clip_rate(np.arange(96, dtype=np.float32), 80)[[0, 40, 79]].tolist() == [0.0, 48.0, 95.0]


def test_a_planted_file_is_encoded_as_the_workers(clip: Clip, tmp_path: Path) -> None:
    path = write(clip, tmp_path / "one.mp4")
    write_clip(replace(clip, sound=None), path, tmp_path / "two.mp4")
    assert count_frames(tmp_path / "two.mp4") == 96
