"""Rank 0's hold on the others: it starts them, lets them work beside it, learns what becomes of them, and ends them.

The others wait for orders at a socket, without spinning. Tensors go by torch.distributed, NCCL between GPUs and gloo
between CPUs. While all work, a thread listens to them. If one dies, fails or is silent for too long, a collective
operation would never end. So all are ended then, the group is aborted, and what rank 0 is doing raises RankFailed.
"""

import atexit
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch
import torch.distributed as distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # it is exported only where torch has it

import infinitetalk
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import RankFailed
from infinitetalk.models.context_parallel import Shards
from infinitetalk.models.device import gpu_name
from infinitetalk.ranks.joining import LOOPBACK, NCCL, START_S, Joining, join_group
from infinitetalk.ranks.shipping import Parcel, Sender, broadcast

ANSWER_S = 120.0  # a pass takes half a minute at most
_END_S = 5.0
_POLL_S = 0.1

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """What a rank is to do, by the name of a method of `rank.Rank`, with the value in the parcel."""

    name: str
    parcel: Parcel


@dataclass(frozen=True)
class Report:
    """What a rank says when it is ready, and after each order.

    Args:
        failure: why it could not follow the order; it ends then.
        is_memory: its memory ran out.
    """

    failure: str | None = None
    is_memory: bool = False


