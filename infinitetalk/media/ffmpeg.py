"""Runs the ffmpeg binary of imageio-ffmpeg on files that strangers sent, bounded in time, threads and reach."""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import imageio_ffmpeg

from infinitetalk.errors import MediaUnreadable, TooLarge
from infinitetalk.media.container import apparent_kind, is_cut_off

TIME_LIMIT_S = 300.0
# 8K video passes; more would let one small file claim gigabytes in the decoder.
MAX_VIDEO_PIXELS = 8192 * 4608

# Containers that hold their own data. Playlists and scripts (hls, dash, concat, sdp, ...), which make ffmpeg
# open other addresses, and single pictures are not among them: ffmpeg refuses those whatever their name.
_CONTAINERS = (
    "3g2,3gp,aac,ac3,aiff,amr,ape,asf,au,avi,caf,dts,dv,eac3,flac,flv,gif,ivf,loas,m4a,matroska,mj2,mov,mp3,"
    "mp4,mpc,mpc8,mpeg,mpegts,mxf,nut,ogg,qoa,rm,tak,truehd,tta,voc,w64,wav,webm,wv,yuv4mpegpipe"
)
# What the mov and matroska readers say when a file ends before its own tables do.
_CUT_OFF = ("partial file", "File ended prematurely")
_LOG_TAIL_BYTES = 65_536


class FfmpegError(Exception):
    """ffmpeg did not do its work. Holds the end of its log, which names local paths: a cause, never a message."""


@dataclass(frozen=True)
class Output:
    """What a finished run left: its standard output and the end of its log."""

    data: bytes
    log: str


@dataclass(frozen=True)
class MediaInfo:
    """What a file says about its first sound and its first video (cover pictures do not count)."""

    stated_duration_s: float | None  # None where ffmpeg could only estimate
    has_audio: bool
    has_video: bool
    sample_rate_hz: int  # 0 without sound
    is_mono: bool
    width: int  # as stored, before rotation; 0 without video
    height: int
    has_color_matrix: bool  # the video names the matrix between its YUV and RGB
    has_seek_index: bool  # seeking lands exactly on the keyframe before a time


def command(*args: str, log_level: str = "warning") -> list[str]:
    """An ffmpeg command line that leaves the terminal alone."""
    quiet = ["-nostdin", "-hide_banner", "-nostats", "-loglevel", log_level]
    threads = ["-filter_threads", "1", "-filter_complex_threads", "1"]
    return [imageio_ffmpeg.get_ffmpeg_exe(), *quiet, *threads, "-y", *args]


def open_input(path: Path, *options: str) -> list[str]:
    """Arguments that open an untrusted file, and nothing else than this file. `options` go before its -i."""
    reach = ["-protocol_whitelist", "file", "-format_whitelist", _CONTAINERS]
    return [*reach, "-max_pixels", str(MAX_VIDEO_PIXELS), "-threads", "2", *options, "-i", f"file:{path}"]


def run(*args: str, log_level: str = "warning", time_limit_s: float = TIME_LIMIT_S) -> Output:
    """Run ffmpeg to its end. Raises FfmpegError where it fails or takes longer than the limit."""
    with tempfile.TemporaryFile() as log:
        try:
            done = subprocess.run(
                command(*args, log_level=log_level),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                timeout=time_limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise FfmpegError(f"not done within {time_limit_s:g} s: {log_tail(log)}") from error
        if done.returncode != 0:
            raise FfmpegError(f"exit status {done.returncode}: {log_tail(log)}")
        return Output(done.stdout, log_tail(log))


def log_tail(log: IO[bytes]) -> str:
    """The end of a log file that ffmpeg wrote to."""
    log.seek(0, 2)
    log.seek(max(0, log.tell() - _LOG_TAIL_BYTES))
    return log.read().decode(errors="replace").strip()


def decode(field: str, *args: str, time_limit_s: float = TIME_LIMIT_S) -> Output:
    """Run ffmpeg on a caller's file. Raises MediaUnreadable where it fails or the file ends too early."""
    try:
        output = run(*args, time_limit_s=time_limit_s)
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


def probe(path: Path, field: str) -> MediaInfo:
    """Read a file's own description.

    Raises MediaUnreadable where it is no container that is read here, TooLarge where its frames are.
    """
    try:
        # Writing the metadata needs no stream, so this works for every file that opens at all.
        log = run(*open_input(path), "-f", "ffmetadata", "-", log_level="info").log
    except FfmpegError as error:
        if is_cut_off(path):
            raise truncated(field) from error
        raise MediaUnreadable(
            f"{field}: this is {apparent_kind(path)}, which cannot be read as sound or video; send the file itself, "
            "such as wav, mp3, flac, m4a, ogg, mp4, mov, mkv or webm."
        ) from error
    info = parse_description(log)
    if info.width * info.height > MAX_VIDEO_PIXELS:
        raise TooLarge(
            f"{field}: the video is {info.width}x{info.height}; at most {MAX_VIDEO_PIXELS} pixels a frame "
            "(8192x4608) are read, make it smaller."
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
    stated = duration is not None and "Estimating duration" not in log
    return MediaInfo(
        stated_duration_s=_seconds(*duration.groups()) if duration is not None and stated else None,
        has_audio=audio is not None,
        has_video=video != "",
        sample_rate_hz=int(audio[1]) if audio else 0,
        is_mono=audio is not None and audio[2].startswith(("mono", "1 channels")),
        width=int(width),
        height=int(height),
        has_color_matrix=re.search(r"\((?:\w+, )*(bt\d+|smpte|fcc|ycgco|gbr)", video) is not None,
        has_seek_index=demuxer is not None and demuxer[1].startswith(("mov,", "matroska,")),
    )


def _seconds(hours: str, minutes: str, seconds: str) -> float:
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
