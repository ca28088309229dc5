"""What the tables of a file say of its length: whether its end is missing, and whether another file follows.

Readers pass over both in silence, and the sound or video would just be shorter.
"""

from collections.abc import Callable, Iterator
from os import SEEK_CUR
from pathlib import Path
from struct import unpack
from typing import BinaryIO

from infinitetalk.media.ogg import ogg_layout

# Some programs count a wav's header into the length of its data.
_SLACK_BYTES = 1024
# More than a day's recording has; a file of nothing but empty ones would take minutes to walk through.
_MAX_CHUNKS = 100_000
_MAX_ELEMENTS = 1_000_000  # ten hours of blocks of 40 ms
_WHOLE = -1  # an end before every other
_SEARCH_BYTES = 1 << 20
# Boxes of an mp4 file that hold a recording. Anything else that reaches beyond the file is what some program appended.
_DATA_BOXES = (b"moov", b"moof", b"mdat")
# Likewise the elements of a matroska file: segment, what stands in it, cluster, what stands in that.
_DATA_ELEMENTS = (
    *(0x18538067, 0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1254C367, 0x1043A770, 0x1941A469, 0xEC),
    *(0x1F43B675, 0xE7, 0xA3, 0xA0),
)
_EBML_HEADER, _EBML_CLUSTER = 0x1A45DFA3, 0x1F43B675
# Objects of an ASF file (wma, wmv), and the flag of one that was written while it was sent.
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_ASF_BROADCAST = 1
_ASF_DATA_HEADER_BYTES = 50
_GIF_EXTENSION, _GIF_PICTURE, _GIF_TRAILER = b"!", b",", b";"


def is_cut_off(path: Path) -> bool:
    """Whether a file has fewer bytes than its tables say; False for kinds without such tables.

    Knows wav (RIFF, RF64, BW64, W64), avi, aiff, caf, au, mp4 and its kin, matroska, webm, ogg, asf and gif.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        end_of = _walker(file.read(12))
        return end_of is not None and end_of(file, size) > size


def is_open_ended(path: Path) -> bool:
    """Whether the header was written by a program that could not know the length, since it wrote to a pipe.

    Knows avi, RF64 and asf: their readers take for a length what stands there instead of one.
    """
    with path.open("rb") as file:
        start = file.read(20)
        if start[:4] == b"RIFF" and start[8:12] == b"AVI ":
            return _is_placeholder(unpack("<I", start[4:8])[0])
        if start[:4] in (b"RF64", b"BW64") and start[12:16] == b"ds64":
            return file.read(16)[8:] == bytes(8)
        return start[:16] == _ASF_HEADER and _asf_data(file) is None


def is_followed(path: Path) -> bool:
    """Whether a second recording stands behind the first, where readers stop: two files that were joined as bytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(12)
        if start[:4] in (b"RIFF", b"FORM") and start[8:] != b"AVI ":
            (length,) = unpack("<I" if start[:4] == b"RIFF" else ">I", start[4:8])
            file.seek(8 + length + length % 2)
            second = file.read(12)
            return second[:4] == start[:4] and second[8:] == start[8:]
        if start[:4] == b"caff":
            return b"caff" in (name for name, _, _ in _caf_chunks(file, size))
        if start[:3] == b"FLV":
            return _flv_is_followed(file)
        if _is_box(start):
            return sum(name == b"moov" for name, _, _ in _boxes(file, size)) > 1
    return False


def _walker(start: bytes) -> Callable[[BinaryIO, int], int] | None:
    if start[:4] in (b"RIFF", b"RF64", b"BW64") and start[8:] in (b"WAVE", b"AVI "):
        return _riff_end
    if start[:4] == b"FORM" and start[8:] in (b"AIFF", b"AIFC"):
        return _aiff_end
    if start[:4] == b"OggS":
        return lambda file, size: size + (not ogg_layout(Path(file.name)).is_whole)
    kinds = {b"caff": _caf_end, b".snd": _au_end, b"riff": _w64_end, b"\x1a\x45\xdf\xa3": _ebml_end}
    kinds |= {_ASF_HEADER[:4]: _asf_end, b"GIF8": _gif_end}
    return kinds.get(start[:4]) or (_boxes_end if _is_box(start) else None)


