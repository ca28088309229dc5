"""Windows put into a source: what is kept, what is generated, and what the next window needs."""

import json
from fractions import Fraction

import numpy as np
import pytest
import torch

from infinitetalk.blending.canvas import Canvas
from infinitetalk.blending.geometry import depth_inside, face_outline
from infinitetalk.blending.keeper import Keeper
from infinitetalk.blending.tracks import Tracks, follow_speakers, frames_to_gap
from infinitetalk.planning.windows import plan_windows
from tests.support.faces import FixedFinder, face, mesh

WIDTH, HEIGHT = 160, 120
CPU = torch.device("cpu")


class FlatVideo:
    """A source of noise frames, in YUV."""

    is_still = False

    def __init__(self, rate=Fraction(25), n_stored=200):
        self.canvas = Canvas.yuv((WIDTH, HEIGHT), 1, 1)
        self.rate, self.n_stored = rate, n_stored

    def frames_until(self, clip_frame):
        return int(-(-(clip_frame * self.rate / 25 - Fraction(1, 2)) // 1))

    def clip_frame(self, index):
        return int((index + Fraction(1, 2)) * 25 / self.rate)

    def stored_index(self, index):
        return min(index, self.n_stored - 1)

    def frames(self, start, n_frames):
        for index in range(start, start + n_frames):
            random = np.random.default_rng(index)
            yield random.integers(100, 110, (HEIGHT * 3 // 2, WIDTH), np.uint8)


class Follower(FixedFinder):
    """Sees generated faces where the test says, by the frame's first value."""

    def __init__(self, made):
        super().__init__()
        self.made = made

    def follow(self, frames, first):
        for frame in frames:
            points = self.made(int(frame[0, 0, 0]))
            yield tuple(None if points is None else face(points) for _ in first)


def generated(numbers, color=(180, 90, 90)):
    """Flat frames that carry their numbers."""
    frames = np.empty((len(numbers), HEIGHT, WIDTH, 3), np.uint8)
    frames[:] = color
    frames[:, 0, 0, 0] = numbers
    return frames


def run(source, tracks, made, n_frames=40, overlap=5, window=21, resume_at=None, state=b""):
    windows = plan_windows(n_frames, window, overlap)
    keeper = Keeper(source, tracks, Follower(made), (0, 0, WIDTH, HEIGHT), windows, CPU)
    if resume_at is not None:
        for index in range(resume_at):
            keeper.passed(state[index])
    results, states = [], []
    for each in windows[resume_at or 0 :]:
        results.append(list(keeper.frames(generated(range(each.keep_start, each.keep_stop)))))
        states.append(keeper.state)
    return results, states, keeper


def tracks_of(points, n_frames=200):
    return Tracks(np.repeat(points[None, None], n_frames, 0), 25.0, (0,))


FACE = mesh(80, 55, 50)


def test_outside_the_region_every_value_is_the_sources_and_inside_it_is_generated():
    source = FlatVideo()
    results, _, keeper = run(source, tracks_of(FACE), lambda _: FACE)
    frames = [frame for window in results for frame in window]
    assert len(frames) == keeper.n_frames == 40
    depth = depth_inside(face_outline(FACE), 0, 0, WIDTH, HEIGHT)
    chroma = depth.reshape(HEIGHT // 2, 2, WIDTH // 2, 2).max((1, 3))
    for made, own in zip(frames, source.frames(0, 40), strict=True):
        assert (made[:HEIGHT][depth <= 0] == own[:HEIGHT][depth <= 0]).all()
        for a, b in zip(made[HEIGHT:].reshape(2, -1), own[HEIGHT:].reshape(2, -1), strict=True):
            assert (a[(chroma <= 0).ravel()] == b[(chroma <= 0).ravel()]).all()
        inside = depth > 10
        assert made[:HEIGHT][inside].std() < 1 < own[:HEIGHT][inside].std()
        # The flat generated face has the mean colour of the source around it.
        assert made[:HEIGHT][inside].mean() == pytest.approx(104.5, abs=1.5)
        assert abs(made[HEIGHT:].astype(float).mean() - own[HEIGHT:].mean()) < 1
    assert keeper.whole_s == []


def test_a_head_turned_another_way_makes_all_of_the_frame_generated_and_it_is_told_when():
    turned = mesh(80, 55, 50, turn=0.2)
    source = FlatVideo()
    results, _, keeper = run(source, tracks_of(FACE), lambda n: turned if 20 <= n < 30 else FACE)
    frames = [frame for window in results for frame in window]
    spread = [frame[8:28, 8:28].std() for frame in frames]  # of a corner: the source's noise, or flat
    assert all(value > 2 for value in spread[:14] + spread[36:])
    assert all(value < 1 for value in spread[21:29])
    ((start, stop),) = keeper.whole_s
    assert 0.6 < start <= 0.8
    assert 1.2 <= stop < 1.4
    steps = np.abs(np.diff([frame[8:28, 8:28].astype(float).std() for frame in frames[:21]]))
    assert steps.max() < 1.5  # it comes by degrees


def test_what_does_not_fit_from_a_windows_first_frame_on_comes_by_degrees_too():
    turned = mesh(80, 55, 50, turn=0.2)
    start = plan_windows(40, 21, 5)[1].keep_start
    results, _, keeper = run(FlatVideo(), tracks_of(FACE), lambda n: turned if n >= start else FACE)
    frames = [frame for window in results for frame in window]
    spread = [frame[8:28, 8:28].astype(float).std() for frame in frames]
    assert spread[start - 1] > 2 and spread[start + 6] < 1
    assert np.abs(np.diff(spread)).max() < 1.5
    ((first, _),) = keeper.whole_s
    assert start / 25 < first < (start + 5) / 25


def test_a_window_without_a_frame_of_its_own_leaves_what_there_was():
    turned = mesh(80, 55, 50, turn=0.2)

    class Slow(FlatVideo):
        def frames_until(self, clip_frame):
            return min(super().frames_until(clip_frame), 21)  # nothing of the second window

    results, states, keeper = run(Slow(), tracks_of(FACE), lambda n: turned if n >= 15 else FACE)
    assert [len(window) for window in results][:2] == [21, 0]
    assert json.loads(states[0])[3] == json.loads(states[1])[3] == 1
    assert keeper.whole_s[-1][1] == 21 / 25


def test_a_face_that_the_source_does_not_show_leaves_the_source():
    points = np.repeat(FACE[None, None], 200, 0)
    points[10:20] = np.nan
    source = FlatVideo()
    results, _, keeper = run(source, Tracks(points, 25.0, (0,)), lambda _: FACE)
    frames = [frame for window in results for frame in window]
    for index, own in zip(range(10, 20), source.frames(10, 10), strict=True):
        assert (frames[index] == own).all()
    assert keeper.whole_s == []
    shares = [np.abs(frame[40:60, 70:90].astype(float) - 104.5).mean() for frame in frames]
    assert shares[5] < shares[8] < shares[9]  # the region goes by degrees


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30000, 1001), Fraction(60), Fraction(24)])
def test_every_frame_of_the_source_has_its_place_in_time(rate):
    source = FlatVideo(rate)
    results, _, keeper = run(source, tracks_of(FACE), lambda _: FACE)
    frames = [frame for window in results for frame in window]
    assert len(frames) == keeper.n_frames == round(40 * rate / 25)
    for made, own in zip(frames, source.frames(0, len(frames)), strict=True):
        assert (made[:20] == own[:20]).all()


@pytest.mark.parametrize("resume_at", [1, 2])
def test_a_resumed_run_makes_the_same_bytes(resume_at):
    turned = mesh(80, 55, 50, turn=0.2)

    def made(n):
        return turned if 14 <= n < 19 else FACE + np.float32(n % 3)

    whole, states, keeper = run(FlatVideo(), tracks_of(FACE), made)
    rest, again, resumed = run(FlatVideo(), tracks_of(FACE), made, resume_at=resume_at, state=states)
    for a, b in zip(whole[resume_at:], rest, strict=True):
        np.testing.assert_array_equal(a, b)
    assert states[resume_at:] == again
    assert keeper.whole_s == resumed.whole_s != []


def test_the_colours_follow_without_a_jump():
    """The generated frames become brighter from one frame to the next; the result hardly does."""
    source = FlatVideo()
    windows = plan_windows(40, 41, 5)
    keeper = Keeper(source, tracks_of(FACE), Follower(lambda _: FACE), (0, 0, WIDTH, HEIGHT), windows, CPU)
    frames = generated(range(40))
    frames[20:, 1:] += 20
    made = [frame[45:65, 70:90].mean() for frame in keeper.frames(frames)]
    assert made[19] == pytest.approx(104.5, abs=1.5)
    assert made[-1] == pytest.approx(104.5, abs=2)


def test_frames_are_counted_to_the_nearest_gap():
    seen = np.array([True, True, False, True, True, True, False, False, True])
    assert frames_to_gap(seen).tolist() == [2, 1, 0, 1, 2, 1, 0, 0, 1]
    assert np.isinf(frames_to_gap(np.ones(3, bool))).all()


def test_a_scene_without_faces_is_searched_again_and_scenes_are_followed_apart():
    class Late(FixedFinder):
        def __init__(self):
            super().__init__((0.5, 0.5, 0.4))
            self.searched = 0

        def find(self, picture):
            self.searched += 1
            return super().find(picture) if picture[0, 0, 0] >= 10 else ()

    frames = [np.full((48, 64, 3), number, np.uint8) for number in range(60)]
    tracks = follow_speakers(
        iter(frames), len(frames), 2.0, (0, 40), 1, Late(), lambda _n, found, _size: found or [None], 25.0
    )
    assert tracks.points.shape == (60, 1, 468, 2)
    assert tracks.seen[:, 0].tolist() == [False] * 12 + [True] * 48
    assert tracks.points[20, 0, :, 0].mean() == pytest.approx(64, abs=4)  # in the source's pixels
