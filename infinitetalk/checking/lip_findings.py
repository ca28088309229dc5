"""What was measured of the speakers' mouths, in words."""

from collections.abc import Iterator, Sequence

from infinitetalk.checking.expected import Expected
from infinitetalk.checking.findings import not_measured, with_value
from infinitetalk.checking.mouths import Lips
from infinitetalk.checking.thresholds import Thresholds
from infinitetalk.contract.result import Check, CheckName


def lip_checks(lips: Sequence[Lips], expected: Expected, limits: Thresholds) -> Iterator[Check]:
    """Each mouth with its voice, with the others', and in silence."""
    for voice, one in zip(expected.voices, lips, strict=True):
        if one.reason is not None:
            for name in lip_names(expected):
                yield not_measured(name, one.reason, voice.name)
            continue
        yield _lip_sync(voice.name, one, limits)
        if len(lips) > 1:
            yield _other_voice(voice.name, one, [other.name for other in expected.voices], limits)
        yield _silence(voice.name, one, limits)


def lip_names(expected: Expected) -> tuple[CheckName, ...]:
    """The checks of one mouth."""
    return ("lip_sync", "other_voice", "silence") if len(expected.voices) > 1 else ("lip_sync", "silence")


def _lip_sync(name: str, lips: Lips, limits: Thresholds) -> Check:
    if lips.speech_s < limits.speech.limit or lips.movement is None:
        why = f"{lips.speech_s:.1f} s of speech; {limits.speech.limit:g} s are needed"
        return not_measured("lip_sync", why, name)
    if lips.movement < limits.does_not_move.limit:
        found = f"The mouth of {name} does not move while this voice is heard."
        return with_value("lip_sync", lips.movement, limits.does_not_move, found, name)
    if lips.z is None:
        return not_measured("lip_sync", "the voice is as loud all the time", name)
    value, against = lips.z, limits.follows
    if value < limits.does_not_follow.limit:
        return with_value("lip_sync", value, against, f"The mouth of {name} does not follow its voice.", name)
    if value < against.limit or lips.movement < limits.moves_enough.limit:
        return Check(
            name="lip_sync",
            voice=name,
            outcome="undecided",
            value=round(value, 3),
            limit=against.limit,
            unit=against.unit,
            note="The mouth moves too little, or too seldom with the voice, for this to be told.",
        )
    return with_value("lip_sync", value, against, None, name)


def _other_voice(name: str, lips: Lips, names: Sequence[str], limits: Thresholds) -> Check:
    known = [(z, other) for z, other in zip(lips.others, names, strict=True) if z is not None]
    if lips.speech_s < limits.speech.limit or not known or lips.z is None:
        return not_measured("other_voice", "too little speech, or voices that are too much alike", name)
    z, other = max(known)
    is_other = z >= limits.follows.limit and z > lips.z
    return with_value(
        "other_voice", z, limits.follows, f"The mouth of {name} moves with {other}." if is_other else None, name
    )


def _silence(name: str, lips: Lips, limits: Thresholds) -> Check:
    if lips.silence is None or lips.movement is None:
        return not_measured("silence", "less than a second of silence, or of speech", name)
    if lips.movement < limits.moves_enough.limit:
        return not_measured("silence", "the mouth moves too little in speech to be compared", name)
    found = None
    if lips.silence > limits.silence.limit:
        found = f"Second {lips.restless_s:.0f}: the mouth of {name} moves while this voice is silent."
    return with_value("silence", lips.silence, limits.silence, found, name)
