"""Where faces may be in a picture: BlazeFace on the whole picture and on overlapping parts of it."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from infinitetalk.faces.networks import DETECTOR, Network, read_network

Floats = NDArray[np.float32]

SIDE = 256  # pixels of the network's picture
MIN_SCORE = 0.5
MAX_OVERLAP = 0.3  # intersection over union from which on two boxes are of one face
TILES = ((512, 384), (256, 192))  # pixels: how large overlapping parts are, and from one to the next
_BATCH = 8


@dataclass(frozen=True)
class Candidate:
    """A place where a face may be, in pixels of the picture.

    Args:
        box: x0, y0, x1, y1.
        eyes: (2, 2), x and y of the eye that is on the left of an upright face, and of the other.
        score: the network's probability.
    """

    box: Floats
    eyes: Floats
    score: float


class Detector:
    """BlazeFace, its version for distant faces."""

    def __init__(self, device: torch.device) -> None:
        """Raises ModelMissing (networks.read_network)."""
        self._network: Network = read_network(DETECTOR, device)
        self._device = device

    def __call__(self, picture: NDArray[np.uint8]) -> list[Candidate]:
        """The places in a picture (height, width, 3) RGB, the likeliest first."""
        height, width = picture.shape[:2]
        parts = [(0, 0, width, height), *_tiles(width, height)]
        found: list[Candidate] = []
        for first in range(0, len(parts), _BATCH):
            batch = parts[first : first + _BATCH]
            seen = [_letterboxed(picture[y0:y1, x0:x1], self._device) for x0, y0, x1, y1 in batch]
            boxes, logits = self._network(torch.cat(seen))
            for part, values, scores in zip(batch, boxes.cpu().numpy(), logits.sigmoid().cpu().numpy(), strict=True):
                found += _candidates(values, scores[:, 0], part)
        return _distinct(found)


def _tiles(width: int, height: int) -> list[tuple[int, int, int, int]]:
    """Overlapping parts, x0, y0, x1, y1 each, that cover the picture once for each size that is smaller than it."""

    def starts(side: int, tile: int, step: int) -> list[int]:
        count = max(0, -(-(side - tile) // step)) + 1
        return [round(i * max(0, side - tile) / max(1, count - 1)) for i in range(count)]

    return [
        (x, y, min(x + tile, width), min(y + tile, height))
        for tile, step in TILES
        if max(width, height) > tile
        for y in starts(height, tile, step)
        for x in starts(width, tile, step)
    ]


def _letterboxed(part: NDArray[np.uint8], device: torch.device) -> Tensor:
    """(1, 3, SIDE, SIDE) in [-1, 1]: the part, as large as fits, in the middle; black around it."""
    height, width = part.shape[:2]
    zoom = SIDE / max(height, width)
    size = (max(1, round(height * zoom)), max(1, round(width * zoom)))
    pixels = torch.from_numpy(part.copy()).to(device).permute(2, 0, 1)[None].float() / 127.5 - 1
    resized = F.interpolate(pixels, size, mode="bilinear", antialias=True)
    down, across = SIDE - size[0], SIDE - size[1]
    return F.pad(resized, (across // 2, across - across // 2, down // 2, down - down // 2), value=-1.0)


def _anchors() -> Floats:
    """(896, 2): x and y of the middles, in the network's picture, to which its boxes refer."""
    grids = []
    for stride, repeated in ((16, 2), (32, 6)):
        cells = (np.arange(SIDE // stride, dtype=np.float32) + 0.5) * stride
        across, down = np.meshgrid(cells, cells)
        grids.append(np.repeat(np.stack((across.ravel(), down.ravel()), 1), repeated, axis=0))
    return np.concatenate(grids).astype(np.float32)


_ANCHORS = _anchors()


def _candidates(values: Floats, scores: Floats, part: tuple[int, int, int, int]) -> list[Candidate]:
    """What the network saw in one part, in pixels of the whole picture; boxes of one face as one, their weighted mean.

    Args:
        values: (896, 16): middle, width and height of the box, then six points, all but the size from the anchor on.
        scores: (896,).
    """
    kept = np.flatnonzero(scores > MIN_SCORE)
    kept = kept[np.argsort(-scores[kept], kind="stable")]
    pairs = values[kept].reshape(-1, 8, 2)
    middle, half = pairs[:, 0] + _ANCHORS[kept], pairs[:, 1] / 2
    eyes = pairs[:, 2:4] + _ANCHORS[kept, None]
    x0, y0, x1, y1 = part
    scale = max(x1 - x0, y1 - y0) / SIDE
    # The part is in the middle of the network's picture.
    corner = np.array([(x0 + x1) / 2, (y0 + y1) / 2], np.float32) - SIDE / 2 * scale
    points = np.concatenate(((middle - half)[:, None], (middle + half)[:, None], eyes), 1) * scale + corner
    found = []
    left = list(range(len(kept)))
    while left:
        same = [i for i in left if overlap(points[left[0], :2].ravel(), points[i, :2].ravel()) > MAX_OVERLAP]
        same = same or left[:1]
        weights = scores[kept[same]]
        mean = (points[same] * weights[:, None, None]).sum(0) / weights.sum()
        found.append(Candidate(mean[:2].ravel(), mean[2:], float(weights[0])))
        left = [i for i in left if i not in same]
    return found


def _distinct(found: list[Candidate]) -> list[Candidate]:
    """The candidates without those that overlap a likelier one."""
    distinct: list[Candidate] = []
    for candidate in sorted(found, key=lambda one: -one.score):
        if all(overlap(candidate.box, other.box) <= MAX_OVERLAP for other in distinct):
            distinct.append(candidate)
    return distinct


def overlap(a: Floats, b: Floats) -> float:
    """Intersection over union of two boxes x0, y0, x1, y1."""
    size = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    shared = float(size[0] * size[1])
    both = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - shared
    return shared / both if both > 0 else 0.0