def _is_placeholder(length: int) -> bool:
    """Whether the length of data was written by a program that could not know it, since it wrote to a pipe.

    Such programs put none, one near the largest number that fits (in 31 or 32 bits), or a round one.
    """
    return length == 0 or length >= 0x7FFF0000 or (length >= 10**9 and length % 10**6 == 0)


def _riff_end(file: BinaryIO, size: int) -> int:
    """Where the last chunk of data of a RIFF file ends."""
    end = at = 12
    long_length = 0  # of the data of a RF64 file, whose own length has no room for it
    for _ in range(_MAX_CHUNKS):
        file.seek(at)
        header = file.read(8)
        if len(header) < 8 or at > size:
            break
        name, length = unpack("<4sI", header)
        if name == b"ds64":
            (long_length,) = unpack("<8xQ", file.read(16).ljust(16, b"\0"))
        if name == b"data" and length == 0xFFFFFFFF and 0 < long_length < 1 << 60 and long_length != 0xFFFFFFFF:
            end = at + 8 + long_length
        elif name in (b"data", b"LIST") and not _is_placeholder(length):
            end = at + 8 + length
        at += 8 + length + length % 2
    return end - _SLACK_BYTES


def _aiff_end(file: BinaryIO, _: int) -> int:
    file.seek(4)
    (length,) = unpack(">I", file.read(4))
    return _WHOLE if length >= 0x7F000000 else 8 + length - _SLACK_BYTES  # sox puts 0x7F000000 and the header


def _au_end(file: BinaryIO, _: int) -> int:
    file.seek(4)
    offset, length = unpack(">II", file.read(8))
    return _WHOLE if _is_placeholder(length) else offset + length


def _w64_end(file: BinaryIO, _: int) -> int:
    file.seek(16)
    (length,) = unpack("<Q", file.read(8).ljust(8, b"\0"))
    return _WHOLE if length >= 1 << 60 else length


def _caf_end(file: BinaryIO, size: int) -> int:
    return max((end for _, _, end in _caf_chunks(file, size)), default=_WHOLE)


def _caf_chunks(file: BinaryIO, size: int) -> list[tuple[bytes, int, int]]:
    """(name, start, end) of a caf file's chunks, until one reaches the file's end."""
    chunks: list[tuple[bytes, int, int]] = []
    at = 8
    while at < size and len(chunks) < _MAX_CHUNKS:
        file.seek(at)
        header = file.read(12)
        if len(header) < 12 or not header[:4].isascii():
            break
        (length,) = unpack(">q", header[4:])
        end = size if length == -1 else at + 12 + length
        chunks.append((header[:4], at, end))
        if length < 0:
            break
        at = end
    return chunks


def _asf_end(file: BinaryIO, _: int) -> int:
    return _asf_data(file) or _WHOLE


def _asf_data(file: BinaryIO) -> int | None:
    """Where the data of an ASF file ends; None where the header does not say."""
    file.seek(16)
    header_bytes, objects = unpack("<QI", file.read(12).ljust(12, b"\0"))
    at = 30
    for _ in range(min(objects, _MAX_CHUNKS)):
        file.seek(at)
        head = file.read(92)
        length = int.from_bytes(head[16:24], "little")
        if length < 24 or (head[:16] == _ASF_PROPERTIES and head[88] & _ASF_BROADCAST):
            return None
        at += length
        if at >= header_bytes:
            break
    file.seek(min(header_bytes, 1 << 60))
    head = file.read(24)
    length = int.from_bytes(head[16:], "little")
    is_stated = head[:16] == _ASF_DATA and _ASF_DATA_HEADER_BYTES < length < 1 << 60
    return header_bytes + length if is_stated else None


def _gif_end(file: BinaryIO, size: int) -> int:
    """Where a gif's trailer ends; beyond the file where that comes first. What is no block ends the walk."""
    file.seek(10)
    at = 13 + _gif_colors(file.read(1))
    for _ in range(_MAX_ELEMENTS):
        file.seek(at)
        kind = file.read(1)
        if not kind or kind == _GIF_TRAILER:
            return at + 1
        if kind == _GIF_EXTENSION:
            at += 2  # and its label
        elif kind == _GIF_PICTURE:
            file.seek(at + 9)
            at += 11 + _gif_colors(file.read(1))  # its place and size, its colours, the width of its codes
        else:
            break
        file.seek(at)
        while (length := file.read(1)) not in (b"", b"\0"):
            file.seek(length[0], SEEK_CUR)
        at = file.tell()
    return _WHOLE


