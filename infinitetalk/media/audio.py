"""Voices: decoded to what the audio encoder hears, and taken as they are for the sound of the video."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyloudnorm
from numpy.typing import NDArray

from infinitetalk.errors import Internal, MediaUnreadable, TooLarge
from infinitetalk.media.ffmpeg import FfmpegError, run
from infinitetalk.media.probe import ask_about
from infinitetalk.shapes import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME

Wave = NDArray[np.float32]

LOUDNESS_LUFS = -23.0
_LOUDNESS_BLOCK = SAMPLE_RATE_HZ * 2 // 5  # BS.1770 measures blocks of 400 ms
# Mixed voices, and sounds above full scale, peak here at most: AAC may overshoot what it is given by a few per cent.
_PEAK = 0.95
# What is decoded beyond the length that is wanted, so that resampling does not feel the cut.
_MARGIN_S = 0.5
# Silence that a file's time stamps ask for is told from here on.
_TOLD_S = 0.1
# Left to itself, ffmpeg would make a mono voice 3 dB quieter on its way to stereo.
_MONO_TO_STEREO = "pan=stereo|c0=c0|c1=c0"
# What AAC can hold; sounds of more channels go to the nearest.
_AAC_LAYOUTS = "mono|stereo|2.1|3.0|quad|4.0|5.0|5.0(side)|5.1|5.1(side)|6.1|7.1"


@dataclass(frozen=True)
class Sound:
    """A voice on its time line, decoded: the one source of what the model hears and of what the video plays.

    Args:
        path: raw 32-bit floats, channels side by side.
        gain: what turns samples above full scale down to it, else 1.
        mono_channel: the channel that the model hears if the average of all would cancel; else None.
    """

    path: Path
    rate_hz: int
    channels: int
    layout: str
    gain: float
    mono_channel: int | None

    @property
    def source(self) -> list[str]:
        """Arguments that let ffmpeg read it."""
        named = ["-ac", str(self.channels)] if self.layout.endswith("channels") else ["-ch_layout", self.layout]
        return ["-f", "f32le", "-ar", str(self.rate_hz), *named, "-i", f"file:{self.path}"]


@dataclass(frozen=True)
class Voice:
    """A voice as it was read.

    Args:
        wave: mono, 16 kHz, about [-1, 1].
        warnings: what the caller should know about it, a sentence each.
    """

    wave: Wave
    sound: Sound
    warnings: tuple[str, ...]


def load_audio(path: Path, field: str, max_duration_s: float | None, limit_s: float, folder: Path) -> Voice:
    """The first sound of an audio or video file, on the time line of its time stamps.

    Where nothing is stored, and before a late start, it is silent; a change of channels or rate is followed; links of
    a chained file follow each other. Channels are averaged for the wave, resampling is soxr's high quality: what
    librosa.load gives, for any container.

    Args:
        field: the job's field that named the file, for errors and warnings.
        max_duration_s: cut to this length; an end missing beyond it is not looked for.
        limit_s: the longest sound accepted.
        folder: where the decoded sound is left, 4 bytes a sample and channel.

    Raises MediaUnreadable where there is no sound, one of an absurd sample rate or number of channels, less than one
    video frame of it, more than a tenth of it is damaged, or the file ends before the length it states (bare streams
    state none); TooLarge beyond the limit.
    """
    limit = round(limit_s * SAMPLE_RATE_HZ)
    wanted = limit + 1 if max_duration_s is None else min(round(max_duration_s * SAMPLE_RATE_HZ), limit + 1)
    decoded = folder / f"{path.name}.f32"
    facts = ask_about(field, "sound", str(path), field, str(decoded), str(wanted / SAMPLE_RATE_HZ + _MARGIN_S)).facts
    if not facts["is_finite"]:
        raise MediaUnreadable(
            f"{field}: the sound has samples that are not numbers (NaN or infinite); export it again."
        )
    sound = Sound(
        path=decoded,
        rate_hz=facts["rate_hz"],
        channels=facts["channels"],
        layout=facts["layout"],
        gain=_PEAK / facts["peak"] if facts["peak"] > 1 else 1.0,
        mono_channel=facts["cancelling_channel"],
    )
    wave = _hear(sound, wanted) if facts["samples"] else np.zeros(0, np.float32)
    if len(wave) > limit:
        raise TooLarge(
            f"{field}: the sound is longer than {limit_s:g} s, the most that is accepted; "
            f"set max_duration_s to {limit_s:g} or less to use its beginning."
        )
    if len(wave) < SAMPLES_PER_FRAME:
        raise MediaUnreadable(
            f"{field}: the sound is {len(wave) / SAMPLE_RATE_HZ:.3g} s long; "
            f"at least {SAMPLES_PER_FRAME / SAMPLE_RATE_HZ:g} s, one video frame, is needed."
        )
    return Voice(wave, sound, tuple(_warnings(field, facts, wave)))


def load_song(sound: Sound, duration_s: float, rate_hz: int) -> Wave:
    """The beginning of a sound in stereo, (samples, 2), for the separator of vocals.

    A mono sound is on both channels as it is; more than two channels are mixed down.
    """
    filters = []
    if sound.mono_channel is not None:
        filters.append(f"pan=stereo|c0=c{sound.mono_channel}|c1=c{sound.mono_channel}")
    elif sound.channels == 1:
        filters.append(_MONO_TO_STEREO)
    return _resample(sound, filters, "stereo", rate_hz, round(duration_s * rate_hz)).reshape(-1, 2)


def _hear(sound: Sound, wanted: int) -> Wave:
    """The first `wanted` samples of a sound as the model hears it: mono, 16 kHz."""
    filters = [] if sound.mono_channel is None else [f"pan=mono|c0=c{sound.mono_channel}"]
    return _resample(sound, filters, "mono", SAMPLE_RATE_HZ, wanted)


def heard_in(video: Path, channel: int | None = None) -> Wave:
    """All of the sound of a finished video, as the model would hear it: mono, 16 kHz.

    Args:
        channel: the one to take; None: the average of all.

    Raises FfmpegError where the file has no sound that can be decoded.
    """
    filters = [] if channel is None else [f"pan=mono|c0=c{channel}"]
    chain = ",".join([*filters, _resampler("mono", SAMPLE_RATE_HZ)])
    data = run("-i", f"file:{video}", "-map", "0:a:0", "-af", chain, "-f", "f32le", "-")
    return np.frombuffer(data, np.float32)


def heard_of(tracks: "Sequence[Track]", duration_s: float) -> Wave:
    """What `heard_in` should find in a video with this sound: the tracks in their places, mono, 16 kHz."""
    total = np.zeros(round(duration_s * SAMPLE_RATE_HZ), np.float32)
    for track in tracks:
        start = min(round(track.start_s * SAMPLE_RATE_HZ), len(total))
        samples = min(round(track.length_s * SAMPLE_RATE_HZ), len(total) - start)
        if samples > 0:
            wave = _hear(track.sound, samples)
            total[start : start + len(wave)] += wave
    return total


def _resampler(layout: Literal["mono", "stereo"], rate_hz: int) -> str:
    return f"aresample=osr={rate_hz}:ochl={layout}:osf=flt:resampler=soxr:rematrix_maxval=1"


def _resample(
    sound: Sound, filters: Sequence[str], layout: Literal["mono", "stereo"], rate_hz: int, samples: int
) -> Wave:
    """The first `samples` samples of a sound behind some filters; those of several channels lie side by side."""
    filters = [*filters]
    if sound.gain != 1:
        filters.append(f"volume={sound.gain:.9g}:precision=float")
    filters.append(_resampler(layout, rate_hz))
    filters.append(f"atrim=end_sample={samples}")
    try:
        data = run(*sound.source, "-af", ",".join(filters), "-f", "f32le", "-")
    except FfmpegError as error:
        raise Internal("the decoded sound could not be resampled; try again.") from error
    return np.frombuffer(data, np.float32).copy()  # torch wants memory it may write to


def _warnings(field: str, facts: dict[str, Any], wave: Wave) -> list[str]:
    """What the caller should know of a sound."""
    told = []
    gaps, lost = facts["gaps"], facts["lost"]
    if facts["lead_s"] >= _TOLD_S:
        told.append(f"{field} begins {facts['lead_s']:.2f} s late by its time stamps; it is silent until then.")
    if gaps["total_s"] >= _TOLD_S:
        told.append(
            f"{field} holds nothing for {gaps['total_s']:.2f} s by its time stamps, first at {gaps['first_s']:.2f} s; "
            "it is silent there."
        )
    if lost["count"]:
        told.append(
            f"{field} is damaged: {lost['total_s']:.2f} s, first at {lost['first_s']:.2f} s, could not be decoded and "
            "are silent."
        )
    if not facts["has_end_mark"]:
        told.append(f"{field} has no end mark; if it was cut off, its end is missing.")
    if facts["cancelling_channel"] is not None:
        told.append(
            f"The channels of {field} cancel each other (one is the inverse of the other): the mouth follows channel "
            f"{facts['cancelling_channel'] + 1} alone, and a listener with one loudspeaker hears little."
        )
    if _loudness(wave) is None:
        told.append(f"{field} is silent: the mouth of the one who has this voice stays still.")
    return told


def normalise_loudness(wave: Wave) -> Wave:
    """A 16 kHz mono wave brought to -23 LUFS (ITU-R BS.1770). Peaks may pass 1; nothing is limited.

    Silence has no loudness and stays as it is. A measurement needs 400 ms; a shorter wave is repeated for it.
    """
    loudness = _loudness(wave)
    if loudness is None:
        return wave
    return np.asarray(wave * 10 ** ((LOUDNESS_LUFS - loudness) / 20), np.float32)


def _loudness(wave: Wave) -> float | None:
    """In LUFS; None for silence, which has none."""
    measured = wave if len(wave) >= _LOUDNESS_BLOCK else np.resize(wave, _LOUDNESS_BLOCK)
    loudness = float(pyloudnorm.Meter(SAMPLE_RATE_HZ).integrated_loudness(measured))
    return loudness if abs(loudness) <= 100 else None


def place_voices(waves: Sequence[Wave], starts: Sequence[int]) -> tuple[Wave, ...]:
    """The speakers' waves at equal length, each silent before its start and after its end.

    Args:
        starts: samples before each voice, see `planning.speakers.speaker_starts`.
    """
    stop = max(start + len(wave) for wave, start in zip(waves, starts, strict=True))
    return tuple(np.pad(wave, (start, stop - start - len(wave))) for wave, start in zip(waves, starts, strict=True))


@dataclass(frozen=True)
class Track:
    """A stretch of the video's sound: the first `length_s` seconds of a voice, heard from `start_s` on."""

    sound: Sound
    start_s: float
    length_s: float


