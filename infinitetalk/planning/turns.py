"""Who is heard when: at most two voices in a window, since the model binds no more to people at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from infinitetalk.planning.windows import SILENCE, Window, plan_windows
from infinitetalk.shapes import AUDIO_REACH_FRAMES, FPS, SAMPLES_PER_FRAME, TEMPORAL_STRIDE, next_window_length

AT_A_TIME = 2  # voices that the released weights bind to people (MultiTalk, section 3.3)
# A voice sounds in a frame that is within 30 dB of its loud ones. The frames beside such a frame count too, and so do
# those that the model hears together with it: a mouth moves a little before and after its sound.
_SOUNDS, _LOUD_PERCENTILE, _AUDIBLE, _NEAR_FRAMES = 10 ** (-30 / 20), 95, 1e-4, 1
# The fewest new frames of a window that ends early, and of one that does so to hear a single voice.
_FEWEST, _FEWEST_ALONE = 12, 24


@dataclass(frozen=True, eq=False)
class Turns:
    """How loud each voice is, and who else is there.

    Args:
        loudness: (voices, frames of the clip), root mean square of each frame's sound.
        others_silent: whether people without a voice are in the picture, who are to keep still.
    """

    loudness: NDArray[np.float32]
    others_silent: bool = False

    @cached_property
    def sounds(self) -> NDArray[np.bool_]:
        """(voices, frames): where each voice sounds."""
        rows = []
        for row in self.loudness:
            audible = row[row > _AUDIBLE]
            least = _SOUNDS * np.percentile(audible, _LOUD_PERCENTILE) if audible.size else np.inf
            rows.append(row >= least)
        return np.array(rows)

    @cached_property
    def heard(self) -> NDArray[np.bool_]:
        """(voices, frames): where each voice sounds, or is about to, or has just done so."""
        near = np.ones(2 * _NEAR_FRAMES + 1)
        padded = np.pad(self.sounds, ((0, 0), (_NEAR_FRAMES, _NEAR_FRAMES))).astype(float)
        return np.array([np.convolve(row, near, mode="valid") > 0 for row in padded])


@dataclass(frozen=True)
class LeftOut:
    """A stretch of the clip in which a voice moves no lips, because two louder ones are heard.

    Args:
        voice: its number.
        start_s, stop_s: the stretch.
    """

    voice: int
    start_s: float
    stop_s: float


def frame_loudness(waves: Sequence[NDArray[np.float32]], n_frames: int) -> NDArray[np.float32]:
    """Root mean square (voices, n_frames) of 16 kHz waves of equal length, frame by frame; silent beyond their end."""
    samples = n_frames * SAMPLES_PER_FRAME
    padded = np.stack([np.pad(wave[:samples], (0, max(0, samples - len(wave)))) for wave in waves])
    frames = padded.reshape(len(waves), n_frames, SAMPLES_PER_FRAME).astype(np.float64)
    return np.asarray(np.sqrt((frames**2).mean(-1)), np.float32)


def plan_turns(
    turns: Turns | None, n_frames: int, window_frames: int, overlap_frames: int, cuts: Sequence[int] = ()
) -> tuple[Window, ...]:
    """Windows as `plan_windows` has them, each with the voices that it hears.

    Where others are in the picture (a third speaker, or people without a voice), they keep still best while a single
    voice is heard. So a window ends before a second voice comes in, if it has 24 new frames by then. Otherwise it hears
    two, and ends as soon as one is alone again, or before a third comes in. Where three sound at once, it hears the two
    loudest. Frames that a window takes over from the one before do not count, since their mouths are there already.

    Args:
        turns: None where nobody but the speakers is in the picture, and they are one or two.
        cuts: as in `plan_windows`.
    """
    if turns is None or (len(turns.loudness) <= AT_A_TIME and not turns.others_silent):
        return plan_windows(n_frames, window_frames, overlap_frames, cuts)
    windows: list[Window] = []
    done = 0
    while done < n_frames:
        is_scene = done == 0 or done in cuts
        end = min((cut for cut in cuts if cut > done), default=n_frames)  # of the scene
        overlap = 0 if is_scene else overlap_frames
        start = done - overlap
        longest = min(window_frames, next_window_length(end - start))
        length = overlap + _new_frames(turns, done, overlap, longest)
        stop = min(start + length, end)
        heard = (*_loudest(turns, done, stop), SILENCE)
        windows.append(Window(len(windows), start, length, overlap, done, stop, heard))
        done = stop
    return tuple(windows)


def _new_frames(turns: Turns, done: int, overlap: int, longest: int) -> int:
    """How many new frames the window has that goes on after `done` frames, if it has `longest` frames at most."""

    def at_least(frames: int) -> int:
        return min(longest, next_window_length(overlap + frames)) - overlap

    def most(voices: int, fewest: int) -> int | None:
        """The most new frames in which no more voices sound; None if these are too few."""
        counts = range(longest - overlap, at_least(fewest) - 1, -TEMPORAL_STRIDE)
        return next((count for count in counts if len(_sounding(turns, done, done + count)) <= voices), None)

    if (alone := most(1, _FEWEST_ALONE)) is not None:
        return alone
    count, pair = at_least(_FEWEST), most(AT_A_TIME, _FEWEST)
    while count < (longest - overlap if pair is None else pair):
        after = done + count
        if pair is None and not _is_crowded(turns, after, after + TEMPORAL_STRIDE):
            break
        if pair is not None and len(_sounding(turns, after, after + _FEWEST_ALONE)) <= 1:
            break
        count += TEMPORAL_STRIDE
    return count


def left_out(turns: Turns, windows: Sequence[Window]) -> tuple[LeftOut, ...]:
    """Where voices sound in windows that do not hear them, voice by voice."""
    missed = turns.sounds.copy()
    for window in windows:
        heard = slice(None) if window.heard is None else [voice for voice in window.heard if voice != SILENCE]
        missed[heard, window.keep_start : window.keep_stop] = False
    found = []
    for voice, row in enumerate(missed):
        edges = np.flatnonzero(np.diff(row.astype(np.int8), prepend=0, append=0))
        pairs = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
        found += [LeftOut(voice, first / FPS, stop / FPS) for first, stop in pairs]
    return tuple(found)


def _sounding(turns: Turns, first: int, stop: int) -> NDArray[np.int64]:
    """The voices that sound in new frames of a window, with the sound that the model hears around them."""
    part = turns.heard[:, max(0, first - AUDIO_REACH_FRAMES) : stop + AUDIO_REACH_FRAMES]
    return np.flatnonzero(part.any(axis=1))


def _is_crowded(turns: Turns, first: int, stop: int) -> bool:
    """Whether more than two voices sound at one time there."""
    return bool((turns.heard[:, first:stop].sum(axis=0) > AT_A_TIME).any())


def _loudest(turns: Turns, first: int, stop: int) -> tuple[int, ...]:
    """One or two voices of a window: those that sound in it, the loudest if they are more; in silence the first."""
    sounding = _sounding(turns, first, stop)
    if len(sounding) > AT_A_TIME:
        energy = (turns.loudness[sounding, first:stop] ** 2).sum(axis=1)
        sounding = np.sort(sounding[np.argsort(-energy, kind="stable")[:AT_A_TIME]])
    return tuple(int(voice) for voice in sounding) or (0,)
