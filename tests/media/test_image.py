import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from infinitetalk.errors import JobError, MediaUnreadable, TooLarge
from infinitetalk.media import image as module
from infinitetalk.media.image import decode_image, load_image
from tests.support.media_samples import cut_off, ffmpeg, write_picture

RED, BLUE, WHITE = (200, 60, 30), (20, 120, 220), (255, 255, 255)


def load(path, width=96, height=64):
    """In this process: a new one for each of hundreds of pictures would take minutes."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return decode_image(path, "image_url", width, height, [])


def assert_red_and_blue(picture, tolerance=3):
    """Left third red, right third blue, as write_picture made them."""
    height, width, _ = picture.pixels.shape
    rows = slice(height // 8, -height // 8)
    for color, columns in ((RED, slice(2, width // 3)), (BLUE, slice(-width // 3, -2))):
        assert np.abs(picture.pixels[rows, columns].astype(int) - color).max() <= tolerance


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "avif", "gif", "bmp", "tif", "jp2", "ppm"])
def test_common_formats_are_read(suffix, tmp_path):
    options = {"jpg": {"quality": 95}, "webp": {"lossless": True}}.get(suffix, {})
    picture = load(write_picture(tmp_path / f"picture.{suffix}", **options))
    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.shape == (64, 96, 3)
    assert picture.source_size == (96, 64)
    assert_red_and_blue(picture)


def test_a_picture_of_the_right_size_is_untouched(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    np.testing.assert_array_equal(load(tmp_path / "noise.png").pixels, pixels)


@pytest.mark.parametrize("size", [(480, 848), (848, 480), (33, 17), (1280, 720)])
def test_the_centre_is_kept_undistorted(size, tmp_path):
    """A black circle in the middle stays a circle in the middle, whatever is cut off."""
    y, x = np.mgrid[:300, :500]
    pixels = np.where((x - 249.5) ** 2 + (y - 149.5) ** 2 < 100**2, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "circle.png")
    picture = load(tmp_path / "circle.png", *size)
    width, height = size
    assert picture.pixels.shape == (height, width, 3)
    scale = max(width / 500, height / 300)
    y, x = np.mgrid[:height, :width]
    expected = (x - (width - 1) / 2) ** 2 + (y - (height - 1) / 2) ** 2 < (100 * scale) ** 2
    assert ((picture.pixels[..., 0] < 128) == expected).mean() > 0.97


def test_shrinking_does_not_alias(tmp_path):
    stripes = np.zeros((640, 960, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    assert np.ptp(load(tmp_path / "stripes.png").pixels[:, 2:-2]) <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation, tmp_path):
    upright = np.zeros((64, 96, 3), np.uint8)
    upright[:32, :48], upright[:32, 48:], upright[32:, :48] = RED, BLUE, WHITE
    # What a camera stores so that this orientation turns it upright.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: upright.swapaxes(0, 1)[::-1],
        7: upright.swapaxes(0, 1)[::-1, ::-1],
        8: upright.swapaxes(0, 1)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "turned.png", exif=exif)
    picture = load(tmp_path / "turned.png")
    assert picture.source_size == (96, 64)
    np.testing.assert_array_equal(picture.pixels, upright)


def test_transparency_becomes_white(tmp_path):
    write_picture(tmp_path / "opaque.png")
    image = Image.open(tmp_path / "opaque.png")
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, 96, 32))
    image.putalpha(alpha)
    for mode in ("RGBA", "LA"):
        image.convert(mode).save(tmp_path / "clear.png")
        pixels = load(tmp_path / "clear.png").pixels
        assert (pixels[:31] == 255).all()
        assert (pixels[33:, :47] == (RED if mode == "RGBA" else 98)).all()
    half = Image.new("RGBA", (96, 64), (0, 0, 0, 128))
    half.save(tmp_path / "half.png")
    assert np.unique(load(tmp_path / "half.png").pixels).tolist() == [127]
    # One colour of a palette, and one colour of all, can be declared transparent.
    Image.open(tmp_path / "opaque.png").save(tmp_path / "keyed.png", transparency=RED)
    Image.open(tmp_path / "opaque.png").quantize(2).save(tmp_path / "palette.png", transparency=0)
    for name in ("keyed.png", "palette.png"):
        pixels = load(tmp_path / name).pixels
        assert sorted(map(tuple, np.unique(pixels.reshape(-1, 3), axis=0).tolist()))[-1] == WHITE


def test_grey_palette_and_16_bit_pictures_are_read(tmp_path):
    write_picture(tmp_path / "color.png")
    color = Image.open(tmp_path / "color.png")
    grey = np.asarray(color.convert("L"))
    Image.fromarray(grey).save(tmp_path / "grey.png")
    wide = Image.fromarray(grey.astype(np.uint16) * 257)
    for name in ("wide.png", "wide.tif"):
        wide.save(tmp_path / name)
    (tmp_path / "wide.pgm").write_bytes(b"P5 96 64 65535\n" + (grey.astype(">u2") * 257).tobytes())
    for name in ("grey.png", "wide.png", "wide.tif", "wide.pgm"):
        np.testing.assert_array_equal(load(tmp_path / name).pixels, np.repeat(grey[..., None], 3, axis=2))
    color.quantize(8).save(tmp_path / "palette.png")
    ffmpeg("-i", tmp_path / "color.png", "-pix_fmt", "rgb48be", tmp_path / "deep.png")
    for name in ("palette.png", "deep.png"):
        assert_red_and_blue(load(tmp_path / name))
    color.convert("1", dither=Image.Dither.NONE).save(tmp_path / "bits.png")
    assert set(np.unique(load(tmp_path / "bits.png").pixels)) <= {0, 255}


def test_colors_that_would_have_to_be_guessed_are_refused(tmp_path):
    Image.fromarray(np.full((64, 96), 0.5, np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((64, 96), 70_000, np.int32)).save(tmp_path / "int.tif")
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    ImageCms.profileToProfile(Image.new("RGB", (96, 64)), srgb, lab, outputMode="LAB").save(tmp_path / "lab.tif")
    for name in ("float.tif", "int.tif", "lab.tif"):
        with pytest.raises(MediaUnreadable, match=r"image_url: .*8 or 16 bits"):
            load(tmp_path / name)


def test_cmyk_is_read(tmp_path):
    write_picture(tmp_path / "color.png")
    image = Image.open(tmp_path / "color.png").convert("CMYK")
    image.save(tmp_path / "print.jpg", quality=95)
    image.save(tmp_path / "print.tif")
    for name in ("print.jpg", "print.tif"):
        assert_red_and_blue(load(tmp_path / name))


def test_a_color_profile_is_followed(tmp_path):
    write_picture(tmp_path / "picture.png")
    image = Image.open(tmp_path / "picture.png")
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image.save(tmp_path / "srgb.png", icc_profile=srgb)
    assert_red_and_blue(load(tmp_path / "srgb.png"))
    # A profile whose red is sRGB's blue, and the other way round.
    swapped = srgb.replace(b"rXYZ", b"....").replace(b"bXYZ", b"rXYZ").replace(b"....", b"bXYZ")
    image.save(tmp_path / "swapped.png", icc_profile=swapped)
    assert np.abs(load(tmp_path / "swapped.png").pixels[30, 10].astype(int) - RED[::-1]).max() <= 3
    clear = image.copy()
    clear.putalpha(255)
    clear.save(tmp_path / "clear.png", icc_profile=swapped)
    assert np.abs(load(tmp_path / "clear.png").pixels[30, 10].astype(int) - RED[::-1]).max() <= 3


def test_a_profile_that_does_not_fit_or_cannot_be_read_is_left_out(tmp_path):
    write_picture(tmp_path / "picture.png")
    image = Image.open(tmp_path / "picture.png")
    image.save(tmp_path / "broken.png", icc_profile=b"no profile")
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    image.save(tmp_path / "other.png", icc_profile=lab)
    for name in ("broken.png", "other.png"):
        assert_red_and_blue(load(tmp_path / name))


def test_an_animation_gives_its_first_frame(tmp_path):
    write_picture(tmp_path / "picture.png")
    first, second = Image.open(tmp_path / "picture.png"), Image.new("RGB", (96, 64), "green")
    for name in ("frames.gif", "frames.webp", "frames.png"):
        first.save(tmp_path / name, save_all=True, append_images=[second])
        assert_red_and_blue(load(tmp_path / name), tolerance=12)


def header_of_png(path, width, height):
    """A valid beginning, with almost no data behind it."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("side", [10_001, 30_000])
