"""Who is heard in which window."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infinitetalk.planning.turns import AT_A_TIME, Turns, frame_loudness, left_out, plan_turns
from infinitetalk.planning.windows import SILENCE, plan_windows
from infinitetalk.shapes import SAMPLES_PER_FRAME

WINDOW, OVERLAP = 81, 9


def turns(*spoken: list[tuple[int, int]], frames: int = 300, others_silent: bool = False) -> Turns:
    """Voices that are equally loud in the given frames, and silent elsewhere."""
    loudness = np.zeros((len(spoken), frames), np.float32)
    for voice, parts in enumerate(spoken):
        for start, stop in parts:
            loudness[voice, start:stop] = 0.1
    return Turns(loudness, others_silent)


def tile(windows, n_frames: int) -> None:
    done = 0
    for index, window in enumerate(windows):
        assert (window.index, window.keep_start) == (index, done)
        assert window.start == done - window.overlap
        assert window.overlap == (OVERLAP if index else 0)
        assert window.length % 4 == 1
        assert window.length <= WINDOW
        assert window.stop >= window.keep_stop > window.keep_start
        done = window.keep_stop
    assert done == n_frames


def test_one_or_two_voices_have_the_windows_that_they_always_had() -> None:
    expected = plan_windows(300, WINDOW, OVERLAP)
    assert plan_turns(None, 300, WINDOW, OVERLAP) == expected
    assert plan_turns(turns([(0, 300)], [(10, 20)]), 300, WINDOW, OVERLAP) == expected


def test_others_in_the_picture_hear_silence() -> None:
    for voices, heard in ((1, (0, SILENCE)), (2, (0, 1, SILENCE))):
        windows = plan_turns(turns(*[[(0, 300)]] * voices, others_silent=True), 300, WINDOW, OVERLAP)
        assert {window.heard for window in windows} == {heard}
        assert [window.start for window in windows] == [window.start for window in plan_windows(300, WINDOW, OVERLAP)]


def test_each_window_hears_those_who_speak_in_it() -> None:
    heard = turns([(0, 60)], [(150, 200)], [(230, 300)])
    windows = plan_turns(heard, 300, WINDOW, OVERLAP)
    tile(windows, 300)
    assert windows[0].heard == (0, SILENCE)
    assert windows[-1].heard == (2, SILENCE)
    assert (1, SILENCE) in [window.heard for window in windows]
    assert left_out(heard, windows) == ()


def test_a_window_ends_before_a_third_voice_comes_in() -> None:
    heard = turns([(0, 40)], [(20, 60)], [(65, 120)], frames=120)
    windows = plan_turns(heard, 120, WINDOW, OVERLAP)
    tile(windows, 120)
    assert windows[0].heard == (0, 1, SILENCE)
    assert 40 < windows[0].keep_stop <= 62, "the third sounds from the frame 64 on, with its neighbours"
    assert windows[1].heard == (1, 2, SILENCE)
    assert windows[-1].heard == (2, SILENCE)
    assert left_out(heard, windows) == ()


def test_a_window_of_two_ends_as_soon_as_one_is_alone_again() -> None:
    heard = turns([(0, 40)], [(20, 200)], [(250, 300)])
    windows = plan_turns(heard, 300, WINDOW, OVERLAP)
    tile(windows, 300)
    assert windows[0].heard == (0, 1, SILENCE)
    assert 41 <= windows[0].keep_stop <= 48
    assert {window.heard for window in windows[1:-1]} == {(1, SILENCE)}
    assert windows[-1].heard == (2, SILENCE)


def test_a_window_hears_one_voice_alone_where_that_leaves_it_a_second() -> None:
    for pause, expected in ((12, {(0, SILENCE), (1, SILENCE)}), (0, {(0, SILENCE), (0, 1, SILENCE), (1, SILENCE)})):
        heard = turns([(0, 60)], [(60 + pause, 130)], frames=130, others_silent=True)
        windows = plan_turns(heard, 130, WINDOW, OVERLAP)
        tile(windows, 130)
        assert {window.heard for window in windows} == expected


def test_of_three_at_once_the_two_loudest_are_heard_and_the_third_is_told() -> None:
    heard = turns([(0, 200)], [(0, 200)], [(80, 110)], frames=200)
    heard.loudness[0] *= 3
    heard.loudness[1] *= 0.5
    windows = plan_turns(heard, 200, WINDOW, OVERLAP)
    tile(windows, 200)
    (crowded,) = (window for window in windows if window.heard == (0, 2, SILENCE))
    assert crowded.keep_stop - crowded.keep_start <= 48, "it is no longer than the three speak"
    parts = left_out(heard, windows)
    assert {part.voice for part in parts} <= {1, 2}
    assert all(70 / 25 <= part.start_s < part.stop_s <= 125 / 25 for part in parts)
    assert (1, crowded.keep_start / 25, crowded.keep_stop / 25) in [(p.voice, p.start_s, p.stop_s) for p in parts]


def test_quiet_noise_is_not_heard_and_a_quiet_voice_is() -> None:
    loudness = np.full((3, 100), 0.001, np.float32)
    loudness[0, 20:50] = 0.1
    loudness[1] = 0.002 * np.hanning(100)
    heard = Turns(loudness).heard
    assert heard[0].tolist() == [19 <= frame < 51 for frame in range(100)]
    assert heard[1].sum() > 70
    assert not Turns(np.zeros((1, 10), np.float32)).heard.any()


def test_in_silence_the_first_voice_is_heard() -> None:
    (window,) = plan_turns(turns([], [], [], frames=40), 40, WINDOW, OVERLAP)
    assert window.heard == (0, SILENCE)


SPOKEN = st.lists(st.tuples(st.integers(0, 290), st.integers(1, 120)), max_size=4)


@given(st.lists(SPOKEN, min_size=3, max_size=4), st.integers(1, 300))
def test_windows_tile_the_clip_and_hear_at_most_two(spoken, frames: int) -> None:
    heard = turns(*[[(start, start + length) for start, length in parts] for parts in spoken], frames=frames)
    windows = plan_turns(heard, frames, WINDOW, OVERLAP)
    tile(windows, frames)
    for window in windows:
        assert window.heard is not None
        voices = [voice for voice in window.heard if voice != SILENCE]
        assert 1 <= len(voices) <= AT_A_TIME
        assert voices == sorted(set(voices))
        assert window.heard[-1] == SILENCE
    # Every frame in which a voice sounds is heard, or told to be left out.
    told = np.zeros_like(heard.heard)
    for part in left_out(heard, windows):
        told[part.voice, round(part.start_s * 25) : round(part.stop_s * 25)] = True
    for window in windows:
        told[list(window.heard[:-1] or ()), window.keep_start : window.keep_stop] = True
    assert (told >= heard.sounds).all()


def test_loudness_is_counted_by_frames() -> None:
    wave = np.zeros(5 * SAMPLES_PER_FRAME, np.float32)
    wave[SAMPLES_PER_FRAME : 2 * SAMPLES_PER_FRAME] = 0.5
    assert frame_loudness([wave], 6)[0].tolist() == pytest.approx([0, 0.5, 0, 0, 0, 0])
    assert frame_loudness([wave, wave], 3).shape == (2, 3)
