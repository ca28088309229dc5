"""Whether the speakers' mouths move with their voices, with another's, or with none."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infinitetalk.blending.tracks import faces_of_speakers
from infinitetalk.checking.expected import Expected
from infinitetalk.checking.frames import Frame
from infinitetalk.faces.finder import FaceFinder
from infinitetalk.faces.mouths import following, openness
from infinitetalk.media.speech import SILENT, silent_frames
from infinitetalk.shapes import FPS

Floats = NDArray[np.float32]

MIN_FACE_PX = 20  # smaller mouths cannot be read
_MIN_SEEN = 0.8  # the share of the frames in which a face must be seen
_MIN_FRAMES = FPS  # in silence and in speech, for the two to be compared
_ALIKE = 0.8  # two voices whose loudness correlates more cannot be told apart by mouths


@dataclass(frozen=True)
class Mouth:
    """A speaker's mouth in the file's frames.

    Args:
        openness: (frames,) as `mouths.openness`; NaN where the face is not seen.
        size: of the face in pixels, the median; 0 where it is never seen.
    """

    openness: Floats
    size: float


class Follower:
    """Follows the speakers' faces through frames that are given one by one."""

    def __init__(self, expected: Expected, finder: FaceFinder) -> None:
        self._expected, self._finder = expected, finder
        self.failure: Exception | None = None  # what ended it before its time
        self._openness: list[list[float]] = [[] for _ in expected.voices]
        self._sizes: list[list[float]] = [[] for _ in expected.voices]

    def following(self, frames: Iterable[Frame]) -> Iterator[None]:
        """Take the next frame whenever it is asked for the next value."""
        known, n_speakers = self._expected, len(self._expected.voices)
        for faces in faces_of_speakers(iter(frames), known.scenes, n_speakers, self._finder, known.choose):
            for speaker, face in enumerate(faces):
                self._openness[speaker].append(np.nan if face is None else openness(face.points))
                if face is not None:
                    self._sizes[speaker].append(face.size)
            yield

    @property
    def n_frames(self) -> int:
        """How many frames were taken."""
        return len(self._openness[0])

    @property
    def mouths(self) -> list[Mouth]:
        """Of each speaker, as far as frames were taken."""
        return [
            Mouth(np.array(values, np.float32), float(np.median(sizes)) if sizes else 0.0)
            for values, sizes in zip(self._openness, self._sizes, strict=True)
        ]


@dataclass(frozen=True)
class Lips:
    """What one mouth does with its voice. What cannot be measured is None.

    Args:
        reason: why nothing of it is.
        speech_s: for how long the voice is heard while the face is followed.
        z: how clearly the mouth moves with the voice and not at other times, see `mouths.following`.
        movement: from the 5th to the 95th percentile of the openness while the voice is heard.
        others: z with each other voice; None where it is too much like the own one, or too short.
        silence: the standard deviation of the openness in silence, divided by that in speech.
        restless_s: the second of silence in which it moves most.
    """

    reason: str | None = None
    speech_s: float = 0.0
    z: float | None = None
    movement: float | None = None
    others: tuple[float | None, ...] = ()
    silence: float | None = None
    restless_s: float | None = None


def lips(mouth: Mouth, speaker: int, expected: Expected) -> Lips:
    """Measure one speaker's mouth, as far as it was followed."""
    own = expected.voices[speaker].loud
    taken = int(len(mouth.openness) / float(expected.rate) * FPS)
    n_frames = min(len(own), taken)
    curve, own = expected.at_clip_rate(mouth.openness, n_frames), own[:n_frames]
    seen = np.isfinite(curve)
    if not seen.any():
        return Lips("no face of this speaker is found in the video")
    if mouth.size < MIN_FACE_PX:
        return Lips(f"the face is too small: {mouth.size:.0f} pixels where it is looked at, {MIN_FACE_PX} are needed")
    if seen.mean() < _MIN_SEEN:
        return Lips(f"the face is seen in only {seen.mean():.0%} of the frames")
    speaks = (own >= SILENT) & seen
    if speaks.sum() < _MIN_FRAMES:
        return Lips("less than a second of speech")
    low, high = np.percentile(curve[speaks], (5, 95))
    found = following(curve, own)
    others = tuple(
        None if other is expected.voices[speaker] else _other(curve, own, other.loud[:n_frames])
        for other in expected.voices
    )
    silence, restless = _silence(curve, own, seen)
    speech_s = float(speaks.sum()) / FPS
    return Lips(None, speech_s, None if found is None else found.z, float(high - low), others, silence, restless)


def _other(curve: Floats, own: Floats, other: Floats) -> float | None:
    if min(own.std(), other.std()) < 1e-6 or abs(np.corrcoef(own, other)[0, 1]) > _ALIKE:
        return None
    found = following(curve, other)
    return None if found is None else found.z


def _silence(curve: Floats, own: Floats, seen: NDArray[np.bool_]) -> tuple[float | None, float | None]:
    """How much the mouth moves in silence against in speech, and the second in which it does so most."""
    quiet, speaks = silent_frames(own) & seen, (own >= SILENT) & seen
    if min(quiet.sum(), speaks.sum()) < _MIN_FRAMES:
        return None, None
    kept = np.where(quiet, curve, np.nan)
    seconds = [kept[start : start + FPS] for start in range(0, len(kept), FPS)]
    spread = [float(np.nanstd(one)) if np.isfinite(one).sum() >= FPS // 2 else 0.0 for one in seconds]
    share = float(np.nanstd(kept)) / max(float(curve[speaks].std()), 1e-6)
    return share, float(np.argmax(spread))
