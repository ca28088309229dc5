"""Where the speakers' faces are in the source, frame by frame."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from infinitetalk.blending.geometry import Floats, smooth
from infinitetalk.faces.finder import Face, FaceFinder

# Given a scene's number, the faces of a frame of it, from left to right, and its size (width, height): those of the
# speakers in their order.
Choose = Callable[[int, Sequence[Face], tuple[int, int]], Sequence[Face | None]]

SEARCH_EVERY = 12  # frames from one search to the next in a scene in which a speaker has not been seen yet
_THINNED = 8  # each so-manieth pixel across and down is compared where a scene begins
RAMP_S = 0.2  # in which a region comes and goes where its face is lost


@dataclass(frozen=True, eq=False)
class Tracks:
    """The speakers' faces.

    Args:
        points: (frames, speakers, 468, 2) in pixels of the source; NaN where a face is not seen. A picture has 1 frame.
        rate: frames a second.
        scenes: the frames with which scenes begin.
        others: boxes x0, y0, x1, y1 of all faces that were found in the first frame, in pixels.
    """

    points: Floats
    rate: float
    scenes: tuple[int, ...]
    others: tuple[tuple[float, float, float, float], ...] = field(default=())

    @property
    def seen(self) -> NDArray[np.bool_]:
        """(frames, speakers): whether a face is seen."""
        return np.isfinite(self.points[:, :, 0, 0])

    def presence(self) -> Floats:
        """(frames, speakers) from 0, where a face is not seen, to 1; it comes and goes in RAMP_S within a scene."""
        seen, ramp = self.seen, max(1.0, RAMP_S * self.rate)
        shown = np.zeros(seen.shape, np.float32)
        for start, stop in zip(self.scenes, (*self.scenes[1:], len(seen)), strict=True):
            for speaker in range(seen.shape[1]):
                away = frames_to_gap(seen[start:stop, speaker])
                shown[start:stop, speaker] = np.minimum(away / (ramp + 1), 1)
        return shown


def frames_to_gap(seen: NDArray[np.bool_]) -> Floats:
    """(frames,) how many frames away the nearest one is that is not seen; infinite where there is none."""
    places = np.arange(len(seen), dtype=np.float32)
    before = np.maximum.accumulate(np.where(seen, -np.inf, places))
    after = np.minimum.accumulate(np.where(seen, np.inf, places)[::-1])[::-1]
    return np.asarray(np.minimum(places - before, after - places), np.float32)


def follow_speakers(
    frames: Iterator[NDArray[np.uint8]],
    n_frames: int,
    scale: float,
    scenes: Sequence[int],
    n_speakers: int,
    finder: FaceFinder,
    choose: Choose,
    rate: float,
    earliest: Sequence[int] | None = None,
) -> Tracks:
    """Follow the speakers through a video's frames, (height, width, 3) RGB each, in which each scene is searched anew.

    Args:
        n_frames: how many frames there are at most.
        scale: the source's pixels for one of these frames'.
        scenes: the frames with which scenes begin, 0 first.
        rate: frames a second.
        earliest: where it is not known to the frame when they begin, the first frames with which they may; those of
            `scenes` are the last ones then. The frame that differs most from the one before is taken.
    """
    # Ten minutes at 60 frames a second have 135 MB of points for each speaker, so they are not copied as a whole.
    points = np.full((n_frames, n_speakers, 468, 2), np.nan, np.float32)
    index = 0
    cut = _CutFrames(frames, scenes if earliest is None else earliest, scenes)
    for faces in _faces_of_scenes(cut.scenes(), n_speakers, finder, choose):
        for speaker, face in enumerate(faces):
            if face is not None:
                points[index, speaker] = face.points * scale
        index += 1
    points, scenes = points[:index], cut.starts
    for start, stop in zip(scenes, (*scenes[1:], len(points)), strict=True):
        for speaker in range(n_speakers):
            points[start:stop, speaker] = smooth(points[start:stop, speaker], 1.0)
    return Tracks(points, rate, tuple(scenes))


def faces_of_speakers(
    frames: Iterator[NDArray[np.uint8]], scenes: Sequence[int], n_speakers: int, finder: FaceFinder, choose: Choose
) -> Iterator[list[Face | None]]:
    """The speakers' faces in each frame; None where one is not seen. Arguments as of `follow_speakers`.

    A frame is taken when its faces are asked for.
    """
    yield from _faces_of_scenes(_CutFrames(frames, scenes, scenes).scenes(), n_speakers, finder, choose)


def _faces_of_scenes(
    scenes: Iterator[Iterator[NDArray[np.uint8]]], n_speakers: int, finder: FaceFinder, choose: Choose
) -> Iterator[list[Face | None]]:
    for number, scene in enumerate(scenes):
        yield from _followed(scene, n_speakers, finder, partial(choose, number))


class _CutFrames:
    """A video's frames, scene by scene."""

    def __init__(self, frames: Iterator[NDArray[np.uint8]], earliest: Sequence[int], latest: Sequence[int]) -> None:
        """Begin.

        Args:
            earliest, latest: the first and the last frames with which scenes may begin; 0 comes first in both.
        """
        self._frames = frames
        self._bounds = list(zip(earliest, latest, strict=True))
        self._ahead: deque[NDArray[np.uint8]] = deque()  # taken, and not given out yet
        self._given = 0
        self._last: NDArray[np.uint8] | None = None
        self.starts: list[int] = []

    def scenes(self) -> Iterator[Iterator[NDArray[np.uint8]]]:
        """The frames of each scene. All of them are to be taken before those of the next one."""
        for number in range(len(self._bounds)):
            self.starts.append(self._given)
            yield self._scene(None if number + 1 == len(self._bounds) else self._bounds[number + 1])

    def _scene(self, end: tuple[int, int] | None) -> Iterator[NDArray[np.uint8]]:
        while end is None or self._given < end[0]:
            if not self._has(1):
                return
            yield self._take()
        assert end is not None
        stop = end[0] if end[0] >= end[1] else self._jump(end[1])
        while self._given < stop:
            yield self._take()

    def _jump(self, latest: int) -> int:
        """The frame, from the next one on up to `latest`, that differs most from the one before."""
        self._has(latest - self._given + 1)
        row = [frame[::_THINNED, ::_THINNED].astype(np.int16) for frame in self._ahead]
        if not row or self._last is None:
            return self._given
        before: list[NDArray[np.integer]] = [self._last[::_THINNED, ::_THINNED], *row]
        return self._given + int(np.argmax([np.abs(a - b).mean() for a, b in zip(row, before, strict=False)]))

    def _has(self, n_frames: int) -> bool:
        """Whether so many frames are there to be given out."""
        self._ahead.extend(islice(self._frames, max(0, n_frames - len(self._ahead))))
        return len(self._ahead) >= n_frames

    def _take(self) -> NDArray[np.uint8]:
        self._last = self._ahead.popleft()
        self._given += 1
        return self._last