def write_soundtrack(tracks: Sequence[Track], duration_s: float, path: Path) -> None:
    """Write the sound of the video, `duration_s` long, as AAC in an mp4 file, which VideoWriter takes as it is.

    One track keeps its own sample rate and channels. Several are mixed, in stereo unless all are mono, at the
    highest of their sample rates. What would clip, a sum or a sound above full scale, is turned down as a whole just
    as far as it would.

    Raises Internal if ffmpeg fails: it is not the files' fault, since they have been decoded before.
    """
    inputs = [argument for track in tracks for argument in track.sound.source]
    try:
        graph = _mix(tracks)
        if len(tracks) > 1:
            graph += f",volume={_PEAK / max(_peak(inputs, graph), _PEAK):.6f}"
        graph += f",aformat=channel_layouts={_AAC_LAYOUTS},apad=whole_dur={duration_s:.6f},atrim=end={duration_s:.6f}"
        encoder = ["-c:a", "aac", "-b:a", "192k", "-flags:a", "+bitexact", "-fflags", "+bitexact"]
        run(*inputs, "-filter_complex", graph, *encoder, "-f", "mp4", f"file:{path}")
    except FfmpegError as error:
        raise Internal("the sound of the video could not be written; try again.") from error


def _mix(tracks: Sequence[Track]) -> str:
    """The ffmpeg filters that bring the tracks to their places and, where there are several, add them up."""
    rate_hz = max(track.sound.rate_hz for track in tracks)
    all_mono = all(track.sound.channels == 1 for track in tracks)
    placed = []
    for i, track in enumerate(tracks):
        filters = [f"[{i}:a:0]asetpts=N/SR/TB", f"atrim=end={track.length_s:.6f}"]
        if track.sound.gain != 1:
            filters.append(f"volume={track.sound.gain:.9g}:precision=float")
        if len(tracks) > 1:
            if not all_mono:
                filters.append(_MONO_TO_STEREO if track.sound.channels == 1 else "aformat=channel_layouts=stereo")
            filters.append(f"aresample={rate_hz}:resampler=soxr")
        filters.append(f"adelay={round(track.start_s * rate_hz)}S:all=1")
        placed.append(",".join(filters))
    if len(tracks) == 1:
        return placed[0]
    voices = [f"[voice{i}]" for i in range(len(tracks))]
    branches = [branch + voice for branch, voice in zip(placed, voices, strict=True)]
    return f"{';'.join(branches)};{''.join(voices)}amix=inputs={len(tracks)}:normalize=0"


def _peak(inputs: Sequence[str], graph: str) -> float:
    """The largest sample value that the filters put out; may be above 1."""
    printed = "astats=measure_perchannel=none:measure_overall=Peak_level:metadata=1"
    printed += ",ametadata=print:key=lavfi.astats.Overall.Peak_level:file=-"
    text = run(*inputs, "-filter_complex", f"{graph},{printed}", "-f", "null", os.devnull).decode()
    peak_db = re.findall(r"Peak_level=(\S+)", text)[-1]  # of all so far
    return float(10 ** (float(peak_db) / 20))
