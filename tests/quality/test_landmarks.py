"""Mouths of photographed people, by points on their faces."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import soundfile
import torch
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image, ImageDraw, ImageFilter

from benchmarks import sync_score as sync_benchmark
from infinitetalk.faces.finder import FaceFinder
from infinitetalk.faces.networks import INSTALL
from infinitetalk.media.speech import loudness
from infinitetalk.quality.landmarks import follow_mouths
from infinitetalk.quality.measures import correlation, sync_score
from infinitetalk.quality.report import measure
from infinitetalk.quality.tracking import track_mouths
from infinitetalk.shapes import FPS, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from tests.support.media_samples import write_result
from training.data import Maker
from training.speech import load_corpus

FRAMES = 7 * FPS


@pytest.fixture(scope="module")
def finder() -> FaceFinder:
    return FaceFinder.open(torch.device("cpu"))


@pytest.fixture(scope="module")
def wave() -> np.ndarray:
    """Seven seconds of speech."""
    sound = load_corpus("held_out", limit_s=40).sound
    start = next(i for i in range(0, len(sound), 16_000) if np.abs(sound[i : i + 8_000]).mean() > 0.01)
    return sound[start : start + FRAMES * SAMPLES_PER_FRAME]


@pytest.fixture(scope="module")
def photographed(wave: np.ndarray) -> np.ndarray:
    """A photograph whose jaw drops as the speech is loud, with a dark gap below the teeth; the head sways."""
    picture = Image.fromarray(skimage.data.astronaut())
    inside, bilinear = Image.new("RGB", picture.size, (60, 20, 20)), Image.Resampling.BILINEAR
    frames = []
    for t, loud in enumerate(loudness(wave, FRAMES)):
        drop = 10 * float(min(loud, 1.3))
        jaw, gap = Image.new("L", picture.size), Image.new("L", picture.size)
        ImageDraw.Draw(jaw).ellipse((192, 120 + drop, 254, 182 + drop), fill=255)
        ImageDraw.Draw(jaw).rectangle((0, 0, 512, 147 + drop), fill=0)
        ImageDraw.Draw(gap).ellipse((205, 147 - drop / 2, 240, 149 + drop), fill=255)
        lower = picture.transform(picture.size, Image.Transform.AFFINE, (1, 0, 0, 0, 1, -drop), bilinear)
        spoken = Image.composite(lower, picture, jaw.filter(ImageFilter.GaussianBlur(2)))
        opened = Image.composite(inside, spoken, gap.filter(ImageFilter.GaussianBlur(1)))
        spoken.paste(opened.crop((0, 147, 512, 512)), (0, 147))
        x, y = 96 + 5 * np.sin(t / 15), 4 + 3 * np.cos(t / 11)
        frames.append(np.asarray(spoken.resize((256, 256), box=(x, y, x + 256, y + 256))))
    return np.stack(frames)


def test_a_photograph_follows_its_own_voice_and_no_other(photographed, wave, finder) -> None:
    assert track_mouths(photographed).mouths == ()  # the measure for drawn people refuses it
    (mouth,) = follow_mouths(photographed, finder, 1).mouths
    loud = loudness(wave, FRAMES)
    assert correlation(mouth.openness, loud) > 0.9
    assert sync_score(mouth.openness, loud) > 5
    others = [sync_score(mouth.openness, np.roll(loud, 25 * s)) for s in (2, 3, 4)]
    others.append(sync_score(mouth.openness, loud[::-1]))
    assert max(others) < 2
    assert np.ptp(mouth.x) > 8  # the head's own way


def test_the_report_measures_a_photograph_and_says_how(photographed, finder, tmp_path: Path) -> None:
    path = tmp_path / "photographed.mp4"
    write_result(path, photographed[: 2 * FPS])
    with_points = measure(path, finder=finder).report
    assert len(with_points.people) == 1 and with_points.identity is not None
    assert any("points on the faces" in note for note in with_points.notes)
    without = measure(path).report
    assert without.people == () and any(INSTALL in note for note in without.notes)


def test_drawn_mouths_are_followed_by_points_too(finder) -> None:
    corpus = load_corpus("held_out", limit_s=40)
    clip = Maker(corpus, torch.device("cpu"), 4).clip(1, 60, 2, (320, 192), silent=0.0, wander=1.0)
    frames = (clip.video[0].permute(1, 2, 3, 0) + 1).mul(127.5).round().clamp(0, 255).to(torch.uint8).numpy()
    tracked = follow_mouths(frames, finder, 2)
    for mouth, height in zip(tracked.mouths, clip.motion.height[0].numpy(), strict=True):
        assert correlation(mouth.openness, height) > 0.85


def test_where_no_face_is_none_is_invented(finder) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, 96, 160, 3), dtype=np.uint8)
    assert follow_mouths(noise, finder).reason == "no face found in the picture"
    assert follow_mouths(noise, finder, 2).reason == "0 of 2 faces found in the picture"


def test_a_mouth_that_is_still_and_a_short_clip_have_no_score(wave) -> None:
    loud = loudness(wave, FRAMES)
    assert sync_score(np.full(FRAMES, 0.3, np.float32), loud) is None
    assert sync_score(loud[: 5 * FPS], loud[: 5 * FPS]) is None
    assert sync_score(loud, loud) > 5


def test_the_benchmark_scores_own_and_foreign_sound(photographed, wave, tmp_path: Path, monkeypatch, capsys) -> None:
    film, voice = tmp_path / "film.mp4", tmp_path / "voice.wav"
    soundfile.write(voice, wave, SAMPLE_RATE_HZ)
    inputs = ("-i", write_result(tmp_path / "silent.mp4", photographed), "-i", voice)
    subprocess.run([get_ffmpeg_exe(), "-v", "error", *inputs, "-c:v", "copy", film], check=True)
    monkeypatch.setattr(sync_benchmark, "load_corpus", lambda name: load_corpus(name, limit_s=40))
    sync_benchmark.main([str(film), "--audio", str(voice)])
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert float(lines["its own sound"]) > 5
    assert float(lines["voice.wav"]) > 5
    assert "mean" in lines["held-out speech"]
