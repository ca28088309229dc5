import pytest
from hypothesis import given
from hypothesis import strategies as st

from infinitetalk.planning.extension import cuts_of_clip, source_index, source_runs


def shown(n_frames, n_source, extend):
    return [source_index(index, n_source, extend) for index in range(n_frames)]


def test_the_last_frame_holds():
    assert shown(7, 3, "hold") == [0, 1, 2, 2, 2, 2, 2]


def test_a_loop_begins_again():
    assert shown(8, 3, "loop") == [0, 1, 2, 0, 1, 2, 0, 1]


def test_a_ping_pong_turns_without_showing_a_frame_twice():
    assert shown(11, 3, "ping-pong") == [0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2]
    assert shown(5, 2, "ping-pong") == [0, 1, 0, 1, 0]


@pytest.mark.parametrize("extend", ["hold", "loop", "ping-pong"])
def test_one_frame_stays(extend):
    assert shown(4, 1, extend) == [0, 0, 0, 0]
    assert cuts_of_clip((), 4, 1, extend) == ()


@pytest.mark.parametrize("extend", ["hold", "loop", "ping-pong"])
@given(start=st.integers(0, 100), length=st.integers(1, 100), n_source=st.integers(1, 40))
def test_runs_are_the_frames_in_their_order(extend, start, length, n_source):
    runs = list(source_runs(start, length, n_source, extend))
    frames = [run.start + run.step * i for run in runs for i in range(run.length)]
    assert frames == shown(start + length, n_source, extend)[start:]
    for run in runs:
        assert run.lowest == min(run.start + run.step * i for i in range(run.length))
    assert len(runs) <= 2 * (length // max(n_source - 1, 1)) + 3


def test_cuts_come_again_with_what_is_shown_again():
    assert cuts_of_clip((4,), 30, 10, "hold") == (4,)
    assert cuts_of_clip((4,), 30, 10, "loop") == (4, 10, 14, 20, 24)
    # Forwards 0..9, backwards 8..0, forwards 1..: from 4 to 3 and from 3 to 4.
    assert cuts_of_clip((4,), 30, 10, "ping-pong") == (4, 15, 22)
    assert cuts_of_clip((4,), 10, 10, "loop") == (4,)
    assert cuts_of_clip((), 30, 10, "ping-pong") == ()
