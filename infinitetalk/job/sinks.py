"""Who gets the finished windows of a job, while the next one is made."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from infinitetalk.generation.joins import Handover
from infinitetalk.media.encode import VideoWriter


@dataclass(frozen=True)
class FinishedWindow:
    """A window of the clip that has been made.

    Args:
        index: the window's number in the plan.
        piece: its frames without loss, as `VideoWriter.pack` gives them.
        handover: what the next window needs, in host memory; None for the last window of a scene.
        state: what packing the next window needs to know; empty where it needs nothing.
    """

    index: int
    piece: bytes
    handover: Handover | None
    state: bytes = b""


class WindowSink(Protocol):
    """Takes finished windows: in their order, and each of them once."""

    def take(self, window: FinishedWindow) -> None:
        """Take the next window; the one after it waits. An exception ends the job."""
        ...


@dataclass(frozen=True)
class VideoFile:
    """The sink that makes the finished video."""

    writer: VideoWriter

    def take(self, window: FinishedWindow) -> None:
        """See `WindowSink.take`."""
        self.writer.append(window.piece)


class WindowQueue:
    """Packs windows and hands them to the sinks, in a thread of its own. At most one window is on its way.

    If packing or a sink fails, the next call raises the error.
    """

    def __init__(
        self,
        pack: Callable[[NDArray[np.uint8]], bytes],
        sinks: Sequence[WindowSink],
        give_up: Callable[[], object],
        state: Callable[[], bytes] = bytes,
    ) -> None:
        """Make an empty queue.

        Args:
            pack: turns frames, (n, height, width, 3) uint8 RGB, into a piece.
            sinks: each window goes to all of them, one after the other.
            give_up: ends what `pack` and the sinks are doing; called if the job ends early.
            state: what packing has left for the next window.
        """
        self._pack = pack
        self._sinks = sinks
        self._give_up = give_up
        self._state = state
        self._pending: Future[None] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="windows")

    def __enter__(self) -> Self:
        return self

    def put(self, index: int, frames: NDArray[np.uint8], handover: Handover | None) -> None:
        """Hand out window `index`. Waits for the one before, and returns while this one is on its way."""
        self.wait()
        self._pending = self._thread.submit(copy_context().run, self._hand_out, index, frames, handover)

    def wait(self) -> None:
        """Wait until every sink has the last window."""
        if self._pending is not None:
            self._pending.result()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._give_up()
        self._thread.shutdown()

    def _hand_out(self, index: int, frames: NDArray[np.uint8], handover: Handover | None) -> None:
        window = FinishedWindow(index, self._pack(frames), handover, self._state())
        for sink in self._sinks:
            sink.take(window)
