"""What goes to the other ranks, and what they keep."""

from collections.abc import Iterable

import pytest
import torch
from torch import nn

from infinitetalk.models.attention import find_kernel
from infinitetalk.models.kernels import Kernels
from infinitetalk.ranks import shipping
from infinitetalk.ranks.shipping import Parcel, Receiver, Sender

CPU = torch.device("cpu")


class Wire:
    """A sender and a receiver in one process: what the one broadcasts, the other gets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sender, self.receiver = Sender(), Receiver(CPU)
        self.sent: list[torch.Tensor] = []
        monkeypatch.setattr(shipping, "broadcast", self._arrive)

    def _arrive(self, tensors: Iterable[torch.Tensor]) -> None:
        for tensor, sent in zip(tensors, self.sent, strict=True):
            tensor.copy_(sent)

    def ship(self, value: object) -> tuple[object, Parcel]:
        parcel, self.sent = self.sender.pack(value)
        return self.receiver.unpack(parcel), parcel


def test_a_tensor_is_sent_once_and_kept_as_long_as_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire(monkeypatch)
    kept = torch.arange(6.0).view(2, 3)
    for step in range(50):
        passing = torch.full((4,), float(step))
        (first, second), parcel = wire.ship((kept, {"a": passing}))
        assert torch.equal(first, kept)
        assert torch.equal(second["a"], passing)
        assert len(parcel.new) == (2 if step == 0 else 1)
        assert len(wire.receiver._tensors) == 2, "those of earlier steps are gone"
        wire.sent = []
    assert len(wire.sender._numbers) <= 2


def test_lanes_share_their_weights_there_too_and_no_kernel_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire(monkeypatch)
    layer = nn.Linear(3, 2).requires_grad_(False)
    layer.kernels = Kernels.exact(find_kernel("native"))
    twin = nn.Linear(3, 2)
    twin.weight, twin.bias = layer.weight, layer.bias
    first, second = wire.ship(layer)[0], wire.ship(twin)[0]
    assert isinstance(first.weight, nn.Parameter)
    assert first.weight.data_ptr() == second.weight.data_ptr() != layer.weight.data_ptr()
    assert torch.equal(first.weight, layer.weight)
    assert first.kernels is None
