"""Frames that faces are put into: planes of YUV in a video's own colours, or RGB of a picture."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from infinitetalk.blending.geometry import Floats, Warp

Frame = NDArray[np.uint8]

# Kr and Kb of the matrices of ITU-T H.273 by their numbers; others are taken as BT.709.
_LUMA = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
_FULL = 2
_SHRINK = 0.75  # below this scale, means of pixels are sampled


@dataclass(frozen=True)
class Canvas:
    """How a frame is stored, and how RGB becomes its channels.

    Args:
        size: (width, height) in pixels.
        is_planar: a frame is Y, U and V below each other, (height * 3 / 2, width); otherwise (height, width, 3) RGB.
        weights, offset: a frame's channels are weights @ RGB + offset, all of 255.
    """

    size: tuple[int, int]
    is_planar: bool
    weights: Floats
    offset: Floats

    @classmethod
    def rgb(cls, size: tuple[int, int]) -> "Canvas":
        """Of a picture."""
        return cls(size, False, np.eye(3, dtype=np.float32), np.zeros(3, np.float32))

    @classmethod
    def yuv(cls, size: tuple[int, int], matrix: int, color_range: int) -> "Canvas":
        """Of a video, by the numbers of `encode.Colors`."""
        red, blue = _LUMA.get(matrix, _LUMA[1])
        luma = np.array([red, 1 - red - blue, blue])
        u, v = (np.eye(3)[2] - luma) / (2 - 2 * blue), (np.eye(3)[0] - luma) / (2 - 2 * red)
        scales = (1, 1, 1) if color_range == _FULL else (219 / 255, 224 / 255, 224 / 255)
        weights = np.stack([row * scale for row, scale in zip((luma, u, v), scales, strict=True)])
        offset = np.array([0 if color_range == _FULL else 16, 128, 128])
        return cls(size, True, weights.astype(np.float32), offset.astype(np.float32))

    def channels(self, frame: Frame) -> Iterator[tuple[Frame, int]]:
        """The frame's three channels as (rows, columns), to be written into, and how many pixels one value spans."""
        if not self.is_planar:
            yield from ((frame[..., channel], 1) for channel in range(3))
            return
        width, height = self.size
        yield frame[:height], 1
        for plane in frame[height:].reshape(2, height // 2, width // 2):
            yield plane, 2

    def of_rgb(self, pixels: Tensor) -> Floats:
        """(3, rows, columns) channels of (3, rows, columns) RGB from 0 to 255."""
        mixed = torch.einsum("ij,jhw->ihw", torch.from_numpy(self.weights), pixels)
        return np.asarray((mixed + torch.from_numpy(self.offset)[:, None, None]).numpy(), np.float32)


def reduced(values: Floats, step: int) -> Floats:
    """The means of step x step values; rows and columns are multiples of `step`."""
    if step == 1:
        return values
    rows, columns = values.shape[0] // step, values.shape[1] // step
    return np.asarray(values.reshape(rows, step, columns, step).mean(axis=(1, 3)), np.float32)


def sampled(picture: Frame, warp: Warp, x0: int, y0: int, width: int, height: int) -> Tensor:
    """(3, height, width) RGB from 0 to 255: a part of the frame into which `warp` puts a picture (rows, columns, 3).

    Beyond its edges the picture's last pixels go on.
    """
    rows, columns = picture.shape[:2]
    back = warp.inverse
    corners = np.array([[x0, y0], [x0 + width, y0], [x0, y0 + height], [x0 + width, y0 + height]], np.float32)
    seen = back(corners)
    low = np.floor(seen.min(0)).astype(int) - 4
    high = np.ceil(seen.max(0)).astype(int) + 4
    left, top = int(np.clip(low[0], 0, columns - 1)), int(np.clip(low[1], 0, rows - 1))
    right, bottom = int(np.clip(high[0], left + 1, columns)), int(np.clip(high[1], top + 1, rows))
    part = torch.from_numpy(np.ascontiguousarray(picture[top:bottom, left:right])).permute(2, 0, 1)[None].float()
    span = np.array([right - left, bottom - top], np.float32)
    scale = float(np.sqrt(abs(np.linalg.det(warp.matrix))))
    if scale < _SHRINK:
        smaller = tuple(max(1, round(float(side) * scale)) for side in span[::-1])
        part = F.interpolate(part, smaller, mode="bilinear", antialias=True)
    xs = torch.arange(width, dtype=torch.float32) + x0 + 0.5
    ys = torch.arange(height, dtype=torch.float32) + y0 + 0.5
    (a, b), (c, d) = back.matrix.tolist()
    e, f = back.offset.tolist()
    across = a * xs[None, :] + b * ys[:, None] + (e - left)
    down = c * xs[None, :] + d * ys[:, None] + (f - top)
    grid = torch.stack((across * 2 / float(span[0]) - 1, down * 2 / float(span[1]) - 1), -1)
    seen_there = F.grid_sample(part, grid[None], mode="bicubic", padding_mode="border", align_corners=False)
    return seen_there[0].clamp(0, 255)
