"""Points on a face: MediaPipe's face mesh on a turned square around it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from infinitetalk.faces.networks import MESH, Network, read_network

Floats = NDArray[np.float32]

SIDE = 192  # pixels of the network's picture
EYE_CORNERS = (33, 263)  # the outer ones, left and right in an upright picture
_ROOM = 1.5  # the square's side, in faces
_BATCH = 16


@dataclass(frozen=True)
class Square:
    """The part of a picture that the network sees: middle and side in pixels, and the turn of the eyes in radians."""

    x: float
    y: float
    side: float
    turn: float


def square_around(points: Floats, eyes: Floats) -> Square:
    """The square around what `points` (N, 2) span, turned so that `eyes` (2, 2), left and right, become level."""
    low, high = points.min(0), points.max(0)
    x, y = (low + high) / 2
    across, down = eyes[1] - eyes[0]
    return Square(float(x), float(y), _ROOM * float((high - low).max()), float(np.arctan2(down, across)))


class Mesh:
    """The face mesh without attention: 468 points."""

    def __init__(self, device: torch.device) -> None:
        """Raises ModelMissing (networks.read_network)."""
        self._network: Network = read_network(MESH, device)
        self._device = device

    def __call__(self, picture: NDArray[np.uint8], squares: Sequence[Square]) -> tuple[Floats, Floats]:
        """Points (N, 468, 2), x and y in pixels of the picture, in each of N squares, and (N,) the probabilities that
        it shows a face.

        Args:
            picture: (height, width, 3) RGB.
        """
        points, presence = [np.empty((0, 468, 2), np.float32)], [np.empty(0, np.float32)]
        for first in range(0, len(squares), _BATCH):
            batch = squares[first : first + _BATCH]
            seen = torch.cat([_cut_out(picture, square, self._device) for square in batch])
            found, logits = self._network(seen)
            local = found.reshape(-1, 468, 3)[..., :2].cpu().numpy() / SIDE - 0.5
            points.append(np.stack([_in_picture(one, square) for one, square in zip(local, batch, strict=True)]))
            presence.append(logits.sigmoid().flatten().cpu().numpy())
        return np.concatenate(points), np.concatenate(presence)


def _in_picture(points: Floats, square: Square) -> Floats:
    """Points in fractions of a square, from its middle on, as pixels of the picture."""
    cos, sin = np.cos(square.turn) * square.side, np.sin(square.turn) * square.side
    turned = np.stack((points[:, 0] * cos - points[:, 1] * sin, points[:, 0] * sin + points[:, 1] * cos), 1)
    return np.asarray(turned + np.array([square.x, square.y]), np.float32)


def _cut_out(picture: NDArray[np.uint8], square: Square, device: torch.device) -> Tensor:
    """(1, 3, SIDE, SIDE) in [0, 1]: what a square shows; black beyond the picture."""
    height, width = picture.shape[:2]
    reach = square.side * (abs(np.cos(square.turn)) + abs(np.sin(square.turn))) / 2 + 2
    x0, x1 = (int(np.clip(round(square.x + side * reach), 0, width)) for side in (-1, 1))
    y0, y1 = (int(np.clip(round(square.y + side * reach), 0, height)) for side in (-1, 1))
    if x1 <= x0 or y1 <= y0:
        return torch.zeros(1, 3, SIDE, SIDE, device=device)
    part = torch.from_numpy(picture[y0:y1, x0:x1].copy()).to(device)
    pixels = part.permute(2, 0, 1)[None].float() / 255
    # Sampling skips pixels of a face much larger than the network's picture; their means are sampled then.
    size = (x1 - x0, y1 - y0)
    shrink = square.side / SIDE
    if shrink > 1:
        small = (max(1, round(size[1] / shrink)), max(1, round(size[0] / shrink)))
        pixels = F.interpolate(pixels, small, mode="bilinear", antialias=True)
    steps = ((torch.arange(SIDE, device=device) + 0.5) / SIDE - 0.5) * square.side
    cos, sin = float(np.cos(square.turn)), float(np.sin(square.turn))
    across = square.x - x0 + steps[None, :] * cos - steps[:, None] * sin
    down = square.y - y0 + steps[None, :] * sin + steps[:, None] * cos
    grid = torch.stack((across * 2 / size[0] - 1, down * 2 / size[1] - 1), -1)
    return F.grid_sample(pixels, grid[None], mode="bilinear", padding_mode="zeros", align_corners=False)
