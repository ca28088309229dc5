"""What a video's file says about how it was made: its content credentials, its XMP, its streams."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from infinitetalk.errors import MediaUnreadable
from infinitetalk.marking.credentials import Credentials, Verdict, read
from infinitetalk.marking.xmp import read_source_type
from infinitetalk.media.encode import hash_streams
from infinitetalk.media.ffmpeg import FfmpegError

_SAID: dict[Verdict, str] = {
    "trusted": "intact, and signed by somebody on the list of trusted signers",
    "untrusted": "intact; whoever signed is on no list of trusted signers that was given",
    "tampered": "the file was changed or damaged after it was signed",
    "invalid": "not valid",
    "none": "there are none",
}


@dataclass(frozen=True)
class Inspection:
    """What is in a file.

    Args:
        xmp_source_type: the IPTC digital source type in its XMP; None if there is none.
        streams: the MD5 of each stream's packets, such as "0 video": two files of one job have the same ones. Empty
            where the file cannot be read as a video.
    """

    credentials: Credentials
    xmp_source_type: str | None
    streams: dict[str, str]

    @property
    def said(self) -> str:
        """The verdict in words."""
        return _SAID[self.credentials.verdict]

    def to_json(self) -> dict[str, Any]:
        found = self.credentials
        return {
            "content_credentials": found.verdict,
            "signed_by": found.signed_by,
            "signed_at": found.signed_at,
            "made_by": found.made_by,
            "digital_source_types": list(found.source_types),
            "problems": list(found.problems),
            "xmp_digital_source_type": self.xmp_source_type,
            "streams_md5": self.streams,
            "manifest": found.manifest,
        }


def inspect(video: Path, anchors_pem: str | None = None) -> Inspection:
    """Look at an mp4.

    Args:
        anchors_pem: see `credentials.read`.

    Raises OSError, or MediaUnreadable for what is no mp4.
    """
    with video.open("rb") as file:
        if file.read(8)[4:] != b"ftyp":
            raise MediaUnreadable(f"{video} is no mp4 file; name the video that a job made")
    credentials = read(video, anchors_pem)
    try:
        return Inspection(credentials, read_source_type(video), hash_streams(video))
    except FfmpegError:
        return Inspection(credentials, None, {})


def table(found: Inspection, name: str) -> Table:
    """The same to be read, without the manifest."""
    credentials = found.credentials
    shown = Table(title=name, box=box.SIMPLE, show_header=False)
    shown.add_column(no_wrap=True)
    shown.add_column(overflow="fold")
    shown.add_row("content credentials", f"{credentials.verdict}: {found.said}")
    if credentials.manifest:
        shown.add_row("signed by", credentials.signed_by or "somebody without a name")
        shown.add_row("signed at", credentials.signed_at or "unknown: there is no time stamp")
        shown.add_row("made by", credentials.made_by or "not said")
        shown.add_row("digital source type", ", ".join(credentials.source_types) or "not said")
    if credentials.problems:
        shown.add_row("the library says", ", ".join(credentials.problems))
    shown.add_row("XMP", found.xmp_source_type or "no digital source type")
    for stream, digest in found.streams.items():
        shown.add_row(f"stream {stream}", f"MD5 {digest}")
    if not found.streams:
        shown.add_row("streams", "the file cannot be read as a video")
    return shown
