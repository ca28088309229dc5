import numpy as np
import pytest

from infinitetalk.blending.geometry import (
    OVAL,
    STEADY,
    Warp,
    depth_inside,
    face_outline,
    mismatch,
    similarity,
    smooth,
)
from tests.support.faces import mesh


def test_a_similarity_is_found_again():
    turn = np.deg2rad(20)
    matrix = 1.4 * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    known = Warp(matrix.astype(np.float32), np.array([30, -12], np.float32))
    points = mesh(100, 90, 80)
    found = similarity(points, known(points))
    np.testing.assert_allclose(found.matrix, known.matrix, atol=1e-4)
    np.testing.assert_allclose(found.offset, known.offset, atol=1e-2)
    np.testing.assert_allclose(found.inverse(known(points)), points, atol=1e-2)
    assert mismatch(points, known(points), found) < 1e-4


def test_a_face_that_is_turned_does_not_match():
    straight, turned = mesh(100, 90, 80), mesh(100, 90, 80, turn=0.15)
    warp = similarity(turned[list(STEADY)], straight[list(STEADY)])
    assert mismatch(turned, straight, warp) > 0.03


def test_depth_is_the_distance_to_a_rectangles_edge_whichever_way_it_is_listed():
    corners = np.array([[10, 10], [30, 10], [30, 40], [10, 40]], np.float32)
    for listed in (corners, corners[::-1]):
        depth = depth_inside(listed, 0, 0, 50, 50)
        assert depth[25, 20] == pytest.approx(9.5)
        assert depth[25, 12] == pytest.approx(2.5)
        assert depth[25, 9] == pytest.approx(-0.5)
        assert (depth > 0).sum() == 20 * 30


def test_the_outline_holds_face_and_neck_and_is_convex():
    points = mesh(100, 100, 100)
    depth = depth_inside(face_outline(points), 0, 0, 200, 240)
    for x, y in points[list(OVAL)]:
        assert depth[int(y), int(x)] > 0
    assert depth[162, 100] > 0  # the neck, 12 % below the chin
    assert depth[100, 30] < 0


def test_smoothing_keeps_gaps_and_lends_nothing_across_unknown_frames():
    values = np.array([1, 1, np.nan, 5, 5], np.float32)
    smoothed = smooth(values, 0.3)
    assert np.isnan(smoothed[2])
    np.testing.assert_allclose(smoothed[[0, 1, 3, 4]], [1, 1, 5, 5], atol=0.2)
    line = np.arange(20, dtype=np.float32)
    np.testing.assert_allclose(smooth(line, 1.0)[4:-4], line[4:-4], atol=1e-4)
