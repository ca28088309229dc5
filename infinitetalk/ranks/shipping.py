"""Python values with tensors in them, from rank 0 to the others: tensors by broadcast, the rest pickled.

A tensor is sent once. As long as it lives on rank 0 the other ranks keep it, and later values name it by a number. So
tensors that were sent must not be changed in place.
"""

import io
import pickle
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn

from infinitetalk.models.kernels import Kernels


@dataclass(frozen=True)
class Parcel:
    """A value on its way.

    Args:
        structure: the value, pickled, with numbers in place of its tensors.
        new: number, shape and type of each tensor that follows by broadcast.
        gone: numbers of tensors that are of no more use.
    """

    structure: bytes
    new: tuple[tuple[int, torch.Size, torch.dtype], ...]
    gone: tuple[int, ...]


class Sender:
    """Rank 0's side."""

    def __init__(self) -> None:
        self._numbers: dict[int, tuple[int, weakref.ref[Tensor]]] = {}  # by id
        self._gone: list[int] = []
        self._next = 0

    def pack(self, value: object) -> tuple[Parcel, list[Tensor]]:
        """What goes to each rank, and the tensors to `broadcast` afterwards."""
        pickler = _Pickler(self)
        pickler.dump(value)
        gone = tuple(self._gone)
        del self._gone[: len(gone)]  # another thread may have added to it
        new = tuple((number, tensor.shape, tensor.dtype) for number, tensor in pickler.new)
        return Parcel(pickler.text(), new, gone), [tensor for _, tensor in pickler.new]

    def number(self, tensor: Tensor) -> tuple[int, bool]:
        """The tensor's number, and whether it is new."""
        key = id(tensor)
        known = self._numbers.get(key)
        if known is not None and known[1]() is tensor:
            return known[0], False
        number, self._next = self._next, self._next + 1

        def forget(_: object) -> None:
            self._numbers.pop(key, None)
            self._gone.append(number)

        self._numbers[key] = number, weakref.ref(tensor, forget)
        return number, True


class Receiver:
    """The side of another rank."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._tensors: dict[int, Tensor] = {}

    def unpack(self, parcel: Parcel) -> Any:  # noqa: ANN401
        """The value; its tensors arrive by `broadcast`."""
        for number in parcel.gone:
            self._tensors.pop(number, None)
        new = {number: torch.empty(shape, dtype=dtype, device=self.device) for number, shape, dtype in parcel.new}
        broadcast(new.values())
        self._tensors |= new
        return _Unpickler(parcel.structure, self._tensors).load()


def broadcast(tensors: Iterable[Tensor]) -> None:
    """From rank 0 to all: each rank's tensors of equal shapes and types, in the same order."""
    for tensor in tensors:
        content = tensor.detach().contiguous()
        distributed.broadcast(content.view(-1).view(torch.uint8), src=0)  # not every type can be sent as it is


class _Pickler(pickle.Pickler):
    def __init__(self, sender: Sender) -> None:
        self._file = io.BytesIO()
        super().__init__(self._file)
        self._sender = sender
        self.new: list[tuple[int, Tensor]] = []

    def persistent_id(self, value: object) -> tuple[int, bool] | None:
        """A tensor's number and whether it is a module's parameter; None for everything else."""
        if not isinstance(value, Tensor):
            return None
        number, is_new = self._sender.number(value)
        if is_new:
            self.new.append((number, value))
        return number, isinstance(value, nn.Parameter)

    def reducer_override(self, value: object) -> Any:  # noqa: ANN401
        """A module's kernels are functions. Each rank has its own."""
        return (_no_kernels, ()) if isinstance(value, Kernels) else NotImplemented

    def text(self) -> bytes:
        return self._file.getvalue()


class _Unpickler(pickle.Unpickler):
    def __init__(self, structure: bytes, tensors: dict[int, Tensor]) -> None:
        super().__init__(io.BytesIO(structure))
        self._tensors = tensors

    def persistent_load(self, pid: tuple[int, bool]) -> Tensor:
        number, is_parameter = pid
        tensor = self._tensors[number]
        return nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor


def _no_kernels() -> None:
    """What stands for kernels until the rank has its own."""
