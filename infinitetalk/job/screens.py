"""How finished windows are shown: as a stream in a folder, or as a contact sheet in progress."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from infinitetalk.media.hls import HEADER, HlsParts, Part, playlist
from infinitetalk.media.sheet import contact_sheet
from infinitetalk.progress import Preview
from infinitetalk.transfer.preview_folder import PreviewFolder

PLAYLIST = "preview.m3u8"


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
