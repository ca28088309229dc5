"""The preview: finished windows that can be watched while the others are made.

It has a thread of its own, which nothing waits for. Whatever goes wrong in it costs the preview and never the job: the
result has a warning then.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from infinitetalk.errors import Cancelled, TimedOut
from infinitetalk.job.sinks import FinishedWindow
from infinitetalk.logs import log_event
from infinitetalk.media.child import ended_by
from infinitetalk.media.ffmpeg import FfmpegError
from infinitetalk.media.hls import HEADER, HlsParts, Part, playlist
from infinitetalk.media.sheet import contact_sheet
from infinitetalk.planning.plan import VideoShape
from infinitetalk.progress import Preview
from infinitetalk.transfer.bucket import BucketError
from infinitetalk.transfer.preview_folder import PreviewFolder

PLAYLIST = "preview.m3u8"
MOST_WAITING = 4  # windows: the preview takes a few seconds for each, and making one takes longer
# How long the end of a job waits for what is finished and not yet shown. One whose time is up has to answer.
END_LIMIT_S, TIMED_OUT_LIMIT_S = 6.0, 1.0
KEEP_LIMIT_S = 20.0  # likewise of a job whose preview is kept
_GRACE_S = 1.0  # in which the thread notices that its time is up

logger = logging.getLogger(__name__)


class Screen(Protocol):
    """A way to show windows. Its methods raise FfmpegError, OSError or BucketError."""

    def add(self, index: int, piece: Path) -> None:
        """Take in the next window's frames, as `VideoWriter.pack` gives them."""
        ...

    def show(self, *, is_whole: bool = False) -> Preview:
        """Let all windows so far be seen. Returns where.

        Args:
            is_whole: no window will follow.
        """
        ...

    def remove(self) -> None:
        """Take away what was shown."""
        ...

    @property
    def place(self) -> str:
        """Where its files are, in words."""
        ...


class _Lost(Exception):
    """The preview cannot go on. The message is the reason."""


class PartsScreen:
    """Windows as an HLS stream in a folder."""

    def __init__(
        self, folder: PreviewFolder, parts: HlsParts, local: Path, target_s: float, check: Callable[[], object]
    ) -> None:
        """Begin a stream.

        Args:
            local: where `parts` makes its files.
            target_s: about the time between windows.
            check: ends the writing by a JobError.
        """
        self._folder = folder
        self._maker = parts
        self._local = local
        self._target_s = target_s
        self._check = check
        self._parts: list[Part] = []
        self._unsent: list[str] = []
        folder.sweep()

    def add(self, index: int, piece: Path) -> None:
        """See `Screen.add`."""
        part = self._maker.add(index, piece)
        if part is not None:
            self._unsent += [part.name] if self._parts else [HEADER, part.name]
            self._parts.append(part)

    def show(self, *, is_whole: bool = False) -> Preview:
        """See `Screen.show`. What could not be written last time is written now."""
        if not self._parts:
            return Preview()
        files: dict[str, bytes | Path] = {name: self._local / name for name in self._unsent}
        text = playlist(self._parts, self._target_s, self._folder.address, is_whole)
        self._folder.write(files | {PLAYLIST: text.encode()}, self._check)
        for name in self._unsent:
            (self._local / name).unlink()
        self._unsent = []
        return self._folder.seen(PLAYLIST)

    def remove(self) -> None:
        """See `Screen.remove`."""
        if self._parts:  # the playlist first: its parts are gone from then on
            self._folder.remove([PLAYLIST, HEADER, *(part.name for part in self._parts)])

    @property
    def place(self) -> str:
        """See `Screen.place`."""
        return str(self._folder)


class SheetScreen:
    """The newest window as a contact sheet, which progress carries itself."""

    def __init__(self, size: tuple[int, int]) -> None:
        """Begin.

        Args:
            size: (width, height) of the frames.
        """
        self._size = size
        self._sheet: str | None = None

    def add(self, index: int, piece: Path) -> None:
        """See `Screen.add`."""
        if piece.stat().st_size:
            self._sheet = contact_sheet(piece, self._size)

    def show(self, *, is_whole: bool = False) -> Preview:
        """See `Screen.show`."""
        return Preview(preview_jpeg=self._sheet)

    def remove(self) -> None:
        """See `Screen.remove`. Nothing is left anywhere."""

    @property
    def place(self) -> str:
        """See `Screen.place`."""
        return "progress"


@dataclass(frozen=True)
class PreviewPlan:
    """What a job's preview is to be.

    Args:
        open_folder: gives the place for its files, or None where progress carries it.
        shape: of the finished video.
        target_s: about the time that a window takes.
        keep: whether it stays when the video is delivered.
    """

    open_folder: Callable[[], PreviewFolder | None]
    shape: VideoShape
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
        self._waiting: queue.Queue[Iterable[FinishedWindow] | None] = queue.Queue()
        self._deadline_s = float("inf")
        self._thread: threading.Thread | None = None
        self._screen: Screen | None = None
        self._next = 0
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
            self._waiting.put(earlier)
            work = partial(copy_context().run, self._work, self._plan, soundtrack)
            self._thread = threading.Thread(target=work, name="preview", daemon=True)
            self._thread.start()

    def take(self, window: FinishedWindow) -> None:
        """Take the next window (`WindowSink.take`)."""
        if self._thread is None or self._lost:
            return
        if self._waiting.qsize() < MOST_WAITING:
            self._waiting.put([window])
        else:
            self._give_up("it could not keep up")

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
        if self._screen is not None:
            try:
                self._screen.remove()
                reason = "" if is_done else "one was still on its way"
            except (OSError, BucketError) as error:
                reason = _reason(error)
            if reason:
                told = [f"Files of the preview are left at {self._screen.place} ({reason}); remove them there."]
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
                for windows in iter(self._waiting.get, None):
                    if not self._lost:
                        self._take_in(screen, windows)
            except Cancelled:
                pass  # its time is up
            except Exception as error:  # whatever it is, the job goes on
                self._give_up(_reason(error), str(error))

    def _open(self, plan: PreviewPlan, soundtrack: Path) -> Screen:
        self._local.mkdir()
        folder = plan.open_folder()
        if folder is None:
            return SheetScreen(plan.shape.size)
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

    def _give_up(self, reason: str, cause: str = "") -> None:
        self._lost = reason
        log_event(logger, logging.WARNING, "preview given up", reason=reason, cause=cause)

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
