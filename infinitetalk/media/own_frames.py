"""A stranger's video at its own size and frame rate, as a stream: the program behind `original.Original`."""

import json
import sys
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

from av import VideoFrame
from av.error import FFmpegError

from infinitetalk.errors import JobError, MediaUnreadable
from infinitetalk.media.decoding import Shown, decoded_from, shown_one_by_one
from infinitetalk.media.fitting import HD_HEIGHT, UNSPECIFIED, Filtered, shown_size, turns
from infinitetalk.media.stream import damaged

_BT709, _BT601, _RGB = 1, 6, 0  # ITU-T H.273
_FULL, _LIMITED = 2, 1  # ranges, as ffmpeg numbers them


class Plain(Filtered):
    """Frames upright, with square pixels, as 8-bit 4:2:0 in their own colours; or as RGB of another size.

    `fit` gives (height, width, 3) RGB, or the planes Y, U and V below each other: (height * 3 / 2, width).
    """

    def __init__(self, aspect: Fraction, size: tuple[int, int], is_rgb: bool) -> None:
        """Prepare for the frames of one video.

        Args:
            aspect: a stored pixel's width divided by its height.
            size: (width, height) of what is given out. Where it is the frames' own or one pixel less, nothing is
                scaled and the last column or row is left out.
        """
        super().__init__()
        self._aspect, self._size, self._is_rgb = aspect, size, is_rgb

    def filters(self, frame: VideoFrame) -> Iterator[str]:
        """Upright, resized where it is not to keep its own size, in the pixel format that is given out, cropped."""
        yield from turns(frame)
        width, height = self._size
        own = shown_size(frame, self._aspect)
        is_own = all(have - want in (0, 1) for have, want in zip(own, self._size, strict=True))
        if not is_own or self._aspect != 1:
            to_width, to_height = own if is_own else self._size
            yield f"scale={to_width}:{to_height}:flags=bicubic+accurate_rnd"
        if self._is_rgb:
            yield "format=rgb24"
        elif int(frame.colorspace) == _RGB:
            yield "scale=out_color_matrix=bt709:out_range=tv:flags=bicubic+accurate_rnd+full_chroma_inp"
            yield "format=yuv420p"
        else:
            yield "format=yuv420p|yuvj420p"
        yield f"crop={width}:{height}:0:0:exact=1"


def describe(frame: VideoFrame, aspect: Fraction) -> dict[str, Any]:
    """The size that is given out, and the colours, as numbers of ITU-T H.273 and ffmpeg's of the range."""
    width, height = shown_size(frame, aspect)
    size = [width - width % 2, height - height % 2]
    matrix, primaries, transfer = (int(value) for value in (frame.colorspace, frame.color_primaries, frame.color_trc))
    if matrix == _RGB:
        return {"size": size, "matrix": _BT709, "meant": _BT709, "primaries": 1, "transfer": 1, "range": _LIMITED}
    is_full = int(frame.color_range) == _FULL or frame.format.name.startswith("yuvj")
    meant = (_BT709 if frame.height >= HD_HEIGHT else _BT601) if matrix == UNSPECIFIED else matrix
    colors = {"matrix": matrix, "meant": meant, "primaries": primaries, "transfer": transfer}
    return {"size": size, **colors, "range": _FULL if is_full else _LIMITED}


def main(arguments: list[str]) -> None:
    """The program.

    `describe PATH FIELD ZERO ASPECT`; or `yuv` or `rgb` with these four and RATE PHASE START FRAMES WIDTH HEIGHT.

    A line of JSON comes first, then the frames.
    """
    task, path, field, zero_s, aspect, *others = arguments
    place = Path(path), field, Fraction(zero_s)
    out = sys.stdout.buffer
    try:
        if task == "describe":
            first = next(decoded_from(*place, Fraction(0)), None)
            if first is None:
                raise MediaUnreadable(f"{field}: the video's frames cannot be decoded; export it again.")
            out.write(json.dumps(describe(first[0], Fraction(aspect))).encode() + b"\n")
            return
        rate, phase = map(Fraction, others[:2])
        start, n_frames, width, height = map(int, others[2:])
        plain = Plain(Fraction(aspect), (width, height), task == "rgb")
        shown = Shown(plain.fit, start, n_frames, rate, phase)
        pixels = shown_one_by_one(shown, decoded_from(*place, (start + phase) / rate))
        first_pixels = next(pixels, None)
        if first_pixels is None:
            raise MediaUnreadable(f"{field}: the video's frames cannot be decoded; export it again.")
        out.write(b"{}\n")
        for one in chain([first_pixels], pixels):
            out.write(one)
    except FFmpegError:
        error: JobError = damaged(field)
        out.write(json.dumps({"error": error.code, "message": str(error)}).encode() + b"\n")
    except JobError as error:
        out.write(json.dumps({"error": error.code, "message": str(error)}).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1:])
