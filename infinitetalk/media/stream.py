"""Strangers' sounds and videos opened with PyAV, and what they say about themselves.

Only programs of this package import this module (`media.program`): libav may hang on a file, or crash. As a program of
its own it answers with a file's `MediaInfo`.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from infinitetalk.errors import MediaUnreadable, TooLarge
from infinitetalk.media.container import PICTURE_KINDS, apparent_kind
from infinitetalk.media.ogg import Slice
from infinitetalk.media.probe import MAX_STREAMS, MAX_VIDEO_PIXELS, MediaInfo
from infinitetalk.media.program import Answer, reply
from infinitetalk.media.tables import is_cut_off, is_open_ended

# Containers that hold their own data. Playlists and scripts (hls, dash, concat, sdp, ...), which make libav open other
# addresses, and single pictures are not among them: libav refuses those whatever their name.
_CONTAINERS = (
    "3g2,3gp,aac,ac3,aiff,amr,ape,asf,au,avi,caf,dts,dv,eac3,flac,flv,gif,ivf,loas,m4a,matroska,mj2,mov,mp3,"
    "mp4,mpc,mpc8,mpeg,mpegts,mxf,nut,ogg,qoa,rm,tak,truehd,tta,voc,w64,wav,webm,wv,yuv4mpegpipe"
)
# What is decoded to learn a file's size, so that a frame that is too large can be told by its size.
_PROBED_PIXELS = 4 * MAX_VIDEO_PIXELS
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS, "max_pixels": str(_PROBED_PIXELS)}
_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}  # ITU-T H.273
_UNSPECIFIED = 2  # likewise
# Later than this, a first time stamp is the time of day of some clock and no pause.
_LATEST_START_S = 600.0
# Readers whose time stamps count from a beginning that the format defines.
_KNOWN_ZERO = ("matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "ogg")


@contextmanager
def open_media(path: Path, field: str, part: Slice | None = None) -> Iterator[InputContainer]:
    """Open an untrusted file, and nothing else than this file.

    Args:
        part: a stretch of the file to read instead of it.

    Raises MediaUnreadable where it is no container that is read here, TooLarge where it has too many tracks.
    """
    kind = apparent_kind(path)
    unreadable = MediaUnreadable(
        f"{field}: this is {kind}, which cannot be read as sound or video; send the file itself, "
        "such as wav, mp3, flac, m4a, ogg, mp4, mov, mkv or webm."
    )
    if kind in PICTURE_KINDS:  # some hide their picture in a container of videos, in pieces
        raise unreadable
    options = _OPTIONS | ({"ignore_length": "1"} if is_open_ended(path) else {})  # of the wav reader
    try:
        container = av.open(part or f"file:{path}", "r", options=options, metadata_errors="ignore")
    except (FFmpegError, ValueError) as error:
        raise (truncated(field) if is_cut_off(path) else unreadable) from error
    with container:
        if len(container.streams) > MAX_STREAMS:
            raise TooLarge(
                f"{field}: the file has {len(container.streams)} tracks; at most {MAX_STREAMS} are read, leave only "
                "what is needed."
            )
        yield container


def truncated(field: str) -> MediaUnreadable:
    """The error for a file whose end is missing."""
    return MediaUnreadable(f"{field}: the file is truncated, its end is missing; upload it again.")


def damaged(field: str) -> MediaUnreadable:
    """The error for a file that does not hold what it should."""
    return MediaUnreadable(f"{field}: the file is damaged or cannot be decoded; export it again and upload it again.")


def first_video(container: InputContainer) -> VideoStream | None:
    """The first video; cover pictures do not count."""
    return next((s for s in container.streams.video if not s.disposition & s.disposition.attached_pic), None)


def zero_s(container: InputContainer) -> float:
    """The time stamp at which a file begins, in seconds.

    A sound alone begins at its format's own zero, where the format has one: tracks of one call, a file each, begin
    late by as much as their speakers joined late. Otherwise a file begins with the first of its streams.
    """
    start_s = (container.start_time or 0) / av.time_base
    late = 0 < start_s <= _LATEST_START_S
    if late and container.format.name in _KNOWN_ZERO and first_video(container) is None:
        return 0.0
    return start_s


def tick_s(stream: AudioStream | VideoStream) -> Fraction:
    """The unit of a stream's time stamps, in seconds."""
    return stream.time_base or Fraction(1, av.time_base)


def describe(container: InputContainer) -> MediaInfo:
    """What a file says about itself."""
    audio = container.streams.audio[0] if container.streams.audio else None
    video = first_video(container)
    heard = audio.codec_context if audio else None
    seen = video.codec_context if video else None
    return MediaInfo(
        streams=len(container.streams),
        stated_duration_s=None if container.duration is None else container.duration / av.time_base,
        has_audio=audio is not None,
        has_video=video is not None,
        sample_rate_hz=heard.sample_rate if heard else 0,
        channels=heard.layout.nb_channels if heard else 0,
        width=seen.width if seen else 0,
        height=seen.height if seen else 0,
        hdr=_HDR_TRANSFERS.get(int(seen.color_trc)) if seen else None,
        has_color_matrix=seen is not None and int(seen.colorspace) != _UNSPECIFIED,
    )


def main(arguments: list[str]) -> None:
    """The program: arguments are a path, and the job's field that named the file."""
    path, field = arguments

    def look() -> Answer:
        with open_media(Path(path), field) as container:
            return Answer(asdict(describe(container)))

    reply(look)


if __name__ == "__main__":
    main(sys.argv[1:])
