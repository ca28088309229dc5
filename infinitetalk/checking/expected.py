"""What a finished video should hold, by its job's plan and inputs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import floor

import numpy as np
from numpy.typing import NDArray

from infinitetalk.blending.tracks import Choose
from infinitetalk.checking.frames import Frame
from infinitetalk.media.encode import Colors
from infinitetalk.shapes import FPS

Floats = NDArray[np.float32]
Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Stretch:
    """Frames of the file: `first` to `stop` - 1.

    Args:
        is_join: whether it goes on from the stretch before, and does not begin a scene.
    """

    first: int
    stop: int
    is_join: bool = False


@dataclass(frozen=True, eq=False)
class Voice:
    """A voice as the model heard it.

    Args:
        name: for messages.
        loud: (clip frames,), as `speech.loudness` gives it; 0 where the model did not hear it.
    """

    name: str
    loud: Floats


@dataclass(frozen=True, eq=False)
class Expected:
    """What a finished file should hold. Frames are the file's own.

    Args:
        rate: frames a second.
        windows: the stretches that were made one by one.
        sound: mono, 16 kHz: what should be heard.
        sound_channel: the file's channel that has it; None: all channels together.
        moving: (n_frames,), whether somebody is heard who is seen.
        is_source: whether the frames outside the faces are those of a source video.
        compared: stretches whose colours and sharpness are compared with the `reference` of their first frame.
        reference: the picture that a frame was to look like, of any size. It may take a second.
        made: the parts of a frame of the file that are generated and are as sharp as its reference's: boxes x0, y0, x1,
            y1 in fractions. A speaker who is not seen has a box of NaN.
        choose: the speakers among faces that are found, as `tracks.Choose`.
        suggested: values of the request's fields that would make another video.
    """

    n_frames: int
    rate: Fraction
    size: tuple[int, int]
    colors: Colors
    windows: Sequence[Stretch]
    sound: Floats
    sound_channel: int | None
    voices: Sequence[Voice]
    moving: NDArray[np.bool_]
    is_source: bool
    compared: Sequence[Stretch]
    reference: Callable[[int], Frame]
    made: Callable[[int], Sequence[Box]]
    choose: Choose
    suggested: Mapping[str, int | float | bool] = field(default_factory=dict)

    @property
    def duration_s(self) -> float:
        """Of the frames."""
        return float(self.n_frames / self.rate)

    @property
    def scenes(self) -> tuple[int, ...]:
        """The frames with which scenes begin."""
        return tuple(window.first for window in self.windows if not window.is_join)

    @property
    def joins(self) -> tuple[int, ...]:
        """The frames with which a window goes on from the one before."""
        return tuple(window.first for window in self.windows if window.is_join)

    def seconds(self, frame: float) -> float:
        """When a frame begins."""
        return float(frame / self.rate)

    def frames(self, seconds: float) -> int:
        """How many frames last so long."""
        return round(seconds * self.rate)

    def at_clip_rate(self, values: Floats, n_clip_frames: int) -> Floats:
        """Values of the file's frames at 25 a second: that of the frame on screen in the middle of each."""
        middles = [floor((index + Fraction(1, 2)) * self.rate / FPS) for index in range(n_clip_frames)]
        shown = np.full(n_clip_frames, np.nan, np.float32)
        inside = [place for place in middles if place < len(values)]
        shown[: len(inside)] = values[inside]
        return shown
