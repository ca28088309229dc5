"""The speakers' faces, followed through a source."""

import numpy as np

from infinitetalk.blending.tracks import follow_speakers
from tests.support.faces import FixedFinder


def test_a_speaker_who_is_seen_later_than_the_others_is_searched_for_until_then():
    class Late(FixedFinder):
        def find(self, picture):
            return super().find(picture)[: 2 if picture[0, 0, 0] >= 10 else 1]

    frames = (np.full((48, 64, 3), number, np.uint8) for number in range(60))
    finder = Late((0.25, 0.5, 0.4), (0.75, 0.5, 0.4))
    tracks = follow_speakers(frames, 60, 1.0, (0, 40), 2, finder, lambda _n, found, _size: [*found, None][:2], 25.0)
    assert tracks.points.shape == (60, 2, 468, 2)
    assert tracks.seen[:, 0].all()
    assert tracks.seen[:, 1].tolist() == [False] * 12 + [True] * 48


def test_one_face_is_not_followed_for_two_speakers():
    frames = (np.zeros((48, 64, 3), np.uint8) for _ in range(30))
    searches = []

    def choose(_number, found, _size):
        searches.append(1)
        return [found[0], None] if len(searches) == 1 else [None, found[0]]  # the first has walked over

    tracks = follow_speakers(frames, 30, 1.0, (0,), 2, FixedFinder((0.5, 0.5, 0.4)), choose, 25.0)
    assert len(searches) == 3
    assert tracks.seen[:, 0].all() and not tracks.seen[:, 1].any()
