from itertools import pairwise

import pytest

from infinitetalk.planning.windows import audio_frames_read, plan_windows
from infinitetalk.shapes import frames_of_samples
from tests.support.reference_schedule import (
    reference_audio_frames,
    reference_audio_frames_read,
    reference_windows,
)

# What the authors' code did: audio frames per speaker, overlap, frame limit -> window starts, frames of the
# video. Windows of 17 frames.
CASES = [
    ((30,), 9, 1000, (0, 8, 16), 30),
    ((25,), 9, 1000, (0, 8), 25),  # the audio ends where the second window does
    ((18,), 9, 1000, (0, 8), 18),
    ((30,), 5, 1000, (0, 12, 24), 30),
    ((26,), 5, 1000, (0, 12), 26),
    ((26,), 6, 1000, (0, 11), 26),  # an overlap that is not 4n+1
    ((30,), 9, 17, (0,), 17),
    ((30,), 9, 20, (0, 8), 20),
    ((30, 30), 9, 1000, (0, 8, 16), 30),
    ((34, 24), 9, 1000, (0, 8, 16, 24), 24),  # the second, shorter audio cuts the video
    ((30, 44), 9, 1000, (0, 8, 16), 33),  # the second, longer one leaves the last window whole
]


@pytest.mark.parametrize(("audio_frames", "overlap", "limit", "starts", "frames_out"), CASES)
def test_windows_are_those_of_the_authors_code(audio_frames, overlap, limit, starts, frames_out):
    windows = reference_windows(audio_frames, 17, overlap, limit)
    assert tuple(window.start for window in windows) == starts
    assert {window.length for window in windows} == {17}
    assert [window.overlap for window in windows] == [0] + [overlap] * (len(starts) - 1)
    kept = [frame for window in windows for frame in range(window.keep_start, window.keep_stop)]
    assert kept == list(range(frames_out))


@pytest.mark.parametrize(
    ("samples", "theirs", "ours"),
    [(40_000, 62, 63), (32_480, 50, 51), (32_319, 50, 50), (32_320, 50, 51), (32_000, 50, 50), (31_999, 49, 50)],
)
def test_the_authors_code_cuts_a_frame_that_the_audio_does_not_fill_and_ours_rounds_it(samples, theirs, ours):
    assert reference_audio_frames(samples) == theirs
    assert frames_of_samples(samples) == ours


def test_audio_not_longer_than_a_window_is_refused_as_in_the_authors_code():
    with pytest.raises(ValueError, match="longer than 17 frames, not 17"):
        reference_windows((30, 17), 17, 9, 1000)


def test_the_last_window_reads_the_audios_end_backwards():
    windows = reference_windows((30,), 17, 9, 1000)
    first, _, last = reference_audio_frames_read(windows, 30)
    assert first == (0, 0, *range(19))
    assert last == (*range(14, 30), 29, 28, 27, 26, 25)  # frames 16..32, two more on either side


def test_an_audio_that_ends_earlier_repeats_its_end_until_the_last_window():
    windows = reference_windows((34, 24), 17, 9, 1000)
    _, _, third, last = reference_audio_frames_read(windows, 24)
    assert third == (*range(14, 24), *[23] * 11)  # frames 16..32: clamped
    assert last == (22, 23, *reversed(range(5, 24)))  # frames 24..40: the reversed end


def test_an_audio_that_reaches_beyond_the_last_window_is_not_continued():
    windows = reference_windows((30, 44), 17, 9, 1000)
    assert reference_audio_frames_read(windows, 44)[-1] == tuple(range(14, 35))


def test_a_single_window_repeats_the_audios_end():
    windows = reference_windows((18,), 17, 9, 17)
    assert reference_audio_frames_read(windows, 18) == [(0, 0, *range(18), 17)]


def test_where_our_schedule_differs_from_the_authors_and_why():
    """A voice shorter than a window is refused there. The second voice decides the length there, so a shorter one
    cuts the first off and a longer one is cut. The last window there speaks what is left backwards."""
    with pytest.raises(ValueError, match="longer than 17"):
        reference_windows([10], 17, 9, 1000)
    (short,) = plan_windows(10, 17, 9)
    assert (short.length, short.keep_stop) == (13, 10)

    for voices, theirs in (((34, 24), 24), ((30, 44), 33)):
        assert reference_windows(voices, 17, 9, 1000)[-1].keep_stop == theirs
        assert plan_windows(max(voices), 17, 9)[-1].keep_stop == max(voices)

    windows = reference_windows([30], 17, 9, 1000)
    backwards = reference_audio_frames_read(windows, 30)[-1]
    assert any(later < earlier for earlier, later in pairwise(backwards))
    ours = [audio_frames_read(window, 30) for window in plan_windows(30, 17, 9)]
    assert all(list(frames) == sorted(frames) and max(frames) <= 29 for frames in ours)
