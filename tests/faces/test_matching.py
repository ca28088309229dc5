"""Which voice belongs to which face, by mouths and voices alone."""

import numpy as np
import pytest

from infinitetalk.faces.matching import MIN_SPEECH_S, match_voices
from infinitetalk.shapes import FPS
from tests.support.mouths import syllables

T = 10 * FPS


def heard(seed: int, frames: int = T) -> np.ndarray:
    return 0.2 + syllables(frames, seed)


def moved(voice: np.ndarray, seed: int, noise: float = 0.5) -> np.ndarray:
    """A mouth that follows a voice, among other things."""
    return (voice + noise * syllables(len(voice), seed)).astype(np.float32)


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (2, 0, 1), (0, 2, 1), (3, 1, 0, 2)])
def test_the_order_of_the_faces_is_found(order: tuple[int, ...]) -> None:
    voices = [heard(10 + voice) for voice in range(len(order))]
    mouths = [np.empty(0)] * len(order)
    for voice, face in enumerate(order):
        mouths[face] = moved(voices[voice], 20 + voice)
    match = match_voices(mouths, voices)
    assert match is not None and match.faces == order and match.is_certain and match.speech_s == 10.0


def test_picture_and_sound_may_be_shifted_but_all_people_alike() -> None:
    voices = [heard(10), heard(11)]
    match = match_voices([np.roll(moved(voices[1], 21), 3), np.roll(moved(voices[0], 20), 3)], voices)
    assert match is not None and match.faces == (1, 0) and match.is_certain


def test_mouths_that_say_something_else_tell_nothing() -> None:
    certain = 0
    for seed in range(20):
        voices = [heard(100 + 4 * seed), heard(101 + 4 * seed)]
        match = match_voices([heard(102 + 4 * seed), heard(103 + 4 * seed)], voices)
        certain += match is not None and match.is_certain
    assert certain <= 2


def test_little_speech_decides_nothing() -> None:
    frames = round((MIN_SPEECH_S - 0.5) * FPS)
    voices = [heard(10, frames), heard(11, frames)]
    match = match_voices([moved(voices[1], 21), moved(voices[0], 20)], voices)
    assert match is not None and match.faces == (1, 0) and not match.is_certain


def test_a_silent_voice_or_a_still_mouth_cannot_be_matched() -> None:
    voice = heard(10)
    assert match_voices([moved(voice, 20), moved(voice, 21)], [voice, np.zeros(T, np.float32)]) is None
    assert match_voices([moved(voice, 20), np.ones(T, np.float32)], [voice, heard(11)]) is None
