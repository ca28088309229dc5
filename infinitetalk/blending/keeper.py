"""Windows of generated frames become frames of the source in which the speakers' faces are generated."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from infinitetalk.blending.blend import ColorMatch, Region, blend
from infinitetalk.blending.canvas import Canvas, Frame, sampled
from infinitetalk.blending.geometry import (
    OVAL,
    STEADY,
    Floats,
    Warp,
    mismatch,
    similarity,
    smooth,
)
from infinitetalk.blending.regions import crop_region, face_region, person_region
from infinitetalk.blending.tracks import RAMP_S, Tracks
from infinitetalk.faces.finder import Face, FaceFinder
from infinitetalk.planning.windows import Window

# How far the points of a generated face may be from the source's, after a turn, a move and a change of size, in
# faces. Beyond, the head is turned another way, and its face would not fit the head around it. At 0.019 a drawn face
# shows a sliver of a second cheek, at 0.025 a photographed one shows nothing.
MAX_MISMATCH = 0.02
_WARP_S = 0.08  # over which the way from a generated face to the source's is smoothed
_COLOR_S = 0.25  # within which colours follow the ring's
_BRIDGE_S = 0.5  # between two stretches that are generated as a whole, the frames between them are, too


class Source(Protocol):
    """What is kept: a video or a picture at the size and rate of the result."""

    @property
    def canvas(self) -> Canvas: ...

    @property
    def rate(self) -> Fraction: ...

    @property
    def is_still(self) -> bool: ...

    def frames_until(self, clip_frame: int) -> int:
        """How many of the result's frames come before that frame of the clip at 25 a second."""
        ...

    def clip_frame(self, index: int) -> int:
        """The clip's frame that is shown with that frame of the result."""
        ...

    def stored_index(self, index: int) -> int:
        """The source's own frame that is shown then; the source may be shorter."""
        ...

    def frames(self, start: int, n_frames: int) -> Iterator[Frame]:
        """Frames that may be written into."""
        ...


@dataclass
class State:
    """What a window leaves for the next one.

    Args:
        shifts: for each speaker, and then for the whole frame, the `ColorMatch.shift`.
        since: frames of the result since one was to be generated as a whole; None if there was none in the scene.
        whole: (first, last) of the stretches of this window that are generated as a whole, in frames of the result.
        share: how far the last frame was generated as a whole; None where a scene begins.
    """

    shifts: list[list[float] | None]
    since: int | None = None
    whole: list[tuple[int, int]] = field(default_factory=list)
    share: float | None = None

    def to_bytes(self) -> bytes:
        """As it is kept with a window."""
        return json.dumps([self.shifts, self.since, self.whole, self.share]).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> "State":
        """The other way; numbers are exact."""
        shifts, since, whole, share = json.loads(content)
        return cls(shifts, since, [(first, last) for first, last in whole], share)


@dataclass(frozen=True)
class _Moment:
    """One frame of the result, decided. For each speaker: region, warp and strength; none where nobody is seen."""

    generated: int  # the frame of the window
    regions: tuple[tuple[Region, Warp, float] | None, ...]
    whole: float  # the share of the frame that is generated as a whole


