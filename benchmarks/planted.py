"""Faults that benchmarks.checks plants in finished videos, and the checks that have to find each.

A fault changes frames, sound or both, and the file is written again by the worker's encoder.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from benchmarks.fault_places import (
    has_joins,
    is_long,
    keeps_face,
    pause,
    pauses,
    repeats,
    speaks_for_a_second,
    spoken_second,
    spoken_window,
    two_speak,
    two_spoken_windows,
)
from infinitetalk.checking.expected import Expected, Voice
from infinitetalk.contract.result import CheckName
from infinitetalk.media.encode import VideoWriter
from infinitetalk.media.ffmpeg import run
from infinitetalk.media.finished import read_frames
from infinitetalk.shapes import FPS, SAMPLE_RATE_HZ

Frames = NDArray[np.uint8]
Wave = Floats = NDArray[np.float32]

FACE_BLURRED, FACE_NOISY = "faces blurred in a kept source", "noise instead of faces in a kept source"
LATE_FRAMES, DRIFT_LEVELS, SECOND = 3, 8, FPS


@dataclass(frozen=True, eq=False)
class Clip:
    """A video in memory.

    Args:
        frames: (T, height, width, 3) RGB.
        sound: mono, 16 kHz; None: as it is in the file; of no samples: the file has none.
    """

    frames: Frames
    sound: Wave | None
    expected: Expected

    def window(self, number: int) -> slice:
        """The frames of a window."""
        window = self.expected.windows[number]
        return slice(window.first, window.stop)

    @property
    def inside(self) -> int:
        """A frame in the middle of the longest window."""
        longest = max(self.expected.windows, key=lambda window: window.stop - window.first)
        return (longest.first + longest.stop) // 2

    @property
    def middle(self) -> int:
        """A window that joins another, in the middle of the clip."""
        joined = [number for number, window in enumerate(self.expected.windows) if window.is_join]
        return joined[len(joined) // 2]

    def changed(self, where: slice, frames: NDArray[np.floating] | Frames) -> "Clip":
        """The same with other frames there."""
        changed = self.frames.copy()
        changed[where] = np.clip(np.round(frames), 0, 255)
        return replace(self, frames=changed)


@dataclass(frozen=True)
class Fault:
    """A fault.

    Args:
        plant: makes the clip with it.
        found_by: the checks of which one must find it.
        fits: whether a clip can have it.
        needs_faces: whether it is seen in mouths alone.
    """

    plant: Callable[[Clip], Clip]
    found_by: tuple[CheckName, ...]
    fits: Callable[[Expected], bool] = lambda _: True
    needs_faces: bool = False


def _sound_late(clip: Clip) -> Clip:
    late = LATE_FRAMES * SAMPLE_RATE_HZ // FPS
    sound = clip.expected.sound
    return replace(clip, sound=np.pad(sound, (late, 0))[: len(sound)])


def _other_sound(clip: Clip) -> Clip:
    return replace(clip, sound=np.ascontiguousarray(clip.expected.sound[::-1]))


def _voices_swapped(clip: Clip) -> Clip:
    one, other = clip.expected.voices
    voices = (Voice(one.name, other.loud), Voice(other.name, one.loud))
    return replace(clip, expected=replace(clip.expected, voices=voices))


def _window_frozen(clip: Clip) -> Clip:
    where = clip.window(spoken_window(clip.expected))
    return clip.changed(where, np.broadcast_to(clip.frames[where.start], clip.frames[where].shape))


def _second_frozen(clip: Clip) -> Clip:
    first = spoken_second(clip.expected)
    where = slice(first, first + SECOND)
    return clip.changed(where, np.broadcast_to(clip.frames[first], clip.frames[where].shape))


def _noise_frames(count: int) -> Callable[[Clip], Clip]:
    def plant(clip: Clip) -> Clip:
        where = slice(clip.inside, clip.inside + count)
        return clip.changed(where, np.random.default_rng(0).integers(0, 256, clip.frames[where].shape, np.uint8))

    return plant


def _upside_down(clip: Clip) -> Clip:
    where = slice(clip.inside, clip.inside + 1)
    return clip.changed(where, clip.frames[where, ::-1])


def _aside(clip: Clip) -> Clip:
    """Eight frames are moved sideways by a twentieth of their width."""
    where = slice(clip.inside, clip.inside + 8)
    return clip.changed(where, np.roll(clip.frames[where], clip.frames.shape[2] // 20, axis=2))


def _mirrored(clip: Clip) -> Clip:
    where = slice(clip.inside, None)
    return clip.changed(where, clip.frames[where, :, ::-1])


def _no_sound(clip: Clip) -> Clip:
    return replace(clip, sound=np.zeros(0, np.float32))


def _narrower(clip: Clip) -> Clip:
    width, height = clip.expected.size
    return replace(clip, expected=replace(clip.expected, size=(width + 2, height)))


def _faces_changed(change: Callable[[Floats], Floats]) -> Callable[[Clip], Clip]:
    """What is measured of the speakers' faces is changed in all frames."""

    def plant(clip: Clip) -> Clip:
        frames = clip.frames.copy()
        for index, frame in enumerate(frames):
            for face in clip.expected.made(index):
                box = np.array(face) * (frame.shape[1::-1] * 2)
                if np.isfinite(box).all():
                    left, top, right, bottom = np.round(box).astype(int).clip(0).tolist()
                    part = frame[top:bottom, left:right]
                    part[:] = np.clip(change(part.astype(np.float32)), 0, 255)
        return replace(clip, frames=frames)

    return plant


