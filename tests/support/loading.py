"""What tests of loading compare and watch."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@contextmanager
def watch_anonymous_memory() -> Iterator[list[int]]:
    """Collects by how much this process's memory that is no file's has grown, every few milliseconds."""

    def anonymous_bytes() -> int:
        status = Path("/proc/self/status").read_text("utf-8")
        return int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1]) * 1024

    before, growth_bytes, done = anonymous_bytes(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            growth_bytes.append(anonymous_bytes() - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield growth_bytes
    finally:
        done.set()
        thread.join()
