"""Runs the ffmpeg binary of imageio-ffmpeg on files that strangers sent, bounded in time, threads and reach."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg

from infinitetalk.errors import MediaUnreadable, TooLarge
from infinitetalk.media.child import TooSlow, run_child
from infinitetalk.media.container import PICTURE_KINDS, apparent_kind, is_cut_off

TIME_LIMIT_S = 120.0
PROBE_TIME_LIMIT_S = 20.0
# 8K video passes. With a higher limit one small file could claim gigabytes in the decoder.
MAX_VIDEO_PIXELS = 8192 * 4608
MAX_STREAMS = 64

# Containers that hold their own data. Playlists and scripts (hls, dash, concat, sdp, ...) make ffmpeg open other
# addresses. They and single pictures are not on the list, so ffmpeg refuses them whatever their name.
_CONTAINERS = (
    "3g2,3gp,aac,ac3,aiff,amr,ape,asf,au,avi,caf,dts,dv,eac3,flac,flv,gif,ivf,loas,m4a,matroska,mj2,mov,mp3,"
    "mp4,mpc,mpc8,mpeg,mpegts,mxf,nut,ogg,qoa,rm,tak,truehd,tta,voc,w64,wav,webm,wv,yuv4mpegpipe"
)
# What the mov and matroska readers say when a file ends before its own tables do.
_CUT_OFF = ("partial file", "File ended prematurely")
_HDR_TRANSFERS = {"smpte2084": "PQ", "arib-std-b67": "HLG"}


class FfmpegError(Exception):
    """ffmpeg failed. Its message is the end of the log, which names local paths, so it is only ever a cause."""


class FfmpegTimeout(FfmpegError):
    """ffmpeg was not done within its time and was killed."""


@dataclass(frozen=True)
class Output:
    """What a finished run left: its standard output and the end of its log."""

    data: bytes
    log: str


@dataclass(frozen=True)
class MediaInfo:
    """What a file says about its first sound and its first video (cover pictures do not count)."""

    streams: int
    stated_duration_s: float | None  # None if ffmpeg could only estimate it
    has_audio: bool
    has_video: bool
    sample_rate_hz: int  # 0 without sound
    channels: int  # 0 without sound, or if their layout has a name of its own
    is_mono: bool
    width: int  # as stored, before rotation; 0 without video
    height: int
    hdr: str | None  # PQ or HLG if the video is HDR
    has_color_matrix: bool  # the video names the matrix between its YUV and RGB
    has_seek_index: bool  # seeking lands exactly on the keyframe before a time


def command(*args: str, log_level: str = "warning") -> list[str]:
    """An ffmpeg command line that leaves the terminal alone."""
    quiet = ["-nostdin", "-hide_banner", "-nostats", "-loglevel", log_level]
    threads = ["-filter_threads", "1", "-filter_complex_threads", "1"]
    return [imageio_ffmpeg.get_ffmpeg_exe(), *quiet, *threads, "-y", *args]


def open_input(path: Path, *options: str) -> list[str]:
    """Arguments that open an untrusted file and nothing but this file. `options` go before its -i."""
    reach = ["-protocol_whitelist", "file", "-format_whitelist", _CONTAINERS]
    return [*reach, "-max_pixels", str(MAX_VIDEO_PIXELS), "-threads", "2", *options, "-i", f"file:{path}"]


def run(*args: str, log_level: str = "warning", time_limit_s: float | None = None) -> Output:
    """Run ffmpeg to its end. Raises FfmpegError if it fails or takes longer than the limit (TIME_LIMIT_S)."""
    time_limit_s = time_limit_s or TIME_LIMIT_S
    try:
        done = run_child(command(*args, log_level=log_level), time_limit_s)
    except TooSlow as error:
        raise FfmpegTimeout(f"not done within {time_limit_s:g} s: {error}") from error
    if done.status != 0:
        raise FfmpegError(f"exit status {done.status}: {done.log}")
    return Output(done.data, done.log)


def decode(field: str, *args: str, log_level: str = "warning", time_limit_s: float | None = None) -> Output:
    """Run ffmpeg on a caller's file. Raises MediaUnreadable if it fails or hangs, or the file ends too early."""
    try:
        output = run(*args, log_level=log_level, time_limit_s=time_limit_s)
    except FfmpegTimeout as error:
        raise _too_slow(field, time_limit_s) from error
    except FfmpegError as error:
        raise MediaUnreadable(
            f"{field}: the file is damaged or cannot be decoded; export it again and upload it again."
        ) from error
    if any(words in output.log for words in _CUT_OFF):
        raise truncated(field) from FfmpegError(output.log)
    return output


