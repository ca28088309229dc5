"""Decoded frames brought to the video's size: deinterlaced where they are marked, upright, cropped, RGB."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import atan2, degrees
from struct import unpack

import numpy as np
from av import VideoFrame
from av.filter import Graph
from av.sidedata.sidedata import Type
from numpy.typing import NDArray

from infinitetalk.media.border import add_border
from infinitetalk.shapes import CENTRE, Crop, within_border

# Players take untagged video of at least this height for BT.709, below it for BT.601.
HD_HEIGHT = 720
UNSPECIFIED = 2  # ITU-T H.273


def turns(frame: VideoFrame) -> list[str]:
    """The filters that turn a frame upright, by its display matrix, as ffmpeg chooses them."""
    data = frame.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]  # the stub knows names only
    if data is None:
        return []
    a, b, _, c, d, *_ = unpack("=9i", bytes(data)[:36])
    angle = round(degrees(atan2(b, a))) % 360 if a or b else 0
    if angle in (89, 90, 91):
        return ["transpose=cclock_flip" if c > 0 else "transpose=clock"]
    if angle in (179, 180, 181):
        return [name for name, value in (("hflip", a), ("vflip", d)) if value < 0]
    if angle in (269, 270, 271):
        return ["transpose=clock_flip" if c < 0 else "transpose=cclock"]
    if angle in (0, 1, 359):
        return ["vflip"] if d < 0 else []
    return [f"rotate={angle}*PI/180"]


def shown_size(frame: VideoFrame, aspect: Fraction) -> tuple[int, int]:
    """(width, height) of a frame as it is displayed: upright, square pixels.

    Args:
        aspect: a stored pixel's width divided by its height.
    """
    width, height = frame.width, frame.height
    if any(turn.startswith("transpose") for turn in turns(frame)):
        width, height, aspect = height, width, 1 / aspect
    return round(width * aspect), height


class Filtered(ABC):
    """Frames of a video, filtered one by one; their size may change from one to the next."""

    def __init__(self) -> None:
        self._graphs: dict[tuple[object, ...], Graph] = {}

    @abstractmethod
    def filters(self, frame: VideoFrame) -> Iterator[str]:
        """The filters for frames of this kind, in their order."""

    def fit(self, frame: VideoFrame, before: VideoFrame | None, after: VideoFrame | None) -> NDArray[np.uint8]:
        """A frame as its filters leave it; its neighbours serve to deinterlace it, where it is marked so."""
        if frame.interlaced_frame:
            frame = deinterlaced(frame, before, after)
        key = kind_of(frame), tuple(turns(frame))
        if key not in self._graphs:
            self._graphs = {key: chain_of(frame, list(self.filters(frame)))}  # one is held: sizes seldom change
        graph = self._graphs[key]
        graph.push(frame)
        return np.asarray(graph.pull().to_ndarray(), np.uint8)


class Fitter(Filtered):
    """Fits a part of a video's frames to one size: `fit` gives (height, width, 3) uint8 RGB."""

    def __init__(self, width: int, height: int, aspect: Fraction, crop: Crop = CENTRE) -> None:
        """Prepare for frames of one shape.

        Args:
            aspect: a stored pixel's width divided by its height.
            crop: where the part lies, as in `shapes.cover_crop`.
        """
        super().__init__()
        self.size = width, height
        self._crop = crop
        self._aspect = aspect

    def fit(self, frame: VideoFrame, before: VideoFrame | None, after: VideoFrame | None) -> NDArray[np.uint8]:
        """As `Filtered.fit`, with a border where all of the frame is shown."""
        return add_border(super().fit(frame, before, after), self.size)

    def filters(self, frame: VideoFrame) -> Iterator[str]:
        """Upright, resized until it covers the size, RGB, cropped; or resized until the size holds it."""
        own = shown_size(frame, self._aspect)
        if self._crop is None:
            x0, y0, x1, y1 = within_border(own, self.size)
            cover = [x1 - x0, y1 - y0]
        else:
            scale = max(side / shown for side, shown in zip(self.size, own, strict=True))
            cover = [max(side, round(shown * scale)) for side, shown in zip(self.size, own, strict=True)]
        is_hd = int(frame.colorspace) == UNSPECIFIED and frame.height >= HD_HEIGHT
        matrix = "bt709" if is_hd else "auto"
        yield from turns(frame)
        yield f"scale={cover[0]}:{cover[1]}:flags=lanczos+accurate_rnd+full_chroma_int:in_color_matrix={matrix}"
        yield "format=rgb24"
        if self._crop is not None:
            yield f"crop={self.size[0]}:{self.size[1]}:(in_w-out_w)*{self._crop}:(in_h-out_h)*{self._crop}"


def deinterlaced(frame: VideoFrame, before: VideoFrame | None, after: VideoFrame | None) -> VideoFrame:
    """The frame with both fields from one moment, by what the frames around it show."""
    around = [other for other in (before, frame, after) if other is not None and kind_of(other) == kind_of(frame)]
    graph = chain_of(frame, ["bwdif=mode=send_frame:deint=all"])
    for other in [*around, None]:
        graph.push(other)
    for _ in range(around.index(frame)):
        graph.pull()
    shown = graph.pull()
    assert isinstance(shown, VideoFrame)
    return shown


def chain_of(frame: VideoFrame, filters: Sequence[str]) -> Graph:
    """A graph of filters one after the other, for frames of this kind."""
    graph = Graph()
    tick_s = frame.time_base or Fraction(1, 1000)
    last = graph.add(
        "buffer",
        f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base={tick_s}"
        f":colorspace={int(frame.colorspace)}:range={int(frame.color_range)}",
    )
    for text in filters:
        name, _, arguments = text.partition("=")
        step = graph.add(name, arguments)
        last.link_to(step)
        last = step
    last.link_to(graph.add("buffersink"))
    graph.configure()
    return graph


def kind_of(frame: VideoFrame) -> tuple[object, ...]:
    """What a graph of filters is made for."""
    return (
        *(frame.width, frame.height, frame.format.name, frame.time_base),
        *(int(frame.colorspace), int(frame.color_range)),
    )
