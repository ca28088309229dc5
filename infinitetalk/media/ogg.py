"""The pages of an Ogg file (RFC 3533): where its chained streams begin, and whether it has its end."""

from dataclasses import dataclass
from pathlib import Path
from struct import unpack
from typing import BinaryIO

_HEADER_BYTES = 27
_FIRST_PAGE = 2  # flag of the page that begins a stream
_LAST_PAGE = 4  # likewise, that ends one
_SEARCH_BYTES = 1 << 16


@dataclass(frozen=True)
class OggLayout:
    """Where the links of a chain begin (bytes), whether the last page is whole, and whether the last link is ended.

    Recorders that are stopped write no end mark; so it says nothing certain where there is none.
    """

    links: tuple[int, ...]
    is_whole: bool
    has_end_mark: bool


def ogg_layout(path: Path) -> OggLayout:
    """Walk through the pages of an Ogg file; anything that stands between them is passed over."""
    size = path.stat().st_size
    links: list[int] = []
    begins_stream = False  # a link begins with a first page for each of its streams
    unended: set[bytes] = set()  # the streams of a link whose latest page is not marked as the last
    at, is_whole = 0, True
    with path.open("rb") as file:
        while (page := _page(file, at)) is not None:
            at, flags, stream, end = page
            if flags & _FIRST_PAGE and not begins_stream:
                links.append(at)
                unended.clear()
            if flags & _LAST_PAGE:
                unended.discard(stream)
            else:
                unended.add(stream)
            begins_stream = bool(flags & _FIRST_PAGE)
            is_whole = end <= size
            at = end
    return OggLayout(tuple(links), is_whole, has_end_mark=not unended)


def _page(file: BinaryIO, at: int) -> tuple[int, int, bytes, int] | None:
    """(start, flags, number of the stream, end) of the first page from byte `at` on."""
    while True:
        file.seek(at)
        header = file.read(_HEADER_BYTES)
        if len(header) == _HEADER_BYTES and header[:5] == b"OggS\0":
            (segments,) = unpack("B", header[26:])
            lengths = file.read(segments)
            end = at + _HEADER_BYTES + segments + sum(lengths) + (segments - len(lengths))
            return at, header[5], header[14:18], end
        file.seek(at + 1)
        window = file.read(_SEARCH_BYTES)
        if len(window) < 4:
            return None
        found = window.find(b"OggS")
        at += 1 + (found if found >= 0 else len(window) - 3)


class Slice:
    """A stretch of a file, as a file that libav can read."""

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self.name = "part"
        self._file, self._start, self._end = file, start, end
        self._at = start

    def read(self, size: int) -> bytes:
        self._file.seek(self._at)
        data = self._file.read(max(min(size, self._end - self._at), 0))
        self._at += len(data)
        return data

    def tell(self) -> int:
        return self._at - self._start

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (self._start, self._at, self._end)[whence]
        self._at = min(max(base + offset, self._start), self._end)
        return self.tell()
