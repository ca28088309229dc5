"""Voices: decoded to what the audio encoder hears, and taken as they are for the sound of the video."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
# No speech has a lower rate and no recorder a higher one. 64 channels are seventh-order ambisonics.
RATES_HZ = range(4_000, 768_001)
MAX_CHANNELS = 64
# What AAC can hold. A sound of another layout is converted to the nearest of these.
_AAC_LAYOUTS = "mono|stereo|2.1|3.0|quad|4.0|5.0|5.0(side)|5.1|5.1(side)|6.1|7.1"


def load_audio(path: Path, field: str, max_duration_s: float | None, limit_s: float) -> Wave:
    """The first sound of an audio or video file: mono, 16 kHz, about [-1, 1].

    Channels are averaged, and soxr resamples in its high quality: what librosa.load gives, for any container.

    Args:
        field: the job's field that named the file, for errors.
        max_duration_s: the sound is cut to this length; it does not matter then whether the rest of the file is there.
        limit_s: the longest sound accepted.

    Raises:
        MediaUnreadable: there is no sound, or less than one video frame of it; its sample rate or number of channels is
            absurd; or the file ends before the length it states (ogg and bare streams state none).
        TooLarge: the sound is longer than the limit.
    """
    info = probe(path, field)
    if not info.has_audio:
        raise MediaUnreadable(f"{field}: the file has no sound; send one that has a voice.")
    if info.sample_rate_hz not in RATES_HZ or info.channels > MAX_CHANNELS:
        raise MediaUnreadable(
            f"{field}: the sound has {info.sample_rate_hz} Hz and {info.channels or 'few'} channels; export it again "
            f"as 48000 Hz stereo ({RATES_HZ[0]} to {RATES_HZ[-1]} Hz and at most {MAX_CHANNELS} channels are read)."
        )
    limit = round(limit_s * SAMPLE_RATE_HZ)
    wanted = limit + 1 if max_duration_s is None else min(round(max_duration_s * SAMPLE_RATE_HZ), limit + 1)
    resample = f"aresample=osr={SAMPLE_RATE_HZ}:ochl=mono:osf=flt:resampler=soxr:rematrix_maxval=1"
    filters = f"{resample},atrim=end_sample={wanted}"
    data = decode(field, *open_input(path), "-map", "0:a:0", "-af", filters, "-f", "f32le", "-").data
    wave = np.frombuffer(data, np.float32).copy()  # torch wants memory it may write to
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


def _is_short(samples: int, info: MediaInfo) -> bool:
    """Whether a sound is shorter than its file states.

    This tells nothing, and is False, if a video could be what lasts that long, or if time stamps could leave gaps (in
    mov and matroska, whose missing ends are found in another way).
    """
    if info.stated_duration_s is None or info.has_video or info.has_seek_index:
        return False
    return samples / SAMPLE_RATE_HZ < info.stated_duration_s - _LENGTH_SLACK_S


def normalise_loudness(wave: Wave) -> Wave:
    """A 16 kHz mono wave brought to -23 LUFS (ITU-R BS.1770). Peaks may pass 1; nothing is limited.

    Silence has no loudness and stays as it is. A measurement needs 400 ms; a shorter wave is repeated for it.
    """
    measured = wave if len(wave) >= _LOUDNESS_BLOCK else np.resize(wave, _LOUDNESS_BLOCK)
    loudness = pyloudnorm.Meter(SAMPLE_RATE_HZ).integrated_loudness(measured)
    if abs(loudness) > 100:
        return wave
    return np.asarray(wave * 10 ** ((LOUDNESS_LUFS - loudness) / 20), np.float32)


def place_voices(waves: Sequence[Wave], starts: Sequence[int]) -> tuple[Wave, ...]:
    """The speakers' waves at equal length, each silent before its start and after its end.

    Args:
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
    """Write the sound of the video, `duration_s` long, as AAC in an mp4 file, which VideoWriter takes as it is.

    One track keeps its own sample rate and channels. Several are mixed at the highest of their sample rates, in stereo
    unless all are mono. The sum is turned down only as far as it would clip.

    Raises Internal if ffmpeg fails: it is not the files' fault, since they have been decoded before.
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
    """The ffmpeg filters that bring the tracks to their places and, if there are several, add them up."""
    infos = [probe(track.path, "sound") for track in tracks]
    rate_hz = max(info.sample_rate_hz for info in infos)
    all_mono = all(info.is_mono for info in infos)
    placed = []
    for i, (track, info) in enumerate(zip(tracks, infos, strict=True)):
        # Sample numbers are the clock, as in load_audio, so that gaps in a file's time stamps do not count.
        filters = [f"[{i}:a:0]asetpts=N/SR/TB", f"atrim=end={track.length_s:.6f}"]
        if len(tracks) > 1:
            if not all_mono:
                # Left to itself, ffmpeg would make a mono voice 3 dB quieter on its way to stereo.
                filters.append("pan=stereo|c0=c0|c1=c0" if info.is_mono else "aformat=channel_layouts=stereo")
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
