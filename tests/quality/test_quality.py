"""The measures of a talking video, on drawn people whose mouths and voices are known."""

import json
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from scipy.ndimage import gaussian_filter

from infinitetalk.cli import main
from infinitetalk.media.speech import loudness, silent_frames
from infinitetalk.quality import scikit_image
from infinitetalk.quality.measures import (
    beyond_shared,
    correlation,
    drift,
    identity,
    joins_of,
    lip_sync,
    seams,
    stillness,
)
from infinitetalk.quality.report import read_frames
from infinitetalk.quality.similarity import similarity
from infinitetalk.quality.tracking import Tracked, track_mouths
from infinitetalk.shapes import SAMPLES_PER_FRAME
from tests.support.media_samples import write_result
from training.data import Maker
from training.speech import Corpus, load_corpus

FRAMES = 60


@dataclass(frozen=True)
class Drawn:
    """A drawn clip: frames (T, height, width, 3), true mouth heights and voices per person, what was tracked."""

    frames: np.ndarray
    heights: np.ndarray
    waves: list[np.ndarray]
    tracked: Tracked

    @property
    def loud(self) -> list[np.ndarray]:
        return [loudness(wave, len(self.frames)) for wave in self.waves]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus("held_out", limit_s=40)


def draw(corpus: Corpus, people: int, size: tuple[int, int], seed: int, through: Path, silent: float = 0.0) -> Drawn:
    """Drawn people, as a video of the worker shows them."""
    clip = Maker(corpus, torch.device("cpu"), seed).clip(1, FRAMES, people, size, silent=silent, wander=1.0)
    video = (clip.video[0].permute(1, 2, 3, 0) + 1).mul(127.5).round().clamp(0, 255).to(torch.uint8).numpy()
    path = through / f"drawn{people}-{seed}.mp4"
    write_result(path, video)
    frames, _ = read_frames(path, "video")
    starts = [int(start) * SAMPLES_PER_FRAME for start in clip.starts[0]]
    waves = [corpus.sound[start : start + FRAMES * SAMPLES_PER_FRAME] for start in starts]
    return Drawn(frames, clip.motion.height[0].numpy(), waves, track_mouths(frames, people))


