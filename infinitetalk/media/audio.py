"""Voices: decoded to what the audio encoder hears, and as they are for the sound of the video."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyloudnorm
from numpy.typing import NDArray

from infinitetalk.errors import Internal, MediaUnreadable, TooLarge
from infinitetalk.media.container import is_cut_off
from infinitetalk.media.ffmpeg import FfmpegError, MediaInfo, decode, open_input, probe, run, truncated
from infinitetalk.shapes import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME

Wave = NDArray[np.float32]

LOUDNESS_LUFS = -23.0
_LOUDNESS_BLOCK = SAMPLE_RATE_HZ * 2 // 5  # BS.1770 measures blocks of 400 ms
# Stated lengths count whole codec frames, and ffmpeg prints hundredths of a second.
_LENGTH_SLACK_S = 0.25
# Mixed voices peak here at most: AAC may overshoot what it is given by a few per cent.
_MIX_PEAK = 0.95
# Below is no speech, above no recorder; 64 channels are seventh-order ambisonics.
RATES_HZ = range(4_000, 768_001)
MAX_CHANNELS = 64
# Left to itself, ffmpeg would make a mono voice 3 dB quieter on its way to stereo.
_MONO_TO_STEREO = "pan=stereo|c0=c0|c1=c0"
# What AAC can hold; sounds of more channels go to the nearest.
_AAC_LAYOUTS = "mono|stereo|2.1|3.0|quad|4.0|5.0|5.0(side)|5.1|5.1(side)|6.1|7.1"


def load_audio(path: Path, field: str, max_duration_s: float | None, limit_s: float) -> Wave:
    """The first sound of an audio or video file: mono, 16 kHz, about [-1, 1].

    Channels are averaged, resampling is soxr's high quality: what librosa.load gives, for any container.

    Args:
        field: the job's field that named the file, for errors.
        max_duration_s: cut to this length; an end missing beyond it is not looked for.
        limit_s: the longest sound accepted.

    Raises MediaUnreadable where there is no sound, one of an absurd sample rate or number of channels, less than one
    video frame of it, or the file ends before the length it states (ogg and bare streams state none); TooLarge beyond
    the limit.
    """
    info = probe(path, field)
    if not info.has_audio:
        raise MediaUnreadable(f"{field}: the file has no sound; send one that has a voice.")
    if info.sample_rate_hz not in RATES_HZ or info.channels > MAX_CHANNELS:
        raise MediaUnreadable(
            f"{field}: the sound has {info.sample_rate_hz} Hz and {info.channels or 'few'} channels; {RATES_HZ[0]} to "
            f"{RATES_HZ[-1]} Hz and at most {MAX_CHANNELS} channels are read, export it again as 48000 Hz stereo."
        )
    limit = round(limit_s * SAMPLE_RATE_HZ)
    wanted = limit + 1 if max_duration_s is None else min(round(max_duration_s * SAMPLE_RATE_HZ), limit + 1)
    wave = _decode(path, field, info, wanted, SAMPLE_RATE_HZ, "mono")
    if len(wave) > limit:
        raise TooLarge(
            f"{field}: the sound is longer than {limit_s:g} s, the most that is accepted; "
            f"set max_duration_s to {limit_s:g} or less to use its beginning."
        )
    if len(wave) < wanted and (is_cut_off(path) or _is_short(len(wave), info)):
        raise truncated(field)
    if len(wave) < SAMPLES_PER_FRAME:
        raise MediaUnreadable(
            f"{field}: the sound is {len(wave) / SAMPLE_RATE_HZ:.3g} s long; "
            f"at least {SAMPLES_PER_FRAME / SAMPLE_RATE_HZ:g} s, one video frame, is needed."
        )
    if not np.isfinite(wave).all():
        raise MediaUnreadable(
            f"{field}: the sound has samples that are not numbers (NaN or infinite); export it again."
        )
    return wave


def load_song(path: Path, duration_s: float, rate_hz: int) -> Wave:
    """The beginning of a file's first sound in stereo, (samples, 2), for a file that `load_audio` has read.

    A mono sound is on both channels as it is; more than two channels are mixed down. May be a sample or two shorter or
    longer than `load_audio` found, by rounding.
    """
    info = probe(path, "sound")
    return _decode(path, "sound", info, round(duration_s * rate_hz), rate_hz, "stereo").reshape(-1, 2)


def _decode(
    path: Path, field: str, info: MediaInfo, samples: int, rate_hz: int, layout: Literal["mono", "stereo"]
) -> Wave:
    """The first `samples` samples of a file's first sound, those of several channels side by side."""
    resample = f"aresample=osr={rate_hz}:ochl={layout}:osf=flt:resampler=soxr:rematrix_maxval=1"
    filters = [resample, f"atrim=end_sample={samples}"]
    if layout == "stereo" and info.is_mono:
        filters.insert(0, _MONO_TO_STEREO)
    data = decode(field, *open_input(path), "-map", "0:a:0", "-af", ",".join(filters), "-f", "f32le", "-").data
    return np.frombuffer(data, np.float32).copy()  # torch wants memory it may write to


