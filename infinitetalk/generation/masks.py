"""Where the two people are, as masks over the tokens of the first latent frame."""

import torch
from torch import Tensor

from infinitetalk.errors import InvalidInput
from infinitetalk.shapes import SIDE_MULTIPLE, cover_crop

Box = tuple[float, float, float, float]

# The left and the right half of the picture, each less a border of 5 %: what the model was made with.
DEFAULT_BOXES: tuple[Box, Box] = ((0.025, 0.05, 0.475, 0.95), (0.525, 0.05, 0.975, 0.95))


def person_masks(boxes: tuple[Box, Box] | None, source_size: tuple[int, int], target_size: tuple[int, int]) -> Tensor:
    """Masks (1, 3, S) float32: the tokens of the first person, of the second and of the background.

    Args:
        boxes: fractions (x0, y0, x1, y1) of the source picture; None for its left and right half.
        source_size: (width, height) of the picture that the boxes refer to.
        target_size: (width, height) of the video, which shows the source's centre crop of that shape.

    Raises:
        InvalidInput: the centre crop leaves nothing of a box.
    """
    crop = cover_crop(source_size, target_size)
    masks = [_box_mask(box, index, source_size, target_size, crop) for index, box in enumerate(boxes or DEFAULT_BOXES)]
    background = torch.ones_like(masks[0]) - torch.maximum(*masks)
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
        if not inside.any():  # A box within one token still marks that token.
            inside[int((start + stop) / 2)] = True
        spans.append(inside)
    return (spans[1].unsqueeze(1) & spans[0].unsqueeze(0)).float()
