"""Pictures: any common format to RGB bytes of the video's size.

They are decoded in a process of their own, which is this module run as a program: a small file can keep a decoder
busy for hours (a JPEG of a million scans), and there is no other way to end it.
"""

import json
import logging
import struct
import sys
import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

import infinitetalk
from infinitetalk.errors import JobError, MediaUnreadable, TooLarge
from infinitetalk.media.child import TooSlow, run_child
from infinitetalk.media.container import apparent_kind, hdr_kind
from infinitetalk.shapes import cover_crop

# Readers that are part of Pillow: none starts another program, as the one for EPS would.
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM")
MAX_PIXELS = 100_000_000  # two telephone pictures of 50 MP; 400 MB while it is decoded
MIN_SIDE = 16
TIME_LIMIT_S = 60.0
_BACKGROUND = "white"  # what shows through, as on a page
# What Pillow's readers raise on damaged files, beside its own OSError.
_DAMAGED = (OSError, SyntaxError, ValueError, TypeError, IndexError, RuntimeError, struct.error)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Picture:
    """A picture cropped and resized to the video's size.

    pixels: (height, width, 3) uint8, sRGB.
    source_size: (width, height) of the upright picture, of which `pixels` shows the centre (shapes.cover_crop).
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


def load_image(path: Path, field: str, width: int, height: int) -> Picture:
    """Read a picture, turn it upright (EXIF) and fit its centre to width x height.

    An animation gives its first frame, transparent parts become white, colours with a profile become sRGB.

    field: the job's field that named the file, for errors.
    Raises MediaUnreadable where the file is no picture, damaged, truncated, HDR, smaller than 16x16 or takes too long
    to decode; TooLarge above 100 million pixels, before decoding.
    """
    program = [sys.executable, "-m", "infinitetalk.media.image", str(path), field, str(width), str(height)]
    package = str(Path(infinitetalk.__file__).parents[1])
    env = {"PYTHONPATH": package, "OPENBLAS_NUM_THREADS": "1"}  # each thread would reserve memory
    try:
        done = run_child(program, TIME_LIMIT_S, env)
    except TooSlow as error:
        raise MediaUnreadable(
            f"{field}: the picture is not decoded within {TIME_LIMIT_S:g} s; save it again as a plain PNG or JPEG."
        ) from error
    header, _, pixels = done.data.partition(b"\n")
    if done.status != 0 or not header:  # it crashed, or wanted more memory than it may have
        raise MediaUnreadable(
            f"{field}: the picture is damaged and cannot be decoded; save it again as a plain PNG or JPEG."
        ) from ValueError(done.log)
    answer = json.loads(header)
    for note in answer.get("notes", ()):
        logger.warning(note)
    if "error" in answer:
        raise {kind.code: kind for kind in (MediaUnreadable, TooLarge)}[answer["error"]](answer["message"])
    shown = np.frombuffer(bytearray(pixels), np.uint8).reshape(height, width, 3)
    return Picture(shown, tuple(answer["source_size"]))


def main(arguments: list[str]) -> None:
    """The other end of load_image: answers with a line of JSON, then the pixels."""
    path, field, width, height = arguments
    notes: list[str] = []
    answer: dict[str, object] = {"notes": notes}
    pixels = b""
    try:
        picture = decode_image(Path(path), field, int(width), int(height), notes)
    except JobError as error:
        answer |= {"error": error.code, "message": str(error)}
    else:
        answer |= {"source_size": picture.source_size}
        pixels = picture.pixels.tobytes()
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n" + pixels)


def decode_image(path: Path, field: str, width: int, height: int, notes: list[str]) -> Picture:
    """What load_image does, in this process and without its limits of time and memory.

    notes: gets a sentence for each thing about the picture that could not be followed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's: of odd metadata, and of sizes that are checked below
        with _open(path, field) as image:
            _check_header(image, path, field)
            try:
                ImageOps.exif_transpose(image, in_place=True)  # decodes it
            except _DAMAGED as error:
                raise MediaUnreadable(
                    f"{field}: the picture is truncated or damaged; export it again and upload it again."
                ) from error
            return Picture(_fit(image, width, height, notes), image.size)


def _open(path: Path, field: str) -> Image.Image:
    """The picture, of which only the header is read."""
    try:
        return Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _too_large(field) from error
    except _DAMAGED as error:
        raise MediaUnreadable(
            f"{field}: this is {apparent_kind(path)}, which cannot be read as a picture; "
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
    # Of 32 bits nobody knows which value is white; LAB is what Pillow cannot convert.
    if image.mode in ("F", "LAB") or (image.format, image.mode) == ("TIFF", "I"):
        raise MediaUnreadable(
            f"{field}: the picture's colours ({image.format}, mode {image.mode}) are not read; "
            "save it as RGB with 8 or 16 bits per channel."
        )


def _too_large(field: str) -> TooLarge:
    return TooLarge(f"{field}: the picture has more than {MAX_PIXELS // 10**6} million pixels; make it smaller.")


def _fit(image: Image.Image, width: int, height: int, notes: list[str]) -> NDArray[np.uint8]:
    """The centre of an upright picture as sRGB bytes (height, width, 3)."""
    profile, colors = _profile(image, notes)
    if image.mode.startswith("I"):  # 16 bits of grey
        image = Image.fromarray(np.asarray(np.asarray(image).clip(0, 65535) // 257, np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode != "CMYK" and (image.mode, colors) != ("L", "GRAY"):
        image = image.convert("RGB")
    x0, y0, x1, y1 = cover_crop(image.size, (width, height))
    box = max(x0, 0.0), max(y0, 0.0), min(x1, image.width), min(y1, image.height)  # not a rounding error beyond
    image = image.resize((width, height), Image.Resampling.LANCZOS, box, reducing_gap=3.0)
    if image.mode == "RGBA":
        opaque = Image.new("RGB", image.size, _BACKGROUND)
        opaque.paste(image, mask=image.getchannel("A"))
        image = opaque
    if profile and colors == {"L": "GRAY"}.get(image.mode, image.mode):
        image = _to_srgb(image, profile, notes)
    return np.array(image.convert("RGB"))


def _profile(image: Image.Image, notes: list[str]) -> tuple[ImageCms.ImageCmsProfile | None, str]:
    """The picture's colour profile and the colours it is for, "RGB", "CMYK" or "GRAY".

    One that cannot be read does not count, as in browsers.
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
    """The picture in sRGB, or unchanged where its profile cannot be applied."""
    try:
        converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except ImageCms.PyCMSError:
        notes.append("A picture's colour profile cannot be applied; its colours are taken as sRGB.")
        return image
    assert converted is not None  # None is for conversion in place
    return converted


if __name__ == "__main__":
    main(sys.argv[1:])
