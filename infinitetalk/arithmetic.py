"""How the transformer computes: with which attention kernel, in how many bits, with how much of the self-attention."""

import re
from dataclasses import dataclass
from typing import Self

AUTO = "auto"  # chosen at start
NATIVE = "native"  # PyTorch's own choice among its kernels
FLASH_3 = "_flash_3"
SPARSE = "sparse"  # the sparse attention's own kernels
EXACT = "exact"  # the lane that changes no result

# How 8-bit layers scale their matrices: each row by its own number, or the whole matrix by one.
ROWS, TENSORS = "rows", "tensors"


@dataclass(frozen=True)
class Arithmetic:
    """What decides the transformer's last bits and its speed, apart from its weights.

    Args:
        attention: the attention kernel by diffusers' name; `AUTO` until one is chosen.
        fp8: the large linear layers compute in 8 bits, and so does the self-attention if a kernel can.
        density: the share of the self-attention that is computed token by token, in (0, 1]; None is all.
        fp8_scales: of the 8-bit layers, `ROWS` or `TENSORS`; `AUTO` until the device has shown which it can.
        fp8_attention: the 8-bit kernel of the self-attention, by the name of its exact one, or `SPARSE`; `AUTO` until
            one is chosen; None where none is right and faster.
    """

    attention: str = AUTO
    fp8: bool = False
    density: float | None = None
    fp8_scales: str = AUTO
    fp8_attention: str | None = AUTO

    @classmethod
    def in_lane(cls, lane: str, attention: str = AUTO) -> Self:
        """The arithmetic whose `lane` has that name. Raises ValueError if none has."""
        match = re.fullmatch(r"(fp8)?_?(?:sparse_(\d+(?:\.\d+)?))?", "" if lane == EXACT else lane)
        if match is not None:
            density = None if match[2] is None else float(match[2]) / 100
            found = cls(attention, match[1] is not None, density)
            if found.lane == lane and (density is None or 0 < density <= 1):
                return found
        raise ValueError(f"{lane!r} is no lane: lanes are exact, fp8, sparse_20 (for 20 %) and fp8_sparse_20")

    @property
    def lane(self) -> str:
        """The key under which times and errors are kept: exact, fp8, sparse_20 (20 % density) or fp8_sparse_20."""
        parts = ["fp8"] if self.fp8 else []
        if self.density is not None:
            parts.append(f"sparse_{100 * self.density:g}")
        return "_".join(parts) or EXACT

    @property
    def attention_text(self) -> str:
        """The attention kernels in words, for results and logs."""
        if self.density is not None:
            narrow = " in 8 bits" if self.fp8 and self.fp8_attention == SPARSE else ""
            return f"{100 * self.density:g} % of the self-attention{narrow}, {self.attention}"
        if not self.fp8 or self.fp8_attention == AUTO:
            return self.attention
        if self.fp8_attention is None:
            return f"{self.attention} (self-attention not in 8 bits)"
        if self.fp8_attention == self.attention:
            return f"{self.attention} (self-attention in 8 bits)"
        return f"{self.attention} (self-attention in 8 bits by {self.fp8_attention})"

    def precision_text(self, dtype: str) -> str:
        """The number format in words, for results: the weights' own, followed by the lane unless that is exact."""
        if self.lane == EXACT:
            return dtype
        one_scale = ", one scale a matrix" if self.fp8 and self.fp8_scales == TENSORS else ""
        return f"{dtype}, {self.lane}{one_scale}"
