"""All measures of one video file: as values, as a table, and as a picture beside it."""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rich import box
from rich.markup import escape
from rich.table import Table

from infinitetalk.contract.request import SpeakerOrder
from infinitetalk.faces.finder import FaceFinder
from infinitetalk.faces.networks import MISSING
from infinitetalk.media.audio import load_audio, place_voices
from infinitetalk.media.probe import probe
from infinitetalk.media.speech import loudness
from infinitetalk.media.video import SourceVideo
from infinitetalk.planning.speakers import speaker_starts
from infinitetalk.quality.landmarks import follow_mouths
from infinitetalk.quality.measures import (
    Drift,
    Identity,
    LipSync,
    Seams,
    Stillness,
    beyond_shared,
    drift,
    frame_differences,
    identity,
    lip_sync,
    seams,
    stillness,
)
from infinitetalk.quality.similarity import Similarity, similarity
from infinitetalk.quality.tracking import Tracked, track_mouths
from infinitetalk.shapes import FPS, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME

Floats = NDArray[np.float32]
Frames = NDArray[np.uint8]

MAX_BYTES = 1 << 30  # frames are made smaller until all of them fit into this much memory
MAX_DURATION_S = 600.0
_CHUNK = 250


@dataclass(frozen=True)
class Person:
    """One person's numbers.

    Args:
        other_voice: correlation with the other person's voice beyond what the two voices share.
    """

    openness_mean: float
    lip_sync: LipSync | None
    stillness: Stillness | None
    other_voice: float | None


