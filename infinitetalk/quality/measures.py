"""Numbers of one talking video: lip sync, stillness, seams, drift, identity. Each measure is a pure function.

Frames are (T, height, width, 3) uint8 RGB at 25 per second. Openness and loudness are (T,), as tracking and speech give
them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infinitetalk.checking.frames import change, color_and_sharpness
from infinitetalk.faces.mouths import following
from infinitetalk.media.speech import silent_frames
from infinitetalk.planning.windows import plan_windows
from infinitetalk.quality.tracking import Mouth
from infinitetalk.shapes import FPS

Floats = NDArray[np.float32]
Frames = NDArray[np.uint8]

MAX_LAG_FRAMES = 8
MIN_MOVEMENT = 0.08  # a mouth whose openness has a smaller spread (5th to 95th percentile) counts as not moving
_MIN_LOUDNESS_SPREAD = 0.1
_MIN_SILENT_FRAMES = 5
_MIN_COMPARED_FRAMES = 10
_FIRST_S = 10
_MIN_SCORED_FRAMES = 6 * FPS


@dataclass(frozen=True)
class LipSync:
    """How well a mouth follows a voice.

    Args:
        correlation: Pearson's correlation of openness and loudness, frame by frame; None if `reason` says why.
        lag_frames: the shift within 8 frames at which the correlation is highest; above 0 the mouth is late.
        peak: the correlation at that shift.
        score: how clearly the mouth moves with this sound and no other (`sync_score`); None for less than 6 s.
    """

    correlation: float | None
    lag_frames: int | None
    peak: float | None
    reason: str | None = None
    score: float | None = None


@dataclass(frozen=True)
class Stillness:
    """What a mouth does while nobody speaks. All is None if fewer than 5 frames are silent.

    Args:
        frames: how many frames are silent.
        above_shut: the mean openness in them, minus `shut`.
        movement: the standard deviation of the openness in them.
        shut: the openness of the shut mouth.
    """

    frames: int
    above_shut: float | None
    movement: float | None
    shut: float | None


@dataclass(frozen=True)
class Seams:
    """Differences of neighbouring frames (mean absolute, of 255), at joins and elsewhere.

    Args:
        joins: first frames of the windows after the first.
        at_joins: the difference at each join.
        median, percentile_95: of the differences elsewhere.
        worst_ratio: the largest difference at a join, divided by the median elsewhere.
    """

    joins: tuple[int, ...]
    at_joins: tuple[float, ...]
    median: float
    percentile_95: float
    worst_ratio: float


@dataclass(frozen=True)
class Drift:
    """Differences to the reference, for each second of video.

    Args:
        color: mean absolute difference of the three mean colours, of 255.
        sharpness: mean gradient magnitude of the luminance, divided by the reference's; 1 is the same.
    """

    color: tuple[float, ...]
    color_worst: float
    color_end: float
    sharpness: tuple[float, ...]
    sharpness_end: float


@dataclass(frozen=True)
class Identity:
    """PSNR with the reference in dB, 100 if equal, over the first 10 s and over the last second.

    Args:
        still_first_db, still_end_db: of what no head reaches; None if heads reach everything.
        outside_mouth_first_db, outside_mouth_end_db: of everything but the mouths.
    """

    still_first_db: float | None
    still_end_db: float | None
    outside_mouth_first_db: float
    outside_mouth_end_db: float


def correlation(a: Floats, b: Floats) -> float | None:
    """Pearson's correlation of two curves where both are numbers; None if these are too few, or one does not vary."""
    known = np.isfinite(a) & np.isfinite(b)
    if known.sum() < _MIN_COMPARED_FRAMES:
        return None
    x, y = a[known].astype(np.float64), b[known].astype(np.float64)
    if min(x.std(), y.std()) < 1e-6:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def lip_sync(openness: Floats, loud: Floats) -> LipSync:
    """How well a mouth follows a voice. Raises ValueError unless both have the same number of frames."""
    _same_length(openness, loud)
    low, high = np.nanpercentile(openness, (5, 95))
    if high - low < MIN_MOVEMENT:
        return LipSync(None, None, None, f"the mouth does not move (only by {high - low:.2f} of wide open)")
    low, high = np.percentile(loud, (5, 95))
    if high - low < _MIN_LOUDNESS_SPREAD:
        return LipSync(None, None, None, "the sound has no speech to follow: its loudness does not vary")
    at = {}
    for lag in sorted(range(-MAX_LAG_FRAMES, MAX_LAG_FRAMES + 1), key=abs):
        mouth, voice = openness[max(0, lag) :], loud[max(0, -lag) :]
        length = min(len(mouth), len(voice))
        at[lag] = correlation(mouth[:length], voice[:length])
    if at[0] is None:
        return LipSync(None, None, None, "too few frames to compare")
    best = max(at, key=lambda lag: at[lag] if at[lag] is not None else -2.0)  # type: ignore[arg-type, return-value]
    return LipSync(at[0], best, at[best], score=sync_score(openness, loud))


