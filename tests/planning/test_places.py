"""Where speakers are, by the job's words and the faces that were found, and what the caller is told of it."""

import pytest
import torch

from infinitetalk.contract.request import Request
from infinitetalk.errors import InvalidInput
from infinitetalk.generation.masks import person_masks
from infinitetalk.planning.framing import Box, around, best_crop, share, shown_part
from infinitetalk.planning.places import Placed, place_speakers
from infinitetalk.shapes import CENTRE, PADDED

WIDE, TALL = (1600, 900), (480, 848)
URL = "https://example.com/a"
# Faces of 160x180 pixels in a picture of 1600x900: at the left, in the middle, at the right.
LEFT, MIDDLE, RIGHT = ((x, 0.2, x + 0.1, 0.4) for x in (0.1, 0.45, 0.8))
KEEP_ALL = "fit pad or whole keeps all of it, and an aspect_ratio nearer to its shape more."
ONE_CHOICE = "To choose, give each of the speakers a face or a box (a dry_run lists the faces as people)."


def place(*speakers, faces=(), target=(848, 480), source=WIDE, **fields) -> Placed:
    job = {"image_url": URL, "speakers": [{"wav_url": URL} | speaker for speaker in speakers]} | fields
    if not speakers:
        del job["speakers"]
    return place_speakers(Request.parse(job), faces, source, target)


