"""Where the speakers' faces are in the source, frame by frame."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from infinitetalk.blending.geometry import Floats, smooth
from infinitetalk.faces.finder import Face, FaceFinder

# Given a scene's number, the faces of a frame of it, from left to right, and its size (width, height): those of the
# speakers in their order.
Choose = Callable[[int, Sequence[Face], tuple[int, int]], Sequence[Face | None]]

SEARCH_EVERY = 12  # frames from one search to the next in a scene in which no speaker has been seen yet
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
    scale: float,
    scenes: Sequence[int],
    n_speakers: int,
    finder: FaceFinder,
    choose: Choose,
    rate: float,
) -> Tracks:
    """Follow the speakers through a video's frames, (height, width, 3) RGB each, in which each scene is searched anew.

    Args:
        scale: the source's pixels for one of these frames'.
        scenes: the frames with which scenes begin, 0 first.
        rate: frames a second.
    """
    rows: list[Floats] = []
    missing = np.full((n_speakers, 468, 2), np.nan, np.float32)
    for number, (start, stop) in enumerate(zip(scenes, (*scenes[1:], None), strict=True)):
        scene = _until(frames, None if stop is None else stop - start)
        for index, frame in enumerate(scene):
            chosen: Sequence[Face | None] = ()
            if index % SEARCH_EVERY == 0:
                chosen = choose(number, finder.find(frame), (frame.shape[1], frame.shape[0]))
            if not any(chosen):
                rows.append(missing)
                continue
            order = [speaker for speaker, face in enumerate(chosen) if face is not None]
            faces = [face for face in chosen if face is not None]
            for followed in finder.follow(chain([frame], scene), faces):
                row = missing.copy()
                for speaker, face in zip(order, followed, strict=True):
                    if face is not None:
                        row[speaker] = face.points * scale
                rows.append(row)
    points = np.stack(rows)
    for start, stop in zip(scenes, (*scenes[1:], len(points)), strict=True):
        points[start:stop] = smooth(points[start:stop], 1.0)
    return Tracks(points, rate, tuple(scenes))


def _until(frames: Iterator[NDArray[np.uint8]], n_frames: int | None) -> Iterator[NDArray[np.uint8]]:
    """The next frames, so many or all of them."""
    while n_frames is None or n_frames > 0:
        frame = next(frames, None)
        if frame is None:
            return
        yield frame
        n_frames = None if n_frames is None else n_frames - 1
