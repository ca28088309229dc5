"""What a sound or video file says about itself."""

from dataclasses import dataclass
from pathlib import Path

from infinitetalk.errors import MediaUnreadable
from infinitetalk.media.program import Answer, ask

TIME_LIMIT_S = 120.0
# 8K video passes; more would let one small file claim gigabytes in the decoder.
MAX_VIDEO_PIXELS = 8192 * 4608
MAX_STREAMS = 64
# Below is no speech, above no recorder; 64 channels are seventh-order ambisonics.
RATES_HZ = range(4_000, 768_001)
MAX_CHANNELS = 64


@dataclass(frozen=True)
class MediaInfo:
    """What a file says about its first sound and its first video (cover pictures do not count)."""

    streams: int
    stated_duration_s: float | None  # may be an estimate
    has_audio: bool
    has_video: bool
    sample_rate_hz: int  # 0 without sound
    channels: int  # 0 without sound
    width: int  # as stored, before rotation; 0 without video
    height: int
    hdr: str | None  # PQ or HLG where the video is HDR
    has_color_matrix: bool  # the video names the matrix between its YUV and RGB


def probe(path: Path, field: str) -> MediaInfo:
    """Read a file's own description.

    Args:
        field: the job's field that named the file, for errors.

    Raises MediaUnreadable where it is no container that is read here, TooLarge where it has too many tracks.
    """
    return MediaInfo(**ask_about(field, "stream", str(path), field).facts)


def ask_about(field: str, module: str, *arguments: str, time_limit_s: float | None = None) -> Answer:
    """Ask a program about a sound or video file; see `program.ask`.

    Raises MediaUnreadable where the program is not done within the limit (TIME_LIMIT_S), or dies.
    """
    limit_s = time_limit_s or TIME_LIMIT_S
    return ask(
        module,
        *arguments,
        time_limit_s=limit_s,
        too_slow=MediaUnreadable(
            f"{field}: the file could not be read within {limit_s:g} s; export it again in a common format, shorter "
            "or smaller."
        ),
        crashed=MediaUnreadable(
            f"{field}: the file is damaged or cannot be decoded; export it again and upload it again."
        ),
    )