class Keeper:
    """Makes the result's frames of each window, one window after the other."""

    def __init__(
        self,
        source: Source,
        tracks: Tracks,
        finder: FaceFinder,
        crop: tuple[float, float, float, float],
        windows: Sequence[Window],
        device: torch.device,
    ) -> None:
        """Begin with a clip.

        Args:
            crop: x0, y0, x1, y1 in pixels of the source: the part that is generated.
            windows: of the plan.
            device: where the finder's networks are.
        """
        self._source, self._tracks, self._finder = source, tracks, finder
        self._crop, self._windows, self._device = crop, windows, device
        self._presence = tracks.presence()
        self._n_speakers = tracks.points.shape[1]
        self._next = 0
        self._state = State([None] * (self._n_speakers + 1))
        self._whole: list[tuple[int, int]] = []

    @property
    def n_frames(self) -> int:
        """Frames of the whole result."""
        return self._source.frames_until(self._windows[-1].keep_stop)

    @property
    def is_planar(self) -> bool:
        """Whether frames are planes Y, U, V; otherwise RGB."""
        return self._source.canvas.is_planar

    @property
    def state(self) -> bytes:
        """What the next window needs to know of the last one."""
        return self._state.to_bytes()

    @property
    def whole_s(self) -> list[tuple[float, float]]:
        """Seconds from and to which all of the frame is generated, so far."""
        rate = self._source.rate
        joined: list[tuple[int, int]] = []
        for first, last in self._whole:
            if joined and first <= joined[-1][1] + 1:
                joined[-1] = (joined[-1][0], last)
            else:
                joined.append((first, last))
        return [(float(first / rate), float((last + 1) / rate)) for first, last in joined]

    def passed(self, state: bytes) -> None:
        """A window was made earlier, and left this state."""
        self._state = State.from_bytes(state)
        self._whole += self._state.whole
        self._next += 1

    def frames(self, generated: NDArray[np.uint8]) -> Iterator[Frame]:
        """The result's frames of the next window, in order; each may be used until the next one.

        Args:
            generated: (kept frames, height, width, 3) RGB.
        """
        window = self._windows[self._next]
        first, stop = (self._source.frames_until(frame) for frame in (window.keep_start, window.keep_stop))
        if window.overlap == 0:  # a scene begins
            self._state = State([None] * (self._n_speakers + 1))
        moments = self._moments(generated, window, first, stop)
        kept = float(np.exp(-1 / (_COLOR_S * float(self._source.rate))))
        matches = [ColorMatch(kept, shift) for shift in self._state.shifts]
        for moment, frame in zip(moments, self._source.frames(first, stop - first), strict=True):
            self._fill(frame, moment, generated[moment.generated], matches)
            yield frame
        self._state.shifts = [match.shift for match in matches]
        self._whole += self._state.whole
        self._next += 1

    def _fill(self, frame: Frame, moment: _Moment, picture: Frame, matches: Sequence[ColorMatch]) -> None:
        canvas = self._source.canvas
        for place, match in zip(moment.regions, matches[:-1], strict=True):
            if place is not None:
                region, warp, strength = place
                pixels = sampled(picture, warp, region.x0, region.y0, *region.depth.shape[::-1])
                blend(canvas, frame, region, pixels, strength, match)
        if moment.whole > 0:
            part = crop_region(self._crop, canvas.size)
            pixels = sampled(picture, self._base(picture), part.x0, part.y0, *part.depth.shape[::-1])
            blend(canvas, frame, part, pixels, moment.whole, matches[-1])
        else:
            matches[-1].shift = None

    def _moments(self, generated: NDArray[np.uint8], window: Window, first: int, stop: int) -> list[_Moment]:
        """Everything about the window's frames but their pixels."""
        stored = [self._source.stored_index(index) for index in range(first, stop)]
        shown = [
            min(max(self._source.clip_frame(index) - window.keep_start, 0), len(generated) - 1)
            for index in range(first, stop)
        ]
        base = self._base(generated[0])
        faces = self._followed(generated, [self._tracks.points[index] for index in stored], base)
        made = faces[shown] @ base.matrix.T + base.offset
        warps = self._warps(made, self._tracks.points[stored])
        places = [
            [
                self._place(self._tracks.points[own, speaker], there, warp, base, self._presence[own, speaker])
                for speaker, (there, warp) in enumerate(zip(row, row_warps, strict=True))
            ]
            for own, row, row_warps in zip(stored, made, warps, strict=True)
        ]
        wanted = np.array([any(place == "misfit" for place in row) for row in places], np.bool_)
        whole = self._shares(wanted, first)
        return [
            _Moment(now, tuple(place if isinstance(place, tuple) else None for place in row), float(share))
            for now, row, share in zip(shown, places, whole, strict=True)
        ]

    def _followed(self, generated: NDArray[np.uint8], known: Sequence[Floats], base: Warp) -> Floats:
        """(frames, speakers, 468, 2) points in the generated frames; NaN where a face is not seen."""
        points = np.full((len(generated), self._n_speakers, 468, 2), np.nan, np.float32)
        back = base.inverse
        firsts = {}
        for speaker in range(self._n_speakers):
            row = next((row[speaker] for row in known if np.isfinite(row[speaker, 0, 0])), None)
            if row is not None:
                there = back(row)
                (x0, y0), (x1, y1) = there.min(0).tolist(), there.max(0).tolist()
                firsts[speaker] = Face((x0, y0, x1, y1), there, 1.0)
        with _beside(self._device):
            for index, faces in enumerate(self._finder.follow(generated, list(firsts.values()))):
                for speaker, face in zip(firsts, faces, strict=True):
                    if face is not None:
                        points[index, speaker] = face.points
        return smooth(points, 1.0)

    def _warps(self, made: Floats, own: Floats) -> list[list[Warp]]:
        """For each frame and speaker, what brings the generated face to the source's; both (frames, speakers, 468, 2).

        It changes slowly: what trembles in it are the points, not the heads. So it is smoothed.
        """
        steady = list(STEADY)
        numbers = np.full((*own.shape[:2], 6), np.nan, np.float32)
        for index in np.ndindex(*own.shape[:2]):
            if np.isfinite(own[index][0, 0]) and np.isfinite(made[index][0, 0]):
                warp = similarity(made[index][steady], own[index][steady])
                numbers[index] = (*warp.matrix.ravel(), *warp.offset)
        numbers = smooth(numbers, _WARP_S * float(self._source.rate))
        return [[Warp(one[:4].reshape(2, 2), one[4:]) for one in row] for row in numbers]

    def _place(
        self, own: Floats, there: Floats, warp: Warp, base: Warp, presence: float
    ) -> "tuple[Region, Warp, float] | str | None":
        """Where one speaker is put; "misfit" where that cannot be; None where the source does not show them.

        Args:
            own, there: (468, 2) points of the source's and of the generated face, in the source's pixels.
            warp: from the latter to the former.
        """
        if not np.isfinite(own[0, 0]):
            return None
        if not np.isfinite(there[0, 0]):
            return "misfit"
        if self._source.is_still:
            person = person_region(own, self._tracks.others, self._source.canvas.size)
            x, y = np.floor(there[list(OVAL)] - (person.x0, person.y0)).astype(int).T
            rows, columns = person.depth.shape
            depth = person.depth[np.clip(y, 0, rows - 1), np.clip(x, 0, columns - 1)]
            return (person, base, 1.0) if depth.min() > person.feather / 2 else "misfit"
        if mismatch(there, own, warp) > MAX_MISMATCH:
            return "misfit"
        whole_way = Warp(
            np.asarray(warp.matrix @ base.matrix, np.float32), np.asarray(warp(base.offset[None])[0], np.float32)
        )
        region = face_region(own, warp(there), self._source.canvas.size)
        return None if region is None else (region, whole_way, float(presence))

    def _shares(self, wanted: NDArray[np.bool_], first: int) -> Floats:
        """(frames,) how far each frame is generated as a whole: 1 where that is wanted, and less on the way there."""
        rate = float(self._source.rate)
        ramp, bridge = max(1.0, RAMP_S * rate), round(_BRIDGE_S * rate)
        places = np.flatnonzero(wanted).tolist()
        if self._state.since is not None:
            places.insert(0, -1 - self._state.since)
        filled = set(places)
        for before, after in pairwise(places):
            if after - before <= bridge:
                filled |= set(range(before, after))
        away = np.full(len(wanted), np.inf)
        for place in filled:
            away = np.minimum(away, np.abs(np.arange(len(wanted)) - place))
        share = np.clip(1 - away / ramp, 0, 1).astype(np.float32)
        if self._state.share is not None:  # the window before has passed: what begins here fades in from here on
            share = np.minimum(share, self._state.share + np.arange(1, len(share) + 1, dtype=np.float32) / ramp)
        if len(share):  # at a low rate a short window may have no frame of its own
            self._state.share = float(share[-1])
        self._state.since = len(wanted) - 1 - places[-1] if places else None
        whole = np.flatnonzero(share >= 0.5)
        parts = np.split(whole, np.flatnonzero(np.diff(whole) > 1) + 1) if len(whole) else []
        self._state.whole = [(first + int(part[0]), first + int(part[-1])) for part in parts]
        return share

    def _base(self, picture: Frame) -> Warp:
        """From a generated frame's pixels to the source's."""
        x0, y0, x1, y1 = self._crop
        scale = ((x1 - x0) / picture.shape[1] + (y1 - y0) / picture.shape[0]) / 2
        return Warp(np.eye(2, dtype=np.float32) * np.float32(scale), np.array([x0, y0], np.float32))


@contextmanager
def _beside(device: torch.device) -> Iterator[None]:
    """On a GPU, a stream of its own: small networks do not wait for the transformer's passes."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.stream(torch.cuda.Stream(device, priority=-1)):
        yield