def sync_score(openness: Floats, loud: Floats) -> float | None:
    """How far a mouth's best correlation with its sound lies above that with the same sound at other times.

    Both curves are band-passed (0.7 to 7 Hz, as syllables come), so that it does not count how far the mouth is open at
    rest. The best correlation within 4 frames is compared with the same of every circular shift by 12 frames and more,
    in standard deviations of the latter. None for less than 6 s, and for curves that do not vary.
    """
    _same_length(openness, loud)
    known = np.isfinite(openness)
    if len(loud) < _MIN_SCORED_FRAMES or known.mean() < 0.5:
        return None
    found = following(openness, loud)
    return None if found is None else found.z


def beyond_shared(openness: Floats, own: Floats, other: Floats) -> float | None:
    """Correlation of a mouth with the other person's voice, minus that of the two voices with each other.

    If it is about 0 or below, the mouth follows only its own voice. It is None if a correlation does not exist.
    """
    with_other, shared = correlation(openness, other), correlation(own, other)
    return None if with_other is None or shared is None else with_other - shared


def stillness(openness: Floats, loud: Floats, shut: float | None = None) -> Stillness:
    """What a mouth does while its voice is silent (speech.silent_frames).

    Args:
        shut: the openness that tracking gives for this mouth when it is shut; None takes the clip's own 5th percentile.

    Raises:
        ValueError: openness and loudness do not have the same number of frames.
    """
    _same_length(openness, loud)
    quiet = openness[silent_frames(loud) & np.isfinite(openness)].astype(np.float64)
    if len(quiet) < _MIN_SILENT_FRAMES:
        return Stillness(len(quiet), None, None, None)
    shut = float(np.nanpercentile(openness, 5)) if shut is None else shut
    return Stillness(len(quiet), float(quiet.mean()) - shut, float(quiet.std()), shut)


def joins_of(settings: dict[str, Any]) -> tuple[int, ...]:
    """First frames of the windows that follow another of their scene, from a result's settings (frames, window, ...).

    Raises ValueError if one of these is missing or impossible.
    """
    missing = [name for name in ("frames", "window", "overlap") if not isinstance(settings.get(name), int)]
    if missing:
        raise ValueError(f"the result's settings lack {', '.join(missing)}; give the file that the job printed")
    cuts = [round(second * FPS) for second in settings.get("cuts_s") or ()]
    frames = settings["frames"]
    if settings.get("fps", FPS) != FPS:  # quality looks at 25 frames a second
        frames = round(settings["duration_s"] * FPS)
    windows = plan_windows(frames, settings["window"], settings["overlap"], cuts)
    return tuple(window.keep_start for window in windows if window.overlap)


