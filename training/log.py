"""A log on the screen and in a file, with the seconds since the start."""

import time
from pathlib import Path

import torch


class Log:
    """Call it to write a line.

    Args:
        every_s: how often `due` is True.
        quick: a rehearsal, which logs nothing in between and saves only at the end.
    """

    def __init__(self, path: Path, every_s: float, quick: bool) -> None:
        self.path, self.every_s, self.quick = path, every_s, quick
        self.started_s = self.last_s = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started_s

    def due(self) -> bool:
        """True once every `every_s` seconds."""
        if time.monotonic() - self.last_s < self.every_s:
            return False
        self.last_s = time.monotonic()
        return True

    def __call__(self, message: str) -> None:
        line = f"[{self.elapsed_s:6.1f} s] {message}"
        print(line, flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    @staticmethod
    def memory() -> str:
        return f"{torch.cuda.max_memory_allocated() / 2**30:.0f} GiB" if torch.cuda.is_available() else ""
