"""When each speaker's turn begins."""

from collections.abc import Sequence

from infinitetalk.contract.request import SpeakerOrder


def speaker_starts(lengths: Sequence[int], order: SpeakerOrder) -> tuple[int, ...]:
    """Where each speaker's voice begins in the clip, in the unit of `lengths`.

    Args:
        lengths: how long the voices are, in the order of the speakers.
        order: all together, or one after the other, from the first speaker to the last or from the last to the first.
    """
    if order == "together":
        return (0,) * len(lengths)
    turns = range(len(lengths)) if order == "first_then_second" else reversed(range(len(lengths)))
    starts, done = [0] * len(lengths), 0
    for turn in turns:
        starts[turn] = done
        done += lengths[turn]
    return tuple(starts)
