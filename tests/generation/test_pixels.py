"""Pixels as bytes and as the model's numbers."""

import numpy as np
import torch

from infinitetalk.generation.pixels import to_bytes, to_picture

LEVELS = np.arange(256 * 3, dtype=np.uint16).reshape(16, 16, 3).astype(np.uint8)


def test_every_level_survives_both_ways() -> None:
    picture = to_picture(LEVELS, torch.device("cpu"))
    assert picture.min() == -1
    assert picture.max() == 1
    assert np.array_equal(to_bytes(picture.unsqueeze(1))[0], LEVELS)


def test_numbers_are_rounded_clipped_and_left_alone() -> None:
    frames = torch.tensor([-2.0, -0.5, 0.999, 2.0]).expand(3, 2, 1, 4).contiguous()
    before = frames.clone()
    assert to_bytes(frames)[1, 0, :, 2].tolist() == [0, 64, 255, 255]
    assert torch.equal(frames, before)
