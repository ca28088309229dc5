"""Where the speakers' faces are in the source, frame by frame."""

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
) -> Tracks:
    """Follow the speakers through a video's frames, (height, width, 3) RGB each, in which each scene is searched anew.

    Args:
        n_frames: how many frames there are at most.
        scale: the source's pixels for one of these frames'.
        scenes: the frames with which scenes begin, 0 first.
        rate: frames a second.
    """
    # Ten minutes at 60 frames a second have 135 MB of points for each speaker, so they are not copied as a whole.
    points = np.full((n_frames, n_speakers, 468, 2), np.nan, np.float32)
    index = 0
    for faces in faces_of_speakers(frames, scenes, n_speakers, finder, choose):
        for speaker, face in enumerate(faces):
            if face is not None:
                points[index, speaker] = face.points * scale
        index += 1
    points = points[:index]
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
    for number, (start, stop) in enumerate(zip(scenes, (*scenes[1:], None), strict=True)):
        scene = _until(frames, None if stop is None else stop - start)
        yield from _followed(scene, n_speakers, finder, partial(choose, number))


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


def _until(frames: Iterator[NDArray[np.uint8]], n_frames: int | None) -> Iterator[NDArray[np.uint8]]:
    """The next frames, so many or all of them."""
    while n_frames is None or n_frames > 0:
        frame = next(frames, None)
        if frame is None:
            return
        yield frame
        n_frames = None if n_frames is None else n_frames - 1