def truncated(field: str) -> MediaUnreadable:
    """The error for a file whose end is missing."""
    return MediaUnreadable(f"{field}: the file is truncated, its end is missing; upload it again.")


def _too_slow(field: str, time_limit_s: float | None) -> MediaUnreadable:
    return MediaUnreadable(
        f"{field}: ffmpeg could not read the file within {time_limit_s or TIME_LIMIT_S:g} s; export it again in a "
        "common format, shorter or smaller."
    )


def probe(path: Path, field: str) -> MediaInfo:
    """Read a file's own description.

    Raises:
        MediaUnreadable: the file is not a container that is read here.
        TooLarge: its frames are too large, or it has too many tracks.
    """
    kind = apparent_kind(path)
    unreadable = (
        f"{field}: this is {kind}, which cannot be read as sound or video; send the file itself, "
        "such as wav, mp3, flac, m4a, ogg, mp4, mov, mkv or webm."
    )
    if kind in PICTURE_KINDS:  # some of them keep their picture, in pieces, in a container of videos
        raise MediaUnreadable(unreadable)
    try:
        # Writing the metadata needs no stream, so this works for every file that opens at all.
        nothing = ["-map_metadata", "-1", "-f", "ffmetadata", f"file:{os.devnull}"]
        log = run(*open_input(path), *nothing, log_level="info", time_limit_s=PROBE_TIME_LIMIT_S).log
    except FfmpegTimeout as error:
        raise _too_slow(field, PROBE_TIME_LIMIT_S) from error
    except FfmpegError as error:
        if is_cut_off(path):
            raise truncated(field) from error
        raise MediaUnreadable(unreadable) from error
    info = parse_description(log)
    if info.streams > MAX_STREAMS:
        raise TooLarge(
            f"{field}: the file has {info.streams} tracks; leave only what is needed (at most {MAX_STREAMS} are read)."
        )
    if info.width * info.height > MAX_VIDEO_PIXELS:
        raise TooLarge(
            f"{field}: the video is {info.width}x{info.height}; make it smaller (at most {MAX_VIDEO_PIXELS} pixels a "
            "frame, 8192x4608, are read)."
        )
    return info


def parse_description(log: str) -> MediaInfo:
    """What ffmpeg printed about its input, as values."""
    log = log.partition("Stream mapping:")[0]
    demuxer = re.search(r"^Input #0, (.+), from ", log, re.MULTILINE)
    duration = re.search(r"^ +Duration: (\d+):(\d+):(\d+\.\d+)", log, re.MULTILINE)
    audio = re.search(r"^ +Stream #0:.+: Audio: .+?, (\d+) Hz, ([^,\n]+)", log, re.MULTILINE)
    videos = re.findall(r"^ +Stream #0:.+: Video: (.+?, (\d+)x(\d+)(?:[ ,].*)?)$", log, re.MULTILINE)
    video, width, height = next((v for v in videos if "(attached pic)" not in v[0]), ("", "0", "0"))
    if not video and re.search(r"^ +Stream #0:.+: Video: (?!.*attached pic)", log, re.MULTILINE):
        # Above max_pixels some decoders do not print the size of a frame.
        video, width, height = next(iter(re.findall(r"Picture size ((\d+)x(\d+)) exceeds", log)), ("", "0", "0"))
    stated = duration is not None and "Estimating duration" not in log
    return MediaInfo(
        streams=len(re.findall(r"^ +Stream #0:\d+", log, re.MULTILINE)),
        stated_duration_s=_seconds(*duration.groups()) if duration is not None and stated else None,
        has_audio=audio is not None,
        has_video=video != "",
        sample_rate_hz=int(audio[1]) if audio else 0,
        channels=_channels(audio[2]) if audio else 0,
        is_mono=audio is not None and audio[2].startswith(("mono", "1 channels")),
        width=int(width),
        height=int(height),
        hdr=next((name for word, name in _HDR_TRANSFERS.items() if word in video), None),
        has_color_matrix=re.search(r"\((?:\w+, )*(bt\d+|smpte|fcc|ycgco|gbr)", video) is not None,
        has_seek_index=demuxer is not None and demuxer[1].startswith(("mov,", "matroska,")),
    )


def _channels(layout: str) -> int:
    """The number in ffmpeg's "48 channels"; 0 for names of layouts, which have 24 channels at most."""
    number = re.match(r"(\d+) channels", layout)
    return int(number[1]) if number else 0


def _seconds(hours: str, minutes: str, seconds: str) -> float:
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
