"""Where the two people are: token for token as the authors' pixel masks say."""

import itertools

import pytest
import torch

from infinitetalk.contract.presets import load_profile
from infinitetalk.errors import InvalidInput
from infinitetalk.generation.masks import person_masks
from infinitetalk.shapes import PADDED
from tests.support.golden import info, tensors
from tests.support.reference_masks import default_rectangles, latent_masks, token_masks

NO_BOXES = (None, None)
SIZES = [
    size
    for name in ("infinitetalk-14b", "miniature")
    for by_ratio in load_profile(name).sizes.values()
    for size in by_ratio.values()
]
SOURCES = [
    *SIZES, (1920, 1080), (1000, 1000), (640, 640), (640, 320), (512, 768), (1024, 683), (1023, 769), (333, 517),
    (75, 90), (88, 60), (31, 17), (1366, 768), (585, 1266),
]  # fmt: skip
RECTANGLES = [  # row0, column0, row1, column1 in parts of a source: people close by, far off, small, overlapping
    ((0.1, 0.05, 0.9, 0.45), (0.15, 0.5, 1.0, 0.95)),
    ((0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0)),
    ((0.37, 0.31, 0.61, 0.49), (0.29, 0.53, 0.58, 0.71)),
    ((0.2, 0.3, 0.9, 0.6), (0.2, 0.4, 0.8, 0.7)),
]


def grid(masks: torch.Tensor, width: int, height: int) -> torch.Tensor:
    return masks.view(3, height // 16, width // 16)


@pytest.mark.parametrize("target", SIZES, ids=str)
def test_people_without_boxes_are_where_the_authors_code_has_them(target: tuple[int, int]) -> None:
    for source in SOURCES:
        expected = token_masks(latent_masks(default_rectangles(source), source, target))
        assert torch.equal(person_masks(NO_BOXES, source, target), expected), source


@pytest.mark.parametrize("target", SIZES, ids=str)
def test_boxes_are_the_authors_in_fractions_with_columns_first(target: tuple[int, int]) -> None:
    """Theirs are row, column, row, column in pixels of the source, although they are called x and y."""
    compared = 0
    for source, parts in itertools.product(SOURCES, RECTANGLES):
        width, height = source
        rectangles = [
            (int(row0 * height), int(column0 * width), int(row1 * height), int(column1 * width))
            for row0, column0, row1, column1 in parts
        ]
        boxes = [(c0 / width, r0 / height, c1 / width, r1 / height) for r0, c0, r1, c1 in rectangles]
        expected = token_masks(latent_masks(rectangles, source, target))
        if not expected[:, :2].any(dim=2).all():
            continue  # no token of one person: ours then marks one, theirs none
        assert torch.equal(person_masks(boxes, source, target), expected), (source, parts)
        compared += 1
    assert compared > 0.9 * len(SOURCES) * len(RECTANGLES)


@pytest.mark.parametrize("variant", info("loop_multi_image"))
def test_masks_are_those_that_the_authors_loops_ran_with(variant: str) -> None:
    stored = tensors(f"loop_multi_image/{variant}")["ref_target_masks"]
    settings, inputs = info("loop_multi_image")[variant], tensors("loop_multi_image/inputs")
    height, width = settings["settings"]["size"]
    source = (88, 60)  # of the bundled part, which leaves the frames out
    if "source_frames" in inputs:
        source = inputs["source_frames"].shape[2], inputs["source_frames"].shape[1]
    boxes = NO_BOXES
    if settings["bbox"]:
        boxes = [
            (column0 / source[0], row0 / source[1], column1 / source[0], row1 / source[1])
            for row0, column0, row1, column1 in settings["bbox"].values()
        ]
    assert torch.equal(person_masks(boxes, source, (width, height)), token_masks(stored))


def test_default_is_left_and_right_half_less_a_border() -> None:
    masks = grid(person_masks(NO_BOXES, (1280, 720), (1280, 720)), 1280, 720)
    left, right, background = masks
    assert left[:, :40].sum() == left.sum() > 0
    assert right[:, 40:].sum() == right.sum() == left.sum()
    assert torch.equal(left.flip(1), right)
    assert background[0].all()
    assert torch.equal(masks.sum(dim=0), torch.ones(45, 80))


def test_boxes_are_x0_y0_x1_y1_of_the_source_picture() -> None:
    boxes = ((0.0, 0.0, 0.25, 0.5), (0.5, 0.5, 1.0, 1.0))
    first, second, _ = grid(person_masks(boxes, (640, 320), (640, 320)), 640, 320)
    assert first[:10, :10].all()
    assert first.sum() == 100
    assert second[10:, 20:].all()
    assert second.sum() == 200


def test_boxes_follow_the_centre_crop() -> None:
    """A square picture shown as 9:16 loses its sides; a box over the middle third then fills more of the width.

    Tokens take their values from pixels of the source that are 16 * 1000 / 848 apart, the first from 184 * 1000 / 848.
    Token 15 would take it from pixel 500, were it not for torch's float32, by which it is 499.
    """
    boxes = ((0.4, 0.0, 0.5, 1.0), (0.5, 0.0, 0.6, 1.0))
    first, second, _ = grid(person_masks(boxes, (1000, 1000), (480, 848)), 480, 848)
    assert first[0].nonzero().flatten().tolist() == [10, 11, 12, 13, 14, 15]
    assert second[0].nonzero().flatten().tolist() == [16, 17, 18, 19, 20]


def test_a_box_and_no_box_go_together() -> None:
    box = (0.6, 0.2, 0.9, 0.8)
    masks = person_masks((None, box), (848, 480), (848, 480))
    assert torch.equal(masks[:, 0], person_masks(NO_BOXES, (848, 480), (848, 480))[:, 0])
    assert torch.equal(masks[:, 1], person_masks((box, box), (848, 480), (848, 480))[:, 1])


def test_a_fraction_of_whole_pixels_is_whole_pixels() -> None:
    """0.29 of 1600 pixels is 464, where the 29th token begins, and 463.99999999999994 in floating point."""
    assert 0.29 * 1600 < 464
    first, second, _ = grid(person_masks(((0.29, 0, 0.5, 1), (0.0, 0, 0.29, 1)), (1600, 320), (1600, 320)), 1600, 320)
    assert first[0].nonzero().flatten().tolist() == list(range(29, 50))
    assert second[0].nonzero().flatten().tolist() == list(range(29))


def test_a_tiny_box_marks_one_token_and_one_outside_the_crop_is_refused() -> None:
    first, *_ = person_masks(((0.5, 0.5, 0.501, 0.501), (0.6, 0.6, 0.7, 0.7)), (640, 640), (640, 640))[0]
    assert first.sum() == 1
    with pytest.raises(InvalidInput, match="box 2"):
        person_masks(((0.4, 0.1, 0.6, 0.9), (0.9, 0.1, 1.0, 0.9)), (1000, 1000), (480, 848))


def test_boxes_of_a_padded_picture_mark_no_border() -> None:
    """A wide picture of 640x320 in a video of 320x480: it is 320x160 there, between rows 160 and 320."""
    left, right, background = grid(
        person_masks(((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)), (640, 320), (320, 480), PADDED), 320, 480
    )
    assert left[10:20, :10].all()
    assert right[10:20, 10:].all()
    assert left.sum() == right.sum() == 100
    assert torch.equal(background, 1 - left - right)
