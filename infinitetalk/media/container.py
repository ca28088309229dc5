"""What a file's own bytes say about its kind, without decoding."""

import re
from pathlib import Path

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


def mp3_frames(path: Path) -> int | None:
    """How many frames an mp3 file says that it has (Xing or Info, in its first frame); None where it does not say."""
    with path.open("rb") as file:
        head = file.read(10)
        if head[:3] == b"ID3" and len(head) == 10:
            first, second, third, fourth = head[6:]
            file.seek(10 + (first << 21 | second << 14 | third << 7 | fourth))
        else:
            file.seek(0)
        start = file.read(4096)
    found = re.search(rb"(?:Xing|Info)...[\1\3\5\7\x09\x0b\x0d\x0f](....)", start, re.DOTALL)
    return int.from_bytes(found[1]) if found else None
