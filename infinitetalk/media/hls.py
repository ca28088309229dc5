"""A video in parts that can be watched before there is all of it: HLS (RFC 8216) with segments of fragmented mp4.

Each part is one run of ffmpeg, which makes a segment that begins with a key frame. ffmpeg could keep the playlist too.
But in one long run it closes a segment only with the key frame after it, when the next part has been made. And where a
later run appends to a playlist (`append_list`), it breaks the timeline at each part. So the segments carry their place
in time (`frag_discont`), all have the same header, and the playlist is a list of them.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from infinitetalk.media.encode import count_frames
from infinitetalk.media.ffmpeg import FfmpegError, run

HEADER = "init.mp4"  # what a player reads before any segment
SHORT_SIDE = 480  # pixels that the preview has at most
_CRF = 26
_TIME_LIMIT_S = 300.0


@dataclass(frozen=True)
class Part:
    """A segment: its file's name, and how long it lasts."""

    name: str
    duration_s: Fraction


def part_name(index: int) -> str:
    """The file of a video's part."""
    return f"{index:05}.m4s"


class HlsParts:
    """Makes parts of one video, one after the other."""

    def __init__(self, folder: Path, soundtrack: Path, size: tuple[int, int], rate: Fraction) -> None:
        """Begin a video.

        Args:
            folder: where the files are made.
            soundtrack: the whole sound, an AAC file as `audio.write_soundtrack` makes it; it is cut and not encoded.
            size: (width, height) of the finished video in pixels.
            rate: frames a second.

        Raises FfmpegError if the soundtrack cannot be read.
        """
        self._folder = folder
        self._soundtrack = soundtrack
        self._rate = rate
        self._sound_s = packet_times(soundtrack)
        self._frames = 0
        width, height = size
        factor = min(1.0, SHORT_SIDE / min(size))
        self._scale = f"scale={_even(width * factor)}:{_even(height * factor)}:flags=bilinear"

    @property
    def duration_s(self) -> Fraction:
        """How long the parts last that there are."""
        return self._frames / self._rate

    def add(self, index: int, piece: Path) -> Part | None:
        """Make the next part.

        Args:
            index: its number in the video.
            piece: its frames, as `VideoWriter.pack` gives them.

        Returns None for a piece without frames. Raises FfmpegError.
        """
        if piece.stat().st_size == 0:
            return None
        n_frames = count_frames(piece)
        # The first part always has sound. One of a few milliseconds may have none, and says so in its own header.
        header = "unused.mp4" if self._frames else HEADER
        start_s, stop_s = self.duration_s, (self._frames + n_frames) / self._rate
        video = ["-itsoffset", f"{float(start_s):.6f}", "-threads", "1", "-i", f"file:{piece}"]
        run(
            *[*video, *self._sound(start_s, stop_s), "-copyts", "-fps_mode", "passthrough", "-vf", self._scale],
            # Later frames of a part need no key frame. Without B-frames pictures are in the order of their times.
            *["-c:v", "libx264", "-preset", "veryfast", "-crf", str(_CRF), "-bf", "0", "-threads", "1"],
            *["-g", "100000", "-sc_threshold", "0", "-pix_fmt", "yuv420p"],
            *["-flags", "+bitexact", "-fflags", "+bitexact", "-map_metadata", "-1"],
            *["-f", "hls", "-hls_time", "100000", "-hls_segment_type", "fmp4", "-start_number", str(index)],
            *["-hls_segment_options", "movflags=+frag_discont", "-hls_fmp4_init_filename", header],
            *["-hls_segment_filename", f"{self._folder}/%05d.m4s"],
            str(self._folder / "part.m3u8"),
            time_limit_s=_TIME_LIMIT_S,
            gently=True,
        )
        if not (self._folder / part_name(index)).is_file():  # the muxer does not fail where a file cannot be opened
            raise FfmpegError("no segment was written")
        self._frames += n_frames
        return Part(part_name(index), n_frames / self._rate)

    def _sound(self, start_s: Fraction, stop_s: Fraction) -> list[str]:
        """ffmpeg's arguments for the packets that begin within that time: each is in one part."""
        first, stop = (bisect_left(self._sound_s, time_s) for time_s in (start_s, stop_s))
        if first == stop:
            return ["-map", "0:v"]
        # From within the first packet to within the last one: ffmpeg takes the packets that hold these times.
        length_s = self._sound_s[1] - self._sound_s[0]
        begin_s, end_s = self._sound_s[first] + length_s / 4, self._sound_s[stop - 1] + length_s * 3 / 4
        cut = ["-ss", f"{float(begin_s):.6f}", "-t", f"{float(end_s - begin_s):.6f}"]
        return [*cut, "-i", f"file:{self._soundtrack}", "-map", "0:v", "-map", "1:a", "-c:a", "copy"]


def playlist(parts: Sequence[Part], target_s: float, address: Callable[[str], str], is_whole: bool) -> str:
    """The playlist of the parts so far.

    Args:
        target_s: about the time between parts, the same in every playlist of a video. Players wait so long before they
            look again, and some give up after three times that.
        address: gives the URI of a file.
        is_whole: no part will follow.
    """
    lines = [
        "#EXTM3U",
        "#EXT-X-VERSION:7",
        f"#EXT-X-TARGETDURATION:{math.ceil(target_s)}",
        "#EXT-X-MEDIA-SEQUENCE:0",
        "#EXT-X-PLAYLIST-TYPE:EVENT",
        "#EXT-X-INDEPENDENT-SEGMENTS",
        "#EXT-X-START:TIME-OFFSET=0",  # players begin a stream near its end otherwise
        f'#EXT-X-MAP:URI="{address(HEADER)}"',
    ]
    for part in parts:
        lines += [f"#EXTINF:{float(part.duration_s):.6f},", address(part.name)]
    return "\n".join([*lines, *["#EXT-X-ENDLIST"] * is_whole, ""])


def packet_times(sound: Path) -> list[Fraction]:
    """When the packets of a sound file begin, in seconds; those before 0 prime the decoder. Raises FfmpegError."""
    listing = run("-i", f"file:{sound}", "-map", "0:a:0", "-c", "copy", "-copyts", "-f", "framecrc", "-").decode()
    unit_s, times = Fraction(1), []
    for line in listing.splitlines():
        if line.startswith("#tb 0:"):
            unit_s = Fraction(line.split(":")[1].strip())
        elif not line.startswith("#"):
            times.append(int(line.split(",")[2]) * unit_s)
    return times


def _even(pixels: float) -> int:
    """The nearest even number: each colour value is that of two by two pixels."""
    return max(2, 2 * round(pixels / 2))
