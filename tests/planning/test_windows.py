from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infinitetalk.contract.presets import list_presets, load_mode
from infinitetalk.planning.windows import Window, audio_frames_read, plan_windows
from infinitetalk.shapes import is_window_length

MODES = list_presets("modes")
TEN_MINUTES = 15_000


def check_windows(windows, n_frames, window_frames, overlap_frames):
    kept = [frame for window in windows for frame in range(window.keep_start, window.keep_stop)]
    assert kept == list(range(n_frames))
    for index, window in enumerate(windows):
        assert window.index == index
        assert is_window_length(window.length)
        assert window.length <= window_frames
        assert window.keep_stop > window.keep_start
        # The kept frames lie inside the window, after the overlap.
        assert window.kept.start == window.overlap
        assert window.kept.stop <= window.length
        assert list(range(window.start, window.stop))[window.kept] == list(range(window.keep_start, window.keep_stop))
    assert windows[0].start == windows[0].overlap == 0
    for before, window in pairwise(windows):
        assert before.length == window_frames
        assert window.start == before.stop - overlap_frames
        assert window.overlap == overlap_frames
    # No 4n+1 shorter than the last window's length reaches the end.
    assert windows[-1].stop - 4 < n_frames <= windows[-1].stop


@pytest.mark.parametrize("mode", MODES)
@given(n_frames=st.integers(1, TEN_MINUTES))
@settings(max_examples=60, deadline=None)
def test_kept_frames_tile_the_clip(mode, n_frames):
    preset = load_mode(mode)
    windows = plan_windows(n_frames, preset.window_frames, preset.overlap_frames)
    check_windows(windows, n_frames, preset.window_frames, preset.overlap_frames)


@pytest.mark.parametrize("mode", MODES)
def test_kept_frames_tile_every_short_clip_and_ten_minutes(mode):
    preset = load_mode(mode)
    for n_frames in [*range(1, 400), TEN_MINUTES]:
        windows = plan_windows(n_frames, preset.window_frames, preset.overlap_frames)
        check_windows(windows, n_frames, preset.window_frames, preset.overlap_frames)


@given(
    n_frames=st.integers(1, 500),
    overlap_frames=st.integers(0, 6).map(lambda n: 4 * n + 1),
    surplus=st.integers(1, 20).map(lambda n: 4 * n),
)
@settings(max_examples=100, deadline=None)
def test_kept_frames_tile_the_clip_for_any_window_and_overlap(n_frames, overlap_frames, surplus):
    window_frames = overlap_frames + surplus
    windows = plan_windows(n_frames, window_frames, overlap_frames)
    check_windows(windows, n_frames, window_frames, overlap_frames)


@pytest.mark.parametrize(("n_frames", "length"), [(1, 1), (2, 5), (5, 5), (6, 9), (80, 81), (81, 81)])
def test_a_clip_shorter_than_a_window_is_one_window_of_the_next_4n_plus_1(n_frames, length):
    assert plan_windows(n_frames, 81, 9) == (Window(0, 0, length, 0, 0, n_frames),)


def test_one_frame_more_than_a_window_needs_a_second_short_one():
    assert plan_windows(82, 81, 9) == (Window(0, 0, 81, 0, 0, 81), Window(1, 72, 13, 9, 81, 82))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 81, 9), "at least 1 frame"),
        ((10, 80, 9), r"4n\+1 frames, not 80 and 9"),
        ((10, 81, 8), r"4n\+1 frames, not 81 and 8"),
        ((10, 9, 9), "nothing new"),
        ((10, 9, 13), "nothing new"),
    ],
)
def test_impossible_windows_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        plan_windows(*arguments)


def test_a_window_reads_two_audio_frames_around_its_own_and_repeats_the_ends():
    first, last = plan_windows(20, 17, 9)
    assert audio_frames_read(first, 20) == (0, 0, *range(19))
    assert audio_frames_read(last, 20) == (*range(6, 20), 19, 19, 19)  # frames 8..21 of a clip of 20
    assert len(audio_frames_read(last, 20)) == last.length + 4


@given(
    n_frames=st.integers(1, 600),
    drawn=st.sets(st.integers(1, 599), max_size=8),
    mode=st.sampled_from(MODES),
)
@settings(max_examples=100, deadline=None)
def test_each_scene_is_covered_as_a_clip_of_its_own(n_frames, drawn, mode):
    preset = load_mode(mode)
    sizes = preset.window_frames, preset.overlap_frames
    cuts = sorted(cut for cut in drawn if cut < n_frames)
    windows = plan_windows(n_frames, *sizes, cuts)
    assert [window.index for window in windows] == list(range(len(windows)))
    expected = []
    for start, stop in pairwise((0, *cuts, n_frames)):
        expected += [
            (start + own.start, own.length, own.overlap, start + own.keep_start, start + own.keep_stop)
            for own in plan_windows(stop - start, *sizes)
        ]
    assert [(w.start, w.length, w.overlap, w.keep_start, w.keep_stop) for w in windows] == expected


def test_no_window_keeps_or_repeats_frames_of_two_scenes():
    windows = plan_windows(200, 81, 5, (30, 130))
    assert [window.start for window in windows if window.overlap == 0] == [0, 30, 130]
    for window in windows:
        for cut in (30, 130):
            assert not window.start < cut < window.keep_stop


@pytest.mark.parametrize("cuts", [(0,), (10,), (5, 5), (6, 4)])
def test_cuts_that_do_not_ascend_within_the_clip_are_refused(cuts):
    with pytest.raises(ValueError, match="cuts must ascend between 0 and 10"):
        plan_windows(10, 81, 5, cuts)