def _smeared(face: Floats) -> Floats:
    """Blurred by a twentieth of its longer side."""
    sigma = max(face.shape[:2]) / 20
    return np.asarray(gaussian_filter(face, (sigma, sigma, 0)), np.float32)


def _garbage(face: Floats) -> Floats:
    return np.random.default_rng(0).integers(0, 256, face.shape).astype(np.float32)


def _jump(clip: Clip) -> Clip:
    """The picture moves by a hundredth of its longer side, and stays there."""
    where = slice(clip.window(clip.middle).start, len(clip.frames))
    shift = max(2, round(max(clip.frames.shape[1:3]) / 100))
    return clip.changed(where, np.roll(clip.frames[where], shift, axis=2))


def _flash(clip: Clip) -> Clip:
    """The picture is brighter by 6 levels from a join on."""
    where = slice(clip.window(clip.middle).start, len(clip.frames))
    return clip.changed(where, clip.frames[where].astype(np.float32) + 6)


def _drift(clip: Clip) -> Clip:
    drift = np.linspace(0, DRIFT_LEVELS, len(clip.frames), dtype=np.float32)[:, None, None, None]
    return clip.changed(slice(None), clip.frames + drift)


def _tone_second(level: int) -> Callable[[Clip], Clip]:
    def plant(clip: Clip) -> Clip:
        start = max(0, len(clip.frames) // 2 - SECOND // 2)
        where = slice(start, start + SECOND)
        return clip.changed(where, np.full_like(clip.frames[where], level))

    return plant


def _end_missing(clip: Clip) -> Clip:
    return replace(clip, frames=clip.frames[:-10])


def _sound_end_missing(clip: Clip) -> Clip:
    return replace(clip, sound=clip.expected.sound[: -SAMPLE_RATE_HZ // 5])


def _window_repeated(clip: Clip) -> Clip:
    first, second = two_spoken_windows(clip.expected)
    one, other = clip.window(first), clip.window(second)
    length = min(one.stop - one.start, other.stop - other.start)
    return clip.changed(
        slice(other.start, other.start + length), clip.frames[one.start : one.start + length].astype(np.float32)
    )


def _blurred(clip: Clip) -> Clip:
    """Blurred from the middle on, by a hundredth of the longer side."""
    where = slice(len(clip.frames) // 2, None)
    sigma = max(clip.frames.shape[1:3]) / 100
    return clip.changed(where, gaussian_filter(clip.frames[where].astype(np.float32), (0, sigma, sigma, 0)))


def _noisy(clip: Clip) -> Clip:
    where = slice(len(clip.frames) // 2, None)
    noise = np.random.default_rng(0).normal(0, 12, clip.frames[where].shape)
    return clip.changed(where, clip.frames[where] + noise)


def _lips_elsewhere(clip: Clip) -> Clip:
    """The frames come two seconds late, those at the end first."""
    return clip.changed(slice(None), np.roll(clip.frames, 2 * FPS, axis=0))


def _talks_in_silence(clip: Clip) -> Clip:
    """In the pause the frames before it come again."""
    start, stop = pause(clip.expected)
    where = slice(start + 3, stop - 1)
    return clip.changed(where, clip.frames[start - (where.stop - where.start) : start])


FAULTS: Mapping[str, Fault] = {
    f"sound late by {LATE_FRAMES} frames": Fault(_sound_late, ("sound",)),
    "another sound": Fault(_other_sound, ("sound",)),
    "no sound": Fault(_no_sound, ("sound_length",)),
    "2 pixels narrower than planned": Fault(_narrower, ("size",)),
    "sound ends 0.2 s early": Fault(_sound_end_missing, ("sound_length",)),
    "the last 10 frames missing": Fault(_end_missing, ("frames",)),
    "two voices swapped": Fault(_voices_swapped, ("lip_sync", "other_voice"), two_speak, needs_faces=True),
    "mouths two seconds late": Fault(_lips_elsewhere, ("lip_sync",), is_long, needs_faces=True),
    "talks in silence": Fault(_talks_in_silence, ("silence",), pauses, needs_faces=True),
    "a window frozen": Fault(_window_frozen, ("frozen",), lambda known: not known.is_source),
    "a second frozen in a window": Fault(_second_frozen, ("frozen",), speaks_for_a_second),
    "a window again": Fault(_window_repeated, ("repeated",), repeats),
    "a jump of 1 % at a join": Fault(_jump, ("joins",), has_joins),
    "6 levels brighter at a join": Fault(_flash, ("joins",), has_joins),
    "a frame of noise": Fault(_noise_frames(1), ("jumps",)),
    "three frames of noise": Fault(_noise_frames(3), ("jumps",)),
    "a frame upside down": Fault(_upside_down, ("jumps",)),
    "8 frames moved by 5 %": Fault(_aside, ("jumps",)),
    "mirrored within a window": Fault(_mirrored, ("jumps",)),
    f"colours drift by {DRIFT_LEVELS} levels": Fault(_drift, ("color",)),
    "a black second": Fault(_tone_second(0), ("blank",)),
    "a grey second": Fault(_tone_second(128), ("blank",)),
    "blurred": Fault(_blurred, ("sharpness",)),
    FACE_BLURRED: Fault(_faces_changed(_smeared), ("sharpness",), keeps_face),
    FACE_NOISY: Fault(_faces_changed(_garbage), ("sharpness",), keeps_face),
    "noise": Fault(_noisy, ("sharpness",)),
}


def read_clip(video: Path, expected: Expected) -> Clip:
    """A finished video, whole in memory: for short ones only."""
    return Clip(np.stack(list(read_frames(video, expected.size, expected.colors))), None, expected)


def write_clip(clip: Clip, video: Path, target: Path) -> None:
    """Write a clip as the worker's encoder does, with its own sound or that of the file it came from."""
    target.unlink(missing_ok=True)
    sound: Path | None = target.with_suffix(".m4a")
    if clip.sound is None:
        run("-i", f"file:{video}", "-map", "0:a:0", "-c", "copy", "-f", "mp4", f"file:{sound}")
    elif not len(clip.sound):
        sound = None
    else:
        raw = target.with_suffix(".f32")
        raw.write_bytes(clip.sound.astype(np.float32).tobytes())
        source = ["-f", "f32le", "-ar", str(SAMPLE_RATE_HZ), "-ac", "1", "-i", f"file:{raw}"]
        run(*source, "-c:a", "aac", "-b:a", "192k", "-f", "mp4", f"file:{sound}")
        raw.unlink()
    height, width = clip.frames.shape[1:3]
    with VideoWriter(target, width, height, clip.expected.rate, sound) as writer:
        writer.append(writer.pack(clip.frames))
        writer.finish(len(clip.frames))
    if sound is not None:
        sound.unlink()


def planted(name: str, video: Path, expected: Expected, target: Path) -> Iterator[Expected]:
    """Write the video with that fault to `target`; gives what it should hold, or nothing where it cannot have it."""
    fault = FAULTS[name]
    if fault.fits(expected):
        clip = fault.plant(read_clip(video, expected))
        write_clip(clip, video, target)
        yield clip.expected