def _followed(
    scene: Iterator[NDArray[np.uint8]],
    n_speakers: int,
    finder: FaceFinder,
    choose: Callable[[Sequence[Face], tuple[int, int]], Sequence[Face | None]],
) -> Iterator[list[Face | None]]:
    """The speakers' faces in each frame of one scene. Who has not been seen yet is searched for again and again."""
    known: list[Face | None] = [None] * n_speakers
    for frame in scene:
        if None in known:
            chosen = choose(finder.find(frame), (frame.shape[1], frame.shape[0]))
            taken = [face for face in known if face is not None]
            known = [old or _unless_taken(new, taken) for old, new in zip(known, chosen, strict=True)]
        order = [speaker for speaker, face in enumerate(known) if face is not None]
        part = chain([frame], scene if None not in known else islice(scene, SEARCH_EVERY - 1))
        if not order:
            for _ in part:
                yield list(known)
            continue
        for followed in finder.follow(part, [face for face in known if face is not None]):
            now: list[Face | None] = [None] * n_speakers
            for speaker, face in zip(order, followed, strict=True):
                now[speaker] = face
                known[speaker] = face or known[speaker]
            yield now


def _unless_taken(face: Face | None, taken: Sequence[Face]) -> Face | None:
    """A face that was found, or None where it is one of those that are followed."""
    if face is None:
        return None
    x, y = (face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2
    boxes = [other.box for other in taken]
    return None if any(x0 <= x < x1 and y0 <= y < y1 for x0, y0, x1, y1 in boxes) else face
