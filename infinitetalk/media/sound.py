"""A stranger's sound, decoded to a file of samples: the program behind `audio.load_audio`."""

import sys
from collections.abc import Iterator
from dataclasses import asdict
from math import inf
from pathlib import Path

import av
from av import AudioFrame, Packet
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError

from infinitetalk.errors import Internal, MediaUnreadable
from infinitetalk.media.container import mp3_frames
from infinitetalk.media.ogg import Slice, ogg_layout
from infinitetalk.media.probe import MAX_CHANNELS, RATES_HZ
from infinitetalk.media.program import Answer, reply
from infinitetalk.media.stream import damaged, first_video, open_media, tick_s, truncated, zero_s
from infinitetalk.media.tables import is_cut_off, is_followed, is_open_ended, matroska_starts
from infinitetalk.media.timeline import TimeLine

# Stated lengths may count an encoder's first and last samples, which are not heard.
_LENGTH_SLACK_S = 0.1
MAX_LOST_PART = 0.1
_MAX_PEAK = 8.0  # of what a decoder makes of sound; full scale is 1. Samples stored as they are may be of any scale.
# Readers that make a length from the bit rate, from time stamps, or from what a pipe's header made up.
_ESTIMATED = ("aac", "ac3", "amr", "amrnb", "amrwb", "dts", "eac3", "loas", "mpeg", "mpegts", "truehd", "wav")
_MP3_SILENT_FRAMES = 3  # of the encoder's delay and padding, at most, which are not decoded
# Readers that mark the last packet where a header of unknown length promised more; is_cut_off knows those.
_TABLED = ("wav", "w64", "aiff", "au", "caf")
_TAGS = (b"ID3", b"TAG", b"APETAGEX")  # of programs that put them between frames


class _Reader:
    """Reads the first sound of a file, or of one link of a chained one, onto a time line."""

    def __init__(self, path: Path, field: str, line: TimeLine) -> None:
        self._path = path
        self._field = field
        self._line = line
        self._ends_corrupt = False
        self._ends_lost = False  # no frame came of the last packets
        self._stated_s: float | None = None
        self._began_s = 0.0

    def read(self, container: InputContainer, stream: AudioStream, is_first: bool) -> None:
        """Decode to the end, or until the line is full. Raises MediaUnreadable for absurd rates and channels."""
        self._check(stream)
        begin_s = zero_s(container)
        self._began_s = self._line.end_s
        self._stated_s = _stated_s(self._path, container, stream)
        self._line.restart()
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"err_detect": "crccheck"}
        self._line.max_peak = inf if stream.codec_context.name.startswith("pcm_") else _MAX_PEAK
        last: tuple[Packet[AudioStream], AudioFrame] | None = None
        for packet, frames in self._packets(container, stream):
            for frame in frames:
                if is_first and last is None:
                    self._line.add(frame, begin_s, is_first=True, was_lost=False)
                    self._began_s = self._line.lead_s
                else:
                    self._line.add(frame, begin_s, is_first=False, was_lost=self._ends_lost)
                self._ends_lost = False
                last = packet, frame
            if self._line.is_full:
                return
        self._line.finish()
        if last is not None and container.format.name.startswith("mov") and stream.frames:
            self._trim(*last)

    def check_end(self, container_name: str) -> None:
        """Raise MediaUnreadable where the sound ended before it should."""
        got_s = self._line.end_s - self._began_s
        if self._stated_s is not None and got_s < self._stated_s - _LENGTH_SLACK_S:
            raise MediaUnreadable(
                f"{self._field}: the file is truncated or damaged, {got_s:.2f} s of {self._stated_s:.2f} s can be "
                "read; upload it again."
            )
        cut_packet = self._ends_corrupt and container_name not in _TABLED
        cut_frame = self._ends_lost and container_name != "mp3"  # behind which anything may stand
        if cut_packet or cut_frame:
            raise truncated(self._field)

    def _check(self, stream: AudioStream) -> None:
        codec = stream.codec_context
        rate_hz, channels = (codec.sample_rate, codec.layout.nb_channels) if codec else (0, 0)
        if rate_hz not in RATES_HZ or not 1 <= channels <= MAX_CHANNELS:
            raise MediaUnreadable(
                f"{self._field}: the sound has {rate_hz} Hz and {channels} channels; {RATES_HZ[0]} to {RATES_HZ[-1]} "
                f"Hz and at most {MAX_CHANNELS} channels are read, export it again as 48000 Hz stereo."
            )

    def _packets(
        self, container: InputContainer, stream: AudioStream
    ) -> Iterator[tuple["Packet[AudioStream]", list[AudioFrame]]]:
        """Every packet, and what came of it. Packets that cannot be decoded are counted."""
        try:
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except FFmpegError:
                    if packet.size and not self._is_tag(packet):
                        self._ends_lost = True
                    continue
                self._ends_corrupt = packet.is_corrupt or (self._ends_corrupt and not packet.size)
                yield packet, frames
        except FFmpegError as error:
            raise damaged(self._field) from error

    def _is_tag(self, packet: "Packet[AudioStream]") -> bool:
        """Whether a packet is no sound but a tag, which a reader without time stamps has given a time."""
        if not bytes(packet).startswith(_TAGS):
            return False
        if packet.duration and packet.time_base:
            self._line.skip(float(packet.duration * packet.time_base))
        return True

    def _trim(self, packet: "Packet[AudioStream]", frame: AudioFrame) -> None:
        """Cut the last frame where the file says that the sound ends; only the packet's duration tells."""
        if packet.duration and packet.time_base:
            heard = round(packet.duration * packet.time_base * frame.sample_rate)
            if heard < frame.samples:
                self._line.cut(
                    self._line.samples - round((frame.samples - heard) * self._line.rate_hz / frame.sample_rate)
                )