def middle(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def holds(box: Box | None, face: Box) -> bool:
    assert box is not None
    x, y = middle(face)
    return box[0] < x < box[2] and box[1] < y < box[3]


def test_as_many_faces_as_voices_are_the_speakers_from_left_to_right() -> None:
    placed = place({}, {"face": "auto"}, {}, faces=(LEFT, MIDDLE, RIGHT))
    for box, face in zip(placed.places.boxes, (LEFT, MIDDLE, RIGHT), strict=True):
        assert holds(box, face)
    assert placed.warnings == ()
    assert [person.voice for person in placed.people or ()] == [f"speakers[{i}].wav_url" for i in range(3)]
    assert not placed.places.others_silent


def test_a_face_is_chosen_by_its_index_and_everyone_else_is_silent() -> None:
    placed = place({"face": 1}, faces=(LEFT, MIDDLE, RIGHT))
    (box,) = placed.places.boxes
    assert holds(box, MIDDLE)
    assert not holds(box, LEFT)
    assert not holds(box, RIGHT)
    assert placed.places.others_silent
    assert placed.places.are_bound
    assert [person.voice for person in placed.people or ()] == [None, "speakers[0].wav_url", None]
    two = place({"face": 2}, {"face": 0}, faces=(LEFT, MIDDLE, RIGHT))
    assert holds(two.places.boxes[0], RIGHT)
    assert holds(two.places.boxes[1], LEFT)
    assert two.places.others_silent


def test_the_only_face_is_animated_as_ever() -> None:
    for speaker in ({}, {"face": "auto"}, {"face": 0}):
        placed = place(speaker, faces=(MIDDLE,))
        assert not placed.places.are_bound
        assert placed.warnings == ()


def test_a_voice_with_a_box_binds_it_whether_or_not_faces_can_be_found() -> None:
    for faces in (None, (LEFT,), (LEFT, RIGHT)):
        placed = place({"box": [0, 0, 0.4, 1]}, faces=faces)
        assert placed.places == place({"box": [0, 0, 0.4, 1]}, faces=(LEFT, RIGHT)).places
        assert placed.places.boxes == ((0, 0, 0.4, 1),)
        assert placed.places.others_silent
        assert placed.warnings == ()


def test_those_without_a_place_get_the_faces_that_are_left() -> None:
    placed = place({"face": 2}, {}, {"box": [0, 0, 0.3, 1]}, faces=(LEFT, MIDDLE, RIGHT))
    boxes = placed.places.boxes
    assert holds(boxes[0], RIGHT)
    assert holds(boxes[1], MIDDLE)
    assert boxes[2] == (0, 0, 0.3, 1)
    assert boxes[1] is not None
    assert boxes[1][0] >= 0.3, "it reaches into the other's box"


def test_where_faces_and_voices_do_not_match_the_default_stays_and_says_how_to_choose() -> None:
    placed = place({}, {}, faces=(LEFT, MIDDLE, RIGHT))
    assert placed.places.boxes == (None, None)
    assert placed.warnings == (
        "3 faces were found in image_url (0 to 2 from left to right), and 2 voices were given: the speakers are taken "
        f"to stand side by side in columns of equal width. {ONE_CHOICE}",
    )
    ten = tuple((i / 10, 0.2, i / 10 + 0.05, 0.3) for i in range(10))
    placed = place({}, faces=ten)
    assert not placed.places.are_bound
    assert placed.warnings == (
        "10 faces were found in image_url (0 to 9 from left to right), and one voice was given: any of them may be "
        f"seen to speak. {ONE_CHOICE}",
        f"The part of image_url that the video shows cuts into face 0: {KEEP_ALL}",
    )
    (warning,) = place({}, faces=()).warnings
    assert warning.startswith("Nobody was found in image_url, and one voice was given: ")


def test_who_is_neither_chosen_nor_in_a_box_is_silent_however_many_are_found() -> None:
    faces = [(0.1, 0.2, 0.2, 0.4), (0.7, 0.2, 0.8, 0.4)]
    beside = place({"face": 0}, {"box": [0.4, 0.1, 0.5, 0.9]}, faces=faces)
    assert beside.places.others_silent
    around = place({"face": 0}, {"box": [0.6, 0.1, 0.9, 0.9]}, faces=faces)
    assert not around.places.others_silent


def test_a_speaker_without_a_place_beside_a_box_needs_a_finder() -> None:
    with pytest.raises(
        InvalidInput, match=r"^speakers\[1\] has no place, and this worker cannot find faces: give it a b"
    ):
        place({"box": [0.0, 0.1, 0.9, 0.9]}, {}, faces=None)


def test_without_a_finder_speakers_stand_in_columns_and_nothing_is_said() -> None:
    placed = place({}, {}, faces=None)
    assert placed == Placed(placed.places, None, ())
    assert placed.places.boxes == (None, None)
    assert placed.places.crop == CENTRE


def test_columns_of_more_than_two_lie_in_the_shown_part() -> None:
    """Of the whole picture's columns the outer ones would be out of sight in a tall video of a wide picture."""
    for faces in (None, (LEFT, RIGHT)):
        boxes = place({}, {}, {}, faces=faces, target=TALL).places.boxes
        shown = shown_part(WIDE, TALL, CENTRE)
        assert [share(box, shown) for box in boxes if box] == pytest.approx([1, 1, 1])
        assert boxes == tuple(sorted(box for box in boxes if box))
        assert torch.equal(person_masks(boxes, WIDE, TALL).sum(dim=1).amax(), torch.tensor(1.0))


@pytest.mark.parametrize(
    ("speakers", "faces", "message"),
    [
        (
            [{"face": 3}],
            (LEFT, RIGHT),
            "speakers[0].face is 3, but 2 faces were found in image_url (0 to 1 from left to right): choose one of "
            "these, or give a box.",
        ),
        (
            [{}, {"face": 0}],
            (),
            "speakers[1].face is 0, but nobody was found in image_url: choose another picture, or give a box.",
        ),
        (
            [{"box": [0, 0, 0.3, 1]}, {"face": 0}],
            (LEFT, RIGHT),
            "speakers[0].box holds face 0, which another of the speakers has: each place can belong to one speaker "
            "only.",
        ),
        (
            [{"face": 0}, {}],
            (LEFT, MIDDLE, RIGHT),
            "speakers[1] has no place: 3 faces were found in image_url (0 to 2 from left to right), 2 of them left for "
            "1 voice; give it a face or a box.",
        ),
    ],
)
def test_what_cannot_be_is_refused(speakers, faces, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidInput) as raised:
        place(*speakers, faces=faces)
    assert str(raised.value) == message


def test_boxes_without_a_face_or_with_several_are_warned_of() -> None:
    (warning,) = place({"box": [0.3, 0, 0.4, 1]}, faces=(LEFT, RIGHT)).warnings
    assert warning.startswith("speakers[0].box holds no face that was found in image_url")
    (warning,) = place({"box": [0, 0, 0.6, 1]}, faces=(LEFT, MIDDLE, RIGHT)).warnings
    assert warning == "speakers[0].box holds 2 faces: all of them may speak."
    old = {"wav_url": URL, "wav_url_2": URL, "person_count": "multi"}
    boxes = [[0, 0, 0.3, 1], [0.6, 0, 0.7, 1]]
    (warning,) = place(faces=(LEFT, RIGHT), speaker_boxes=boxes, **old).warnings
    assert warning.startswith("speaker_boxes[1] holds no face")


def test_one_voice_counts_the_faces_that_are_shown() -> None:
    one = {"wav_url": URL, "target": TALL}
    (cut,) = place(faces=(LEFT, MIDDLE, RIGHT), **one).warnings
    assert "leaves out face 0 and face 2" in cut, "nobody but the middle one can be seen to speak"
    assert [person.is_shown for person in place(faces=(LEFT, MIDDLE, RIGHT), **one).people or ()] == [
        False,
        True,
        False,
    ]
    lost, _ = place(faces=(LEFT, RIGHT), **one).warnings
    assert "outside the part that the video shows, its centre" in lost


def test_small_faces_are_warned_of_with_their_size() -> None:
    tiny = (0.5, 0.5, 0.52, 0.54)  # 17x19 pixels at 848x480
    (warning,) = place({}, faces=(tiny,)).warnings
    assert "The face of speakers[0].wav_url (face 0) is 19 pixels high in the video; below 24 " in warning
    assert place({}, faces=(tiny,), target=(1280, 720)).warnings == ()


def test_people_have_boxes_of_the_input_and_sizes_of_the_result() -> None:
    placed = place({}, faces=(MIDDLE,), target=(800, 450))
    (person,) = placed.people or ()
    assert (person.index, person.box) == (0, (0.45, 0.2, 0.55, 0.4))
    assert (person.width, person.height) == (80, 90)


def test_the_older_fields_are_made_as_ever_and_told_what_was_found() -> None:
    one = {"wav_url": URL}
    two = {"wav_url": URL, "wav_url_2": URL, "person_count": "multi"}
    for faces in (None, (), (MIDDLE,), (LEFT, RIGHT), (LEFT, MIDDLE, RIGHT)):
        assert place(faces=faces, target=TALL, **one).places == place(faces=None, **one).places
        assert place(faces=faces, target=TALL, **two).places == place(faces=None, **two).places
    assert place(faces=(LEFT, RIGHT), **two).warnings == ()
    for old in (one, two):
        (warning,) = place(faces=(), **old).warnings
        assert warning.startswith("Nobody was found in image_url")
    assert place(faces=(MIDDLE,), **one).warnings == ()
    (warning,) = place(faces=(LEFT, RIGHT), **one).warnings
    assert "one voice was given: any of them may be seen to speak. To choose, use the field speakers" in warning
    (warning,) = place(faces=(LEFT, MIDDLE, RIGHT), **two).warnings
    assert "in the left and the right half, of which the video shows 1 and 2 of the faces." in warning
    default, cut = place(faces=(LEFT, RIGHT), target=TALL, **two).warnings  # no part of that shape shows both
    assert "in the left and the right half, of which the video shows 0 and 0 of the faces." in default
    assert cut == f"The part of image_url that the video shows leaves out face 0 and face 1: {KEEP_ALL}"


def test_faces_take_the_place_of_a_default_that_would_lose_somebody() -> None:
    close = (LEFT, (0.25, 0.2, 0.35, 0.4))
    placed = place(faces=close, wav_url=URL, wav_url_2=URL, person_count="multi")
    assert placed.places.boxes == place({}, {}, faces=close).places.boxes
    assert not placed.places.others_silent
    (warning,) = placed.warnings
    assert warning.startswith(
        "2 faces were found in image_url, and not one in each half of what the video would show: "
    )
    assert "from left to right. To choose, use the field speakers, with a face or a box" in warning
    one = place(faces=(LEFT,), target=TALL, wav_url=URL)
    assert one.places.crop == place({}, faces=(LEFT,), target=TALL).places.crop != CENTRE
    assert not one.places.are_bound
    (warning,) = one.warnings
    assert "is moved to the left" in warning
    boxes = [[0, 0, 0.2, 1], [0.2, 0, 0.5, 1]]
    given = place(faces=close, wav_url=URL, wav_url_2=URL, person_count="multi", speaker_boxes=boxes)
    assert given.places.boxes == tuple(map(tuple, boxes)) and given.warnings == ()


def test_the_shown_part_moves_to_the_speakers_and_says_so() -> None:
    placed = place({}, faces=(LEFT,), target=TALL)
    shown = shown_part(WIDE, TALL, placed.places.crop)
    assert share(LEFT, shown) == 1
    assert 0 <= shown[0] < 0.1 < 0.5 > shown[2]
    (warning,) = placed.warnings
    assert warning.startswith("The part of image_url that the video shows is moved to the left, by ")
    assert place({}, faces=(MIDDLE,), target=TALL).places.crop == CENTRE
    down = place({}, faces=((0.4, 0.8, 0.6, 0.95),), source=(900, 1600), target=(848, 480))
    assert share((0.4, 0.8, 0.6, 0.95), shown_part((900, 1600), (848, 480), down.places.crop)) == 1
    assert "is moved down, by " in down.warnings[0]


def test_it_moves_no_further_than_it_must_and_stays_in_the_picture() -> None:
    crop = best_crop([RIGHT], [], WIDE, TALL)
    assert crop is not None
    shown = shown_part(WIDE, TALL, crop)
    assert shown[2] == pytest.approx(0.9 + 0.025), "a quarter of a face is left beside it"
    edge = best_crop([(0.95, 0.2, 1.05, 0.4)], [], WIDE, TALL)
    assert edge == 1
    crop = best_crop([], [(0.0, 0.0, 0.2, 1.0)], WIDE, TALL)
    assert crop is not None
    assert shown_part(WIDE, TALL, crop)[0] == pytest.approx(0.05), "of a box it has the middle half"


def test_speakers_who_do_not_fit_into_one_video_are_refused() -> None:
    with pytest.raises(
        InvalidInput, match=r"too far apart in image_url to be shown together: choose aspect_ratio 16:9,"
    ):
        place({}, {}, faces=(LEFT, RIGHT), target=TALL)
    with pytest.raises(InvalidInput, match="too far apart in image_url to be shown together: set fit to pad"):
        place({}, {}, faces=(LEFT, RIGHT), source=(3000, 500))
    for fit in ("pad", "whole"):
        padded = place({}, {}, faces=(LEFT, RIGHT), source=(3000, 500), fit=fit)
        assert padded.places.crop is PADDED
        assert padded.warnings == ()
    assert place({}, {}, faces=(LEFT, RIGHT)).places.crop == CENTRE
    with pytest.raises(InvalidInput, match=r"speakers\[1\]\.box lies outside the part of image_url"):
        place({"face": 0}, {"box": [0.8, 0, 1, 1]}, faces=(LEFT, MIDDLE), target=TALL)


def test_a_box_around_a_face_ends_where_its_neighbours_begin() -> None:
    whole = (0.0, 0.0, 1.0, 1.0)
    assert around(MIDDLE, [], [], whole) == pytest.approx((0.29, 0.06, 0.71, 0.95))
    beside = around(MIDDLE, [(0.6, 0.2, 0.7, 0.4)], [], whole)
    assert beside == pytest.approx((0.29, 0.06, 0.575, 0.95))
    smaller = around(MIDDLE, [(0.625, 0.25, 0.675, 0.35)], [], whole)
    assert smaller[2] == pytest.approx(0.6), "two thirds of the way belong to the larger face"
    above = around(MIDDLE, [(0.45, 0.6, 0.55, 0.8)], [], whole)
    assert above == pytest.approx((0.29, 0.06, 0.71, 0.5))
    assert around(MIDDLE, [], [(0.6, 0.0, 1.0, 1.0)], whole)[2] == pytest.approx(0.6)


def test_boxes_of_faces_do_not_overlap() -> None:
    faces = tuple((0.02 + 0.12 * i, 0.1 + 0.05 * (i % 3), 0.1 + 0.12 * i, 0.3 + 0.05 * (i % 3)) for i in range(8))
    boxes = [around(face, [other for other in faces if other is not face], [], (0.0, 0.0, 1.0, 1.0)) for face in faces]
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            assert min(a[2], b[2]) <= max(a[0], b[0]) + 1e-9 or min(a[3], b[3]) <= max(a[1], b[1]) + 1e-9