def _gif_colors(flags: bytes) -> int:
    """How many bytes the table of colours takes that a byte of flags tells of."""
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0


def _flv_is_followed(file: BinaryIO) -> bool:
    at = 13  # the header, and the length of what was before the first tag
    while True:
        file.seek(at)
        header = file.read(4)
        if len(header) < 4 or header[0] & 0x1F not in (8, 9, 18):  # sound, video, data
            return header[:3] == b"FLV"
        at += 11 + int.from_bytes(header[1:]) + 4


def _is_box(start: bytes) -> bool:
    return start[4:8] in (b"ftyp", b"moov", b"mdat", b"styp", b"moof", b"free", b"wide")


def _boxes_end(file: BinaryIO, size: int) -> int:
    """Where the last of an mp4 file's outer boxes ends; beyond the file where what cannot be a box hides others."""
    end = 0
    for name, start, end in _boxes(file, size):
        if end > size and name not in _DATA_BOXES:
            end = start
    return size + 1 if end < size and _stands_behind(file, end, (b"moof", b"mdat")) else end


def _boxes(file: BinaryIO, size: int) -> list[tuple[bytes, int, int]]:
    """(name, start, end) of the outer boxes, as far as there are any."""
    boxes: list[tuple[bytes, int, int]] = []
    at = 0
    while at < size and len(boxes) < _MAX_CHUNKS:
        file.seek(at)
        header = file.read(16)
        if len(header) < 8:
            break  # a few stray bytes
        length, name = unpack(">I4s", header[:8])
        if length == 1 and len(header) == 16:
            (length,) = unpack(">Q", header[8:])
        if length == 0 and name.isalnum():
            length = size - at
        if length < 8 or not name.isalnum():
            break
        boxes.append((name, at, at + length))
        at += length
    return boxes


def matroska_starts(path: Path) -> tuple[int, ...]:
    """Where the recordings of a matroska file begin; several if files were joined as bytes, none in other kinds."""
    size = path.stat().st_size
    with path.open("rb") as file:
        return tuple(at for name, at, _ in _elements(file, size) if name == _EBML_HEADER)


def _ebml_end(file: BinaryIO, size: int) -> int:
    """Where a matroska file's last element ends; beyond the file where what is no element hides clusters."""
    end = 0
    for name, at, end in _elements(file, size):
        if end < 0 or (end > size and name not in _DATA_ELEMENTS):
            return size + 1 if _stands_behind(file, at, (_EBML_CLUSTER.to_bytes(4),)) else at
    return end


def _elements(file: BinaryIO, size: int) -> Iterator[tuple[int, int, int]]:
    """(name, start, end) of a matroska file's elements; those inside a segment or cluster whose length is unknown
    follow it. What is no element has an end below 0, and is the last."""
    at = 0
    for _ in range(_MAX_ELEMENTS):
        file.seek(at)
        head = file.read(12)
        if at >= size or not head:
            return
        id_bytes = 9 - head[0].bit_length()
        length_bytes = 9 - head[id_bytes].bit_length() if id_bytes < len(head) else 9
        if id_bytes > 4 or length_bytes > 8 or (at == 0 and int.from_bytes(head[:4]) != _EBML_HEADER):
            yield 0, at, -1
            return
        ends_at = id_bytes + length_bytes
        length = int.from_bytes(head[id_bytes:ends_at]) & (1 << 7 * length_bytes) - 1
        is_unknown = length == (1 << 7 * length_bytes) - 1
        end = at + ends_at + (0 if is_unknown else length)
        yield int.from_bytes(head[:id_bytes]), at, end
        at = end


def _stands_behind(file: BinaryIO, at: int, names: tuple[bytes, ...]) -> bool:
    """Whether one of the names stands anywhere from byte `at` on."""
    file.seek(at)
    tail = b""
    while window := file.read(_SEARCH_BYTES):
        if any(name in tail + window for name in names):
            return True
        tail = window[-8:]
    return False
