"""`keep: speakers`: the source as it is kept, the speakers' faces in it, and what the caller is told of them."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import torch

from infinitetalk.blending.canvas import Canvas, Frame
from infinitetalk.blending.keeper import Keeper, Source
from infinitetalk.blending.tracks import Tracks, follow_speakers
from infinitetalk.contract.request import Request
from infinitetalk.errors import InvalidInput, ModelMissing
from infinitetalk.faces.finder import Face, FaceFinder
from infinitetalk.faces.networks import INSTALL
from infinitetalk.media.image import Picture
from infinitetalk.media.original import Original
from infinitetalk.media.video import SourceVideo
from infinitetalk.planning.framing import MIN_SHOWN, Box, holds, share, shown_part
from infinitetalk.planning.plan import Plan, VideoShape
from infinitetalk.planning.windows import Window
from infinitetalk.shapes import FPS, Crop, cover_crop, whole_size

Boxes = Sequence[Box | None]
Check = Callable[[], object]

_LONGEST_PX = 1280  # of the frames in which faces are followed
_LEAST_UNSEEN_S = 0.4  # shorter times without a face are not told
_MAX_TOLD = 6


@dataclass(frozen=True)
class KeptVideo:
    """A source video as a `keeper.Source`.

    Args:
        starts: for the clip's frames with which scenes begin, the result's frames with which they do.
    """

    original: Original
    check: Check
    starts: Mapping[int, int] = field(default_factory=dict)

    is_still = False

    @property
    def canvas(self) -> Canvas:
        """See `keeper.Source`."""
        colors = self.original.colors
        return Canvas.yuv(self.original.size, colors.meant, colors.range)

    @property
    def rate(self) -> Fraction:
        """Frames a second."""
        return self.original.rate

    def frames_until(self, clip_frame: int) -> int:
        """See `keeper.Source`."""
        return self.starts.get(clip_frame, self.original.frames_until(clip_frame))

    def clip_frame(self, index: int) -> int:
        """See `keeper.Source`."""
        return self.original.clip_frame(index)

    def stored_index(self, index: int) -> int:
        """See `keeper.Source`."""
        return self.original.stored_index(index)

    def frames(self, start: int, n_frames: int) -> Iterator[Frame]:
        """See `keeper.Source`."""
        for frame in self.original.planes(start, n_frames, self.check):
            yield frame.copy()  # one may be shown several times


@dataclass(frozen=True)
class KeptPicture:
    """A picture, as the video shows it, as a `keeper.Source`."""

    picture: Picture

    is_still = True
    rate = Fraction(FPS)

    @property
    def canvas(self) -> Canvas:
        """See `keeper.Source`."""
        height, width = self.picture.pixels.shape[:2]
        return Canvas.rgb((width, height))

    def frames_until(self, clip_frame: int) -> int:
        """See `keeper.Source`."""
        return clip_frame

    def clip_frame(self, index: int) -> int:
        """See `keeper.Source`."""
        return index

    def stored_index(self, _index: int) -> int:
        """See `keeper.Source`."""
        return 0

    def frames(self, _start: int, n_frames: int) -> Iterator[Frame]:
        """See `keeper.Source`."""
        for _ in range(n_frames):
            yield self.picture.pixels.copy()


@dataclass(frozen=True)
class Keeping:
    """What is kept of a job's source.

    Args:
        crop: x0, y0, x1, y1 in the source's pixels: the part that is generated.
        shape: of the result.
        warnings: when speakers' faces are not seen.
    """

    source: KeptVideo | KeptPicture
    tracks: Tracks
    finder: FaceFinder
    crop: tuple[float, float, float, float]
    shape: VideoShape
    warnings: tuple[str, ...]

    @property
    def original(self) -> Original | None:
        """The video that is kept; None for a picture."""
        return self.source.original if isinstance(self.source, KeptVideo) else None

    def keeper(self, windows: Sequence[Window], device: torch.device) -> Keeper:
        """What makes the result's frames."""
        source: Source = self.source
        return Keeper(source, self.tracks, self.finder, self.crop, windows, device)