def _is_short(samples: int, info: MediaInfo) -> bool:
    """Whether a sound is shorter than its file states.

    Where a video could be what lasts that long, or time stamps could leave gaps (mov and matroska, whose missing
    ends show otherwise), this tells nothing.
    """
    if info.stated_duration_s is None or info.has_video or info.has_seek_index:
        return False
    return samples / SAMPLE_RATE_HZ < info.stated_duration_s - _LENGTH_SLACK_S


def normalise_loudness(wave: Wave) -> Wave:
    """A 16 kHz mono wave brought to -23 LUFS (ITU-R BS.1770). Peaks may pass 1, nothing is limited.

    Silence, which has no loudness, stays as it is. Less than the 400 ms that a measurement needs is measured
    on the wave repeated.
    """
    measured = wave if len(wave) >= _LOUDNESS_BLOCK else np.resize(wave, _LOUDNESS_BLOCK)
    loudness = pyloudnorm.Meter(SAMPLE_RATE_HZ).integrated_loudness(measured)
    if abs(loudness) > 100:
        return wave
    return np.asarray(wave * 10 ** ((LOUDNESS_LUFS - loudness) / 20), np.float32)


def place_voices(waves: Sequence[Wave], starts: Sequence[int]) -> tuple[Wave, ...]:
    """The speakers' waves at equal length, each silent but from its start on.

    starts: samples before each voice, see `planning.speakers.speaker_starts`.
    """
    stop = max(start + len(wave) for wave, start in zip(waves, starts, strict=True))
    return tuple(np.pad(wave, (start, stop - start - len(wave))) for wave, start in zip(waves, starts, strict=True))


@dataclass(frozen=True)
class Track:
    """A stretch of the video's sound: the first `length_s` seconds of a file, heard from `start_s` on."""

    path: Path
    start_s: float
    length_s: float


def write_soundtrack(tracks: Sequence[Track], duration_s: float, path: Path) -> None:
    """Write the sound of the video, `duration_s` long, as AAC in an mp4 file: VideoWriter takes it as it is.

    One track keeps its own sample rate and channels. Several are mixed, in stereo unless all are mono, at the
    highest of their sample rates; the sum is turned down just as far as it would clip.

    Raises Internal where ffmpeg fails: the files have been decoded before.
    """
    inputs = [argument for track in tracks for argument in open_input(track.path)]
    try:
        graph = _mix(tracks)
        if len(tracks) > 1:
            graph += f",volume={_MIX_PEAK / max(_peak(inputs, graph), _MIX_PEAK):.6f}"
        graph += f",aformat=channel_layouts={_AAC_LAYOUTS},apad=whole_dur={duration_s:.6f},atrim=end={duration_s:.6f}"
        encoder = ["-c:a", "aac", "-b:a", "192k", "-flags:a", "+bitexact", "-fflags", "+bitexact"]
        run(*inputs, "-filter_complex", graph, *encoder, "-f", "mp4", f"file:{path}")
    except FfmpegError as error:
        raise Internal("the sound of the video could not be written; try again.") from error


def _mix(tracks: Sequence[Track]) -> str:
    """The ffmpeg filters that bring the tracks to their places and, where there are several, add them up."""
    infos = [probe(track.path, "sound") for track in tracks]
    rate_hz = max(info.sample_rate_hz for info in infos)
    all_mono = all(info.is_mono for info in infos)
    placed = []
    for i, (track, info) in enumerate(zip(tracks, infos, strict=True)):
        # Sample numbers are the clock, as they are in load_audio: gaps in a file's time stamps do not count.
        filters = [f"[{i}:a:0]asetpts=N/SR/TB", f"atrim=end={track.length_s:.6f}"]
        if len(tracks) > 1:
            if not all_mono:
                filters.append(_MONO_TO_STEREO if info.is_mono else "aformat=channel_layouts=stereo")
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
    stats = "astats=measure_perchannel=none:measure_overall=Peak_level"
    log = run(*inputs, "-filter_complex", f"{graph},{stats}", "-f", "null", "-", log_level="info").log
    peak_db = re.findall(r"Peak level dB: (\S+)", log)[-1]
    return float(10 ** (float(peak_db) / 20))
