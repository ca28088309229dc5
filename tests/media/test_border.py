"""Pictures and videos that are shown as a whole, with a border."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infinitetalk.media.border import add_border
from infinitetalk.media.image import load_image
from infinitetalk.media.video import SourceVideo
from infinitetalk.shapes import PADDED, within_border
from tests.support.media_samples import X264, ffmpeg

SHAPES = [((300, 500), (848, 480)), ((500, 300), (480, 848)), ((3000, 500), (640, 640)), ((31, 900), (736, 560))]


@pytest.mark.parametrize(("source", "target"), SHAPES)
def test_a_whole_source_lies_in_the_middle_as_large_as_it_can(source: tuple[int, int], target: tuple[int, int]) -> None:
    x0, y0, x1, y1 = within_border(source, target)
    width, height = x1 - x0, y1 - y0
    assert width % 2 == height % 2 == 0
    assert width == target[0] or height == target[1]
    assert abs(target[0] - x1 - x0) <= 1 and abs(target[1] - y1 - y0) <= 1
    scale = min(target[0] / source[0], target[1] / source[1])
    assert abs(width - source[0] * scale) <= 1 and abs(height - source[1] * scale) <= 1


def test_the_border_goes_on_from_the_edge_and_has_nothing_in_it() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 32, 3), dtype=np.uint8)
    wide = add_border(pixels, (97, 48))
    assert wide.shape == (48, 97, 3)
    np.testing.assert_array_equal(wide[:, 32:64], pixels)
    far, near = wide[:, :8].astype(float), wide[:, 31].astype(float)
    assert np.abs(far[:, 1:] - far[:, :-1]).max() <= 1, "nothing is seen along a line"
    assert np.corrcoef(near.ravel(), pixels[:, :4].mean(1).ravel())[0, 1] > 0.9, "it begins as the edge is"
    assert far.std() < pixels.std() / 4
    turned = add_border(pixels.swapaxes(0, 1).copy(), (48, 97))
    np.testing.assert_array_equal(turned, wide.swapaxes(0, 1))
    assert add_border(pixels, (32, 48)) is pixels


def test_a_padded_picture_is_whole_and_undistorted(tmp_path: Path) -> None:
    y, x = np.mgrid[:300, :500]
    circle = np.where((x - 249.5) ** 2 + (y - 149.5) ** 2 < 140**2, 0, 255).astype(np.uint8)
    Image.fromarray(circle).save(tmp_path / "circle.png")
    shown = load_image(tmp_path / "circle.png", "image_url", 480, 848, PADDED).pixels
    assert shown.shape == (848, 480, 3)
    y, x = np.mgrid[:848, :480]
    expected = (x - 239.5) ** 2 + (y - 423.5) ** 2 < (140 * 480 / 500) ** 2
    assert ((shown[..., 0] < 128) == expected).mean() > 0.999


def test_a_padded_videos_frames_have_the_border_of_a_picture(tmp_path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "testsrc2=d=0.4:r=25:s=320x180", *X264, "-crf", "4", tmp_path / "film.mp4")
    video = SourceVideo.look(tmp_path / "film.mp4", "video_url", 96, 160).ready(PADDED)
    x0, y0, x1, y1 = within_border((320, 180), (96, 160))
    frames = list(video.clip(0, 10))
    whole = video.whole(96)
    assert whole.shape[1::-1] == (x1 - x0, y1 - y0)
    assert np.abs(frames[0][y0:y1, x0:x1].astype(int) - whole).mean() < 3
    for frame in frames:
        np.testing.assert_array_equal(frame, add_border(frame[y0:y1, x0:x1], (96, 160)))