def check_keep(request: Request, faces: FaceFinder | None) -> None:
    """Raise ModelMissing where the speakers' faces are to be found and nothing can find them."""
    if request.keep == "speakers" and faces is None:
        raise ModelMissing(
            "keep is speakers, which needs the networks that find faces, and this worker does not have them: "
            f"`{INSTALL}` brings them; or set keep to all."
        )


def keep_speakers(
    footage: Picture | SourceVideo,
    plan: Plan,
    boxes: Sequence[Boxes],
    crop: Crop,
    source_cuts: Sequence[int],
    finder: FaceFinder,
    check: Check,
) -> Keeping:
    """Find the speakers' faces in the source.

    Args:
        boxes: of the speakers in each scene, in fractions of the source; None: side by side.
        crop: where the generated part lies, as `shapes.cover_crop` takes it.
        source_cuts: the source's frames, at 25 a second, with which scenes begin.
        check: asked while frames are waited for.

    Raises:
        InvalidInput: no speaker's face is found anywhere.
    """
    if isinstance(footage, Picture):
        return _keep_in_picture(footage, boxes[0], finder, crop, plan)
    original = Original.of(footage)
    source = KeptVideo(original, check)
    shape = VideoShape(original.size, original.rate, original.frames_until(plan.n_frames))
    small = whole_size(original.size, _LONGEST_PX)
    n_frames = min(shape.n_frames, original.n_frames)
    # The clip sees a cut with its next frame: at other rates the source's own is one of those since the frame before.
    cuts = [cut for cut in source_cuts if 0 < original.frames_until(cut) < n_frames]
    scenes = (0, *map(original.frames_until, cuts))
    earliest = (0, *(max(1, original.frames_until(cut - 1)) for cut in cuts))
    shown = shown_part(original.size, plan.size, crop)

    def choose(scene: int, found: Sequence[Face], size: tuple[int, int]) -> list[Face | None]:
        found = [face for face in found if share(face.fractions(size), shown) >= MIN_SHOWN]  # others are not generated
        return speakers_among(found, boxes[min(scene, len(boxes) - 1)], size)

    tracks = follow_speakers(
        original.pictures(n_frames, small, check),
        n_frames,
        original.size[0] / small[0],
        scenes,
        len(boxes[0]),
        finder,
        choose,
        float(original.rate),
        scenes if original.rate == FPS else earliest,
    )
    source = replace(source, starts=_starts(original, plan.windows, tracks.scenes))
    if not tracks.seen.any():
        raise _nobody("video_url")
    area = cover_crop(original.size, plan.size, crop)
    return Keeping(source, tracks, finder, area, shape, tuple(_unseen(tracks)))


def _starts(original: Original, windows: Sequence[Window], scenes: Sequence[int]) -> dict[int, int]:
    """For the clip's frames with which scenes begin, the result's frames with which they do.

    Args:
        scenes: the source's own frames with which scenes begin.
    """
    starts = {}
    for cut in (window.keep_start for window in windows if window.overlap == 0 and window.keep_start > 0):
        near = range(max(1, original.frames_until(cut - 1)), original.frames_until(cut + 1) + 1)
        shown = [original.stored_index(index) for index in range(near.start - 1, near.stop)]
        changes = [
            index
            for index, (before, now) in zip(near, pairwise(shown), strict=True)
            if abs(now - before) > 1 or bisect_right(scenes, before) != bisect_right(scenes, now)
        ]
        usual = original.frames_until(cut)
        starts[cut] = min(changes, key=lambda index: abs(index - usual), default=usual)
    return starts


