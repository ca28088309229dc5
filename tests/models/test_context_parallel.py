"""What ranks exchange, for all numbers of ranks and heads, in one process that plays them all."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from infinitetalk.models import context_parallel
from infinitetalk.models.context_parallel import Frames, Shards

FRAMES = Frames(count=3, tokens=10)  # 10 tokens a frame do not divide by 3, 4 and 8


class Exchange:
    """All-to-all among ranks that call one after the other; what they receive is there after `deliver`."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, list[Tensor]]] = []

    def all_to_all_single(self, sent: Tensor, received: list[int], sizes: list[int], _group: str) -> Tensor:
        buffer = sent.new_full((sum(received), *sent.shape[1:]), torch.nan)
        self.calls.append((buffer, list(sent.split(sizes))))
        return buffer

    def deliver(self) -> None:
        for rank, (buffer, _) in enumerate(self.calls):
            buffer.copy_(torch.cat([pieces[rank] for _, pieces in self.calls]))
        self.calls.clear()


@pytest.mark.parametrize(
    ("world", "heads"), [(2, 40), (4, 40), (5, 40), (8, 40), (3, 40), (2, 5), (3, 6), (4, 6), (5, 6), (6, 6)]
)
def test_heads_come_whole_and_tokens_come_back(world: int, heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = Exchange()
    operators = SimpleNamespace(all_to_all_single=exchange.all_to_all_single, wait_tensor=lambda tensor: tensor)
    monkeypatch.setattr(context_parallel, "_OPERATORS", operators)
    tokens = torch.arange(2.0 * FRAMES.count * FRAMES.tokens * heads * 4).view(2, -1, heads, 4)
    ranks = [Shards(rank, world, "all") for rank in range(world)]
    mine = [shards.mine(tokens, FRAMES) for shards in ranks]
    first_head, returned = 0, [[] for _ in ranks]
    parts = [[None] * len(shards.turns(heads)) for shards in ranks]
    for turn in ranks[0].turns(heads):
        waits = [shards.to_heads(part, FRAMES, turn) for shards, part in zip(ranks, mine, strict=True)]
        exchange.deliver()
        for rank, wait in enumerate(waits):
            parts[rank][turn] = wait()
        backs = [shards.to_tokens(parts[rank][turn], heads, FRAMES, turn) for rank, shards in enumerate(ranks)]
        exchange.deliver()
        for rank, back in enumerate(backs):
            returned[rank].append(back())
    for rank, shards in enumerate(ranks):
        for part in parts[rank]:  # a rank's heads follow each other, those of its first turn before the others
            wanted = tokens[:, :, first_head : first_head + part.shape[2]]
            assert torch.equal(shards.by_frame(part, FRAMES), wanted)
            assert torch.equal(shards.by_rank(wanted, FRAMES), part)
            assert torch.equal(shards.first_frame(part, FRAMES), wanted[:, : FRAMES.tokens])
            assert torch.equal(shards.mine_of_exchanged(part, FRAMES), shards.mine(wanted, FRAMES))
            first_head += part.shape[2]
        assert torch.equal(shards.join_heads(returned[rank]), mine[rank])
    assert first_head == heads
