"""What tests of loading compare and watch."""

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@contextmanager
def watched(look: Callable[[], object]) -> Iterator[None]:
    """Lets a thread look every few milliseconds."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def watch_anonymous_memory() -> Iterator[list[int]]:
    """Collects by how much this process's memory that is no file's has grown, every few milliseconds.

    What was freed does not count: the allocator gives it back before each look.
    """
    give_back = ctypes.CDLL(None).malloc_trim

    def anonymous_bytes() -> int:
        give_back(0)
        status = Path("/proc/self/status").read_text("utf-8")
        return int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1]) * 1024

    before, growth_bytes = anonymous_bytes(), [0]
    with watched(lambda: growth_bytes.append(anonymous_bytes() - before)):
        yield growth_bytes
