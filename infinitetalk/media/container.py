"""What a file's own bytes say about it without decoding: its kind, and whether its end is missing."""

import re
from pathlib import Path
from struct import unpack
from typing import BinaryIO

_STARTS = {
    "a web page": (b"<!doctype html", b"<html", b"<head", b"<body"),
    "an SVG drawing": (b"<svg",),
    "a playlist": (b"#extm3u", b"ffconcat", b"<mpd", b"<?xml", b"[playlist]", b"v=0"),
    "a text": (b"{", b"http://", b"https://", b"<"),
    "a picture": (b"\x89png", b"\xff\xd8\xff", b"bm", b"ii*\0", b"mm\0*", b"\0\0\0\x0cjp  "),
    "a picture or animation": (b"gif8",),
    "a JPEG XL picture": (b"\xff\x0a", b"\0\0\0\x0cjxl "),
    "an HDR picture (Radiance)": (b"#?rad",),
    "an HDR picture (OpenEXR)": (b"v/1\x01",),
    "a Photoshop file": (b"8bps",),
    "a PDF": (b"%pdf",),
    "a zip archive": (b"pk\x03\x04",),
    "a gzip archive": (b"\x1f\x8b",),
    "a sound or video": (b"id3", b"oggs", b"flac", b"\x1a\x45\xdf\xa3"),
}
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
PICTURE_KINDS = ("a picture", "a HEIC picture", "a JPEG XL picture")
# Some programs count a wav's header into the length of its data.
_RIFF_SLACK_BYTES = 1024
# A day's recording has fewer. A file of nothing but empty ones would take minutes to walk through.
_MAX_CHUNKS = 100_000
# Programs that write to a pipe cannot know the length of the data. They state one near the largest instead.
_RIFF_UNKNOWN_BYTES = 0x7FFF0000


def apparent_kind(path: Path) -> str:
    """Words such as "a web page" for what a file seems to be, judged by its first bytes."""
    with path.open("rb") as file:
        start = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        return "an empty file"
    if start[4:8] == b"ftyp":
        if b"avif" in (start[8:12], *(start[i : i + 4] for i in range(16, 64, 4))) and start[8:12] != b"avis":
            return "a picture"
        return "a HEIC picture" if start[8:12] in _HEIC_BRANDS else "a sound or video"
    if start[8:12] in (b"wave", b"avi "):
        return "a sound or video"
    if start[8:12] == b"webp":
        return "a picture"
    return next((kind for kind, starts in _STARTS.items() if start.startswith(starts)), "an unknown or damaged file")


def hdr_kind(path: Path) -> str | None:
    """PQ or HLG if a PNG or AVIF picture says that it is HDR, brighter than ordinary screens; else None."""
    with path.open("rb") as file:
        start = file.read(1 << 16)
    # PNG's cICP chunk: primaries, transfer, ... in a byte each; AVIF's nclx colours: in two bytes each.
    found = re.search(rb"cICP.(.)|colrnclx..\0(.)", start, re.DOTALL)
    transfer = (found[1] or found[2])[0] if found else 0
    return {16: "PQ", 18: "HLG"}.get(transfer)


def is_cut_off(path: Path) -> bool:
    """Whether a wav, avi or mp4 file has fewer bytes than its tables say; False for other kinds.

    ffmpeg says nothing about this, and the sound or video would just be shorter.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(12)
        file.seek(0)
        if start[:4] == b"RIFF" and start[8:] in (b"WAVE", b"AVI "):
            return _riff_end(file) > size + _RIFF_SLACK_BYTES
        return start[4:8] in (b"ftyp", b"moov", b"mdat", b"styp") and _boxes_end(file, size) > size


def _riff_end(file: BinaryIO) -> int:
    """Where the last chunk of data of a RIFF file ends."""
    end = 12
    file.seek(end)
    for _ in range(_MAX_CHUNKS):
        if len(header := file.read(8)) < 8:
            break
        name, length = unpack("<4sI", header)
        if name in (b"data", b"LIST") and length < _RIFF_UNKNOWN_BYTES:
            end = file.tell() + length
        file.seek(length + length % 2, 1)
    return end


def _boxes_end(file: BinaryIO, size: int) -> int:
    """Where the last of an mp4 file's outer boxes ends."""
    end = 0
    for _ in range(_MAX_CHUNKS):
        if end >= size:
            break
        file.seek(end)
        header = file.read(16)
        if len(header) < 8:
            return end  # a few stray bytes
        length, name = unpack(">I4s", header[:8])
        if length == 1 and len(header) == 16:
            (length,) = unpack(">Q", header[8:])
        if length < 8 or not name.isalnum():
            return end  # 0: to the end of the file; anything else is no box
        end += length
    return end
