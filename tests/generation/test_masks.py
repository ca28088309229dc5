"""Where the two people are."""

import pytest
import torch

from infinitetalk.errors import InvalidInput
from infinitetalk.generation.masks import default_boxes, person_masks


def grid(masks: torch.Tensor, width: int, height: int) -> torch.Tensor:
    return masks.view(3, height // 16, width // 16)


def test_default_is_left_and_right_half_less_a_border() -> None:
    masks = grid(person_masks(default_boxes(2), (1280, 720), (1280, 720)), 1280, 720)
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
    """A square picture shown as 9:16 loses its sides; a box over the middle third then fills more of the width."""
    boxes = ((0.4, 0.0, 0.5, 1.0), (0.5, 0.0, 0.6, 1.0))
    first, second, _ = grid(person_masks(boxes, (1000, 1000), (480, 848)), 480, 848)
    per_row = first[0].sum().item()
    assert per_row == second[0].sum().item() == round(0.1 * 1000 / (1000 * 480 / 848) * 30)


def test_a_tiny_box_marks_one_token_and_one_outside_the_crop_is_refused() -> None:
    first, *_ = person_masks(((0.5, 0.5, 0.501, 0.501), (0.6, 0.6, 0.7, 0.7)), (640, 640), (640, 640))[0]
    assert first.sum() == 1
    with pytest.raises(InvalidInput, match="box 2"):
        person_masks(((0.4, 0.1, 0.6, 0.9), (0.9, 0.1, 1.0, 0.9)), (1000, 1000), (480, 848))