@pytest.fixture(scope="module")
def one(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return draw(corpus, 1, (96, 160), 3, tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def two(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return draw(corpus, 2, (160, 96), 4, tmp_path_factory.mktemp("two"))


# --- tracking -----------------------------------------------------------------------------------------------------


def test_the_mouth_of_a_wandering_head_is_followed(one: Drawn) -> None:
    (mouth,) = one.tracked.mouths
    assert np.ptp(mouth.x) + np.ptp(mouth.y) > 2  # pixels: there is something to follow
    assert correlation(mouth.openness, one.heights[0]) > 0.98
    assert abs(mouth.openness[one.heights[0] < 0.05].mean()) < 0.15


def test_each_of_two_mouths_is_its_own_and_the_left_is_the_first(two: Drawn) -> None:
    left, right = two.tracked.mouths
    assert left.x.mean() < right.x.mean()
    for mouth, own, other in zip((left, right), two.heights, two.heights[::-1], strict=True):
        assert correlation(mouth.openness, own) > 0.98
        assert correlation(mouth.openness, other) < 0.7


def test_noise_and_blur_leave_the_mouth_readable(one: Drawn) -> None:
    random = np.random.default_rng(0)
    blurred = np.stack([gaussian_filter(frame, (0.8, 0.8, 0)) for frame in one.frames])
    noisy = (blurred + random.normal(0, 6, blurred.shape)).clip(0, 255).astype(np.uint8)
    (mouth,) = track_mouths(noisy).mouths
    assert correlation(mouth.openness, one.heights[0]) > 0.97


def _noise(random: np.random.Generator) -> np.ndarray:
    return random.integers(0, 256, (8, 96, 160, 3), dtype=np.uint8)


def _hills(random: np.random.Generator) -> np.ndarray:
    blobs = gaussian_filter(random.normal(size=(96, 160, 3)), (4, 4, 0))
    return np.repeat((blobs / blobs.std() * 50 + 128).clip(0, 255).astype(np.uint8)[None], 8, 0)


def _wall(_: np.random.Generator) -> np.ndarray:
    return np.full((8, 96, 160, 3), (180, 170, 150), np.uint8)


@pytest.mark.parametrize("scene", [_noise, _hills, _wall])
def test_where_no_face_is_none_is_invented(scene) -> None:
    tracked = track_mouths(scene(np.random.default_rng(1)))
    assert tracked.mouths == ()
    assert tracked.reason


def test_a_face_that_is_gone_for_most_of_the_clip_is_refused(one: Drawn) -> None:
    frames = one.frames[:24].copy()
    frames[8:] = frames[8:].mean((0, 1, 2)).astype(np.uint8)
    tracked = track_mouths(frames)
    assert tracked.mouths == ()
    assert tracked.reason


def test_a_missing_second_person_is_told(one: Drawn) -> None:
    tracked = track_mouths(one.frames[:10], people=2)
    assert tracked.mouths == ()
    assert "1 of 2" in tracked.reason


def test_a_missing_scikit_image_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)
    with pytest.raises(ImportError, match="pip install scikit-image"):
        scikit_image("metrics")


# --- speech and lips ------------------------------------------------------------------------------------------------


def test_loudness_is_what_drawn_lips_follow(corpus: Corpus) -> None:
    scores = []
    for start in range(0, corpus.speech_frames - 125, 50):
        wave = corpus.sound[start * SAMPLES_PER_FRAME : (start + 125) * SAMPLES_PER_FRAME]
        scores.append(correlation(loudness(wave, 125), corpus.tracks.height[start : start + 125]))
    assert np.mean(scores) > 0.985
    assert min(scores) > 0.96


def test_loudness_does_not_depend_on_the_level_and_is_0_beyond_the_sound() -> None:
    time = np.arange(16_000) / 16_000
    wave = (0.2 * np.sin(2 * np.pi * 300 * time) * (time < 0.5)).astype(np.float32)
    loud = loudness(wave, 50)
    assert np.allclose(loud, loudness(wave / 4, 50), atol=1e-3)
    assert loud[3:10].min() > 0.9
    assert loud[16:].max() < 0.01
    assert silent_frames(loud).tolist().index(True) == int(np.flatnonzero(loud >= 0.12).max()) + 6
    assert loudness(np.zeros(16_000, np.float32), 25).max() == 0


def test_lips_follow_their_own_sound_without_lag_and_no_shuffled_one(one: Drawn) -> None:
    (mouth,), (loud,) = one.tracked.mouths, one.loud
    sync = lip_sync(mouth.openness, loud)
    assert sync.correlation > 0.95
    assert sync.lag_frames == 0
    pieces = np.split(one.waves[0], 15)
    order = np.random.default_rng(2).permutation(15)
    shuffled = np.concatenate([pieces[i] for i in order])
    assert lip_sync(mouth.openness, loudness(shuffled, FRAMES)).correlation < 0.5


def test_a_late_mouth_has_a_lag(one: Drawn) -> None:
    (mouth,), (loud,) = one.tracked.mouths, one.loud
    late = lip_sync(np.roll(mouth.openness, 3), loud)
    assert late.lag_frames == 3
    assert late.peak > late.correlation
    assert lip_sync(np.roll(mouth.openness, -2), loud).lag_frames == -2


def test_an_unmoving_mouth_and_a_silent_sound_give_no_number(one: Drawn) -> None:
    (mouth,), (loud,) = one.tracked.mouths, one.loud
    still = lip_sync(np.full(FRAMES, 0.4, np.float32), loud)
    assert still.correlation is None
    assert "does not move" in still.reason
    assert "no speech" in lip_sync(mouth.openness, np.zeros(FRAMES, np.float32)).reason


def test_swapped_voices_are_told(two: Drawn) -> None:
    left, right = two.loud
    for mouth, own, other in zip(two.tracked.mouths, (left, right), (right, left), strict=True):
        assert lip_sync(mouth.openness, own).correlation > 0.95
        assert abs(beyond_shared(mouth.openness, own, other)) < 0.08
        assert lip_sync(mouth.openness, other).correlation < 0.6
        assert beyond_shared(mouth.openness, other, own) > 0.3


def test_stillness_is_what_the_mouth_does_in_silence() -> None:
    loud = np.r_[np.ones(30), np.zeros(40)].astype(np.float32)
    mouth = np.r_[np.linspace(0, 1, 30), np.full(40, 0.1)].astype(np.float32)
    measured = stillness(mouth, loud, shut=0.04)
    assert measured.frames == 35
    assert measured.above_shut == pytest.approx(0.06, abs=1e-4)
    assert measured.movement == pytest.approx(0, abs=1e-4)
    chatter = mouth + np.r_[np.zeros(30), np.tile([0, 0.4], 20)].astype(np.float32)
    assert stillness(chatter, loud).movement > 0.15
    assert stillness(mouth, np.ones(70, np.float32)).above_shut is None


# --- pictures -------------------------------------------------------------------------------------------------------


def test_a_jump_at_a_join_is_found(one: Drawn) -> None:
    jump = one.frames.copy()
    jump[40:] = np.roll(jump[40:], 3, axis=2)
    smooth, broken = seams(one.frames, [40]), seams(jump, [40])
    assert broken.worst_ratio > 3
    assert broken.at_joins[0] > broken.percentile_95
    assert smooth.worst_ratio < broken.worst_ratio / 2
    assert seams(jump, [20]).worst_ratio < 3  # elsewhere it is no join's
    with pytest.raises(ValueError, match="joins are frames from 1 to 59"):
        seams(one.frames, [FRAMES])


def test_joins_come_from_the_results_settings() -> None:
    assert joins_of({"frames": 125, "window": 49, "overlap": 9}) == (49, 89)
    with pytest.raises(ValueError, match="lack window"):
        joins_of({"frames": 125, "overlap": 9})


def test_colour_drift_and_lost_sharpness_are_measured_as_what_they_are(one: Drawn) -> None:
    still = np.repeat((one.frames[:1] // 2 + 40), 60, 0)
    shifted = still.copy()
    shifted[25:] += np.array([6, 3, 0], np.uint8)
    measured = drift(shifted, still[0])
    assert measured.color == pytest.approx((0, 3, 3), abs=0.01)
    assert measured.color_end == pytest.approx(3, abs=0.01)
    assert measured.sharpness_end == pytest.approx(1, abs=0.01)
    blurred = np.stack([gaussian_filter(frame, (1.5, 1.5, 0)) for frame in still])
    assert drift(blurred, still[0]).sharpness_end < 0.8


def test_identity_looks_outside_mouths_and_heads(one: Drawn) -> None:
    mouths = one.tracked.mouths
    kept = identity(one.frames, one.frames[0], mouths)
    assert kept.still_first_db > 35
    assert kept.outside_mouth_first_db < kept.still_first_db  # the head wanders
    noisy = one.frames.copy()
    noise = np.random.default_rng(3).normal(0, 10, noisy[-25:].shape)
    noisy[-25:] = (noisy[-25:] + noise).clip(0, 255).astype(np.uint8)
    assert identity(noisy, noisy[0], mouths).still_end_db == pytest.approx(28.1, abs=0.7)  # of a deviation of 10
    with pytest.raises(ValueError, match="nobody was followed"):
        identity(one.frames, one.frames[0], ())


def test_similarity_is_1_for_equals_and_tells_blur_from_flicker(one: Drawn) -> None:
    frames = one.frames[:6]
    equal = similarity(frames, frames)
    assert (equal.structure, equal.detail, equal.temporal_consistency, equal.overall) == pytest.approx((1, 1, 1, 1))
    blurred = np.stack([gaussian_filter(frame, (1.2, 1.2, 0)) for frame in frames])
    flicker = (frames.astype(np.int16) + (np.arange(6) % 2 * 12)[:, None, None, None]).clip(0, 255).astype(np.uint8)
    soft, flickering = similarity(frames, blurred), similarity(frames, flicker)
    assert soft.detail < 0.97 < flickering.detail
    assert flickering.temporal_consistency < 0.7 < soft.temporal_consistency
    assert similarity(blurred, frames).overall == pytest.approx(soft.overall, abs=0.01)
    steps = [similarity(frames, np.roll(frames, shift, axis=2)).overall for shift in (0, 1, 3)]
    assert all(a > b for a, b in pairwise(steps))
    with pytest.raises(ValueError, match="same frames and size"):
        similarity(frames, frames[:-1])


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_prints_numbers_and_draws_a_picture(
    two: Drawn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = tmp_path / "two people.mp4"
    write_result(video, two.frames)
    voices = []
    for i, wave in enumerate(two.waves):
        soundfile.write(tmp_path / f"{i}.wav", wave, 16_000)
        voices += ["--audio", str(tmp_path / f"{i}.wav")]
    result = tmp_path / "result.json"
    result.write_text(json.dumps({"output": {"settings": {"frames": FRAMES, "window": 49, "overlap": 9}}}))
    main(["quality", str(video), *voices, "--result", str(result), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert [person["lip_sync"]["correlation"] > 0.95 for person in report["people"]] == [True, True]
    assert report["seams"]["joins"] == [49]
    assert report["similarity"] is None
    assert video.with_suffix(".quality.png").stat().st_size > 10_000


def test_the_command_says_what_cannot_be_measured(
    two: Drawn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = tmp_path / "wall.mp4"
    write_result(video, _wall(np.random.default_rng(0)))
    main(["quality", str(video), "--against", str(video), "--picture", str(tmp_path / "shown.png")])
    shown = " ".join(capsys.readouterr().out.split())
    assert "no frontal face found" in shown
    assert "no sound" in shown
    assert "100.0%" in shown
    assert "lip sync " not in shown.partition("Note")[0]
    assert (tmp_path / "shown.png").is_file()
    with pytest.raises(SystemExit, match="there is no file"):
        main(["quality", str(tmp_path / "absent.mp4")])