def _stated_s(path: Path, container: InputContainer, stream: AudioStream) -> float | None:
    """How long the sound is by what its file says; None where it does not say, or the reader only guesses."""
    name = container.format.name
    if name == "mp3":  # whose reader guesses where the count of frames does not fit the file's size
        frames, rate_hz = mp3_frames(path), stream.codec_context.sample_rate
        return (
            None if frames is None else (frames - _MP3_SILENT_FRAMES) * (1152 if rate_hz >= 32_000 else 576) / rate_hz
        )
    if name in _ESTIMATED or is_open_ended(path):
        return None
    begin_s = max(container.start_time or 0, 0) / av.time_base
    if stream.duration is not None:
        length_s = float(stream.duration * tick_s(stream))
        return length_s - begin_s if name == "ogg" else length_s  # Ogg states where the sound ends
    if container.duration is None or first_video(container) is not None:
        return None  # or what lasts that long may be the video
    return container.duration / av.time_base - begin_s


def decode_sound(path: Path, field: str, target: Path, wanted_s: float) -> Answer:
    """Decode the first sound of a file to `target`; see `TimeLine` for what is written.

    Raises MediaUnreadable where there is no sound, one of an absurd kind, or it ends early or is damaged.
    """
    with target.open("wb") as file:
        line = TimeLine(file, wanted_s)
        reader = _Reader(path, field, line)
        is_first = True
        name = ""
        for part in _parts(path):
            with open_media(path, field, part) as container:
                if not container.streams.audio:
                    continue
                name = container.format.name
                reader.read(container, container.streams.audio[0], is_first)
            is_first = False
            if line.is_full:
                break
            _check_tables(path, field)
            reader.check_end(name)
    if is_first:
        raise MediaUnreadable(f"{field}: the file has no sound; send one that has a voice.")
    if line.lost.total_s > MAX_LOST_PART * line.end_s:
        raise damaged(field)
    return Answer(
        {
            "rate_hz": line.rate_hz,
            "channels": line.channels,
            "layout": line.layout,
            "samples": line.samples,
            "peak": line.peak,
            "is_finite": line.is_finite,
            "lead_s": line.lead_s,
            "gaps": asdict(line.gaps),
            "lost": asdict(line.lost),
            "has_end_mark": line.is_full or name != "ogg" or ogg_layout(path).has_end_mark,
            "cancelling_channel": line.cancelling_channel(),
        }
    )


def _check_tables(path: Path, field: str) -> None:
    """Raise MediaUnreadable where a file is longer or shorter than its tables say."""
    if is_followed(path):
        raise MediaUnreadable(
            f"{field}: the file holds several recordings one behind the other, of which only the first can be read; "
            "join them in a sound program and export the whole."
        )
    if is_cut_off(path):
        raise truncated(field)


def _parts(path: Path) -> Iterator[Slice | None]:
    """The recordings of a chained Ogg or joined matroska file, which readers end within; for others the whole, None."""
    with path.open("rb") as file:
        is_ogg = file.read(4) == b"OggS"
    links = ogg_layout(path).links if is_ogg else matroska_starts(path)
    if len(links) < 2:
        yield None
        return
    for start, end in zip(links, (*links[1:], path.stat().st_size), strict=True):
        with path.open("rb") as file:
            yield Slice(file, start, end)


def main(arguments: list[str]) -> None:
    """The program: arguments are the path, the job's field that named it, the file to write, and how many seconds."""
    path, field, target, wanted_s = arguments

    def decode() -> Answer:
        try:
            return decode_sound(Path(path), field, Path(target), float(wanted_s))
        except OSError as error:
            if isinstance(error, FFmpegError):
                raise damaged(field) from error
            raise Internal(f"{field}: the worker has no room for the decoded sound; try again.") from error

    reply(decode)


if __name__ == "__main__":
    main(sys.argv[1:])
