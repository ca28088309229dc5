"""A process group of one process: it is rank 0, and every other rank is taken to send what this one sends.

So one GPU can be timed while it computes one of several GPUs' part, on numbers like the real ones (a GPU multiplies
zeros faster). What is computed is meaningless.

A transfer is made beside the work, on a stream of its own that goes before others, as NCCL's are
(`infinitetalk.ranks.joining`). It takes what copying takes here, and with a `Link` then what that link takes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as distributed
import triton
from torch import Tensor
from torch._C._distributed_c10d import _create_work_from_future
from torch.testing._internal.distributed.fake_pg import FakeStore
from triton.language.extra import cuda

_NAME = "loopback"


@dataclass(frozen=True)
class Link:
    """What is taken for granted of the way to the other GPUs.

    Args:
        gb_per_s: 10^9 bytes that a GPU sends in a second.
        channels: blocks of 16 warps that run meanwhile. They only wait; NCCL's move data and hold shared memory.
    """

    gb_per_s: float
    channels: int


class Loopback(distributed.ProcessGroup):
    """As many collectives as a pass and decoding need. torch's documentation of `ProcessGroup` has their arguments."""

    def __init__(self, world: int, link: Link | None) -> None:
        super().__init__(0, world)
        self.link, self.world = link, world
        self.side = torch.cuda.Stream(priority=-1) if torch.cuda.is_available() else None

    def getBackendName(self) -> str:  # noqa: N802  # torch's name
        return _NAME

    def size(self) -> int:
        return self.world

    def all_to_all_single(
        self, output: Tensor, given: Tensor, _received: list[int], sent: list[int], _options: object = None
    ) -> Any:  # noqa: ANN401
        return self._transfer(output, lambda: _repeat(given, output), given[sent[0] :].nbytes)

    alltoall_base = all_to_all_single  # its name in torch 2.11

    def allgather(self, outputs: list[list[Tensor]], given: list[Tensor], _options: object = None) -> Any:  # noqa: ANN401
        def copy() -> None:
            for output in outputs[0]:
                output.copy_(given[0])

        # A GPU receives what the others send, each of them once.
        return self._transfer(given[0], copy, (self.world - 1) * given[0].nbytes)

    def allreduce(self, tensors: list[Tensor], _options: object = None) -> Any:  # noqa: ANN401
        return self._transfer(tensors[0], lambda: None, 2 * tensors[0].nbytes * (self.world - 1) // self.world)

    def _transfer(self, result: Tensor, copy: Callable[[], None], n_bytes: int) -> Any:  # noqa: ANN401
        """Begin a transfer. Who waits for it waits for what this puts on the side stream."""
        if self.side is None:
            copy()
            done = torch.futures.Future[Tensor]()
            done.set_result(result)
        else:
            done = torch.futures.Future[Tensor](devices=[result.device])
            self.side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.side):
                copy()
                if self.link is not None:
                    _occupy[(self.link.channels,)](round(n_bytes / self.link.gb_per_s), num_warps=16)
                done.set_result(result)
        return _create_work_from_future(done)


def join(world: int, link: Link | None) -> str:
    """Be rank 0 of a new group of so many, in place of an earlier one. Returns the group's name."""
    if distributed.is_initialized():
        distributed.destroy_process_group()

    def make(_store: FakeStore, _rank: int, size: int, _timeout: timedelta) -> Loopback:
        return Loopback(size, link)

    distributed.Backend.register_backend(_NAME, make, devices=["cpu", "cuda"])
    distributed.init_process_group(_NAME, rank=0, world_size=world, store=FakeStore())
    return distributed.distributed_c10d._world.pg_names[distributed.group.WORLD]


def _repeat(given: Tensor, output: Tensor) -> None:
    """Fill the output with the input, as often as that takes."""
    to, own = output.view(-1), given.reshape(-1)
    for start in range(0, to.numel(), own.numel()):
        part = to[start : start + own.numel()]
        part.copy_(own[: part.numel()])


@triton.jit
def _occupy(nanoseconds) -> None:  # noqa: ANN001
    """Each of its programs keeps a multiprocessor busy for so long."""
    until = cuda.globaltimer() + nanoseconds
    while cuda.globaltimer() < until:
        pass
