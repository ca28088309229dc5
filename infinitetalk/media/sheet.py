"""A contact sheet: some frames of a window side by side, small enough to stand in a report of progress."""

import base64
import io
import math
from pathlib import Path

from PIL import Image

from infinitetalk.media.encode import count_frames
from infinitetalk.media.ffmpeg import run

MOST_CHARS = 60_000
_TILES = 8
_TILE_PIXELS = 160 * 284  # of one frame
_HEAD = "data:image/jpeg;base64,"


def contact_sheet(piece: Path, size: tuple[int, int]) -> str:
    """Frames of a piece, as `VideoWriter.pack` gives it, from its first to its last: a JPEG as a data: URI.

    Args:
        size: (width, height) of the frames.

    Raises FfmpegError.
    """
    n_frames = count_frames(piece)
    tiles = min(_TILES, n_frames)
    width, height = size
    factor = min(1.0, math.sqrt(_TILE_PIXELS / (width * height)))
    columns = min(tiles, 4 if width > height else 8)
    chosen = "+".join(f"eq(n,{round(i * (n_frames - 1) / max(tiles - 1, 1))})" for i in range(tiles))
    filters = f"select='{chosen}',scale={round(width * factor)}:{round(height * factor)}:flags=area"
    tiled = f"{filters},tile={columns}x{math.ceil(tiles / columns)}"
    png = run(
        *["-threads", "1", "-i", f"file:{piece}", "-vf", tiled, "-frames:v", "1", "-fps_mode", "passthrough"],
        *["-f", "image2pipe", "-c:v", "png", "pipe:1"],
        gently=True,
    )
    with Image.open(io.BytesIO(png)) as sheet:
        return _within(sheet.convert("RGB"))


def _within(sheet: Image.Image) -> str:
    """The sheet as the best JPEG that may stand in a report."""
    while True:
        for quality in (80, 65, 50, 35):
            jpeg = io.BytesIO()
            sheet.save(jpeg, "JPEG", quality=quality)
            told = _HEAD + base64.b64encode(jpeg.getvalue()).decode("ascii")
            if len(told) <= MOST_CHARS:
                return told
        sheet = sheet.reduce(2)
