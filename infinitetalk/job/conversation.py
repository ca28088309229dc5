"""One recording of a conversation: who of two speaks when, and each voice alone.

Speech is cut at its pauses. Windows of 1.2 s of it are described by a voice each, and these are brought into two groups
(2-means). Speakers change where windows begin to be more like the other group: at a pause, or within a stretch between
two pauses where that pays for its cost (Viterbi's algorithm).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from infinitetalk.contract.result import Turn
from infinitetalk.errors import InvalidInput
from infinitetalk.models.voices import SPEECH_STEP, VOICE_WINDOW, VoiceModels
from infinitetalk.shapes import SAMPLE_RATE_HZ

Floats = NDArray[np.float32]
Stretch = tuple[int, int]  # samples: the first, and the one behind the last

# Two groups of windows are more alike than this where there is one voice only.
MAX_LIKENESS = 0.75
_SPEECH, _NO_SPEECH = 0.5, 0.35  # probabilities at which speech begins and ends: the detector's own
_MIN_PAUSE, _MIN_SPEECH = SAMPLE_RATE_HZ // 10, SAMPLE_RATE_HZ // 5
_WINDOW_STEP = SAMPLE_RATE_HZ * 3 // 10
_CELL = SAMPLE_RATE_HZ // 20  # within a stretch, speakers change at multiples of this
_CHANGE_COST = 1.5  # cells times likeness: what a change within a stretch has to gain; at a pause it costs nothing
_MIN_TELLING = SAMPLE_RATE_HZ * 4 // 5  # a shorter stretch says too little of a voice to found a group
_ROUNDS = 50
# Below it one voice often looks like two (docs/jobs.md).
MIN_SPEECH_S = 5.0
_FADE = SAMPLE_RATE_HZ // 200  # 5 ms


@dataclass(frozen=True)
class Conversation:
    """Who speaks when.

    Args:
        turns: in the order of time; whoever speaks first is speaker 1. Pauses within a turn belong to it.
        likeness: cosine of the two voices' mean windows.
        speech_s: for how long anybody speaks.
    """

    turns: tuple[Turn, ...]
    likeness: float
    speech_s: float


def listen(wave: Floats, models: VoiceModels) -> Conversation | None:
    """Tell the two voices in a 16 kHz wave apart, whether there are two or not; None with less than two windows."""
    stretches = speech_stretches(models.speech(wave), len(wave))
    windows = [windows_of(stretch) for stretch in stretches]
    voices = models.voices(wave, [window for found in windows for window in found])
    if len(voices) < 2:
        return None
    lengths = np.array([stop - start for found in windows for start, stop in found])
    whole = voices[lengths >= _MIN_TELLING]
    centres = two_centres(whole if len(whole) > 1 else voices)
    # Above 0 where a window is more like the first centre; a short one tells less.
    leaning = voices @ (centres[0] - centres[1]) * (lengths / VOICE_WINDOW)
    spoken = _speakers(stretches, windows, leaning)
    speech_s = sum(stop - start for start, stop in stretches) / SAMPLE_RATE_HZ
    return Conversation(_turns(spoken), float(centres[0] @ centres[1]), speech_s)


def find_turns(wave: Floats, models: VoiceModels, field: str) -> tuple[Turn, ...]:
    """Who of two speaks when in a 16 kHz wave.

    Args:
        field: the job's field that named the file, for errors.

    Raises InvalidInput where one voice is heard, or too little speech.
    """
    conversation = listen(wave, models)
    heard_s = 0.0 if conversation is None else conversation.speech_s
    if conversation is None or heard_s < MIN_SPEECH_S:
        raise InvalidInput(
            f"split_voices needs {MIN_SPEECH_S:g} s of speech in {field} to tell two voices apart, and hears "
            f"{heard_s:.1f} s: send a longer recording, or each voice as a file of its own, wav_url and wav_url_2."
        )
    if conversation.likeness > MAX_LIKENESS or len({turn.speaker for turn in conversation.turns}) < 2:
        raise InvalidInput(
            f"split_voices finds one voice only in {field}, or two that it cannot tell apart (what is heard is "
            f"{conversation.likeness:.2f} alike, two voices at most {MAX_LIKENESS:g}): set person_count to single and "
            "leave split_voices out, or send each voice as a file of its own, wav_url and wav_url_2."
        )
    return conversation.turns


def speech_stretches(probabilities: Floats, samples: int) -> list[Stretch]:
    """Where there is speech, of its probability in each step of 512 samples."""
    stretches: list[Stretch] = []
    start = None
    for step, probability in enumerate([*probabilities.tolist(), 0.0]):
        if start is None and probability >= _SPEECH:
            start = step * SPEECH_STEP
        elif start is not None and probability < _NO_SPEECH:
            stop = min(step * SPEECH_STEP, samples)
            if stretches and start - stretches[-1][1] < _MIN_PAUSE:
                start = stretches.pop()[0]
            stretches.append((start, stop))
            start = None
    return [(start, stop) for start, stop in stretches if stop - start >= _MIN_SPEECH]


def windows_of(stretch: Stretch) -> list[Stretch]:
    """Windows of 1.2 s that cover a stretch of speech evenly; a shorter stretch is one window."""
    start, stop = stretch
    if stop - start <= VOICE_WINDOW:
        return [stretch]
    last = stop - VOICE_WINDOW
    starts = np.linspace(start, last, 1 + -(-(last - start) // _WINDOW_STEP)).astype(int)
    return [(int(begin), int(begin) + VOICE_WINDOW) for begin in starts]


def two_centres(voices: Floats) -> Floats:
    """The mean directions of two groups of voices, (2, 256): 2-means, from the two sides of the widest spread."""
    spread = voices - voices.mean(0)
    is_first = spread @ np.linalg.svd(spread, full_matrices=False)[2][0] >= 0
    for _ in range(_ROUNDS):
        if is_first.all() or not is_first.any():
            break
        centres = np.stack([voices[is_first].mean(0), voices[~is_first].mean(0)])
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
        nearer_first = voices @ (centres[0] - centres[1]) >= 0
        if (nearer_first == is_first).all():
            return centres
        is_first = nearer_first
    else:
        return centres
    mean = voices.mean(0) / np.linalg.norm(voices.mean(0))
    return np.stack([mean, mean])


def _speakers(
    stretches: Sequence[Stretch], windows: Sequence[Sequence[Stretch]], leaning: Floats
) -> list[tuple[int, Stretch]]:
    """Who speaks: speaker 0 or 1 and a part of a stretch, in the order of time."""
    cells: list[Stretch] = []
    gains: list[float] = []
    costs: list[float] = []
    for (start, stop), found in zip(stretches, windows, strict=True):
        edges = np.linspace(start, stop, 1 + max(1, round((stop - start) / _CELL))).astype(int).tolist()
        here = list(pairwise(edges))
        middles = [(first + last) / 2 for first, last in here]
        gains += np.interp(middles, [(first + last) / 2 for first, last in found], leaning[: len(found)]).tolist()
        leaning = leaning[len(found) :]
        costs += [0.0] + [_CHANGE_COST] * (len(here) - 1)
        cells += here
    speakers = _cheapest_changes(np.array(gains), costs)
    parts: list[tuple[int, Stretch]] = []
    for speaker, (first, last) in zip(speakers.tolist(), cells, strict=True):
        if parts and parts[-1][0] == speaker and parts[-1][1][1] == first:
            first = parts.pop()[1][0]
        parts.append((speaker, (first, last)))
    return parts


def _cheapest_changes(gain: NDArray[np.float64], costs: Sequence[float]) -> NDArray[np.int64]:
    """Speaker 0 or 1 in each cell: the most gain (taken for 0, lost for 1), less the cost of changes.

    Args:
        costs: of a change into each cell.
    """
    gains = np.stack([gain, -gain], 1)
    best, came_from = gains[0], np.zeros((len(gain), 2), int)
    for cell in range(1, len(gain)):
        changed = best[::-1] - costs[cell]
        came_from[cell] = np.where(changed > best, [1, 0], [0, 1])
        best = np.maximum(best, changed) + gains[cell]
    speakers = np.zeros(len(gain), int)
    speakers[-1] = int(best[1] > best[0])
    for cell in range(len(gain) - 1, 0, -1):
        speakers[cell - 1] = came_from[cell, speakers[cell]]
    return speakers


def _turns(spoken: Sequence[tuple[int, Stretch]]) -> tuple[Turn, ...]:
    """Turns of speaker 1, who speaks first, and 2. Stretches of one speaker in a row are one turn."""
    turns: list[Turn] = []
    for who, (start, stop) in spoken:
        speaker = 1 if who == spoken[0][0] else 2
        begin_s = start / SAMPLE_RATE_HZ
        if turns and turns[-1].speaker == speaker:
            begin_s = turns.pop().start_s
        turns.append(Turn(speaker=speaker, start_s=round(begin_s, 3), end_s=round(stop / SAMPLE_RATE_HZ, 3)))
    return tuple(turns)


def split_wave(wave: Floats, turns: Sequence[Turn]) -> tuple[Floats, Floats]:
    """Each speaker's turns, silent elsewhere; the two add up to the wave.

    One speaker fades into the other within 5 ms in the middle of the pause between their turns.
    """
    belongs = np.ones(len(wave), np.float32)  # to speaker 1
    ramp = np.linspace(0, 1, _FADE + 2, dtype=np.float32)[1:-1]
    for before, after in pairwise(turns):
        middle = round((before.end_s + after.start_s) / 2 * SAMPLE_RATE_HZ)
        start = min(max(middle - _FADE // 2, 0), max(len(wave) - _FADE, 0))
        belongs[start:] = float(after.speaker == 1)
        fade = ramp if after.speaker == 1 else ramp[::-1]
        belongs[start : start + _FADE] = fade[: len(wave) - start]
    return wave * belongs, wave * (1 - belongs)
