"""A pass of the transformer on several ranks: each has a part of the tokens, and in self-attention a part of the heads.

Every latent frame's tokens are spread over the ranks by space. So all ranks have equal work, and a frame's voices are
heard where its tokens are. For the self-attention the ranks exchange tokens for heads: each gets all tokens of its own
heads, and afterwards gives every rank its tokens back (Ulysses, arXiv 2309.14509). The result is that of a single rank
up to rounding.

A rank's heads are attended to in two turns. While the first is computed, the heads of the second are on their way, and
while the second is computed, the result of the first is.

The exchange is the operator that diffusers' context parallelism calls (`ulysses_anything`: counts need not divide). Its
attention functions are not used, because they ask all ranks for their counts in every call, which no graph can hold,
and compute nothing while they wait. Here the counts follow from the sizes.

Axes in shapes: B batch, T latent frames, S tokens of a latent frame, N = T*S tokens, H heads, D channels of a head;
n = T*S_r tokens of this rank, h of its heads in a turn. After an exchange tokens are in the order (rank, latent frame,
space).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as distributed
from torch import Tensor

# torch's functional collectives without their wrappers, which wait at once where a graph is captured.
_OPERATORS = torch.ops._c10d_functional

TURNS = 2


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

    def turns(self, heads: int) -> range:
        """The turns in which so many heads are attended to."""
        return range(1 if self.world == 1 else min(TURNS, heads // self.world))

    def gather(self, rows: Tensor, count: int) -> Tensor:
        """All `count` rows (count, ...) of those that each rank has (as many as `torch.tensor_split` gives it, ...)."""
        parts = _parts(count, self.world)
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

    def to_heads(self, tokens: Tensor, frames: Frames, turn: int) -> Callable[[], Tensor]:
        """Begin to exchange this rank's tokens of all heads (B, n, H, D) for all tokens of its heads of that turn.

        Returns a function that waits for (B, N, h, D).
        """
        if self.world == 1:
            return lambda: tokens
        batch, count, heads, channels = tokens.shape
        heads_of = [parts[turn] for parts in self._heads(heads)]
        if len(set(heads_of)) == 1 and heads % (self.world * len(self.turns(heads))) == 0:
            # The same as below, by a kernel that is four times as fast.
            parts = tokens.unflatten(2, (self.world, -1, heads_of[0]))[:, :, :, turn]
            sent = parts.permute(2, 1, 0, 3, 4).reshape(-1, channels)
        else:
            pieces = tokens.transpose(0, 1).split([part for parts in self._heads(heads) for part in parts], dim=2)
            sent = torch.cat([piece.reshape(-1, channels) for piece in pieces[turn :: len(self.turns(heads))]])
        mine = heads_of[self.rank]
        received = _OPERATORS.all_to_all_single(
            sent,
            [batch * mine * other for other in self._counts(frames)],
            [batch * count * part for part in heads_of],
            self.group,
        )
        return lambda: _arrived(received).view(frames.count * frames.tokens, batch, mine, channels).transpose(0, 1)

    def to_tokens(self, states: Tensor, heads: int, frames: Frames, turn: int) -> Callable[[], Sequence[Tensor]]:
        """Begin to exchange all tokens of this rank's heads of a turn (B, N, h, D) for its tokens of all heads.

        Returns a function that waits for those of each rank, for `join_heads`.
        """
        if self.world == 1:
            return lambda: (states,)
        batch, _, mine, channels = states.shape
        heads_of = [parts[turn] for parts in self._heads(heads)]
        counts = self._counts(frames)
        count = counts[self.rank]
        sizes = [count * batch * part for part in heads_of]
        received = _OPERATORS.all_to_all_single(
            states.transpose(0, 1).reshape(-1, channels),
            sizes,
            [other * batch * mine for other in counts],
            self.group,
        )
        return lambda: [part.view(count, batch, -1, channels) for part in _arrived(received).split(sizes)]

    def join_heads(self, turns: Sequence[Sequence[Tensor]]) -> Tensor:
        """This rank's tokens of all heads (B, n, H, D), of what `to_tokens` has for each turn."""
        if self.world == 1:
            return turns[0][0]
        return torch.cat([part for parts in zip(*turns, strict=True) for part in parts], dim=2).transpose(0, 1)

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
        parts = tokens.unflatten(1, (frames.count, frames.tokens)).split(_parts(frames.tokens, self.world), dim=2)
        return torch.cat([part.flatten(1, 2) for part in parts], dim=1)

    def first_frame(self, tokens: Tensor, frames: Frames) -> Tensor:
        """The first latent frame's tokens (B, S, ...), in their order, of exchanged ones (B, N, ...)."""
        if self.world == 1:
            return tokens[:, : frames.tokens]
        parts = zip(self._by_rank(tokens, frames), _parts(frames.tokens, self.world), strict=True)
        return torch.cat([part[:, :count] for part, count in parts], dim=1)

    def sum_of_ranks(self, values: Tensor) -> Tensor:
        """The sum of what all ranks have."""
        return values if self.world == 1 else _arrived(_OPERATORS.all_reduce(values, "sum", self.group))

    def mine_of_exchanged(self, values: Tensor, frames: Frames) -> Tensor:
        """This rank's values (B, n) of all tokens' (B, N), which are in the order of exchanged tokens."""
        return values if self.world == 1 else self._by_rank(values, frames)[self.rank]

    def _heads(self, heads: int) -> list[list[int]]:
        """How many heads each rank has in each turn."""
        return [_parts(part, len(self.turns(heads))) for part in _parts(heads, self.world)]

    def _counts(self, frames: Frames) -> list[int]:
        """How many tokens each rank has."""
        return [frames.count * space for space in _parts(frames.tokens, self.world)]

    def _by_rank(self, tokens: Tensor, frames: Frames) -> tuple[Tensor, ...]:
        return cast(tuple[Tensor, ...], tokens.split(self._counts(frames), dim=1))


ALONE = Shards()


def _parts(count: int, ways: int) -> list[int]:
    """`count` divided as `torch.tensor_split` divides it."""
    return [(count + ways - 1 - part) // ways for part in range(ways)]


def _arrived(tensor: Tensor) -> Tensor:
    """The tensor, when it is there."""
    return cast(Tensor, _OPERATORS.wait_tensor(tensor))
