"""Contact sheets: valid JPEGs that always fit into a report of progress."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infinitetalk.media.encode import VideoWriter
from infinitetalk.media.sheet import MOST_CHARS, contact_sheet
from tests.support.streams import write_pieces


def opened(sheet: str) -> Image.Image:
    head, _, content = sheet.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(content, validate=True)))


@pytest.mark.parametrize(
    ("size", "n_frames", "sheet_size"),
    [((160, 96), 29, (640, 192)), ((96, 160), 29, (768, 160)), ((96, 160), 3, (288, 160)), ((160, 96), 1, (160, 96))],
)
def test_a_sheet_has_frames_from_the_first_to_the_last(
    size: tuple[int, int], n_frames: int, sheet_size: tuple[int, int], tmp_path: Path
) -> None:
    (piece,) = write_pieces(tmp_path, [n_frames], size)
    sheet = opened(contact_sheet(piece, size))
    assert sheet.format == "JPEG"
    assert sheet.size == sheet_size
    grey = np.asarray(sheet.convert("L"), float)
    (width, height), (columns, rows) = size, (sheet_size[0] // size[0], sheet_size[1] // size[1])
    levels = grey.reshape(rows, height, columns, width).mean(axis=(1, 3)).flatten()
    np.testing.assert_allclose(levels, 20 + np.linspace(0, n_frames - 1, len(levels)), atol=2.5)


def test_even_noise_fits(tmp_path: Path) -> None:
    size, rng = (1280, 720), np.random.default_rng(0)
    with VideoWriter(tmp_path / "unused.mp4", *size) as writer:
        piece = tmp_path / "piece.mp4"
        piece.write_bytes(writer.pack(rng.integers(0, 256, (8, 720, 1280, 3), np.uint8)))
    sheet = contact_sheet(piece, size)
    assert len(sheet) <= MOST_CHARS
    opened(sheet).load()
