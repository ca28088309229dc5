"""One tensor as it lies in a weight file, whatever the file's format."""

from dataclasses import dataclass
from math import prod

import torch

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Blocks:
    """How quantised numbers lie in a file: in blocks of so many numbers, each of so many bytes.

    Args:
        kind: GGML's name of the format.
    """

    kind: str
    numbers: int
    bytes: int


@dataclass(frozen=True)
class Stored:
    """A tensor's type and shape, and the place of its bytes in the file.

    Args:
        stride: None for contiguous tensors.
        blocks: of quantised numbers; `dtype` is then uint8 and `shape` that of the numbers.
    """

    dtype: torch.dtype
    shape: Shape
    offset: int
    stride: Shape | None = None
    blocks: Blocks | None = None

    @property
    def n_bytes(self) -> int:
        """What has to be read for it."""
        elements = prod(self.shape)
        if self.blocks is not None:
            return elements // self.blocks.numbers * self.blocks.bytes
        if self.stride is not None and elements:
            elements = 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        return elements * self.dtype.itemsize
