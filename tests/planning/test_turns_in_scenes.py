import numpy as np
import pytest

from infinitetalk.planning.turns import Turns, plan_turns


@pytest.mark.parametrize("voices", [1, 2, 3, 4])
def test_windows_of_several_voices_begin_at_cuts_too(voices):
    random = np.random.default_rng(voices)
    loudness = (random.random((voices, 12)) > 0.5).repeat(20, axis=1).astype(np.float32)  # turns of 20 frames
    cuts = (31, 32, 150)
    windows = plan_turns(Turns(loudness, others_silent=True), 240, 81, 5, cuts)
    assert [frame for window in windows for frame in range(window.keep_start, window.keep_stop)] == list(range(240))
    assert [window.start for window in windows if window.overlap == 0] == [0, *cuts]
    for window in windows:
        assert not any(window.start < cut < window.keep_stop for cut in cuts)
        assert window.heard is not None


def test_without_cuts_nothing_changes():
    loudness = (np.random.default_rng(5).random((3, 12)) > 0.5).repeat(20, axis=1).astype(np.float32)
    assert plan_turns(Turns(loudness), 240, 81, 5, ()) == plan_turns(Turns(loudness), 240, 81, 5)