def frame_differences(frames: Frames) -> Floats:
    """(T,) mean absolute difference of each frame to the one before, of 255; 0 for the first frame."""
    differences = np.zeros(len(frames), np.float32)
    for i in range(1, len(frames)):
        differences[i] = change(frames[i - 1], frames[i])
    return differences


def seams(frames: Frames, joins: Sequence[int]) -> Seams:
    """Whether windows meet without a jump: the change into each frame of `joins`, against that into all other frames.

    Raises ValueError if joins are not frames 1 to T-1, or no other frame is left.
    """
    wrong = [join for join in joins if not 0 < join < len(frames)]
    if not joins or wrong:
        raise ValueError(f"joins are frames from 1 to {len(frames) - 1}, not {wrong or 'none'}")
    differences = frame_differences(frames)
    ordinary = np.delete(differences, [0, *joins])
    if not len(ordinary):
        raise ValueError("every frame is a join; nothing is left to compare with")
    median, high = (float(np.percentile(ordinary, q)) for q in (50, 95))
    at_joins = tuple(float(differences[join]) for join in joins)
    return Seams(tuple(joins), at_joins, median, high, max(at_joins) / max(median, 1e-3))


def drift(frames: Frames, reference: Frames) -> Drift:
    """How colour and sharpness leave the reference (height, width, 3) with time, second by second."""
    wanted, sharp = color_and_sharpness(reference[None])
    seconds = [color_and_sharpness(frames[start : start + FPS]) for start in range(0, len(frames), FPS)]
    colors = tuple(float(np.abs(color - wanted).mean()) for color, _ in seconds)
    sharpness = tuple(value / max(sharp, 1e-6) for _, value in seconds)
    return Drift(colors, max(colors), colors[-1], sharpness, sharpness[-1])


def identity(frames: Frames, reference: Frames, mouths: Sequence[Mouth]) -> Identity:
    """How much of the reference (height, width, 3) stays the same, outside of what may move.

    Args:
        mouths: the mouths of everybody in the clip; their places say what may move.

    Raises:
        ValueError: there are no mouths.
    """
    if not mouths:
        raise ValueError("identity needs to know where the mouths are; nobody was followed")
    still, outside = (~_reached(mouths, reference.shape, head=head) for head in (True, False))
    first, end = frames[: _FIRST_S * FPS], frames[-FPS:]
    return Identity(
        _psnr(first, reference, still) if still.any() else None,
        _psnr(end, reference, still) if still.any() else None,
        _psnr(first, reference, outside),
        _psnr(end, reference, outside),
    )


def _reached(mouths: Sequence[Mouth], shape: tuple[int, ...], head: bool) -> NDArray[np.bool_]:
    """(height, width), true where a head (or only a mouth) is in any frame."""
    left, right, top, bottom = (1.3, 1.3, 1.75, 1.6) if head else (0.62, 0.62, -0.55, 1.4)
    reached = np.zeros(shape[:2], bool)
    for mouth in mouths:
        x0, x1 = (mouth.x - left * mouth.unit).min(), (mouth.x + right * mouth.unit).max()
        y0, y1 = (mouth.y - top * mouth.unit).min(), (mouth.y + bottom * mouth.unit).max()
        reached[max(0, int(y0)) : max(0, int(np.ceil(y1))), max(0, int(x0)) : max(0, int(np.ceil(x1)))] = True
    return reached


def _psnr(frames: Frames, reference: Frames, where: NDArray[np.bool_]) -> float:
    wanted = reference[where].astype(np.float32)
    squares = [float(np.square(frame[where].astype(np.float32) - wanted).mean()) for frame in frames]
    return float(min(100.0, 10 * np.log10(255.0**2 / max(float(np.mean(squares)), 1e-9))))


def _same_length(openness: Floats, loud: Floats) -> None:
    if len(openness) != len(loud):
        raise ValueError(f"mouth and voice must have the same number of frames, not {len(openness)} and {len(loud)}")
