"""Where films are cut: films of known cuts, dissolves, fades and flashes, and some of none."""

import numpy as np
import pytest
from numpy.typing import NDArray

from infinitetalk.media.scenes import THUMBNAIL, find_cuts
from infinitetalk.media.video import SourceVideo
from tests.support.media_samples import X264, ffmpeg

WIDTH, HEIGHT = THUMBNAIL
Film = NDArray[np.float32]


def shot(seed: int, n_frames: int, pan: float = 0.05, noise: float = 1.5) -> Film:
    """A shot of soft shapes that a hand-held camera moves over, with a sensor's noise."""
    random = np.random.default_rng(seed)
    side = np.arange(0, WIDTH + n_frames * pan + 8, 0.5)
    waves = [np.sin(side[None, :] / random.uniform(3, 14) + random.uniform(0, 6)) for _ in range(6)]
    rows = [np.sin(np.arange(HEIGHT)[:, None] / random.uniform(3, 14) + random.uniform(0, 6)) for _ in range(6)]
    picture = sum(a * b for a, b in zip(waves, rows, strict=True))
    tint = random.uniform(0.4, 1, 3)
    frames = []
    for index in range(n_frames):
        x = round(2 * (index * pan + 2 + np.sin(index / 5)))
        seen = 128 + 30 * picture[:, x : x + 2 * WIDTH : 2, None] * tint
        frames.append(seen + random.normal(0, noise, seen.shape))
    return np.stack(frames).astype(np.float32)


def dissolved(a: Film, b: Film, n_frames: int) -> Film:
    """Two shots, the last frames of the first mixed with the first of the second."""
    share = (np.arange(n_frames) + 1)[:, None, None, None] / (n_frames + 1)
    return np.concatenate((a[:-n_frames], (1 - share) * a[-n_frames:] + share * b[:n_frames], b[n_frames:]))


def faded(a: Film, b: Film, n_frames: int) -> Film:
    """Two shots with a fade to black and out of it between them, of n_frames each."""
    share = (np.arange(n_frames) + 1)[:, None, None, None] / (n_frames + 1)
    return np.concatenate((a[:-n_frames], (1 - share) * a[-n_frames:], share * b[:n_frames], b[n_frames:]))


def thumbnails(film: Film) -> NDArray[np.uint8]:
    return film.clip(0, 255).astype(np.uint8)


def test_hard_cuts_are_found_to_the_frame() -> None:
    film = np.concatenate([shot(seed, n) for seed, n in enumerate((60, 40, 9, 70, 3))])
    assert find_cuts(thumbnails(film)) == [60, 100, 109, 179]


@pytest.mark.parametrize("n_frames", [8, 12, 25, 50])
def test_a_dissolve_is_one_cut_where_the_old_scene_is_gone(n_frames: int) -> None:
    (cut,) = find_cuts(thumbnails(dissolved(shot(1, 150), shot(2, 150), n_frames)))
    assert 150 - n_frames * 0.35 <= cut <= 150 + 10  # at most some 30 % of the old scene is left


@pytest.mark.parametrize("n_frames", [10, 25])
def test_a_fade_through_black_is_one_cut(n_frames: int) -> None:
    (cut,) = find_cuts(thumbnails(faded(shot(1, 150), shot(2, 150), n_frames)))
    assert 150 <= cut <= 150 + n_frames + 5


@pytest.mark.parametrize("n_frames", [1, 2, 3])
@pytest.mark.parametrize("level", [90, 255])
def test_a_flash_is_no_cut(n_frames: int, level: float) -> None:
    film = shot(3, 150)
    film[70 : 70 + n_frames] += level
    assert find_cuts(thumbnails(film)) == []


@pytest.mark.parametrize(("pan", "noise"), [(0, 0), (0.05, 1.5), (1, 1.5), (0.05, 8)])
def test_a_shot_has_no_cut(pan: float, noise: float) -> None:
    assert find_cuts(thumbnails(shot(4, 200, pan, noise))) == []


def test_a_fade_to_black_and_back_into_the_same_shot_is_no_cut() -> None:
    film = shot(5, 120)
    fade = np.abs(np.linspace(-1, 1, 30))[:, None, None, None]
    film[40:70] *= fade
    assert find_cuts(thumbnails(film)) == []


def test_a_source_of_few_frames_a_second_is_cut_where_it_is() -> None:
    film = np.concatenate((shot(6, 40), shot(7, 40))).repeat(3, axis=0)
    assert find_cuts(thumbnails(film)) == [120]


@pytest.mark.parametrize("n_frames", [1, 2, 5])
def test_a_clip_of_few_frames_has_no_cut(n_frames: int) -> None:
    assert find_cuts(thumbnails(shot(8, n_frames))) == []


def test_cuts_of_a_file_count_at_25_frames_a_second(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Drawn shots of 2 and 1.6 s at 30 frames a second."""
    film = [tmp_path / "a.mkv", tmp_path / "b.mkv"]
    ffmpeg("-f", "lavfi", "-i", "testsrc2=d=2:r=30:s=320x180", *X264, film[0])
    ffmpeg("-f", "lavfi", "-i", "mandelbrot=r=30:s=320x180", "-t", "1.6", *X264, film[1])
    joined = tmp_path / "film.mp4"
    ffmpeg("-i", film[0], "-i", film[1], "-filter_complex", "[0:v][1:v]concat=n=2", *X264, joined)
    video = SourceVideo.open(joined, "video_url", 160, 96)
    assert video.cuts(90) == (50,)
    assert video.cuts(50) == ()