def _keep_in_picture(picture: Picture, boxes: Boxes, finder: FaceFinder, crop: Crop, plan: Plan) -> Keeping:
    height, width = picture.pixels.shape[:2]
    found = finder.find(picture.pixels)
    area = cover_crop(picture.source_size, (width, height), crop)
    chosen = speakers_among(found, [in_part(box, picture.source_size, area) for box in boxes], (width, height))
    if not any(chosen):
        raise _nobody("image_url")
    missing = np.full((468, 2), np.nan, np.float32)
    points = np.stack([missing if face is None else face.points for face in chosen])[None]
    others = tuple(face.box for face in found if not any(face is one for one in chosen))
    others += tuple(face.box for face in chosen if face is not None)
    tracks = Tracks(points, float(FPS), (0,), others)
    unseen = () if all(chosen) else ("keep: not every speaker's face is found in image_url; the others stay still.",)
    frame = (0.0, 0.0, float(width), float(height))
    return Keeping(KeptPicture(picture), tracks, finder, frame, plan.shape, unseen)


def in_part(box: Box | None, source: tuple[int, int], part: tuple[float, float, float, float]) -> Box | None:
    """A box in fractions of a part of the source."""
    if box is None:
        return None
    x0, y0, x1, y1 = part
    wide, high = x1 - x0, y1 - y0
    return (
        (box[0] * source[0] - x0) / wide,
        (box[1] * source[1] - y0) / high,
        (box[2] * source[0] - x0) / wide,
        (box[3] * source[1] - y0) / high,
    )


def speakers_among(found: Sequence[Face], boxes: Boxes, size: tuple[int, int]) -> list[Face | None]:
    """The face of each speaker: the largest whose middle is in their box, or in their column of the picture."""
    chosen: list[Face | None] = []
    for number, given in enumerate(boxes):
        box = given or (number / len(boxes), 0.0, (number + 1) / len(boxes), 1.0)
        inside = [face for face in found if holds(box, face.fractions(size)) and face not in chosen]
        chosen.append(max(inside, key=lambda face: face.size, default=None))
    return chosen


def _nobody(field: str) -> InvalidInput:
    return InvalidInput(
        f"keep is speakers, but no speaker's face is found in {field}: send one in which the face is larger or turned "
        "to the camera, choose another box, face or aspect_ratio (what it cuts off is not made), or set keep to all."
    )


def _unseen(tracks: Tracks) -> Iterator[str]:
    """When a speaker's face is not seen for long."""
    for speaker in range(tracks.seen.shape[1]):
        hidden = np.flatnonzero(~tracks.seen[:, speaker])
        parts = np.split(hidden, np.flatnonzero(np.diff(hidden) > 1) + 1) if len(hidden) else []
        times = [(part[0] / tracks.rate, (part[-1] + 1) / tracks.rate) for part in parts]
        times = [(start, stop) for start, stop in times if stop - start >= _LEAST_UNSEEN_S]
        if times:
            who = "the speaker's face" if tracks.seen.shape[1] == 1 else f"the face of speaker {speaker + 1}"
            yield f"keep: {who} is not seen in video_url at {told_seconds(times)}; there the video stays as it is."


def told_seconds(times: Sequence[tuple[float, float]]) -> str:
    """Stretches of time in words."""
    shown = ", ".join(f"{start:.2f}-{stop:.2f}" for start, stop in times[:_MAX_TOLD])
    more = f" and {len(times) - _MAX_TOLD} times more" if len(times) > _MAX_TOLD else ""
    return f"{shown} s{more}"


def told_whole(keeper: Keeper, keeping: Keeping) -> list[str]:
    """A warning of when all of the frame had to be generated."""
    times, shape = keeper.whole_s, keeping.shape
    if not times:
        return []
    part = sum(stop - start for start, stop in times) / float(shape.n_frames / shape.rate)
    when = f"keep: at {told_seconds(times)}, {part:.0%} of the video,"
    if keeping.original is None:
        return [
            f"{when} a generated head leaves the part of the picture that is the speaker's, or is not seen; there all "
            "of the frame is generated."
        ]
    advice = " A video_strength below 1 keeps heads closer to the source's." if part > 1 / 4 else ""
    return [
        f"{when} a generated head is turned another way than the source's and would not fit into it, or is not seen; "
        f"there all of the generated part is shown.{advice}"
    ]
