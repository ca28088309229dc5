"""What the worker sees in a picture or in some frames of a video: as a table, as JSON, and drawn."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich import box
from rich.markup import escape
from rich.table import Table

from infinitetalk.faces.finder import MAX_SIDE, Face, FaceFinder
from infinitetalk.media.container import apparent_kind
from infinitetalk.media.image import MIN_SIDE, load_whole
from infinitetalk.media.video import SourceVideo
from infinitetalk.shapes import FPS

SAMPLED_FRAMES = 8  # of a video, evenly spread
_COLUMNS = 4  # of the drawn frames of a video
_DRAWN_WIDTH = 480  # pixels of each of them
_COLORS = ("#00e05a", "#ffb000", "#40a0ff", "#ff5fa0", "#c080ff")


@dataclass(frozen=True)
class View:
    """A picture, or a frame of a video, and its faces.

    Args:
        pixels: (height, width, 3) RGB, at most 1280 pixels long; the faces are in these pixels.
        source_size: (width, height) of the file's own picture.
        time_s: the frame's time; None for a picture.
    """

    pixels: NDArray[np.uint8]
    faces: tuple[Face, ...]
    source_size: tuple[int, int]
    time_s: float | None

    def box(self, face: Face) -> list[float]:
        """x0, y0, x1, y1 in fractions of the picture, as a job's boxes are; within 0 and 1."""
        height, width = self.pixels.shape[:2]
        return [round(min(max(at, 0), 1), 4) for at in face.fractions((width, height))]

    def size_px(self, face: Face) -> int:
        """The longer side of a face in the file's own pixels."""
        size: float = face.size * self.source_size[0] / self.pixels.shape[1]
        return round(size)


def look(path: Path, finder: FaceFinder) -> list[View]:
    """The faces of a picture, or of up to eight frames of a video, evenly spread.

    Raises MediaUnreadable or TooLarge: the file cannot be used.
    """
    if apparent_kind(path) != "a sound or video":
        picture = load_whole(path, str(path), MAX_SIDE)
        return [View(picture.pixels, finder.find(picture.pixels), picture.source_size, None)]
    video = SourceVideo.look(path, str(path), MIN_SIDE, MIN_SIDE)
    views = []
    for index in np.unique(np.linspace(0, video.n_frames - 1, SAMPLED_FRAMES).round().astype(int)).tolist():
        pixels = video.whole(MAX_SIDE, index)
        views.append(View(pixels, finder.find(pixels), video.source_size, index / FPS))
    return views


def to_json(views: list[View]) -> dict[str, Any]:
    """The size of the file's picture in pixels, and what each view shows."""
    width, height = views[0].source_size
    found = [
        ({} if view.time_s is None else {"time_s": view.time_s})
        | {
            "faces": [
                {
                    "index": index,
                    "box": view.box(face),
                    "quality": round(face.presence, 3),
                    "size_px": view.size_px(face),
                }
                for index, face in enumerate(view.faces)
            ]
        }
        for view in views
    ]
    return {"width": width, "height": height} | (found[0] if views[0].time_s is None else {"frames": found})


def table(views: list[View], name: str) -> Table:
    """One line for each face; for a frame without any, one that says so."""
    is_video = views[0].time_s is not None
    width, height = views[0].source_size
    shown = Table(
        *(("time",) if is_video else ()),
        *("face", "box (fractions)", "quality", "size"),
        title=escape(f"{name}: {width}x{height}"),
        caption="Faces from left to right. Quality: how sure the points on the face are, at most 1.",
        box=box.SIMPLE,
    )
    for view in views:
        time = (f"{view.time_s:.2f} s",) if view.time_s is not None else ()
        for index, face in enumerate(view.faces):
            place = ", ".join(f"{at:.3f}" for at in view.box(face))
            shown.add_row(*time, str(index), place, f"{face.presence:.3f}", f"{view.size_px(face)} px")
        if not view.faces:
            shown.add_row(*time, "none")
    return shown


def drawn(views: list[View]) -> Image.Image:
    """The picture, or the frames side by side, with each face's number, box and points."""
    tiles = [_drawn(view) for view in views]
    if len(tiles) == 1:
        return tiles[0]
    height = round(_DRAWN_WIDTH * tiles[0].height / tiles[0].width)
    columns = min(_COLUMNS, len(tiles))
    sheet = Image.new("RGB", (columns * _DRAWN_WIDTH, -(-len(tiles) // columns) * height))
    for number, tile in enumerate(tiles):
        place = (number % columns * _DRAWN_WIDTH, number // columns * height)
        sheet.paste(tile.resize((_DRAWN_WIDTH, height), Image.Resampling.LANCZOS), place)
    return sheet


def _drawn(view: View) -> Image.Image:
    image = Image.fromarray(view.pixels)
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(max(12, max(image.size) // 28))
    line = max(1, round(max(image.size) / 400))
    for index, face in enumerate(view.faces):
        color = _COLORS[index % len(_COLORS)]
        pen.rectangle(face.box, outline=color, width=line)
        dot = face.size / 250
        for x, y in face.points.tolist():
            pen.ellipse((x - dot, y - dot, x + dot, y + dot), fill=color)
        corner = (max(0.0, face.box[0]) + 2 * line, max(0.0, face.box[1]) + line)
        pen.text(corner, str(index), fill=color, font=font, stroke_width=1, stroke_fill="black")
    if view.time_s is not None:
        pen.text((6, 4), f"{view.time_s:.2f} s", fill="white", font=font, stroke_width=1, stroke_fill="black")
    return image
