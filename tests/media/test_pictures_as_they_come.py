"""Pictures that other programs show although something about them is wrong, beside those that lack pixels."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from infinitetalk.errors import MediaUnreadable
from infinitetalk.media.image import decode_image

SIZE = (96, 64)


def pixels():
    """Detail in every corner: what is missing shows."""
    return np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)


def encoded(kind, **options):
    file = io.BytesIO()
    Image.fromarray(pixels()).save(file, kind, **options)
    return file.getvalue()


def load(data, folder, size=SIZE):
    (folder / "picture").write_bytes(data)
    return decode_image(folder / "picture", "image_url", *size, [])


def refused(data, folder):
    with pytest.raises(MediaUnreadable, match=r"^image_url: the picture is truncated or damaged"):
        load(data, folder)


JPEGS = {
    "sequential": {},
    "progressive": {"progressive": True},
    "full colour": {"subsampling": 0, "quality": 95},
    "restarts": {"restart_marker_blocks": 2},
    "grey": {},
}


@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_without_its_end_marker_is_whole_or_refused(name, tmp_path):
    file = io.BytesIO()
    image = Image.fromarray(pixels())
    (image.convert("L") if name == "grey" else image).save(file, "JPEG", **JPEGS[name])
    data = file.getvalue()
    whole = load(data, tmp_path).pixels
    for kept in (data[:-2], data[:-1], data[:-2] + bytes(40)):
        np.testing.assert_array_equal(load(kept, tmp_path).pixels, whole)
    for part in (0.3, 0.6, 0.9, 0.97):
        refused(data[: int(len(data) * part)], tmp_path)
    if name == "progressive":
        refused(data[: data.rindex(b"\xff\xda")], tmp_path)  # every scan is whole, and the last one is not there


def test_a_thumbnail_does_not_end_the_picture(tmp_path):
    thumbnail = encoded("JPEG")[:30_000]
    exif = Image.Exif()
    exif[0x9286] = thumbnail  # a comment that holds a whole picture
    data = encoded("JPEG", exif=exif)
    np.testing.assert_array_equal(load(data[:-2], tmp_path).pixels, load(data, tmp_path).pixels)
    refused(data[: len(data) * 9 // 10], tmp_path)


@pytest.mark.parametrize(("kind", "tail"), [("PNG", 12), ("PNG", 16), ("GIF", 1)])
def test_other_ends_may_be_missing_too(kind, tail, tmp_path):
    data = encoded(kind)
    np.testing.assert_array_equal(load(data[:-tail], tmp_path).pixels, load(data, tmp_path).pixels)
    refused(data[: int(len(data) * 0.95)], tmp_path)


def exif_with(entries):
    """TIFF entries (tag, type, count, value as four bytes), little-endian."""
    body = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + bytes(4)


TURNED = (0x0112, 3, 1, b"\x06\0\0\0")
EXIF = {
    "a text as resolution": [TURNED, (0x011A, 2, 3, b"72\0\0")],
    "a text as place": [TURNED, (0x8825, 2, 4, b"none")],
    "a folder far behind the end": [TURNED, (0x8769, 4, 1, b"\xff\xff\xff\x7f")],
    "a resolution of 0 / 0": [TURNED, (0x011A, 5, 1, b"\x08\0\0\0")],
    "a length of four thousand million": [TURNED, (0x010F, 2, 0xFFFFFFFF, b"\x08\0\0\0")],
    "an unknown type": [TURNED, (0x0132, 77, 1, b"abcd")],
}


@pytest.mark.parametrize("name", EXIF)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_metadata_does_not_cost_the_picture_nor_its_orientation(kind, name, tmp_path):
    picture = load(encoded(kind, exif=exif_with(EXIF[name])), tmp_path, (64, 96))
    assert picture.source_size == (64, 96)
    if kind == "PNG":
        np.testing.assert_array_equal(picture.pixels, np.rot90(pixels(), -1))


def test_no_damage_of_the_metadata_costs_a_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = 6, "camera", 72.0
    data = encoded("JPEG", exif=exif, quality=95)
    start = data.index(b"Exif")
    (length,) = struct.unpack(">H", data[start - 2 : start])
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(data)
        for at in rng.integers(start, start + length - 2, 3):
            damaged[at] = rng.integers(0, 256)
        assert load(bytes(damaged), tmp_path, (64, 64)).source_size in (SIZE, SIZE[::-1])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("megabytes", [1.5, 8])
def test_a_large_colour_profile_is_no_reason_to_refuse(kind, megabytes, tmp_path):
    profile = np.random.default_rng(0).integers(0, 256, int(megabytes * 1e6), np.uint8).tobytes()
    assert load(encoded(kind, icc_profile=profile), tmp_path).source_size == SIZE


def test_a_profile_that_unpacks_without_end_is_still_refused(tmp_path):
    data = encoded("PNG")
    packed = b"icc\0\0" + zlib.compress(bytes(64 << 20), 9)
    chunk = struct.pack(">I", len(packed)) + b"iCCP" + packed + struct.pack(">I", zlib.crc32(b"iCCP" + packed))
    refused(data[:33] + chunk + data[33:], tmp_path)
