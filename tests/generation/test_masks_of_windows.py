"""The masks of a window that hears some of a job's voices, and masks of a part beside the centre."""

import pytest
import torch

from infinitetalk.errors import InvalidInput
from infinitetalk.generation.masks import masks_of_window, person_masks
from infinitetalk.planning.windows import SILENCE

SIZE = (640, 320)  # 20 tokens a row
THREE = ((0.0, 0.1, 0.3, 0.9), (0.35, 0.1, 0.65, 0.9), (0.7, 0.1, 1.0, 0.9))


def test_two_voices_of_a_job_of_two_have_the_masks_of_the_job() -> None:
    masks = person_masks((None, None), SIZE, SIZE)
    assert torch.equal(masks_of_window(masks, (0, 1)), masks)
    assert torch.equal(masks_of_window(masks, (0, 1, SILENCE)), masks)


def test_beside_one_voice_everything_else_is_the_silent_person() -> None:
    masks = person_masks(THREE, SIZE, SIZE)
    first, others, background = masks_of_window(masks, (1, SILENCE))[0]
    assert torch.equal(first, masks[0, 1])
    assert torch.equal(others, 1 - first)
    assert not background.any()
    alone = person_masks(THREE[:1], SIZE, SIZE)
    assert torch.equal(masks_of_window(alone, (0, SILENCE))[0, 0], alone[0, 0])


def test_beside_two_voices_the_third_person_is_background() -> None:
    masks = person_masks(THREE, SIZE, SIZE)
    first, second, background = masks_of_window(masks, (0, 2, SILENCE))[0]
    assert torch.equal(first, masks[0, 0])
    assert torch.equal(second, masks[0, 2])
    assert torch.equal(background, torch.maximum(masks[0, 1], masks[0, 3]))


def test_masks_are_those_of_the_part_that_is_shown() -> None:
    """Of 1280x320 the left, the middle or the right half is shown."""
    boxes = ((0.0, 0.0, 0.25, 1.0), (0.25, 0.0, 0.5, 1.0))
    masks = person_masks(boxes, (1280, 320), SIZE, 0.0)
    assert torch.equal(masks, person_masks(((0, 0, 0.5, 1), (0.5, 0, 1, 1)), SIZE, SIZE))
    with pytest.raises(InvalidInput, match="box 1 lies outside"):
        person_masks(boxes, (1280, 320), SIZE, 0.5)
    with pytest.raises(InvalidInput):
        person_masks(boxes, (1280, 320), SIZE, 1.0)
