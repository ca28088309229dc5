"""Boxes and the part of the picture that the video shows: geometry alone.

Boxes are (x0, y0, x1, y1) in fractions of the source picture. A face's box goes from ear to ear and from the hair to
the chin.
"""

from collections.abc import Iterator, Sequence

from infinitetalk.shapes import CENTRE, Crop, cover_crop

Box = tuple[float, float, float, float]
Size = tuple[int, int]

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
MIN_SHOWN = 0.6  # share of a speaker's face that the video must show
# A speaker's box around their face, in faces, and what a box leaves free below, or a column all around.
_ABOVE, _BESIDE, _BORDER = 0.7, 1.6, 0.05
_MIDDLE = -0.25  # of a box, at each side: what is left is its middle half
_HEAD = 0.25  # in faces: hair and ears around a face, which the shown part keeps too where it can


def best_crop(faces: Sequence[Box], boxes: Sequence[Box], source: Size, target: Size) -> float | None:
    """Where the shown part lies so that it has the speakers, as near to the centre as that allows.

    Args:
        faces, boxes: of those speakers whose face is known, and of those who have a box alone.
        source, target: (width, height) in pixels.

    Returns:
        As `shapes.cover_crop` takes it; None if it cannot have most of each face. Of boxes alone it has the middle if
        that can be: nobody knows where in them a face is.
    """
    (x0, y0, x1, y1), axis = cover_crop(source, target), moving_axis(source, target)
    length = (x1 - x0, y1 - y0)[axis] / source[axis]
    room = 1 - length
    wanted = [_span(face, axis, _HEAD) for face in faces] + [_span(box, axis, _MIDDLE) for box in boxes]
    least = [_span(face, axis, MIN_SHOWN - 1) for face in faces]
    for spans in (wanted, least):
        low, high = min((span[0] for span in spans), default=0.5), max((span[1] for span in spans), default=0.5)
        low, high = max(low, 0.0), min(high, 1.0)
        if high - low <= length:
            start = min(max(room / 2, high - length), low)
            moves = abs(start - room / 2) * source[axis] >= 1  # by a pixel
            return start / room if moves else CENTRE
    return None


def columns(count: int, shown: Box) -> Iterator[Box]:
    """Boxes side by side in the shown part, a little apart from each other and from its edges."""
    width, height = (shown[2] - shown[0]) / count, shown[3] - shown[1]
    for index in range(count):
        x0 = shown[0] + index * width
        yield (
            x0 + _BORDER * width,
            shown[1] + _BORDER * height,
            x0 + (1 - _BORDER) * width,
            shown[3] - _BORDER * height,
        )


def moving_axis(source: Size, target: Size) -> int:
    """The axis along which the shown part can be moved: 0 across, 1 down."""
    x0, _, x1, _ = cover_crop(source, target)
    return 0 if round(x1 - x0, 6) < source[0] else 1


def _span(box: Box, axis: int, more: float) -> tuple[float, float]:
    """A box along one axis, longer at both ends by that share of it."""
    low, high = box[axis], box[axis + 2]
    return low - more * (high - low), high + more * (high - low)


def shown_part(source: Size, target: Size, crop: Crop) -> Box:
    """The part of the source that the video shows, in fractions."""
    if crop is None:
        return WHOLE
    x0, y0, x1, y1 = cover_crop(source, target, crop)
    return x0 / source[0], y0 / source[1], x1 / source[0], y1 / source[1]


def around(face: Box, others: Sequence[Box], given: Sequence[Box], shown: Box) -> Box:
    """The box of the person with this face: head and shoulders, down to the shown part's lower edge."""
    width, height = face[2] - face[0], face[3] - face[1]
    edges = [
        max(face[0] - _BESIDE * width, shown[0]),
        max(face[1] - _ABOVE * height, shown[1]),
        min(face[2] + _BESIDE * width, shown[2]),
        shown[3] - _BORDER * (shown[3] - shown[1]),
    ]
    middle = [(face[axis] + face[axis + 2]) / 2 for axis in (0, 1)]
    for other, is_box in [*((one, False) for one in others), *((one, True) for one in given)]:
        size = [(other[axis + 2] - other[axis] + face[axis + 2] - face[axis]) / 2 for axis in (0, 1)]
        away = [(other[axis] + other[axis + 2]) / 2 - middle[axis] for axis in (0, 1)]
        axis = 0 if abs(away[0]) / size[0] >= abs(away[1]) / size[1] else 1
        # Between two faces the border lies where their sizes divide the way; before a box it is the box's edge.
        share = (face[axis + 2] - face[axis]) / (2 * size[axis])
        border = middle[axis] + share * away[axis]
        if is_box:
            border = other[axis] if away[axis] > 0 else other[axis + 2]
        if away[axis] > 0:
            edges[axis + 2] = min(edges[axis + 2], border)
        else:
            edges[axis] = max(edges[axis], border)
    # However narrow the room, the face's own middle is the person's.
    x0, y0 = (min(edges[axis], middle[axis]) for axis in (0, 1))
    x1, y1 = (max(edges[axis + 2], middle[axis]) for axis in (0, 1))
    return x0, y0, x1, y1


def pixels(face: Box, source: Size, target: Size, crop: Crop = CENTRE) -> Size:
    """Width and height of a face in the video."""
    scales = [side / own for side, own in zip(target, source, strict=True)]
    scale = min(scales) if crop is None else max(scales)
    return round((face[2] - face[0]) * source[0] * scale), round((face[3] - face[1]) * source[1] * scale)


def holds(box: Box, face: Box) -> bool:
    """Whether the middle of a face lies in a box."""
    x, y = (face[0] + face[2]) / 2, (face[1] + face[3]) / 2
    return box[0] <= x < box[2] and box[1] <= y < box[3]


def area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def share(face: Box, shown: Box) -> float:
    """The share of a face that lies in the shown part."""
    width = min(face[2], shown[2]) - max(face[0], shown[0])
    height = min(face[3], shown[3]) - max(face[1], shown[1])
    return max(width, 0.0) * max(height, 0.0) / area(face)
