"""JPEG files without their end marker: whether all pixels are there nevertheless.

Some cameras and servers drop the two bytes. A decoder fills what is missing with grey and says nothing, so that a file
cut in its middle looks the same to it.
"""

from collections.abc import Iterator
from struct import unpack

END = b"\xff\xd9"
# Bits that no picture goes on with: where pixels are missing, a decoder makes others of them than of nothing.
OTHER_BITS = bytes(range(1, 250)) * 256
_FRAMES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_SCAN = 0xDA
_COEFFICIENTS = 64


def has_end(data: bytes) -> bool:
    """Whether there is an end marker; what programs append behind it does not count."""
    return any(marker == END[1] for marker, _ in _segments(data))


def has_all_scans(data: bytes) -> bool:
    """Whether every coefficient of every component has begun to be sent, to its last bit.

    A sequential picture sends them in one scan for each component, a progressive one in many.
    """
    bits_left: dict[tuple[int, int], int] = {}
    components: set[int] = set()
    is_progressive = False
    for marker, segment in _segments(data):
        if marker in _FRAMES and len(segment) >= 6:
            is_progressive = marker in (0xC2, 0xC6, 0xCA, 0xCE)
            components = set(segment[6::3][: segment[5]])
        elif marker == _SCAN and segment and len(segment) >= 4 + 2 * segment[0]:
            first, last, bits = segment[1 + 2 * segment[0] :][:3]
            if not is_progressive:
                first, last, bits = 0, _COEFFICIENTS - 1, 0
            for component in segment[1 : 1 + 2 * segment[0] : 2]:
                bits_left |= {(component, i): bits & 0x0F for i in range(first, min(last, _COEFFICIENTS - 1) + 1)}
    wanted = {(component, i) for component in components for i in range(_COEFFICIENTS)}
    return bool(components) and all(bits_left.get(one) == 0 for one in wanted)


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, content) of the segments up to the end marker; coded pixels between them are passed over."""
    at = 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 1 < len(data):
        marker = data[at + 1]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:  # coded pixels, padding, restarts
            at += 1 if marker == 0xFF else 2
            continue
        if marker == END[1]:
            yield marker, b""
            return
        if at + 4 > len(data):
            return
        (length,) = unpack(">H", data[at + 2 : at + 4])
        yield marker, data[at + 4 : at + 2 + length]
        at += 2 + length