class Ranks:
    """The other ranks, from their start to their end, as rank 0 has them. The world has one such group at a time."""

    def __init__(self, count: int, device: torch.device) -> None:
        """Start the processes; `join` waits for them.

        Args:
            count: of all ranks, this one included.
            device: this rank's. On GPUs rank k has the k-th.

        Raises:
            RankFailed: this process is in a group of torch.distributed already.
        """
        if distributed.is_initialized():
            raise RankFailed(
                "this process uses torch.distributed already: open models on several GPUs once in a process, or set "
                "GPUS=1"
            )
        self.count, self.device = count, device
        self._sender = Sender()
        self._failure: RankFailed | None = None
        self._lock = threading.Lock()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._connections: list[Connection] = []
        # The other ranks end when this end of the pipe is closed, which the kernel does however this process ends.
        read, self._alive = os.pipe()
        atexit.register(self.close)
        for rank in range(1, count):
            self._start(rank, read)
        os.close(read)

    @property
    def shards(self) -> Shards:
        """Rank 0's part in every pass."""
        assert distributed.group.WORLD is not None
        return Shards(0, self.count, distributed.group.WORLD.group_name)

    def join(self) -> None:
        """Make the group. Raises RankFailed."""
        os.environ.update(NCCL)
        is_gpu = self.device.type == "cuda"
        store = TCPStore(LOOPBACK, 0, self.count, is_master=True, wait_for_workers=False)
        backend = "nccl" if is_gpu else "gloo"
        with self._watched(START_S):  # they have imported what they need
            pass
        with self._watched(START_S):
            for rank, connection in enumerate(self._connections, 1):
                device = torch.device("cuda", rank) if is_gpu else self.device
                joining = Joining(rank, self.count, store.port, backend, device, torch.get_num_threads())
                self._tell(rank, connection, joining)
            self._join(Joining(0, self.count, store.port, backend, self.device, 0), store)
        names = [gpu_name(torch.device("cuda", rank)) if is_gpu else "CPU" for rank in range(self.count)]
        logger.info("%d ranks (%s): %s", self.count, backend, ", ".join(f"{i} {name}" for i, name in enumerate(names)))

    @contextmanager
    def together(self, name: str, value: object, limit_s: float = ANSWER_S) -> Iterator[None]:
        """Let the other ranks follow an order while the `with` block does this rank's part.

        Args:
            name: of a method of `rank.Rank`.
            value: its argument.
            limit_s: how long they may take.

        Raises:
            RankFailed: a rank has failed, died or not answered, or this one has failed, now or earlier.
        """
        self.check()
        parcel, tensors = self._sender.pack(value)
        with self._watched(limit_s):
            for rank, connection in enumerate(self._connections, 1):
                self._tell(rank, connection, Order(name, parcel))
            broadcast(tensors)
            yield

    def check(self) -> None:
        """Raise RankFailed if a rank has ended since the last order, or earlier."""
        for rank, process in enumerate(self._processes, 1):
            if process.poll() is not None:
                self._give_up(RankFailed(f"rank {rank} has ended"))
        if self._failure is not None:
            raise self._lost()

    def close(self) -> None:
        """End the other ranks."""
        atexit.unregister(self.close)
        with self._lock:
            for connection in self._connections:
                connection.close()  # they end when they have nothing to wait for
            if self._alive >= 0:
                os.close(self._alive)
                self._alive = -1
        deadline_s = time.monotonic() + _END_S
        for process in self._processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline_s - time.monotonic()))
            process.kill()
            process.wait()
        if distributed.is_initialized() and (self._failure is None or distributed.get_backend() == "gloo"):
            distributed.destroy_process_group()  # of NCCL's nothing is left after an abort
        self._failure = self._failure or RankFailed("the ranks have been ended")

    def _join(self, joining: Joining, store: TCPStore) -> None:
        """Join the group in a thread, which is left behind if a rank is lost: nothing else ends its waiting."""
        joined: Future[None] = Future()

        def join() -> None:
            try:
                join_group(joining, store)
                joined.set_result(None)
            except Exception as error:
                joined.set_exception(error)

        threading.Thread(target=join, name="join", daemon=True).start()
        while not joined.done():
            if self._failure is not None:
                raise self._lost()
            time.sleep(_POLL_S)
        joined.result()

    def _start(self, rank: int, alive: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            # A group of its own: a signal to rank 0's, such as Ctrl-C, is for rank 0 to act on.
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "infinitetalk.ranks.process", str(theirs.fileno()), str(alive)],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), alive),
                env=_environment(),
                process_group=0,
            )
        self._processes.append(process)
        self._connections.append(Connection(ours.detach()))

    def _tell(self, rank: int, connection: Connection, message: object) -> None:
        try:
            connection.send(message)
        except OSError as error:
            raise RankFailed(f"rank {rank} has ended") from error

    @contextmanager
    def _watched(self, limit_s: float) -> Iterator[None]:
        """Listen to the other ranks until each has reported or one is lost. Raises RankFailed."""
        listener = threading.Thread(target=self._listen, args=(time.monotonic() + limit_s,), name="ranks")
        listener.start()
        try:
            yield
            listener.join()
        except BaseException as error:
            # A rank that is lost makes this one fail, too, and its own word is the better one.
            listener.join(_END_S if isinstance(error, RuntimeError) and not _is_memory(error) else 0)
            self._give_up(RankFailed(f"rank 0: {type(error).__name__}", is_memory=_is_memory(error)))
            listener.join()
            if not isinstance(error, Exception):
                raise
            raise self._lost() from error
        if self._failure is not None:
            raise self._lost()

    def _listen(self, deadline_s: float) -> None:
        waiting = {connection: rank for rank, connection in enumerate(self._connections, 1)}
        while waiting:
            ready = wait(list(waiting), max(0.0, deadline_s - time.monotonic()))
            if not ready:
                silent = ", ".join(map(str, waiting.values()))
                self._give_up(RankFailed(f"rank {silent} did not answer in time"))
                return
            for connection in ready:
                assert isinstance(connection, Connection)
                rank = waiting.pop(connection)
                try:
                    report: Report = connection.recv()
                except (EOFError, OSError):
                    self._give_up(RankFailed(f"rank {rank} has ended"))
                    return
                if report.failure is not None:
                    self._give_up(RankFailed(f"rank {rank}: {report.failure}", is_memory=report.is_memory))
                    return

    def _give_up(self, failure: RankFailed) -> None:
        """End all other ranks and the group, so that nothing here waits for them."""
        with self._lock:
            if self._failure is not None:
                return
            self._failure = failure
        logger.error("The ranks are ended: %s", failure)
        for process in self._processes:
            process.kill()
        if distributed.is_initialized() and distributed.get_backend() == "nccl":
            assert distributed.group.WORLD is not None
            distributed.group.WORLD.abort()

    def _lost(self) -> RankFailed:
        assert self._failure is not None
        return RankFailed(str(self._failure), is_memory=self._failure.is_memory)


def _environment() -> dict[str, str]:
    """A rank's: this process's modules in the same order, libraries' variables, and none of the worker's, with keys."""
    ours = {name for name, _, _ in Settings.variables()}
    others = {name: value for name, value in os.environ.items() if name not in ours and not name.startswith("RUNPOD_")}
    paths = [*filter(None, sys.path), str(Path(infinitetalk.__file__).parents[1])]
    return {**others, **NCCL, "PYTHONPATH": os.pathsep.join(paths)}


def _is_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError)
