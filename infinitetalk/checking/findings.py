"""What was measured, in words: an outcome for each check, and what to look at where."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from infinitetalk.checking.expected import WHOLE, Expected, Stretch
from infinitetalk.checking.frames import Floats, change, thumbnail
from infinitetalk.checking.pictures import Look, Seen, blank, contrast, frozen, joins, jumps, most_alike, runs
from infinitetalk.checking.sound import is_silent, pieces
from infinitetalk.checking.thresholds import Threshold, Thresholds
from infinitetalk.contract.result import LOOK_AT_IT, Check, CheckName
from infinitetalk.media.finished import Shape
from infinitetalk.shapes import SAMPLE_RATE_HZ

_SOURCES = 0.5  # of a change that is the source's own
_MOST_TOLD = 3  # places that a sentence names
NO_TIME = "there was no time left for it"


def not_measured(name: CheckName, why: str, voice: str | None = None) -> Check:
    """A check that has no value."""
    return Check(name=name, voice=voice, outcome="not measured", note=f"{why[:1].upper()}{why[1:]}.")


def with_value(
    name: CheckName,
    value: float,
    against: Threshold,
    found: str | None,
    voice: str | None = None,
    **more: Any,  # noqa: ANN401
) -> Check:
    """A check that has one: to look at if something is found."""
    return Check(
        name=name,
        voice=voice,
        outcome=LOOK_AT_IT if found else "ok",
        value=round(value, 3),
        limit=against.limit,
        unit=against.unit,
        note=found,
        **more,
    )


def size_check(shape: Shape, expected: Expected) -> Check:
    """Whether the file is shown at its size, and upright."""
    (width, height), (wanted_width, wanted_height) = shape.size, expected.size
    off = max(abs(width - wanted_width), abs(height - wanted_height))
    found: str | None = None
    if shape.is_turned:
        found = "Second 0.00: the file says that its frames are to be turned or mirrored."
    if off:
        found = f"Second 0.00: the video is shown at {width}x{height} instead of {wanted_width}x{wanted_height}."
    outcome = LOOK_AT_IT if found else "ok"
    return Check(name="size", outcome=outcome, value=off, limit=0, unit="pixels of a side", note=found)


def frames_check(n_frames: int, expected: Expected) -> Check:
    """Whether the file has its frames, and all of them can be decoded."""
    found = None
    if n_frames != expected.n_frames:
        fewer = "ends early" if n_frames < expected.n_frames else "goes on too long"
        found = (
            f"Second {expected.seconds(min(n_frames, expected.n_frames)):.2f}: the video {fewer}: {n_frames} of "
            f"{expected.n_frames} frames can be decoded."
        )
    outcome = LOOK_AT_IT if found else "ok"
    return Check(
        name="frames", outcome=outcome, value=n_frames, limit=expected.n_frames, unit="frames, exactly", note=found
    )


def sound_checks(heard: Floats | None, expected: Expected, limits: Thresholds) -> Iterator[Check]:
    """Whether the file's sound is as long as it should be, and the one that it should be.

    Args:
        heard: the file's sound, mono, 16 kHz; None where it has none that can be decoded.
    """
    if heard is None or not len(heard):
        length_ms = 1000 * len(expected.sound) / SAMPLE_RATE_HZ
        missing = "Second 0.00: the video has no sound that can be decoded."
        yield with_value("sound_length", length_ms, limits.sound_length, missing)
        yield not_measured("sound", "the video has no sound that can be decoded")
        return
    off_ms = 1000 * (len(heard) - len(expected.sound)) / SAMPLE_RATE_HZ
    found = None
    if abs(off_ms) > limits.sound_length.limit:
        what = "shorter" if off_ms < 0 else "longer"
        end_s = min(len(heard), len(expected.sound)) / SAMPLE_RATE_HZ
        found = f"Second {end_s:.2f}: the sound is {abs(off_ms):.0f} ms {what} than it should be."
    yield with_value("sound_length", abs(off_ms), limits.sound_length, found)
    if is_silent(expected.sound):
        if is_silent(heard):
            yield not_measured("sound", "the sound that was sent is silent, and so is the video's")
        else:
            yield Check(name="sound", outcome=LOOK_AT_IT, note="The sound that was sent is silent, the video's is not.")
        return
    measured = pieces(heard, expected.sound)
    late = max(measured, key=lambda piece: abs(piece.offset_s))
    unlike = min(measured, key=lambda piece: piece.likeness)
    if unlike.likeness < limits.sound_likeness.limit:
        found = (
            f"Second {unlike.start_s:.0f}: what is heard is not the sound that was sent (correlation "
            f"{unlike.likeness:.2f})."
        )
        yield with_value("sound", unlike.likeness, limits.sound_likeness, found)
        return
    found = None
    if 1000 * abs(late.offset_s) > limits.sound_offset.limit:
        when = "late" if late.offset_s > 0 else "early"
        found = f"Second {late.start_s:.0f}: the sound comes {1000 * abs(late.offset_s):.0f} ms {when}."
    yield with_value("sound", 1000 * abs(late.offset_s), limits.sound_offset, found)


def picture_checks(
    seen: Seen, expected: Expected, limits: Thresholds, has_time: Callable[[], bool] = lambda: True
) -> Iterator[Check]:
    """Blank and frozen frames, windows that repeat, jumps at joins.

    Args:
        has_time: whether there is time for another look at a reference.
    """
    yield _blank(seen, expected, limits, has_time)
    yield _frozen(seen, expected, limits, has_time)
    if expected.is_source:
        yield not_measured("repeated", "what surrounds the speakers' faces is the source's, which may repeat itself")
    else:
        yield _repeated(seen, expected, limits)
    yield _joins(seen, expected, limits)
    yield _jumps(seen, expected, limits, has_time)


def _blank(seen: Seen, expected: Expected, limits: Thresholds, has_time: Callable[[], bool]) -> Check:
    least = limits.blank.limit
    found: list[Stretch] = []
    for part in runs(blank(seen, least)):
        if not has_time():
            if not found:
                return not_measured("blank", NO_TIME)
            break
        if contrast(thumbnail(expected.reference(part.first))) >= 2 * least:  # it is not the input that is blank
            found.append(part)
    tones = ["black" if seen.thumbnails[part.first].mean() < 32 else "grey" for part in found]
    told = [f"{_span(part, expected)} is {tone}" for part, tone in zip(found, tones, strict=True)]
    lowest = min(map(contrast, seen.thumbnails), default=0.0)
    return with_value("blank", lowest, limits.blank, f"{_list(told)}." if told else None)


def _frozen(seen: Seen, expected: Expected, limits: Thresholds, has_time: Callable[[], bool]) -> Check:
    least = limits.frozen_speech.limit
    moving = np.zeros(len(seen), np.bool_)  # what is beyond the plan need not move
    moving[: len(expected.moving)] = expected.moving[: len(seen)]
    empty, frames = blank(seen, limits.blank.limit), expected.frames(least)
    found = frozen(seen, moving & ~empty, limits.frozen_stir.limit, frames)
    short = [one for one in found if expected.seconds(one[1]) < least]
    long = found[: len(found) - len(short)]
    if expected.is_source:  # a film may stand still by itself
        made: list[tuple[Stretch, int]] = []
        for one in long:
            if not has_time():
                if not made:
                    return not_measured("frozen", NO_TIME)
                break
            if not _stands(one[0], expected, limits):
                made.append(one)
        long = made
    longest_s = expected.seconds((long or short)[0][1]) if long or short else 0.0
    told = [_span(part, expected) for part, _ in long]
    sentence = f"{_list(told)}: the picture stands still while somebody speaks." if told else None
    return with_value("frozen", longest_s, limits.frozen_speech, sentence)


def _stands(part: Stretch, expected: Expected, limits: Thresholds) -> bool:
    """Whether the source shows the same at both ends of a stretch."""
    first, last = (thumbnail(expected.reference(at)) for at in (part.first, part.stop - 1))
    return float(np.abs(first - last).max()) <= limits.frozen_stir.limit


def _repeated(seen: Seen, expected: Expected, limits: Thresholds) -> Check:
    if len(expected.windows) < 2:
        return not_measured("repeated", "there is one window")
    most = most_alike(seen, expected)
    if most is None:
        return not_measured("repeated", "no two windows with different speech are long enough and move enough for it")
    share, before, after = most
    found = None
    if share < limits.repeated.limit:
        numbers = [1 + list(expected.windows).index(window) for window in (before, after)]
        found = f"{_span(after, expected)} (window {numbers[1]}) shows window {numbers[0]} again."
    return with_value("repeated", share, limits.repeated, found)


def _joins(seen: Seen, expected: Expected, limits: Thresholds) -> Check:
    measured = joins(seen, expected)
    if not measured:
        ends = "the video ends before the first join" if expected.joins else "no window joins another"
        return not_measured("joins", ends)
    told = [
        f"join {number} (second {expected.seconds(expected.windows[number].first):.2f}) by {times:.1f} times"
        for times, number in measured
        if times > limits.joins.limit
    ]
    sentence = f"The picture jumps at {_list(told)} what is ordinary." if told else None
    return with_value("joins", measured[0][0], limits.joins, sentence)


def _jumps(seen: Seen, expected: Expected, limits: Thresholds, has_time: Callable[[], bool]) -> Check:
    measured = jumps(seen, expected, limits.blank.limit)
    if not measured:
        return not_measured("jumps", "there is nothing but joins and cuts")
    found: list[tuple[float, int]] = []
    ordinary = [times for times, _ in measured if times <= limits.jumps.limit]
    for times, frame in measured[: len(measured) - len(ordinary)]:
        if expected.is_source:  # a film may jump by itself
            if not has_time():
                if not found:
                    return not_measured("jumps", NO_TIME)
                break
            if _source_jumps(frame, seen.changes[frame], expected):
                continue
        found.append((times, frame))
    in_order = sorted(found, key=lambda one: one[1])
    places = [f"second {expected.seconds(frame):.2f} (by {times:.1f} times)" for times, frame in in_order]
    sentence = (
        f"{_list(places)}: the picture changes more than is ordinary, and not because of a cut." if found else None
    )
    worst = found[0][0] if found else max(ordinary, default=0.0)
    return with_value("jumps", worst, limits.jumps, sentence and sentence[0].upper() + sentence[1:])


def _source_jumps(frame: int, jump: float, expected: Expected) -> bool:
    """Whether the source changes about as much between the frames around one; its frames are found at 25 a second."""
    near = range(max(0, frame - 2), min(frame + 2, expected.n_frames))
    pictures = [expected.reference(at) for at in near]
    return any(change(*pair) > _SOURCES * jump for pair in pairwise(pictures))


def look_checks(looks: Sequence[Look], expected: Expected, limits: Thresholds) -> Iterator[Check]:
    """Colours and sharpness against the references, by their worst seconds."""
    worst = max(looks, key=lambda look: look.color)
    found = None
    if worst.color > limits.color.limit:
        found = f"Second {expected.seconds(worst.start):.0f}: the colours are {worst.color:.1f} levels off."
    yield with_value("color", worst.color, limits.color, found)
    yield _sharpness(looks, expected, limits)


def _sharpness(looks: Sequence[Look], expected: Expected, limits: Thresholds) -> Check:
    measured = [(look.least_sharp, look.most_sharp, look.start) for look in looks if look.least_sharp is not None]
    if not measured:
        return not_measured("sharpness", "where the video is compared, no speaker's face is seen that is large enough")
    (least, _, blurred), (_, most, noisy) = (
        choose(measured, key=lambda one: one[at]) for choose, at in ((min, 0), (max, 1))
    )
    what, lower, upper = "generated face", limits.face_sharpness_least, limits.face_sharpness_most
    if WHOLE in expected.made(blurred):
        what, lower, upper = "picture", limits.sharpness_least, limits.sharpness_most
    if most > upper.limit:
        found = (
            f"Second {expected.seconds(noisy):.0f}: the {what} is {most:.2f} times as sharp as what was sent: noise, or"
        )
        return with_value("sharpness", most, upper, f"{found} a pattern.")
    found = (
        f"Second {expected.seconds(blurred):.0f}: the {what} is blurred: {least:.2f} times as sharp as what was sent."
    )
    return with_value("sharpness", least, lower, found if least < lower.limit else None)


def _span(part: Stretch, expected: Expected) -> str:
    return f"Second {expected.seconds(part.first):.2f} to {expected.seconds(part.stop):.2f}"


def _list(told: Sequence[str]) -> str:
    more = f" and {len(told) - _MOST_TOLD} more" if len(told) > _MOST_TOLD else ""
    return ", ".join([*told[:1], *(one[:1].lower() + one[1:] for one in told[1:_MOST_TOLD])]) + more
