"""The preview: finished windows that can be watched while the others are made.

It has a thread of its own, which nothing waits for. Whatever goes wrong in it costs the preview and never the job: the
result has a warning then.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from infinitetalk.errors import Cancelled, TimedOut
from infinitetalk.job.screens import PLAYLIST, PartsScreen, Screen, SheetScreen
from infinitetalk.job.sinks import FinishedWindow
from infinitetalk.logs import log_event, places
from infinitetalk.media.child import ended_by
from infinitetalk.media.ffmpeg import FfmpegError
from infinitetalk.media.hls import HEADER, HlsParts, part_name
from infinitetalk.planning.plan import VideoShape
from infinitetalk.progress import Preview
from infinitetalk.transfer.bucket import BucketError
from infinitetalk.transfer.preview_folder import PreviewFolder

MOST_WAITING_BYTES = 500_000_000  # of windows; the preview takes a few seconds for each, and making one takes longer
# How long the end of a job waits for what is finished and not yet shown. One whose time is up has to answer.
END_LIMIT_S, TIMED_OUT_LIMIT_S = 6.0, 1.0
KEEP_LIMIT_S = 20.0  # likewise of a job whose preview is kept
_GRACE_S = 1.0  # in which the thread notices that its time is up

logger = logging.getLogger(__name__)


# Windows that are shown together, and the bytes of memory that they take.
_Batch = tuple[Iterable[FinishedWindow], int]


class _Lost(Exception):
    """The preview cannot go on. The message is the reason."""


@dataclass(frozen=True)
class PreviewPlan:
    """What a job's preview is to be.

    Args:
        open_folder: gives the place for its files, or None where progress carries it. Raises OSError.
        shape: of the finished video.
        n_windows: of the video.
        target_s: about the time that a window takes.
        keep: whether it stays when the video is delivered.
    """

    open_folder: Callable[[], PreviewFolder | None]
    shape: VideoShape
    n_windows: int
    target_s: float
    keep: bool


class WindowPreview:
    """A job's preview: a `WindowSink` that takes windows at once, and shows them in its own time.

        with WindowPreview(plan, folder, report) as preview:
            preview.begin(soundtrack, earlier_windows)
            preview.take(window)
            preview.delivered()

    A job that ends without `delivered` leaves what was finished.
    """

    def __init__(
        self, plan: PreviewPlan | None, folder: Path, report: Callable[[Preview, bool], None] = lambda *_: None
    ) -> None:
        """Begin nothing yet.

        Args:
            plan: None for a job without a preview.
            folder: the job's, for files on their way.
            report: takes where the windows can be seen, and whether the job has failed; called in any thread.
        """
        self.seen = Preview()
        self._plan = plan
        self._local = folder / "preview"
        self._report = report
        self._waiting: queue.Queue[_Batch | None] = queue.Queue()
        self._deadline_s = float("inf")
        self._thread: threading.Thread | None = None
        self._folder: PreviewFolder | None = None
        self._screen: Screen | None = None
        self._next = self._taken_bytes = self._done_bytes = 0
        self._lost = self._unwritten = ""

    def __enter__(self) -> Self:
        return self

    def begin(self, soundtrack: Path, earlier: Iterable[FinishedWindow]) -> None:
        """Start the thread.

        Args:
            soundtrack: the video's sound, as `audio.write_soundtrack` makes it.
            earlier: windows of an earlier run of the job, read when their turn comes.
        """
        if self._plan is not None:
            self._waiting.put((earlier, 0))
            work = partial(copy_context().run, self._work, self._plan, soundtrack)
            self._thread = threading.Thread(target=work, name="preview", daemon=True)
            self._thread.start()

    def take(self, window: FinishedWindow) -> None:
        """Take the next window (`WindowSink.take`)."""
        if self._thread is None or self._lost:
            return
        waiting_bytes = self._taken_bytes - self._done_bytes
        if waiting_bytes and waiting_bytes + len(window.piece) > MOST_WAITING_BYTES:
            self._give_up("it could not keep up")
            return
        self._taken_bytes += len(window.piece)
        self._waiting.put(([replace(window, handover=None)], len(window.piece)))

    def delivered(self) -> list[str]:
        """The video is where its caller wants it: remove the preview, or complete it if it is to stay.

        Returns a warning if something went wrong with it.
        """
        if self._plan is None or self._thread is None:
            return []
        if self._plan.keep:
            self._end(KEEP_LIMIT_S)
            return [f"The preview is not whole ({self._problem}); the video is."] if self._problem else []
        told = [f"The preview broke off ({self._problem}); the video is whole."] if self._problem else []
        is_done, self.seen = self._stop(0.0), Preview()
        if self._folder is not None:
            names = [PLAYLIST, HEADER, *map(part_name, range(self._plan.n_windows))]  # an earlier run's are among them
            try:
                self._folder.remove(names)
                reason = "" if is_done else "one was still on its way"
            except (OSError, BucketError) as error:
                reason = _reason(error)
            if reason:
                told = [f"Files of the preview are left in {self._folder} ({reason}); remove them there."]
        return told

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is None:
            return
        if isinstance(error, Exception | KeyboardInterrupt):
            self._end(TIMED_OUT_LIMIT_S if isinstance(error, TimedOut) else END_LIMIT_S)
            self._report(self.seen, True)
        else:
            self._stop(0.0)

    @property
    def _problem(self) -> str:
        return self._lost or self._unwritten

    # ---- in the thread ----

    def _work(self, plan: PreviewPlan, soundtrack: Path) -> None:
        with ended_by(self._check):
            try:
                screen = self._screen = self._open(plan, soundtrack)
                while not self._lost and (batch := self._waiting.get()) is not None:
                    windows, n_bytes = batch
                    self._take_in(screen, windows)
                    self._done_bytes += n_bytes
            except Cancelled:
                pass  # its time is up
            except Exception as error:  # whatever it is, the job goes on
                self._give_up(_reason(error), places(error))

    def _open(self, plan: PreviewPlan, soundtrack: Path) -> Screen:
        self._local.mkdir()
        folder = self._folder = plan.open_folder()
        if folder is None:
            return SheetScreen(plan.shape.size)
        folder.sweep()
        parts = HlsParts(self._local, soundtrack, plan.shape.size, plan.shape.rate)
        return PartsScreen(folder, parts, self._local, plan.target_s, self._check)

    def _take_in(self, screen: Screen, windows: Iterable[FinishedWindow]) -> None:
        """Show windows, all of them at once: those of an earlier run have been seen."""
        piece = self._local / "piece.mp4"
        for window in windows:
            self._check()
            if window.index != self._next:
                raise _Lost("a window of an earlier run could not be read again")
            piece.write_bytes(window.piece)
            screen.add(window.index, piece)
            self._next += 1
        if self._next:
            self._show(screen)

    def _show(self, screen: Screen, *, is_whole: bool = False) -> None:
        """Let windows be seen. If that fails now, it may not with the next one."""
        try:
            self.seen = screen.show(is_whole=is_whole)
        except (OSError, BucketError) as error:
            self._unwritten = _reason(error)
            log_event(logger, logging.WARNING, "preview not written", cause=self._unwritten)
        else:
            self._unwritten = ""
            self._report(self.seen, False)

    def _check(self) -> None:
        if time.monotonic() > self._deadline_s:
            raise Cancelled("The preview is over.")

    def _give_up(self, reason: str, cause: Sequence[str] = ()) -> None:
        self._lost = reason
        log_event(logger, logging.WARNING, "preview given up", reason=reason, cause=list(cause))

    # ---- at the end ----

    def _end(self, limit_s: float) -> None:
        """Show what is finished, and that nothing follows. Half of the time is for either."""
        if self._stop(limit_s / 2) and self._screen is not None and self._next:
            self._deadline_s = time.monotonic() + limit_s / 2
            with suppress(Cancelled):
                self._show(self._screen, is_whole=True)

    def _stop(self, limit_s: float) -> bool:
        """End the thread, within that time if it has work left. Returns whether it has ended."""
        assert self._thread is not None
        self._waiting.put(None)
        self._deadline_s = time.monotonic() + limit_s
        self._thread.join(limit_s + _GRACE_S)
        return not self._thread.is_alive()


def _reason(error: Exception) -> str:
    """What went wrong, in a few words without paths and addresses."""
    if isinstance(error, OSError):
        return f"its files could not be written: {error.strerror or type(error).__name__}"
    if isinstance(error, BucketError):
        return f"the bucket failed: {error}"
    if isinstance(error, _Lost):
        return str(error)
    return "ffmpeg failed" if isinstance(error, FfmpegError) else "a fault of the worker"
