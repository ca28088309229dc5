"""Where the speakers are, as masks over the tokens of the first latent frame.

As in the authors' code (InfiniteTalk, wan/multitalk.py), bit for bit: a person is a rectangle of whole pixels of the
source picture; the picture is enlarged or reduced until it covers the video, by nearest neighbour, and cropped, in
theirs to its centre; a token has the value of its top left pixel.
"""

from collections.abc import Sequence
from functools import reduce
from math import ceil, floor

import torch
import torch.nn.functional as F
from torch import Tensor

from infinitetalk.errors import InvalidInput
from infinitetalk.planning.windows import SILENCE
from infinitetalk.shapes import CENTRE, SIDE_MULTIPLE, Crop, cover_crop, within_border

Box = tuple[float, float, float, float]
Size = tuple[int, int]
Span = tuple[float, float]

# A speaker without a box gets a column of the picture. This share of the column's width is left free on each side, and
# this share of the picture's height at the top and the bottom. For two people the model was made with these boxes.
_BORDER = 0.05
_BORDER_PIXEL = -1.0  # of a token in the border around a padded source
_DIGITS = 6  # of a pixel that count: 0.29 of 100 pixels are 29 of them, and not 28.999999999999996


def person_masks(
    boxes: Sequence[Box | None],
    source_size: Size,
    target_size: Size,
    crop: Crop = CENTRE,
    names: Sequence[str] | None = None,
) -> Tensor:
    """Masks (1, P + 1, S) float32: the tokens of each of P people, and of the background.

    Args:
        boxes: one for each person, in fractions (x0, y0, x1, y1) of the source picture; None: people without a box are
            side by side in columns of equal width, the first one to the left.
        source_size: (width, height) of the picture that the boxes refer to.
        target_size: (width, height) of the video, which shows a part of the source that has its shape.
        crop: where that part lies, as in `shapes.cover_crop`.
        names: what messages call each place; "box 1" and so on if not given.

    Raises:
        InvalidInput: a place lies outside that part.
    """
    masks = []
    names = names or [f"box {number}" for number in range(1, len(boxes) + 1)]
    for index, (box, name) in enumerate(zip(boxes, names, strict=True)):
        spans = _box_spans(box, source_size) if box else _column(index, len(boxes), source_size)
        masks.append(_mask(spans, name, source_size, target_size, crop))
    background = 1 - reduce(torch.maximum, masks)
    return torch.stack((*masks, background)).flatten(1).unsqueeze(0)


def masks_of_window(masks: Tensor, heard: Sequence[int]) -> Tensor:
    """Masks (1, 3, S) of one window: two people, and the background.

    Args:
        masks: (1, P + 1, S), all of a job's people and the background, from `person_masks`.
        heard: the voices that the window hears, see `windows.Window`. Beside a single voice everything else in the
            picture counts as the second person, who is silent. Beside two, all others belong to the background.
    """
    people = [masks[:, voice] for voice in heard if voice != SILENCE]
    if len(people) == 1:
        people.append(1 - people[0])
    return torch.stack((*people, 1 - reduce(torch.maximum, people)), dim=1)


def _box_spans(box: Box, source_size: Size) -> tuple[Span, Span]:
    """A box in pixels of the source, along the width and the height."""
    (x0, x1), (y0, y1) = ([box[axis + side] * source_size[axis] for side in (0, 2)] for axis in (0, 1))
    return (x0, x1), (y0, y1)


def _column(index: int, people: int, source_size: Size) -> tuple[Span, Span]:
    """The column of a person without a box, less its border, in whole pixels of the source."""
    width, height = source_size[0] // people, source_size[1]
    x, y = ([floor(round(side * part, _DIGITS)) for part in (_BORDER, 1 - _BORDER)] for side in (width, height))
    return (index * width + x[0], index * width + x[1]), (y[0], y[1])


def _mask(spans: tuple[Span, Span], name: str, source_size: Size, target_size: Size, crop: Crop) -> Tensor:
    part = cover_crop(source_size, target_size, crop)
    sides = []
    for axis, (start, stop) in enumerate(spans):
        low, high = part[axis], part[axis + 2]
        shown = max(start, low), min(stop, high)
        if shown[0] >= shown[1]:
            raise InvalidInput(
                f"{name} lies outside the part of the picture that the video shows; give a box that lies in it, or "
                "choose another aspect_ratio."
            )
        pixels = _token_pixels(axis, source_size, target_size, crop)
        inside = (pixels >= floor(round(start, _DIGITS))) & (pixels < floor(round(stop, _DIGITS)))
        if not inside.any():  # A box that no token's pixel lies in still marks a token.
            inside[int((sum(shown) / 2 - low) / (high - low) * len(pixels))] = True
        sides.append(inside)
    return (sides[1].unsqueeze(1) & sides[0].unsqueeze(0)).float()


def _token_pixels(axis: int, source_size: Size, target_size: Size, crop: Crop) -> Tensor:
    """Along one axis, the source pixel that each token has its value from; _BORDER_PIXEL where it shows none."""
    if crop is None:
        inner = within_border(source_size, target_size)
        low, high = inner[axis], inner[axis + 2]
        places = torch.arange(0, target_size[axis], SIDE_MULTIPLE)
        pixels = ((places - low) * source_size[axis] / (high - low)).floor()
        return torch.where((places >= low) & (places < high), pixels, _BORDER_PIXEL)
    scale = max(target / source for source, target in zip(source_size, target_size, strict=True))
    resized = ceil(scale * source_size[axis])
    # torch's own resizing, because it divides in float32: its pixels are not everywhere those of exact arithmetic.
    pixels = F.interpolate(
        torch.arange(source_size[axis]).float().view(1, 1, -1), size=resized, mode="nearest"
    ).flatten()
    start = round((resized - target_size[axis]) * crop)
    return pixels[start : start + target_size[axis] : SIDE_MULTIPLE]
