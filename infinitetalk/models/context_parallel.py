"""A pass of the transformer on several ranks: each has a part of the tokens, and in self-attention a part of the heads.

Every latent frame's tokens are spread over the ranks by space. So all ranks have equal work, and a frame's voices are
heard where its tokens are. For the self-attention the ranks exchange tokens for heads: each gets all tokens of its own
heads, and afterwards gives every rank its tokens back (Ulysses, arXiv 2309.14509). The result is that of a single rank
up to rounding.

The exchange is the operator that diffusers' context parallelism calls (`ulysses_anything`: counts need not divide). Its
attention functions are not used, because they ask all ranks for their counts in every call, which no graph can hold,
and send query, key and value only when all three are there. Here the counts follow from the sizes, and each is sent
while the next one is computed.

Axes in shapes: B batch, T latent frames, S tokens of a latent frame, N = T*S tokens, H heads, D channels of a head;
n = T*S_r tokens and h heads of this rank. After an exchange tokens are in the order (rank, latent frame, space).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as distributed
from torch import Tensor

# torch's functional collectives without their wrappers, which wait at once where a graph is captured.
_OPERATORS = torch.ops._c10d_functional


@dataclass(frozen=True)
class Frames:
    """The latent frames of a window.

    Args:
        count: T.
        tokens: S, of a whole latent frame.
    """

    count: int
    tokens: int


@dataclass(frozen=True)
class Shards:
    """The part of one rank in a pass.

    Args:
        rank: this one's number.
        world: how many there are; 1: this one has everything, and nothing is sent.
        group: the name of their process group.
    """

    rank: int = 0
    world: int = 1
    group: str = ""

    def _parts(self, count: int) -> list[int]:
        """What each rank has of `count`, as `torch.tensor_split` divides it."""
        return [(count + self.world - 1 - rank) // self.world for rank in range(self.world)]

    def gather(self, rows: Tensor, count: int) -> Tensor:
        """All `count` rows (count, ...) of those that each rank has (as many as `torch.tensor_split` gives it, ...)."""
        parts = self._parts(count)
        padded = rows.new_zeros(parts[0], *rows.shape[1:])  # every rank sends as many
        padded[: len(rows)] = rows
        gathered = [torch.empty_like(padded) for _ in parts]
        distributed.all_gather(gathered, padded)
        return torch.cat([part[:kept] for part, kept in zip(gathered, parts, strict=True)])

    def mine(self, tokens: Tensor, frames: Frames) -> Tensor:
        """This rank's tokens (B, n, ...) of all tokens (B, N, ...)."""
        if self.world == 1:
            return tokens
        parts = tokens.unflatten(1, (frames.count, frames.tokens)).tensor_split(self.world, dim=2)
        return cast(Tensor, parts[self.rank].flatten(1, 2).contiguous())

    def whole(self, tokens: Tensor, frames: Frames) -> Tensor:
        """All tokens (B, N, C) of every rank's (B, n, C)."""
        if self.world == 1:
            return tokens
        mine = tokens.unflatten(1, (frames.count, -1)).movedim(2, 0)
        return self.gather(mine, frames.tokens).movedim(0, 2).flatten(1, 2)

    def to_heads(self, tokens: Tensor, frames: Frames) -> Callable[[], Tensor]:
        """Begin to exchange this rank's tokens of all heads (B, n, H, D) for all tokens of its heads.

        Returns a function that waits for (B, N, h, D).
        """
        if self.world == 1:
            return lambda: tokens
        batch, count, heads, channels = tokens.shape
        heads_of = self._parts(heads)
        if heads % self.world == 0:  # the same as below, by a kernel that is four times as fast
            sent = tokens.unflatten(2, (self.world, -1)).permute(2, 1, 0, 3, 4).reshape(-1, channels)
        else:
            parts = tokens.transpose(0, 1).split(heads_of, dim=2)
            sent = torch.cat([part.reshape(-1, channels) for part in parts])
        mine = batch * heads_of[self.rank]
        received = _OPERATORS.all_to_all_single(
            sent,
            [mine * frames.count * space for space in self._parts(frames.tokens)],
            [batch * count * part for part in heads_of],
            self.group,
        )
        return lambda: (
            _arrived(received).view(frames.count * frames.tokens, batch, heads_of[self.rank], channels).transpose(0, 1)
        )

    def to_tokens(self, states: Tensor, heads: int, frames: Frames) -> Tensor:
        """This rank's tokens of all heads (B, n, H, D), of all tokens of its heads (B, N, h, D)."""
        if self.world == 1:
            return states
        batch, _, mine, channels = states.shape
        heads_of = self._parts(heads)
        counts = [frames.count * space for space in self._parts(frames.tokens)]
        count = counts[self.rank]
        received = _OPERATORS.all_to_all_single(
            states.transpose(0, 1).reshape(-1, channels),
            [count * batch * part for part in heads_of],
            [other * batch * mine for other in counts],
            self.group,
        )
        parts = _arrived(received).split([count * batch * part for part in heads_of])
        return torch.cat(
            [part.view(count, batch, -1, channels) for part in parts],
            dim=2,
        ).transpose(0, 1)

    def by_frame(self, tokens: Tensor, frames: Frames) -> Tensor:
        """All tokens (B, N, ...) in the order of latent frames, of exchanged ones."""
        if self.world == 1:
            return tokens
        parts = self._by_rank(tokens, frames)
        return torch.cat([part.unflatten(1, (frames.count, -1)) for part in parts], dim=2).flatten(1, 2)

    def by_rank(self, tokens: Tensor, frames: Frames) -> Tensor:
        """The inverse of `by_frame`."""
        if self.world == 1:
            return tokens
        parts = tokens.unflatten(1, (frames.count, frames.tokens)).split(self._parts(frames.tokens), dim=2)
        return torch.cat([part.flatten(1, 2) for part in parts], dim=1)

    def first_frame(self, tokens: Tensor, frames: Frames) -> Tensor:
        """The first latent frame's tokens (B, S, ...), in their order, of exchanged ones (B, N, ...)."""
        if self.world == 1:
            return tokens[:, : frames.tokens]
        counts = self._parts(frames.tokens)
        parts = zip(self._by_rank(tokens, frames), counts, strict=True)
        return torch.cat([part[:, :count] for part, count in parts], dim=1)

    def mean_over_heads(self, means: Tensor, mine: int, heads: int) -> Callable[[], Tensor]:
        """Begin to average over all `heads` what each rank has averaged over its own, `mine` here.

        Returns a function that waits for the result.
        """
        if self.world == 1:
            return lambda: means
        total = _OPERATORS.all_reduce(means * (mine / heads), "sum", self.group)
        return lambda: _arrived(total)

    def mine_of_exchanged(self, values: Tensor, frames: Frames) -> Tensor:
        """This rank's values (B, n) of all tokens' (B, N), which are in the order of exchanged tokens."""
        return values if self.world == 1 else self._by_rank(values, frames)[self.rank]

    def _by_rank(self, tokens: Tensor, frames: Frames) -> tuple[Tensor, ...]:
        counts = [frames.count * space for space in self._parts(frames.tokens)]
        return cast(tuple[Tensor, ...], tokens.split(counts, dim=1))


ALONE = Shards()


def _arrived(tensor: Tensor) -> Tensor:
    """The tensor, when it is there."""
    return cast(Tensor, _OPERATORS.wait_tensor(tensor))
