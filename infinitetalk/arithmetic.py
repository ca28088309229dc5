"""How the transformer computes: with which attention kernel, in how many bits, with how much of the self-attention."""

from dataclasses import dataclass

AUTO = "auto"  # the attention kernel is chosen at start
NATIVE = "native"  # PyTorch's own choice among its kernels
FLASH_3 = "_flash_3"
EXACT = "exact"  # the lane that changes no result


@dataclass(frozen=True)
class Arithmetic:
    """What decides the transformer's last bits and its speed, apart from its weights.

    Args:
        attention: the attention kernel by diffusers' name; `AUTO` until one is chosen.
        fp8: the large linear layers compute in 8 bits, and so does the self-attention if the kernel can.
        density: experimental; the share of the self-attention that is computed token by token, in (0, 1]; None is all.
    """

    attention: str = AUTO
    fp8: bool = False
    density: float | None = None

    @property
    def lane(self) -> str:
        """The key under which times and errors are kept: exact, fp8, sparse_20 (20 % density) or fp8_sparse_20."""
        parts = ["fp8"] if self.fp8 else []
        if self.density is not None:
            parts.append(f"sparse_{100 * self.density:g}")
        return "_".join(parts) or EXACT

    @property
    def has_fp8_attention(self) -> bool:
        """Whether the self-attention computes in 8 bits: only FlashAttention-3 can."""
        return self.fp8 and self.density is None and self.attention == FLASH_3

    @property
    def attention_text(self) -> str:
        """The attention kernels in words, for results and logs."""
        if self.density is not None:
            return f"{100 * self.density:g} % of the self-attention by FlexAttention, {self.attention}"
        return f"{self.attention} (self-attention in 8 bits)" if self.has_fp8_attention else self.attention

    def precision_text(self, dtype: str) -> str:
        """The number format in words, for results: the weights' own, followed by the lane unless that is exact."""
        return dtype if self.lane == EXACT else f"{dtype}, {self.lane}"