@dataclass(frozen=True)
class Report:
    """The measures of a video. What could not be measured is None, and `notes` says why.

    Args:
        size: (width, height) at which it was measured.
        source_size: (width, height) of the file.
        people: from left to right.
    """

    video: str
    frames: int
    size: tuple[int, int]
    source_size: tuple[int, int]
    people: tuple[Person, ...]
    seams: Seams | None
    drift: Drift
    identity: Identity | None
    similarity: Similarity | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """A dict ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Measured:
    """A report, and the curves that its picture shows: frames, mouths, loudness per voice, the sound."""

    report: Report
    frames: Frames
    tracked: Tracked
    voices: tuple[Floats, ...]
    wave: Floats | None


def measure(
    video: Path,
    *,
    against: Path | None = None,
    audio: Sequence[Path] = (),
    order: SpeakerOrder = "together",
    people: int | None = None,
    joins: Sequence[int] = (),
    finder: FaceFinder | None = None,
) -> Measured:
    """Measure a video file against its first frame and its sound.

    Args:
        against: another rendering of the same job.
        audio: the voices, that of the left person first; if none is given, the video's own sound.
        order: how two voices follow each other.
        people: how many people the video must show; with two voices it is two.
        joins: first frames of the windows after the first.
        finder: follows photographed people by points on their faces; without it only drawn people are followed.

    Raises:
        MediaUnreadable, TooLarge: a file cannot be read.
        ValueError: the arguments do not fit together.
    """
    if len(audio) > 2:
        raise ValueError(f"at most two voices can be given, not {len(audio)}")
    if len(audio) == 2 and people == 1:
        raise ValueError("two voices were given, but only one person; give one voice, or --people 2")
    frames, source_size = read_frames(video, "video")
    notes = []
    size = (frames.shape[2], frames.shape[1])
    if size != source_size:
        notes.append(f"Measured at {size[0]}x{size[1]}; at its own size the video would take too much memory.")
    voices, wave, missing = _voices(video, audio, order, len(frames))
    notes += missing
    wanted = 2 if len(audio) == 2 else people
    tracked = track_mouths(frames, wanted)
    if tracked.reason and finder is not None:
        drawn, tracked = tracked.reason, follow_mouths(frames, finder, wanted)
        if tracked.reason:
            tracked = Tracked((), f"{drawn}; for points on the face, {tracked.reason}")
        else:
            notes.append("The mouths were followed by points on the faces, as for photographs.")
    if tracked.reason:
        notes.append(f"Lip sync, stillness and identity are not given: {tracked.reason}.")
        notes += [] if finder is not None else [f"Only drawn people were looked for. {MISSING}"]
    if len(tracked.mouths) == 2 and len(voices) == 1:
        notes.append("The sound does not tell which of two people speaks; give each person's voice with --audio.")
    if len(tracked.mouths) == 1 and people is None and not audio:
        notes.append("One face was found. If the video shows two people, say so with --people 2.")
    report = Report(
        video=video.name,
        frames=len(frames),
        size=size,
        source_size=source_size,
        people=_people(tracked, voices),
        seams=seams(frames, joins) if joins else None,
        drift=drift(frames, frames[0]),
        identity=identity(frames, frames[0], tracked.mouths) if tracked.mouths else None,
        similarity=similarity(frames, read_frames(against, "against", size)[0]) if against else None,
        notes=tuple(notes),
    )
    return Measured(report, frames, tracked, voices, wave)


def read_frames(path: Path, field: str, size: tuple[int, int] | None = None) -> tuple[Frames, tuple[int, int]]:
    """All frames of a video at 25 per second, (T, height, width, 3) uint8 RGB, and the video's own (width, height).

    Args:
        size: (width, height) of the frames; None takes the video's own size, or what MAX_BYTES allows.
    """
    if not path.is_file():
        raise ValueError(f"{field}: there is no file {path}")
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "video"  # a file that SourceVideo writes beside it is removed with the folder
        link.symlink_to(path.resolve())
        source = SourceVideo.open(link, field, 16, 16)
        if source.duration_s > MAX_DURATION_S + 1:
            raise ValueError(
                f"{field}: the video lasts {source.duration_s:.0f} s; at most {MAX_DURATION_S:.0f} s can be measured"
            )
        count = max(1, round(source.duration_s * FPS))
        width, height = source.source_size
        shrink = min(1.0, sqrt(MAX_BYTES / (3 * count * width * height)))
        source = replace(source, size=size or (max(16, round(width * shrink)), max(16, round(height * shrink))))
        frames = np.empty((count, source.size[1], source.size[0], 3), np.uint8)
        for start in range(0, count, _CHUNK):
            part = frames[start : start + _CHUNK]
            part[:] = source.clip(start, len(part))
    return frames, (width, height)


def _voices(
    video: Path, audio: Sequence[Path], order: SpeakerOrder, n_frames: int
) -> tuple[tuple[Floats, ...], Floats | None, list[str]]:
    """Loudness per voice, the whole sound, and what to say about it."""
    for path in audio:
        if not path.is_file():
            raise ValueError(f"audio: there is no file {path}")
    if not audio and not probe(video, "video").has_audio:
        return (), None, ["The video has no sound and no voice was given, so lip sync and stillness are not measured."]
    with tempfile.TemporaryDirectory() as folder:
        waves = [load_audio(path, "audio", None, MAX_DURATION_S, Path(folder)).wave for path in audio or [video]]
    waves = list(place_voices(waves, speaker_starts([len(wave) for wave in waves], order)))
    notes = []
    difference = len(waves[0]) / SAMPLES_PER_FRAME - n_frames
    if abs(difference) > FPS / 5:
        longer = "longer" if difference > 0 else "shorter"
        notes.append(f"The sound is {abs(difference) / FPS:.1f} s {longer} than the video; both are compared from 0 s.")
    total = waves[0] if len(waves) == 1 else waves[0] + waves[1]
    return tuple(loudness(wave, n_frames) for wave in waves), total, notes


def _people(tracked: Tracked, voices: tuple[Floats, ...]) -> tuple[Person, ...]:
    people = []
    for i, mouth in enumerate(tracked.mouths):
        own = voices[min(i, len(voices) - 1)] if voices else None
        other = voices[1 - i] if len(voices) == 2 else None
        people.append(
            Person(
                openness_mean=float(np.nanmean(mouth.openness)),
                lip_sync=None if own is None else lip_sync(mouth.openness, own),
                stillness=None if own is None else stillness(mouth.openness, own),
                other_voice=None if own is None or other is None else beyond_shared(mouth.openness, own, other),
            )
        )
    return tuple(people)


# --- shown ------------------------------------------------------------------------------------------------------


def table(report: Report) -> Table:
    """The report as a table of measure, value and what it means."""
    width, height = report.source_size
    shown = Table(
        "measure",
        "value",
        "meaning",
        title=escape(f"{report.video}: {width}x{height}, {report.frames} frames, {report.frames / FPS:.2f} s"),
        box=box.SIMPLE,
    )
    for name, value, meaning in _rows(report):
        shown.add_row(name, value, meaning)
    return shown


def _rows(report: Report) -> list[tuple[str, str, str]]:
    rows = []
    for i, person in enumerate(report.people):
        who = "" if len(report.people) == 1 else (", left", ", right")[i]
        sync, still = person.lip_sync, person.stillness
        if sync is not None:
            rows.append(
                (f"lip sync{who}", _number(sync.correlation, ".3f"), sync.reason or "mouth and loudness; 1 is best")
            )
            if sync.lag_frames is not None:
                peak = f"lip sync is {_number(sync.peak, '.3f')} there; above 0 the mouth is late"
                rows.append((f"lag{who}", f"{sync.lag_frames:+d} frames", peak))
            if sync.score is not None:
                meaning = "standard deviations above the same sound at other times; other voices have about 0"
                rows.append((f"sync score{who}", f"{sync.score:.1f}", meaning))
        if person.other_voice is not None:
            rows.append(
                (f"follows the other{who}", f"{person.other_voice:+.3f}", "beyond what the voices share; 0 is best")
            )
        if still is not None:
            meaning = f"in {still.frames} silent frames; 0 is shut, 1 wide open"
            rows.append((f"open in silence{who}", _number(still.above_shut, ".3f"), meaning))
            rows.append((f"moves in silence{who}", _number(still.movement, ".3f"), "standard deviation; 0 is best"))
    if report.seams:
        worst = max(report.seams.at_joins)
        limits = (
            f"{worst:.2f} of 255; elsewhere median {report.seams.median:.2f}, 95 % {report.seams.percentile_95:.2f}"
        )
        rows.append(("worst seam", f"{report.seams.worst_ratio:.2f} x", limits))
    rows.append(
        ("colour drift", f"{report.drift.color_end:.2f}", f"of 255 at the end; at worst {report.drift.color_worst:.2f}")
    )
    rows.append(("sharpness", f"{report.drift.sharpness_end:.0%}", "of the first frame's, at the end"))
    if report.identity:
        kept = report.identity
        first, end = _number(kept.still_first_db, ".1f"), _number(kept.still_end_db, ".1f")
        rows.append(("still parts", f"{first} / {end} dB", "PSNR with the first frame: first 10 s / last second"))
        outside = f"{kept.outside_mouth_first_db:.1f} / {kept.outside_mouth_end_db:.1f} dB"
        rows.append(("outside the mouth", outside, "the same, heads included"))
    if report.similarity:
        alike = report.similarity
        consistency = f"{alike.temporal_consistency:.1%}"
        rows.append(("temporal consistency", consistency, "of the two renderings; 100 % if they are equal"))
        rows.append(("detail", f"{alike.detail:.1%}", "gradient similarity"))
        rows.append(("overall", f"{alike.overall:.1%}", f"mean of both and structure (SSIM) {alike.structure:.1%}"))
    return rows


def _number(value: float | None, style: str) -> str:
    return "-" if value is None else format(value, style)


_WIDTH, _MARGIN, _BAND, _GAP = 1200, 12, 90, 8
_SHEET_COLUMNS, _SHEET_ROWS = 8, 2
_BACK, _INK, _WAVE, _VOICE, _MOUTH, _SEAM = "#ffffff", "#30343b", "#9db4cf", "#8a8f98", "#c0392b", "#2e7d32"


def picture(measured: Measured) -> Image.Image:
    """Waveform, each mouth over its speech, changes from frame to frame with the joins, and frames of the clip."""
    frames, mouths = measured.frames, measured.tracked.mouths
    tile_width = (_WIDTH - 2 * _MARGIN - (_SHEET_COLUMNS - 1) * 4) // _SHEET_COLUMNS
    tile_height = max(1, round(tile_width * frames.shape[1] / frames.shape[2]))
    bands = (measured.wave is not None) + max(len(mouths), 1) + 1
    sheet_top = _MARGIN + bands * (_BAND + _GAP + 14)
    image = Image.new("RGB", (_WIDTH, sheet_top + _SHEET_ROWS * (tile_height + 18) + _MARGIN), _BACK)
    draw = ImageDraw.Draw(image)
    joins = measured.report.seams.joins if measured.report.seams else ()
    top = _MARGIN

    def band(title: str) -> int:
        nonlocal top
        draw.text((_MARGIN, top), title, _INK)
        start = top + 14
        draw.rectangle((_MARGIN, start, _WIDTH - _MARGIN, start + _BAND), outline="#d5d8dd")
        for join in joins:
            x = _across(join, len(frames))
            draw.line((x, start, x, start + _BAND), _SEAM)
        top = start + _BAND + _GAP
        return start

    if measured.wave is not None:
        _draw_wave(draw, measured.wave[: len(frames) * SAMPLES_PER_FRAME], len(frames), band("sound"))
    for i, mouth in enumerate(mouths):
        start = band(f"mouth of person {i + 1} (red) and loudness (grey){_caption(measured.report.people[i])}")
        if measured.voices:
            voice = measured.voices[min(i, len(measured.voices) - 1)]
            _draw_curve(draw, voice / max(float(voice.max()), 1e-6), start, _VOICE)
        _draw_curve(draw, mouth.openness, start, _MOUTH)
    if not mouths:
        start = band("mouth")
        draw.text((_MARGIN + 8, start + _BAND // 2 - 6), f"not tracked: {measured.tracked.reason}", _INK)
    start = band("change from frame to frame" + (", joins green" if joins else ""))
    differences = frame_differences(frames)
    _draw_curve(draw, differences / max(float(differences.max()), 1e-6), start, _INK)
    shown = np.linspace(0, len(frames) - 1, min(len(frames), _SHEET_COLUMNS * _SHEET_ROWS)).round().astype(int)
    for place, t in enumerate(shown):
        x = _MARGIN + place % _SHEET_COLUMNS * (tile_width + 4)
        y = sheet_top + place // _SHEET_COLUMNS * (tile_height + 18)
        tile = Image.fromarray(frames[t]).resize((tile_width, tile_height), Image.Resampling.LANCZOS)
        image.paste(tile, (x, y))
        draw.text((x, y + tile_height + 2), f"{t / FPS:.2f} s", _INK)
    return image


def _caption(person: Person) -> str:
    if person.lip_sync is None or person.lip_sync.correlation is None:
        return ""
    return f": correlation {person.lip_sync.correlation:.3f}, lag {person.lip_sync.lag_frames:+d}"


def _across(frame: float, n_frames: int) -> float:
    return _MARGIN + frame / max(n_frames - 1, 1) * (_WIDTH - 2 * _MARGIN)


def _draw_curve(draw: ImageDraw.ImageDraw, curve: Floats, top: int, color: str) -> None:
    """A curve from 0 to 1.2, with gaps where it is not a number."""
    points = [
        (_across(i, len(curve)), top + _BAND * (1 - min(max(float(v), 0), 1.2) / 1.2)) if np.isfinite(v) else None
        for i, v in enumerate(curve)
    ]
    for a, b in pairwise(points):
        if a is not None and b is not None:
            draw.line((*a, *b), color, width=2)


def _draw_wave(draw: ImageDraw.ImageDraw, wave: Floats, n_frames: int, top: int) -> None:
    columns = _WIDTH - 2 * _MARGIN
    step = ceil(n_frames * SAMPLE_RATE_HZ / FPS / columns)
    padded = np.pad(wave, (0, max(0, columns * step - len(wave))))[: columns * step].reshape(columns, step)
    scale = 0.5 * _BAND / max(float(np.abs(padded).max()), 1e-6)
    for x, (low, high) in enumerate(zip(padded.min(1) * scale, padded.max(1) * scale, strict=True)):
        draw.line((_MARGIN + x, top + _BAND / 2 - high, _MARGIN + x, top + _BAND / 2 - low), _WAVE)
