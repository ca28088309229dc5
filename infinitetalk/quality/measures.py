"""Numbers of one talking video: lip sync, stillness, seams, drift, identity. Each is a pure function.

Frames are (T, height, width, 3) uint8 RGB at 25 per second, mouths and loudness (T,) as tracking and speech give them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infinitetalk.planning.windows import plan_windows
from infinitetalk.quality.speech import silent_frames
from infinitetalk.quality.tracking import Mouth
from infinitetalk.shapes import FPS

Floats = NDArray[np.float32]
Frames = NDArray[np.uint8]

MAX_LAG_FRAMES = 8
MIN_MOVEMENT = 0.08
"""Spread of the openness (5th to 95th percentile) below which a mouth counts as not moving."""
_MIN_LOUDNESS_SPREAD = 0.1
_MIN_SILENT_FRAMES = 5
_MIN_COMPARED_FRAMES = 10
_FIRST_S = 10


@dataclass(frozen=True)
class LipSync:
    """correlation: Pearson's of mouth and loudness, frame by frame; None where `reason` says why there is none.
    lag_frames: where the correlation is highest within 8 frames; above 0 the mouth is late. peak: it is there.
    """

    correlation: float | None
    lag_frames: int | None
    peak: float | None
    reason: str | None = None


@dataclass(frozen=True)
class Stillness:
    """Of the mouth while nobody speaks. above_shut: mean openness less `shut`; movement: its standard deviation.
    shut: reading of the shut mouth. All None where fewer than 5 frames are silent.
    """

    frames: int
    above_shut: float | None
    movement: float | None
    shut: float | None


@dataclass(frozen=True)
class Seams:
    """Differences of neighbouring frames (mean absolute, of 255), at joins and elsewhere.
    worst_ratio: the largest at a join over the median elsewhere.
    """

    joins: tuple[int, ...]
    at_joins: tuple[float, ...]
    median: float
    percentile_95: float
    worst_ratio: float


@dataclass(frozen=True)
class Drift:
    """Against the reference, per second of video. color: mean absolute difference of the three mean colours, of 255.
    sharpness: mean gradient magnitude of the luminance over the reference's, 1 the same.
    """

    color: tuple[float, ...]
    color_worst: float
    color_end: float
    sharpness: tuple[float, ...]
    sharpness_end: float


@dataclass(frozen=True)
class Identity:
    """PSNR against the reference, in dB (100 where equal): of what lies outside all heads' reach (still), and of all
    but the mouths. The first 10 s and the last second.
    """

    still_first_db: float | None
    still_end_db: float | None
    outside_mouth_first_db: float
    outside_mouth_end_db: float


def correlation(a: Floats, b: Floats) -> float | None:
    """Pearson's correlation of two curves where both are numbers; None where one does not vary or few are."""
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
        return LipSync(None, None, None, f"the mouth does not move (by {high - low:.2f} of wide open)")
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
    return LipSync(at[0], best, at[best])


def beyond_shared(openness: Floats, own: Floats, other: Floats) -> float | None:
    """Correlation of a mouth with the other person's voice, less that of the two voices with each other.

    About 0 or below: the mouth follows its own voice alone. None where a correlation does not exist.
    """
    with_other, shared = correlation(openness, other), correlation(own, other)
    return None if with_other is None or shared is None else with_other - shared


def stillness(openness: Floats, loud: Floats, shut: float | None = None) -> Stillness:
    """What a mouth does while its voice is silent (speech.silent_frames).

    shut: the openness of the shut mouth, as tracked where it is known to be shut; None takes the clip's own
        5th percentile. Raises ValueError unless openness and loudness have the same number of frames.
    """
    _same_length(openness, loud)
    quiet = openness[silent_frames(loud) & np.isfinite(openness)].astype(np.float64)
    if len(quiet) < _MIN_SILENT_FRAMES:
        return Stillness(len(quiet), None, None, None)
    shut = float(np.nanpercentile(openness, 5)) if shut is None else shut
    return Stillness(len(quiet), float(quiet.mean()) - shut, float(quiet.std()), shut)


def joins_of(settings: dict[str, int]) -> tuple[int, ...]:
    """First frames of the windows after the first, from a result's settings (frames, window, overlap).

    Raises ValueError where one is missing or impossible.
    """
    missing = [name for name in ("frames", "window", "overlap") if not isinstance(settings.get(name), int)]
    if missing:
        raise ValueError(f"the result's settings lack {', '.join(missing)}; give the file that the job printed")
    windows = plan_windows(settings["frames"], settings["window"], settings["overlap"])
    return tuple(window.keep_start for window in windows[1:])


def frame_differences(frames: Frames) -> Floats:
    """(T,) mean absolute difference of each frame to the one before, of 255; 0 for the first."""
    differences = np.zeros(len(frames), np.float32)
    for i in range(1, len(frames)):
        differences[i] = np.abs(frames[i].astype(np.int16) - frames[i - 1]).mean()
    return differences


def seams(frames: Frames, joins: Sequence[int]) -> Seams:
    """Whether windows meet without a jump: the change into each frame of `joins` against that into all others.

    Raises ValueError for joins that are not frames 1 to T-1, or where no other frame is left.
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
    """How colour and sharpness leave the reference (height, width, 3) with time. A last part second counts as one."""
    wanted, sharp = _look(reference[None])
    seconds = [_look(frames[start : start + FPS]) for start in range(0, len(frames), FPS)]
    colors = tuple(float(np.abs(color - wanted).mean()) for color, _ in seconds)
    sharpness = tuple(value / max(sharp, 1e-6) for _, value in seconds)
    return Drift(colors, max(colors), colors[-1], sharpness, sharpness[-1])


def _look(frames: Frames) -> tuple[NDArray[np.float64], float]:
    """Mean colour (3,) and mean gradient magnitude of the luminance, of 255."""
    gray = frames.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    down, across = np.gradient(gray, axis=(1, 2))
    return frames.mean((0, 1, 2)), float(np.hypot(down, across).mean())


def identity(frames: Frames, reference: Frames, mouths: Sequence[Mouth]) -> Identity:
    """How much of the reference (height, width, 3) stays, outside what may move.

    mouths: of everybody in the clip, whose places tell what moves. Without any, ValueError.
    """
    if not mouths:
        raise ValueError("identity needs to know where the mouths are; nobody was followed")
    still, outside = ~_reach(mouths, reference.shape, head=True), ~_reach(mouths, reference.shape, head=False)
    first, end = frames[: _FIRST_S * FPS], frames[-FPS:]
    return Identity(
        _psnr(first, reference, still) if still.any() else None,
        _psnr(end, reference, still) if still.any() else None,
        _psnr(first, reference, outside),
        _psnr(end, reference, outside),
    )


def _reach(mouths: Sequence[Mouth], shape: tuple[int, ...], head: bool) -> NDArray[np.bool_]:
    """(height, width) where a head, or only a mouth, is in any frame."""
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
