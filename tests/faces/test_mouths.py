"""Mouths by the face mesh's points, and whether they follow a voice."""

import numpy as np
import pytest

from infinitetalk.faces.mouths import MIN_FRAMES, following, openness, openness_curve
from infinitetalk.shapes import FPS
from tests.support.mouths import mesh, syllables


def test_openness_is_the_lips_distance_in_eye_distances_whatever_the_size_and_turn() -> None:
    assert openness(mesh(15)) == pytest.approx(0.25)
    turned = mesh(15) @ np.array([[0.8, -0.6], [0.6, 0.8]], np.float32) * 3
    assert openness(turned) == pytest.approx(0.25)


def test_a_face_that_is_lost_has_no_openness() -> None:
    assert openness_curve([mesh(6), None, mesh(12)]) == pytest.approx([0.1, np.nan, 0.2], nan_ok=True)


def test_a_mouth_follows_its_own_voice_and_no_other() -> None:
    own, foreign = syllables(10 * FPS, seed=1), syllables(10 * FPS, seed=2)
    found = following(np.roll(own, 2), own)
    assert found is not None and found.lag_frames == 2 and found.correlation > 0.95 and found.z > 5
    other = following(own, foreign)
    assert other is not None and other.correlation < 0.3 and other.z < 3


def test_frames_without_a_mouth_are_bridged() -> None:
    own = syllables(10 * FPS, seed=1)
    mouth = own.copy()
    mouth[40:50] = np.nan
    found = following(mouth, own)
    assert found is not None and found.correlation > 0.9


@pytest.mark.parametrize(
    ("mouth", "loud"),
    [
        (np.zeros(100, np.float32), syllables(100, seed=1)),
        (syllables(100, seed=1), np.zeros(100, np.float32)),
        (np.full(100, np.nan, np.float32), syllables(100, seed=1)),
        (syllables(MIN_FRAMES - 1, seed=1), syllables(MIN_FRAMES - 1, seed=1)),
    ],
    ids=["a still mouth", "no voice", "no mouth", "too short"],
)
def test_what_does_not_vary_or_is_too_short_says_nothing(mouth: np.ndarray, loud: np.ndarray) -> None:
    assert following(mouth, loud) is None


def test_curves_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="60 and 70"):
        following(syllables(60, seed=1), syllables(70, seed=1))
