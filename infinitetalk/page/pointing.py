"""Where the speakers are in the page's picture: faces that were found, and boxes that are drawn by two clicks.

A click on a face gives it to a voice. A click elsewhere is the first corner of a box, and the next one the other.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from infinitetalk.contract.values import Box
from infinitetalk.faces.finder import MAX_SIDE, FaceFinder
from infinitetalk.media.container import apparent_kind
from infinitetalk.media.image import MIN_SIDE, load_whole
from infinitetalk.media.video import SourceVideo

VOICES = 2
COLORS = ("#0ea5e9", "#f97316")  # of the voices
_FOUND = "#f8fafc"
_SMALLEST = 0.02  # of a box's sides, in fractions of the picture; less is a slip of the hand
_DIGITS = 4

Point = tuple[float, float]  # in fractions of the picture
Place = int | Box  # a face, counted from left to right, or a box in fractions of the picture


@dataclass(frozen=True)
class Pointing:
    """A picture, or a video's first frame, and who of the voices is where.

    Args:
        pixels: (height, width, 3) RGB, at most 1280 pixels long.
        faces: boxes of those that were found, from left to right.
        places: of the voices; None where the worker is to decide.
        corner: the first one of a box that is being drawn.
    """

    pixels: NDArray[np.uint8]
    faces: tuple[Box, ...]
    places: tuple[Place | None, ...] = (None,) * VOICES
    corner: Point | None = None

    @classmethod
    def at(cls, path: Path, field: str, finder: FaceFinder | None) -> "Pointing":
        """Look at a file.

        Args:
            field: names the file in errors.
            finder: None where faces cannot be found.

        Raises MediaUnreadable or TooLarge: the file cannot be used.
        """
        if apparent_kind(path) == "a sound or video":
            pixels = SourceVideo.look(path, field, MIN_SIDE, MIN_SIDE).whole(MAX_SIDE, 0)
        else:
            pixels = load_whole(path, field, MAX_SIDE).pixels
        height, width = pixels.shape[:2]
        faces = () if finder is None else finder.find(pixels)
        return cls(pixels, tuple(_within(face.fractions((width, height))) for face in faces))

    def clicked(self, x: int, y: int, voice: int) -> "Pointing":
        """What follows from a click at a pixel.

        Args:
            voice: whose place it is about, from 0.
        """
        height, width = self.pixels.shape[:2]
        point = round(min(max(x / width, 0.0), 1.0), _DIGITS), round(min(max(y / height, 0.0), 1.0), _DIGITS)
        if self.corner is None:
            hit = [index for index, box in enumerate(self.faces) if _holds(box, point)]
            return self._placed(voice, hit[0]) if hit else replace(self, corner=point)
        (x0, x1), (y0, y1) = (sorted(pair) for pair in zip(self.corner, point, strict=True))
        if x1 - x0 < _SMALLEST or y1 - y0 < _SMALLEST:
            return replace(self, corner=None)
        return self._placed(voice, (x0, y0, x1, y1))

    def cleared(self) -> "Pointing":
        """The same picture, in which the worker decides."""
        return Pointing(self.pixels, self.faces)

    def drawn(self) -> Image.Image:
        """The picture with the faces that were found, and the voices' places."""
        image = Image.fromarray(self.pixels)
        pen = ImageDraw.Draw(image)
        line = max(2, round(max(image.size) / 300))
        font = ImageFont.load_default(max(14, max(image.size) // 30))
        owned = {place: voice for voice, place in enumerate(self.places) if isinstance(place, int)}
        for index, face in enumerate(self.faces):
            if index in owned:
                self._frame(pen, face, f"Voice {owned[index] + 1}", COLORS[owned[index]], 2 * line, font)
            else:
                self._frame(pen, face, f"Face {index + 1}", _FOUND, line, font)
        for voice, place in enumerate(self.places):
            if isinstance(place, tuple):
                self._frame(pen, place, f"Voice {voice + 1}", COLORS[voice], 2 * line, font)
        if self.corner is not None:
            x, y = self.corner[0] * image.width, self.corner[1] * image.height
            pen.ellipse((x - 3 * line, y - 3 * line, x + 3 * line, y + 3 * line), fill=_FOUND, outline="black")
        return image

    def _placed(self, voice: int, place: Place) -> "Pointing":
        """A voice in its place; one face has one voice."""
        kept = [None if other == place else other for other in self.places]
        kept[voice] = place
        return replace(self, places=tuple(kept), corner=None)

    def _frame(
        self,
        pen: ImageDraw.ImageDraw,
        box: Box,
        name: str,
        color: str,
        line: int,
        font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    ) -> None:
        height, width = self.pixels.shape[:2]
        edges = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
        pen.rectangle(edges, outline=color, width=line)
        corner = (edges[0] + 2 * line, edges[1] + line)
        pen.text(corner, name, fill=color, font=font, stroke_width=2, stroke_fill="black")


def _within(box: tuple[float, ...]) -> Box:
    x0, y0, x1, y1 = (round(min(max(edge, 0.0), 1.0), _DIGITS) for edge in box)
    return x0, y0, x1, y1


def _holds(box: Box, point: Point) -> bool:
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]
