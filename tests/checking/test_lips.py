"""Whether a mouth follows its voice, another's, or none: on curves that are known."""

from dataclasses import replace

import numpy as np
import pytest

from infinitetalk.checking.expected import Expected, Stretch, Voice
from infinitetalk.checking.lip_findings import lip_checks
from infinitetalk.checking.mouths import Follower, Mouth, lips
from infinitetalk.checking.thresholds import load_thresholds
from tests.support.faces import FixedFinder
from tests.support.finished import expected_of, speech

N_FRAMES, SIZE_PX = 400, 80.0


def known(*seeds: int, n_frames: int = N_FRAMES) -> Expected:
    """Voices that speak together."""
    voices = [Voice(f"wav_url_{number}", speech(n_frames, seed)[1]) for number, seed in enumerate(seeds, 1)]
    picture = np.zeros((64, 96, 3), np.uint8)
    one = expected_of(np.zeros(0, np.float32), voices[0].loud, picture, (Stretch(0, n_frames),))
    return replace(one, voices=tuple(voices))


def mouth(loud: np.ndarray, movement: float = 0.2, seed: int = 7) -> Mouth:
    """A mouth that follows a voice, a little restless."""
    noise = np.random.default_rng(seed).normal(0, 0.05, len(loud))
    return Mouth((movement * (loud + noise)).astype(np.float32), SIZE_PX)


def found(expected: Expected, *mouths: Mouth) -> dict[tuple[str, str], str]:
    measured = [lips(one, number, expected) for number, one in enumerate(mouths)]
    return {
        (check.name, (check.voice or "")[-1]): check.outcome
        for check in lip_checks(measured, expected, load_thresholds())
    }


def test_mouths_that_follow_their_voices_are_right() -> None:
    expected = known(1, 2)
    outcomes = found(expected, *(mouth(voice.loud) for voice in expected.voices))
    for number in ("1", "2"):
        assert outcomes["lip_sync", number] == "ok"
        assert outcomes["other_voice", number] == "ok"


def test_swapped_voices_are_found_and_named() -> None:
    expected = known(1, 2)
    mouths = [mouth(voice.loud) for voice in expected.voices[::-1]]
    measured = [lips(one, number, expected) for number, one in enumerate(mouths)]
    notes = [check.note for check in lip_checks(measured, expected, load_thresholds()) if check.outcome == "look at it"]
    assert "The mouth of wav_url_1 does not follow its voice." in notes
    assert "The mouth of wav_url_1 moves with wav_url_2." in notes
    assert "The mouth of wav_url_2 moves with wav_url_1." in notes


def test_voices_that_are_alike_are_not_told_apart() -> None:
    expected = known(1, 1)
    outcomes = found(expected, *(mouth(voice.loud) for voice in expected.voices))
    assert outcomes["lip_sync", "1"] == "ok"
    assert outcomes["other_voice", "1"] == "not measured"


@pytest.mark.parametrize(
    ("movement", "outcome"), [(0.2, "ok"), (0.012, "undecided"), (0.001, "look at it"), (0.0, "look at it")]
)
def test_a_mouth_must_move_enough(movement: float, outcome: str) -> None:
    expected = known(1)
    assert found(expected, mouth(expected.voices[0].loud, movement))["lip_sync", "1"] == outcome


def test_a_mouth_that_moves_by_itself_does_not_follow() -> None:
    expected = known(1)
    assert found(expected, mouth(speech(N_FRAMES, 5)[1]))["lip_sync", "1"] == "look at it"


def test_less_than_eight_seconds_of_speech_are_not_measured() -> None:
    expected = known(1, n_frames=150)
    assert found(expected, mouth(expected.voices[0].loud))["lip_sync", "1"] == "not measured"


def test_a_mouth_that_talks_on_in_silence_is_found() -> None:
    expected = known(1)
    voice = expected.voices[0].loud.copy()
    moved = voice.copy()
    voice[200:] = 0
    expected = replace(expected, voices=(Voice("wav_url_1", voice),))
    assert found(expected, mouth(voice))["silence", "1"] == "ok"
    assert found(expected, mouth(moved))["silence", "1"] == "look at it"


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (Mouth(np.full(N_FRAMES, np.nan, np.float32), 0.0), "no face of this speaker is found"),
        (Mouth(np.ones(N_FRAMES, np.float32), 12.0), "12 pixels where it is looked at"),
        (Mouth(np.where(np.arange(N_FRAMES) % 2, np.nan, 1).astype(np.float32), 80.0), "in only 50% of the frames"),
    ],
)
def test_what_cannot_be_followed_says_why(one: Mouth, reason: str) -> None:
    assert reason in (lips(one, 0, known(1)).reason or "")


def test_faces_are_followed_as_frames_pass() -> None:
    expected = known(1, n_frames=10)
    follower = Follower(expected, FixedFinder((0.5, 0.5, 0.5)))  # type: ignore[arg-type]
    frames = iter([np.zeros((64, 96, 3), np.uint8)] * 10)
    following = follower.following(frames)
    for taken in range(1, 4):
        next(following)
        assert follower.n_frames == taken
    assert len(list(frames)) == 7
    (one,) = follower.mouths
    assert len(one.openness) == 3
    assert one.size == pytest.approx(32, abs=1)
