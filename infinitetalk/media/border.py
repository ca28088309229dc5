"""A border around pictures that are shown as a whole: their own edges, blurred."""

import numpy as np
from numpy.typing import NDArray

_LINES = 4  # of pixels at an edge, whose mean goes on into the border
_BLUR, _REACH = 0.04, 0.05  # of the edge's length: how far it is blurred, and how soon


def add_border(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture in the middle of a larger one.

    The border begins with the picture's own edge and is soon blurred along it, so that there is nothing in it that
    could be taken for somebody or something.

    Args:
        pixels: (height, width, 3) RGB.
        size: (width, height) of the result; the picture itself where it has that size.
    """
    height, width = pixels.shape[:2]
    if (width, height) == size:
        return pixels
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    right, foot = size[0] - width - left, size[1] - height - top
    wide = np.concatenate((_side(pixels, left)[:, ::-1], pixels, _side(pixels[:, ::-1], right)), axis=1)
    down = wide.swapaxes(0, 1)
    high = np.concatenate((_side(down, top)[:, ::-1], down, _side(down[:, ::-1], foot)), axis=1)
    return np.ascontiguousarray(high.swapaxes(0, 1))


def _side(pixels: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """The border (height, width, 3) beside the left edge of a picture (height, any, 3), from that edge on."""
    # Slow to import, and few programs that read a picture or a video need it.
    from scipy.ndimage import gaussian_filter1d

    edge = pixels[:, :_LINES].mean(axis=1, dtype=np.float32)
    length = len(edge)
    blurred = gaussian_filter1d(edge, _BLUR * length, axis=0, mode="nearest")
    sharp = np.exp(-np.arange(width, dtype=np.float32) / (_REACH * length))[None, :, None]
    return np.asarray((sharp * edge[:, None] + (1 - sharp) * blurred[:, None]).round(), np.uint8)