def test_enormous_pictures_are_refused_before_decoding(side, tmp_path):
    """Decoding this file would call it truncated."""
    with pytest.raises(TooLarge, match=r"image_url: .*100 million"):
        load(header_of_png(tmp_path / "huge.png", side, side))


@pytest.mark.parametrize("size", [(1, 1), (15, 500), (500, 15)])
def test_tiny_pictures_are_refused(size, tmp_path):
    Image.new("RGB", size).save(tmp_path / "tiny.png")
    with pytest.raises(MediaUnreadable, match=f"image_url: .*{size[0]}x{size[1]}.*at least 16x16"):
        load(tmp_path / "tiny.png")
    Image.new("RGB", (16, 16)).save(tmp_path / "small.png")
    assert load(tmp_path / "small.png").source_size == (16, 16)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tif"])
def test_truncated_pictures_are_refused(suffix, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    path = tmp_path / f"noise.{suffix}"
    Image.fromarray(pixels).save(path)
    for part in (0.1, 0.5, 0.95):
        with pytest.raises(MediaUnreadable, match=r"^image_url: "):
            load(cut_off(path, part))


def test_what_is_no_picture_is_refused_and_named(tmp_path):
    for content, kind in (
        (b"", "an empty file"),
        (b"<html><body>404</body></html>", "a web page"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 96 64\n", "an unknown or damaged file"),
    ):
        path = tmp_path / "picture.png"
        path.write_bytes(content)
        with pytest.raises(
            MediaUnreadable, match=f"image_url: this is {kind}, which cannot be read as a picture"
        ) as failure:
            load(path)
        assert str(tmp_path) not in str(failure.value)


def test_damaged_pictures_end_in_an_error_or_a_picture(tmp_path):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    for suffix in ("png", "jpg", "webp", "avif", "gif", "bmp", "tif", "jp2"):
        path = tmp_path / f"picture.{suffix}"
        image.save(path, **({"exif": exif} if suffix in ("png", "jpg", "webp") else {}))
        data = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(25):
            damaged = data.copy()
            damaged[rng.integers(0, min(len(data), 300), 3)] = rng.integers(0, 256, 3)
            path.write_bytes(damaged.tobytes())
            try:
                assert load(path).pixels.shape == (64, 96, 3)
            except JobError as error:
                assert str(error).startswith("image_url: ")


def test_the_picture_is_decoded_in_a_process_of_its_own(tmp_path, monkeypatch, caplog):
    path = write_picture(tmp_path / "picture.png")
    Image.open(path).save(tmp_path / "odd.png", icc_profile=b"no profile")
    own, other = load(path, 48, 32), load_image(tmp_path / "odd.png", "image_url", 48, 32)
    np.testing.assert_array_equal(own.pixels, other.pixels)
    assert own.source_size == other.source_size
    assert own.pixels.flags.writeable == other.pixels.flags.writeable
    assert "colour profile cannot be read" in caplog.text
    with pytest.raises(MediaUnreadable, match=r"^image_url: .*truncated"):
        load_image(cut_off(path), "image_url", 48, 32)
    with pytest.raises(TooLarge, match=r"^image_url: .*100 million"):
        load_image(header_of_png(path, 30_000, 30_000), "image_url", 48, 32)


def test_a_decoder_that_crashes_or_hangs_takes_nothing_with_it(tmp_path, monkeypatch):
    path = write_picture(tmp_path / "picture.png")
    monkeypatch.setattr(module, "TIME_LIMIT_S", 0.01)
    with pytest.raises(MediaUnreadable, match=r"^image_url: the picture is not decoded within 0.01 s"):
        load_image(path, "image_url", 48, 32)
    monkeypatch.undo()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(MediaUnreadable, match=r"^image_url: the picture is damaged"):
        load_image(path, "image_url", 48, 32)


def test_a_picture_is_footage_that_stands_still(tmp_path):
    picture = load(write_picture(tmp_path / "picture.png"))
    assert picture.is_still
    np.testing.assert_array_equal(picture.frame(7), picture.pixels)
    np.testing.assert_array_equal(picture.clip(3, 2), np.stack([picture.pixels] * 2))


@pytest.mark.parametrize(("name", "size"), [("portrait.png", (480, 848)), ("two_people.png", (848, 480))])
def test_the_bundled_pictures_are_read(name, size):
    picture = load(Path(__file__).parents[2] / "samples" / name, *size)
    assert picture.source_size == size
    assert len(np.unique(picture.pixels.reshape(-1, 3), axis=0)) > 100
