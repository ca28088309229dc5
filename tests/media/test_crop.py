"""Which part of a picture or video is given out, and the whole of it."""

from pathlib import Path

import av
import numpy as np
import pytest
from av import VideoFrame
from PIL import Image

from infinitetalk.media import video as video_module
from infinitetalk.media.image import load_image, load_whole
from infinitetalk.media.video import SourceVideo
from infinitetalk.shapes import cover_crop, whole_size

WIDTH, HEIGHT = 320, 96  # shown at 96x96, a part has 30 % of the width
SHADES = np.linspace(0, 255, WIDTH).round().astype(np.uint8)


def ramp() -> np.ndarray:
    """A picture that is darker on the left and brighter on the right."""
    return np.repeat(np.broadcast_to(SHADES, (HEIGHT, WIDTH))[..., None], 3, axis=2).copy()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.fromarray(ramp()).save(tmp_path / "ramp.png")
    return tmp_path / "ramp.png"


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "ramp.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264rgb", rate=25, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "rgb24"
        for _ in range(3):
            file.mux(stream.encode(VideoFrame.from_ndarray(ramp(), format="rgb24")))
        file.mux(stream.encode(None))
    return path


def columns(crop: float) -> np.ndarray:
    x0, _, x1, _ = cover_crop((WIDTH, HEIGHT), (96, 96), crop)
    return SHADES[round(x0) : round(x1)].astype(int)


@pytest.mark.parametrize("crop", [0.0, 0.25, 0.5, 1.0])
def test_a_part_of_a_picture_lies_where_it_is_asked_for(crop: float, picture: Path) -> None:
    pixels = load_image(picture, "image_url", 96, 96, crop).pixels
    assert pixels.shape == (96, 96, 3)
    assert np.abs(pixels[48, :, 0].astype(int) - columns(crop)).max() <= 1


@pytest.mark.parametrize("crop", [0.0, 0.25, 0.5, 1.0])
def test_a_part_of_a_video_lies_where_it_is_asked_for(crop: float, film: Path) -> None:
    video = SourceVideo.look(film, "video_url", 96, 96).ready(crop)
    assert np.abs(video.frame(1)[48, :, 0].astype(int) - columns(crop)).max() <= 1


def test_a_copy_of_a_video_holds_the_part(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_module, "MAX_GROUP_PIXELS", 1)
    video = SourceVideo.look(film, "video_url", 96, 96).ready(1.0, needed_s=0.1)
    assert video.path != film
    assert np.abs(video.frame(1)[48, :, 0].astype(int) - columns(1.0)).max() <= 1


def test_the_centre_is_the_default(picture: Path, film: Path) -> None:
    assert np.array_equal(
        load_image(picture, "image_url", 96, 96).pixels, load_image(picture, "image_url", 96, 96, 0.5).pixels
    )
    video = SourceVideo.open(film, "video_url", 96, 96)
    assert np.array_equal(video.frame(0), SourceVideo.look(film, "video_url", 96, 96).ready(0.5).frame(0))


def test_the_whole_is_given_no_larger_than_asked_for(picture: Path, film: Path) -> None:
    assert np.array_equal(load_whole(picture, "image_url", 1000).pixels, ramp())
    small = load_whole(picture, "image_url", 160)
    assert (small.pixels.shape, small.source_size) == ((48, 160, 3), (WIDTH, HEIGHT))
    whole = SourceVideo.look(film, "video_url", 96, 96).whole(160)
    assert whole.shape == (48, 160, 3)
    assert np.abs(whole.astype(int) - small.pixels).max() <= 2
    assert whole_size((10, 4000), 100) == (1, 100)
