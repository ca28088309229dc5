"""Faces of pictures whose truth is known, and the same faces through frames."""

from dataclasses import replace

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from benchmarks.faces import Composed, Maker, match, table
from infinitetalk.faces.detector import overlap
from infinitetalk.faces.finder import Face, FaceFinder

ASTRONAUT = (177.0, 62.0, 274.0, 177.0)


@pytest.fixture(scope="module")
def finder() -> FaceFinder:
    return FaceFinder.open(torch.device("cpu"))


def test_a_photographs_face_is_where_it_is(finder: FaceFinder) -> None:
    (face,) = finder.find(skimage.data.astronaut())
    assert overlap(np.array(face.box), np.array(ASTRONAUT)) > 0.8
    left_eye, right_eye, mouth = face.points[33], face.points[263], face.points[13]
    assert 180 < left_eye[0] < 215 and 230 < right_eye[0] < 270 and 135 < mouth[1] < 155
    assert face.presence > 0.99


def test_a_large_picture_gives_places_in_its_own_pixels(finder: FaceFinder) -> None:
    large = np.asarray(Image.fromarray(skimage.data.astronaut()).resize((3000, 2600)))
    (face,) = finder.find(large)
    expected = np.array(ASTRONAUT) * np.array([3000, 2600] * 2) / 512
    assert overlap(np.array(face.box), expected) > 0.8


@pytest.mark.parametrize(
    "picture", [skimage.data.chelsea(), skimage.data.coffee(), np.full((96, 160, 3), 128, np.uint8)], ids=len
)
def test_where_no_face_is_none_is_invented(finder: FaceFinder, picture: np.ndarray) -> None:
    assert finder.find(picture) == ()


def test_composed_people_are_found_and_numbered_from_left_to_right(finder: FaceFinder) -> None:
    """A small part of python -m benchmarks.faces."""
    maker = Maker(3, tuning=False)
    for kind in ("three", "drawn", "none"):
        composed = maker.compose(kind)
        seen = match(composed, [face.box for face in finder.find(composed.picture)])
        large = [index for box, index in zip(composed.faces, seen.matches, strict=True) if box[3] - box[1] >= 40]
        assert None not in large and seen.invented == 0 and seen.in_order


def test_the_benchmark_counts_what_is_missed_invented_and_out_of_order() -> None:
    composed = Composed(np.zeros((50, 200, 3), np.uint8), "two", ((0, 0, 40, 40), (100, 0, 140, 40)), ("drawn",) * 2)
    wrong = match(composed, [(100, 0, 140, 40), (0, 0, 40, 40), (60, 0, 90, 40)])
    assert (wrong.matches, wrong.invented, wrong.in_order) == ((1, 0), 1, False)
    missed = match(composed, [(2, 0, 42, 40)])
    assert missed.matches == (0, None) and missed.in_order
    assert "| all | 2 | 4 | 3 (75.0%) | 1 | 0 of 1 |" in table([wrong, missed])


# --- followed -----------------------------------------------------------------------------------------------------


def walk(*places: tuple[int, int] | None) -> np.ndarray:
    """A frame with a head at each place: the middle of the face. None is somebody who is not there."""
    head = Image.fromarray(skimage.data.astronaut()[20:230, 120:330])
    frame = Image.new("RGB", (640, 260), (120, 130, 140))
    for place in places:
        if place is not None:
            frame.paste(head, (place[0] - 105, place[1] - 100))
    return np.asarray(frame)


def middles(faces: tuple[Face | None, ...]) -> list[int | None]:
    return [None if face is None else round((face.box[0] + face.box[2]) / 2) for face in faces]


def test_each_face_keeps_its_index_while_it_moves(finder: FaceFinder) -> None:
    frames = [walk((120 + 4 * t, 120), (510 - 3 * t, 120)) for t in range(12)]
    first = finder.find(frames[0])
    for t, faces in enumerate(finder.follow(frames, first)):
        left, right = middles(faces)
        assert left == pytest.approx(120 + 4 * t, abs=8) and right == pytest.approx(510 - 3 * t, abs=8)


def test_a_face_that_comes_back_has_its_index_again(finder: FaceFinder) -> None:
    here, gone = walk((130, 120), (510, 120)), walk(None, (510, 120))
    frames = [here, here, gone, gone, gone, *[here] * 6]
    seen = [middles(faces) for faces in finder.follow(frames, finder.find(here))]
    assert all(right == pytest.approx(510, abs=8) for _, right in seen)
    assert [left is None for left, _ in seen[:5]] == [False, False, True, True, True]
    assert seen[-1][0] == pytest.approx(130, abs=8)


def test_someone_elsewhere_is_not_taken_for_the_one_who_left(finder: FaceFinder) -> None:
    here, other = walk((120, 120)), walk((520, 120))
    seen = [middles(faces) for faces in finder.follow([here, other, other], finder.find(here))]
    assert seen[1:] == [[None], [None]]


def test_nobody_is_followed_where_nobody_is_named(finder: FaceFinder) -> None:
    assert list(finder.follow([walk()], ())) == [()]


def test_two_are_never_followed_on_one_face(finder: FaceFinder) -> None:
    frame = walk((120, 120), None)
    (face,) = finder.find(frame)
    beside = replace(face, points=face.points + 4, box=tuple(at + 4 for at in face.box))
    for faces in finder.follow([frame] * 3, (face, beside)):
        assert [one is None for one in faces] == [False, True]
