"""Where the speakers are, as masks over the tokens of the first latent frame."""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from infinitetalk.errors import InvalidInput
from infinitetalk.shapes import SIDE_MULTIPLE, cover_crop

Box = tuple[float, float, float, float]

# A speaker without a box gets a column of the picture. This share of the column's width is left free on each side, and
# this share of the picture's height at the top and the bottom. For two people the model was made with these boxes.
_BORDER = 0.05


def default_boxes(speakers: int) -> list[Box]:
    """Where speakers are if the job does not say: side by side in columns of equal width, the first one to the left."""
    return [((i + _BORDER) / speakers, _BORDER, (i + 1 - _BORDER) / speakers, 1 - _BORDER) for i in range(speakers)]


def person_masks(boxes: Sequence[Box], source_size: tuple[int, int], target_size: tuple[int, int]) -> Tensor:
    """Masks (1, P + 1, S) float32: the tokens of each of P people, and of the background.

    Args:
        boxes: one for each person, in fractions (x0, y0, x1, y1) of the source picture.
        source_size: (width, height) of the picture that the boxes refer to.
        target_size: (width, height) of the video, which shows the source's centre crop of that shape.

    Raises:
        InvalidInput: a box lies outside the centre crop.
    """
    crop = cover_crop(source_size, target_size)
    masks = [_box_mask(box, index, source_size, target_size, crop) for index, box in enumerate(boxes)]
    background = 1 - reduce(torch.maximum, masks)
    return torch.stack((*masks, background)).flatten(1).unsqueeze(0)


def _box_mask(box: Box, index: int, source_size: tuple[int, int], target_size: tuple[int, int], crop: Box) -> Tensor:
    spans = []
    for axis in (0, 1):
        low, high = crop[axis], crop[axis + 2]
        tokens = target_size[axis] // SIDE_MULTIPLE
        edges = [(box[axis + side] * source_size[axis] - low) / (high - low) * tokens for side in (0, 2)]
        start, stop = max(edges[0], 0.0), min(edges[1], float(tokens))
        if start >= stop:
            raise InvalidInput(
                f"speaker_boxes: box {index + 1} lies outside the part of the picture that the video shows "
                "(its centre, cropped to the aspect_ratio); choose another box or aspect_ratio."
            )
        centres = torch.arange(tokens) + 0.5
        inside = (centres >= start) & (centres < stop)
        if not inside.any():  # a box within one token still marks that token
            inside[int((start + stop) / 2)] = True
        spans.append(inside)
    return (spans[1].unsqueeze(1) & spans[0].unsqueeze(0)).float()
