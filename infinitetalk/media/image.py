"""Pictures: any common format to RGB bytes of the video's size.

They are decoded in a process of their own: this module, run as a program. A small file can keep a decoder busy for
hours (a JPEG of a million scans), and there is no other way to end it.
"""

import logging
import struct
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from infinitetalk.errors import MediaUnreadable, TooLarge
from infinitetalk.media import jpeg
from infinitetalk.media.border import add_border
from infinitetalk.media.container import apparent_kind, hdr_kind
from infinitetalk.media.program import Answer, ask, reply
from infinitetalk.shapes import CENTRE, Crop, cover_crop, crop_of, whole_size, within_border

# Readers that are part of Pillow. None of them starts another program, as the one for EPS would.
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM")
MAX_PIXELS = 100_000_000  # two telephone pictures of 50 MP; 400 MB while it is decoded
MIN_SIDE = 16
TIME_LIMIT_S = 60.0
_MAX_PROFILE_BYTES = 16 << 20  # what a JPEG has room for; Pillow allows a PNG 1 MB
# What turns a picture of that EXIF orientation upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BACKGROUND = "white"  # what shows through, as on a page
# What Pillow's readers raise on damaged files, beside its own OSError.
_DAMAGED = (
    OSError,
    KeyError,
    ZeroDivisionError,
    OverflowError,
    AttributeError,
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    RuntimeError,
    struct.error,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Picture:
    """A picture cropped and resized to the video's size.

    Args:
        pixels: (height, width, 3) uint8, sRGB.
        source_size: (width, height) of the upright picture, of which `pixels` shows a part (shapes.cover_crop).
    """

    pixels: NDArray[np.uint8]
    source_size: tuple[int, int]

    is_still = True  # the same frame at every time

    def frame(self, _index: int) -> NDArray[np.uint8]:
        """The picture: (height, width, 3) uint8 RGB."""
        return self.pixels

    def clip(self, _start: int, n_frames: int) -> NDArray[np.uint8]:
        """The picture n_frames times: (n_frames, height, width, 3) uint8 RGB."""
        return np.repeat(self.pixels[None], n_frames, axis=0)


def load_image(path: Path, field: str, width: int, height: int, crop: Crop = CENTRE) -> Picture:
    """Read a picture, turn it upright (EXIF) and fit a part of it to width x height.

    An animation gives its first frame, transparent parts become white, and colours with a profile become sRGB.

    Args:
        field: the job's field that named the file, for errors.
        crop: where the part lies, as in `shapes.cover_crop`.

    Raises:
        MediaUnreadable: the file is no picture, is damaged, truncated, HDR or smaller than 16x16, or takes too long to
            decode.
        TooLarge: the picture has more than 100 million pixels; this is found before it is decoded.
    """
    return _load(path, field, "part", width, height, crop)


def load_whole(path: Path, field: str, longest: int) -> Picture:
    """A whole picture, made smaller where its longer side has more than `longest` pixels; else as `load_image`."""
    return _load(path, field, "whole", longest)


def _load(path: Path, field: str, task: str, *numbers: Crop) -> Picture:
    answer = ask(
        "image",
        *(task, str(path), field, *map(str, numbers)),
        time_limit_s=TIME_LIMIT_S,
        too_slow=MediaUnreadable(
            f"{field}: the picture is not decoded within {TIME_LIMIT_S:g} s; save it again as a plain PNG or JPEG."
        ),
        crashed=MediaUnreadable(
            f"{field}: the picture is damaged and cannot be decoded; save it again as a plain PNG or JPEG."
        ),
    )
    for note in answer.facts["notes"]:
        logger.warning(note)
    width, height = answer.facts["size"]
    shown = np.frombuffer(bytearray(answer.data), np.uint8).reshape(height, width, 3)
    return Picture(shown, tuple(answer.facts["source_size"]))


def main(arguments: list[str]) -> None:
    """The program: `part PATH FIELD WIDTH HEIGHT CROP`; `whole PATH FIELD LONGEST`."""
    task, path, field, *numbers = arguments

    def decode() -> Answer:
        notes: list[str] = []
        if task == "whole":
            picture = _decode(Path(path), field, notes, partial(whole_size, longest=int(numbers[0])))
        else:
            width, height = map(int, numbers[:2])
            picture = decode_image(Path(path), field, width, height, notes, crop_of(numbers[2]))
        size = (picture.pixels.shape[1], picture.pixels.shape[0])
        return Answer({"notes": notes, "source_size": picture.source_size, "size": size}, picture.pixels.tobytes())

    reply(decode)


def decode_image(path: Path, field: str, width: int, height: int, notes: list[str], crop: Crop = CENTRE) -> Picture:
    """What load_image does, in this process and without its limits of time and memory.

    Args:
        notes: gets a sentence for each property of the picture that could not be followed.
    """
    return _decode(path, field, notes, lambda _: (width, height), crop)


def _decode(
    path: Path,
    field: str,
    notes: list[str],
    size_of: Callable[[tuple[int, int]], tuple[int, int]],
    crop: Crop = CENTRE,
) -> Picture:
    """A picture at the size that follows from its own."""
    PngImagePlugin.MAX_TEXT_CHUNK = _MAX_PROFILE_BYTES
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's: of odd metadata, and of sizes that are checked below
        with _open(path, field) as image:
            _check_header(image, path, field)
            try:
                image.load()
            except _DAMAGED as error:
                whole = _without_end(path) if image.format in ("JPEG", "MPO") else None
                if whole is None:
                    raise MediaUnreadable(_damaged(field)) from error
                image = whole
            upright = _upright(image, notes)
            return Picture(_fit(upright, *size_of(upright.size), notes, crop), upright.size)


def _without_end(path: Path) -> Image.Image | None:
    """A JPEG that lacks its end marker and nothing else; None if pixels are missing."""
    data = path.read_bytes().rstrip(b"\xff")
    if jpeg.has_end(data) or not jpeg.has_all_scans(data):
        return None
    try:
        image, other = (Image.open(BytesIO(data + more + jpeg.END), formats=FORMATS) for more in (b"", jpeg.OTHER_BITS))
        image.load()
        other.load()
    except _DAMAGED:
        return None
    return image if image.tobytes() == other.tobytes() else None


def _upright(image: Image.Image, notes: list[str]) -> Image.Image:
    """The picture turned as its EXIF says; damage in the rest of its metadata does not count."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _DAMAGED:
        notes.append("A picture's metadata (EXIF) cannot be read; it is taken as upright.")
        return image
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _damaged(field: str) -> str:
    return f"{field}: the picture is truncated or damaged; export it again and upload it again."


def _open(path: Path, field: str) -> Image.Image:
    """The picture, of which only the header is read."""
    try:
        return Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _too_large(field) from error
    except _DAMAGED as error:
        if (kind := apparent_kind(path)) == "a picture":
            raise MediaUnreadable(_damaged(field)) from error
        raise MediaUnreadable(
            f"{field}: this is {kind}, which cannot be read as a picture; "
            "send a PNG, JPEG, WebP, AVIF, GIF, BMP or TIFF file."
        ) from error


def _check_header(image: Image.Image, path: Path, field: str) -> None:
    """Raise MediaUnreadable or TooLarge for a picture that is not to be decoded."""
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(field)
    if min(image.size) < MIN_SIDE:
        raise MediaUnreadable(
            f"{field}: the picture is {image.width}x{image.height} pixels; at least {MIN_SIDE}x{MIN_SIDE} are needed."
        )
    if hdr := hdr_kind(path):
        raise MediaUnreadable(
            f"{field}: the picture is HDR ({hdr}), whose colours are not converted; save it as SDR (sRGB)."
        )
    # With 32 bits it is not known which value is white. LAB cannot be converted by Pillow.
    if image.mode in ("F", "LAB") or (image.format, image.mode) == ("TIFF", "I"):
        raise MediaUnreadable(
            f"{field}: the picture's colours ({image.format}, mode {image.mode}) are not read; "
            "save it as RGB with 8 or 16 bits per channel."
        )


def _too_large(field: str) -> TooLarge:
    return TooLarge(f"{field}: the picture has more than {MAX_PIXELS // 10**6} million pixels; make it smaller.")


def _fit(image: Image.Image, width: int, height: int, notes: list[str], crop: Crop) -> NDArray[np.uint8]:
    """A part of an upright picture, or all of it with a border, as sRGB bytes (height, width, 3)."""
    profile, colors = _profile(image, notes)
    if image.mode.startswith("I"):  # 16 bits of grey
        image = Image.fromarray(np.asarray(np.asarray(image).clip(0, 65535) // 257, np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode != "CMYK" and (image.mode, colors) != ("L", "GRAY"):
        image = image.convert("RGB")
    x0, y0, x1, y1 = cover_crop(image.size, (width, height), crop)
    box = max(x0, 0.0), max(y0, 0.0), min(x1, image.width), min(y1, image.height)  # not a rounding error beyond
    inner = (0, 0, width, height) if crop is not None else within_border(image.size, (width, height))
    image = image.resize((inner[2] - inner[0], inner[3] - inner[1]), Image.Resampling.LANCZOS, box, reducing_gap=3.0)
    if image.mode == "RGBA":
        opaque = Image.new("RGB", image.size, _BACKGROUND)
        opaque.paste(image, mask=image.getchannel("A"))
        image = opaque
    if profile and colors == {"L": "GRAY"}.get(image.mode, image.mode):
        image = _to_srgb(image, profile, notes)
    return add_border(np.array(image.convert("RGB")), (width, height))


def _profile(image: Image.Image, notes: list[str]) -> tuple[ImageCms.ImageCmsProfile | None, str]:
    """The picture's colour profile and the colours it is for, "RGB", "CMYK" or "GRAY".

    A profile that cannot be read does not count, as in browsers.
    """
    data = image.info.get("icc_profile")
    if not data:
        return None, ""
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(data))
        return profile, profile.profile.xcolor_space.strip()
    except (OSError, UnicodeDecodeError):
        notes.append("A picture's colour profile cannot be read; its colours are taken as sRGB.")
        return None, ""


def _to_srgb(image: Image.Image, profile: ImageCms.ImageCmsProfile, notes: list[str]) -> Image.Image:
    """The picture in sRGB, or unchanged if its profile cannot be applied."""
    try:
        converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except ImageCms.PyCMSError:
        notes.append("A picture's colour profile cannot be applied; its colours are taken as sRGB.")
        return image
    assert converted is not None  # None is for conversion in place
    return converted


if __name__ == "__main__":
    main(sys.argv[1:])
