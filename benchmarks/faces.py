"""Which faces are found in composed pictures whose truth is known.

    python -m benchmarks.faces [--pictures 240] [--tuning] [--portrait FILE ...] [--draw FOLDER]

Heads are cut out of scikit-image's astronaut, cameraman and 100 small photographs (LFW), drawn as the training draws
people, and pasted into photographs and walls without people: 24 to 400 pixels large, anywhere, over the edge, turned,
up to five of them, or none. `--portrait` adds pictures of one person each. `--tuning` takes other small photographs,
other drawn people, other backgrounds, and neither the astronaut nor the cameraman: thresholds are chosen on these.
It needs the extra `quality`, for the pictures. Prints Markdown tables; `--draw` keeps them, with what was found,
missed and invented in green, red and blue.
"""

import argparse
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage.data
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_image

from infinitetalk.faces.detector import overlap
from infinitetalk.faces.finder import FaceFinder
from training.faces import Motion, Painter

Picture = NDArray[np.uint8]
Box = tuple[float, float, float, float]

KINDS = ("one", "off-centre", "over the edge", "turned", "two", "three", "four", "five", "drawn", "none")
FRONTAL, PROFILE, SMALL_PHOTO, DRAWN = "frontal photograph", "profile", "small grey photograph", "drawn"
LARGEST_PX = (32, 48, 96, 200, 400)  # of the table's rows
MIN_OVERLAP = 0.3  # of a found box with the true one; the two end at slightly different places
_SIZES = ((1280, 720), (720, 1280), (848, 480), (480, 848), (640, 640), (1920, 1080))
_SMALL_PHOTO_BOX = (2.0, 1.0, 23.0, 24.0)  # where LFW's faces are in their 25x25 pixels
_MAX_BEYOND = 0.25  # share of a face that may lie beyond the edge


@dataclass(frozen=True)
class Head:
    """A head to paste: its pixels, where its face is in them, its kind, and up to which size it is sharp."""

    pixels: Image.Image
    face: Box
    kind: str
    largest_px: float = 400.0


@dataclass(frozen=True)
class Composed:
    """A picture, its kind, and the boxes and the kinds of its faces."""

    picture: Picture
    kind: str
    faces: tuple[Box, ...]
    heads: tuple[str, ...]


class Maker:
    """Composes pictures of one set, reported or for tuning."""

    def __init__(self, seed: int, tuning: bool, portraits: Sequence[Head] = ()) -> None:
        self.random = np.random.default_rng([seed, tuning])
        self.painter = Painter(torch.device("cpu"), 77_000 + 2 * seed + tuning)
        small = skimage.data.lfw_subset()[int(tuning) : 100 : 2]  # the first 100 show faces, the others none
        self.photos = [Head(_grey(one * 255), _SMALL_PHOTO_BOX, SMALL_PHOTO, 64.0) for one in small]
        self.portraits = list(portraits)
        walls = [skimage.data.coffee(), skimage.data.rocket(), load_sample_image("flower.jpg"), skimage.data.brick()]
        others = [skimage.data.immunohistochemistry(), load_sample_image("china.jpg"), skimage.data.grass()]
        others += [skimage.data.stereo_motorcycle()[0], skimage.data.hubble_deep_field(), skimage.data.chelsea()]
        if not tuning:
            self.portraits += [
                Head(Image.fromarray(skimage.data.astronaut()[:260, 90:360]), (87, 62, 184, 177), FRONTAL),
                Head(_grey(skimage.data.camera()[60:290, 120:330]), (75, 58, 142, 136), PROFILE),
            ]
        self.backgrounds = [Image.fromarray(one).convert("RGB") for one in (walls if tuning else others)]

    def compose(self, kind: str) -> Composed:
        """A new picture of that kind."""
        width, height = _SIZES[self.random.integers(len(_SIZES))]
        canvas = self._background(width, height, with_cat=kind == "none")
        people = {"two": 2, "three": 3, "four": 4, "five": 5, "none": 0}.get(kind, 1)
        if kind == "drawn":
            people = int(self.random.integers(1, 3))
        faces: list[Box] = []
        heads: list[str] = []
        for _ in range(people):
            pasted = self._paste(canvas, kind, faces)
            if pasted is not None:
                faces.append(pasted[0])
                heads.append(pasted[1].kind)
        return Composed(np.asarray(canvas), kind, tuple(faces), tuple(heads))

    def _paste(self, canvas: Image.Image, kind: str, taken: list[Box]) -> tuple[Box, Head] | None:
        """Paste one head where no other one is, and say where its face is; None where there is no room."""
        drawn = kind == "drawn" or self.random.random() < 0.25
        for _ in range(60):
            head = self._drawn() if drawn else self._photo()
            limit = min(head.largest_px, 0.45 * min(canvas.size))
            size = float(np.exp(self.random.uniform(np.log(24), np.log(limit))))
            turn = float(self.random.uniform(15, 40) * self.random.choice((-1, 1))) if kind == "turned" else 0.0
            pixels, face = _scaled(head, size, turn)
            x, y = self._corner(canvas.size, face, kind)
            place = (x + face[0], y + face[1], x + face[2], y + face[3])
            if all(_apart(place, other) for other in taken):
                canvas.paste(pixels, (x, y), _feather(pixels.size))
                return place, head
        return None

    def _corner(self, size: tuple[int, int], face: Box, kind: str) -> tuple[int, int]:
        """Where a head's upper left corner goes."""
        low = np.array([-face[0], -face[1]])
        high = np.array([size[0] - face[2], size[1] - face[3]])
        reach = np.array([face[2] - face[0], face[3] - face[1]])
        where = self.random.uniform(0, 1, 2)
        if kind == "one":
            where = self.random.uniform(0.35, 0.65, 2)
        if kind == "off-centre":
            where[self.random.integers(2)] = self.random.choice((0.02, 0.98))
        if kind == "over the edge":
            side = self.random.integers(2)
            beyond = self.random.uniform(0.05, _MAX_BEYOND) * reach[side]
            corner = low + where * (high - low)
            corner[side] = self.random.choice((low[side] - beyond, high[side] + beyond))
            return int(corner[0]), int(corner[1])
        x, y = low + where * (high - low)
        return int(x), int(y)

    def _photo(self) -> Head:
        if self.portraits and self.random.random() < 0.6:
            return self.portraits[self.random.integers(len(self.portraits))]
        return self.photos[self.random.integers(len(self.photos))]

    def _drawn(self) -> Head:
        """A drawn person with a mouth that is open by chance. Lengths are half head widths (training/faces.py)."""
        scene = self.painter.scene(1, 1, (480, 640))
        moves = [self.painter.uniform(low, high, 1, 1, 1) for low, high in ((0, 1), (0, 1), (0.5, 1), (0, 0), (0, 0))]
        pixels = (self.painter.draw(scene, Motion(*moves))[0, :, 0].permute(1, 2, 0) + 1) * 127.5
        image = Image.fromarray(pixels.clamp(0, 255).byte().numpy())
        x, y, unit = float(scene.x), float(scene.y), float(scene.unit)
        corner = (max(0, round(x - 1.7 * unit)), max(0, round(y - 1.9 * unit)))
        cut = image.crop((*corner, min(480, round(x + 1.7 * unit)), min(640, round(y + 2.3 * unit))))
        face = (x - unit - corner[0], y - 0.9 * unit - corner[1], x + unit - corner[0], y + 1.35 * unit - corner[1])
        return Head(cut, face, DRAWN)

    def _background(self, width: int, height: int, with_cat: bool) -> Image.Image:
        """A photograph, or a plain wall. The last photograph may show a cat, which no face is pasted beside."""
        choice = self.random.random()
        if choice < 0.15:
            top, foot = self.random.uniform(60, 220, (2, 3))
            down = np.linspace(0, 1, height)[:, None, None]
            return Image.fromarray(np.broadcast_to(top + (foot - top) * down, (height, width, 3)).astype(np.uint8))
        usable = self.backgrounds if with_cat else self.backgrounds[:-1] or self.backgrounds
        source = usable[self.random.integers(len(usable))]
        part = self.random.uniform(0.6, 1.0) * min(source.width / width, source.height / height)
        across, down = part * width, part * height
        x, y = self.random.uniform(0, source.width - across), self.random.uniform(0, source.height - down)
        return source.resize((width, height), Image.Resampling.BICUBIC, box=(x, y, x + across, y + down))


def _grey(pixels: NDArray[np.generic]) -> Image.Image:
    return Image.fromarray(pixels.astype(np.uint8)).convert("RGB")


def _scaled(head: Head, size: float, turn: float) -> tuple[Image.Image, Box]:
    """A head whose face is `size` pixels on its longer side, turned by degrees, and where the face is then."""
    x0, y0, x1, y1 = head.face
    zoom = size / max(x1 - x0, y1 - y0)
    shape = (max(1, round(head.pixels.width * zoom)), max(1, round(head.pixels.height * zoom)))
    method = Image.Resampling.LANCZOS if zoom < 1 else Image.Resampling.BICUBIC
    pixels = head.pixels.resize(shape, method)
    middle, half = np.array([x0 + x1, y0 + y1]) / 2 * zoom, np.array([x1 - x0, y1 - y0]) / 2 * zoom
    if turn:
        pixels = pixels.rotate(turn, Image.Resampling.BICUBIC, center=tuple(middle))
        cos, sin = abs(np.cos(np.deg2rad(turn))), abs(np.sin(np.deg2rad(turn)))
        # A face is an oval rather than a rectangle: its box grows by less than the corners'.
        half = np.hypot(half * cos, half[::-1] * sin)
    (a, b), (c, d) = middle - half, middle + half
    return pixels, (float(a), float(b), float(c), float(d))


def _feather(size: tuple[int, int]) -> Image.Image:
    """Opaque within an oval, transparent at the corners."""
    across, down = (np.linspace(-1, 1, side) for side in size)
    far = (np.abs(across[None, :]) ** 4 + np.abs(down[:, None]) ** 4) ** 0.25
    return Image.fromarray((np.clip((1 - far) / 0.12, 0, 1) * 255).astype(np.uint8))


def _apart(a: Box, b: Box) -> bool:
    """Whether the heads of two faces do not cover each other's."""
    size = max(a[2] - a[0], a[3] - a[1], b[2] - b[0], b[3] - b[1])
    return any(abs(a[i] + a[i + 2] - b[i] - b[i + 2]) / 2 > 1.7 * size for i in (0, 1))


def portrait(path: Path, finder: FaceFinder) -> Head:
    """The head of a picture of one person. Its face is where the finder sees it at full size."""
    image = Image.open(path).convert("RGB")
    faces = finder.find(np.asarray(image))
    if len(faces) != 1:
        raise SystemExit(f"{path} shows {len(faces)} faces; a portrait of one person is needed")
    x0, y0, x1, y1 = faces[0].box
    size = faces[0].size
    corner = (max(0, round(x0 - 0.6 * size)), max(0, round(y0 - 0.6 * size)))
    cut = image.crop((*corner, min(image.width, round(x1 + 0.6 * size)), min(image.height, round(y1 + 0.6 * size))))
    return Head(cut, (x0 - corner[0], y0 - corner[1], x1 - corner[0], y1 - corner[1]), FRONTAL)


# --- measured -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """One picture's outcome: for each true face the found one's index or None; how many were invented; seconds."""

    composed: Composed
    matches: tuple[int | None, ...]
    invented: int
    seconds: float

    @property
    def in_order(self) -> bool:
        """Whether the found faces are numbered from left to right by their true places."""
        middles = [(box[0] + box[2], match) for box, match in zip(self.composed.faces, self.matches, strict=True)]
        found = [match for _, match in sorted(middles) if match is not None]
        return found == sorted(found)


def match(composed: Composed, found: Sequence[Box], seconds: float = 0.0) -> Seen:
    """Pair found boxes with the true ones, the best overlap first."""
    pairs = [
        (overlap(np.array(true), np.array(box)), i, j)
        for i, true in enumerate(composed.faces)
        for j, box in enumerate(found)
    ]
    matches: list[int | None] = [None] * len(composed.faces)
    used: set[int] = set()
    for share, i, j in sorted(pairs, reverse=True):
        if share >= MIN_OVERLAP and matches[i] is None and j not in used:
            matches[i] = j
            used.add(j)
    return Seen(composed, tuple(matches), len(found) - len(used), seconds)


def measure(maker: Maker, find: Callable[[Picture], Sequence[Box]], pictures: int, draw: Path | None) -> Iterator[Seen]:
    """Compose pictures, kind by kind in turn, and look for their faces."""
    for number in range(pictures):
        composed = maker.compose(KINDS[number % len(KINDS)])
        start = time.perf_counter()
        found = find(composed.picture)
        seen = match(composed, found, time.perf_counter() - start)
        if draw is not None:
            _draw(seen, found).save(draw / f"{number:03}-{composed.kind.replace(' ', '-')}.jpg")
        yield seen


def _draw(seen: Seen, found: Sequence[Box]) -> Image.Image:
    image = Image.fromarray(seen.composed.picture)
    pen = ImageDraw.Draw(image)
    for box, index in zip(seen.composed.faces, seen.matches, strict=True):
        if index is None:
            pen.rectangle(box, outline="red", width=3)
    for index, box in enumerate(found):
        color = "lime" if index in seen.matches else "blue"
        pen.rectangle(box, outline=color, width=3)
        pen.text((box[0] + 3, box[1] + 2), str(index), fill=color)
    return image


def table(seen: Sequence[Seen]) -> str:
    """Markdown: by kind of picture, then by size of face."""
    lines = ["| pictures | number | faces | found | invented | in order |", "| --- | --- | --- | --- | --- | --- |"]
    groups = defaultdict(list)
    for one in seen:
        groups[one.composed.kind].append(one)
    for kind, rows in [*groups.items(), ("all", list(seen))]:
        faces = sum(len(one.matches) for one in rows)
        found = sum(index is not None for one in rows for index in one.matches)
        share = f"{found} ({found / faces:.1%})" if faces else "-"
        several = [one for one in rows if sum(index is not None for index in one.matches) > 1]
        order = f"{sum(one.in_order for one in several)} of {len(several)}" if several else "-"
        lines.append(f"| {kind} | {len(rows)} | {faces} | {share} | {sum(o.invented for o in rows)} | {order} |")
    heads = sorted({head for one in seen for head in one.composed.heads})
    totals, hits = Counter[tuple[str, int]](), Counter[tuple[str, int]]()
    for one in seen:
        for box, head, index in zip(one.composed.faces, one.composed.heads, one.matches, strict=True):
            size = max(box[2] - box[0], box[3] - box[1])
            largest = next((limit for limit in LARGEST_PX if size < limit), LARGEST_PX[-1])
            for group in ((head, largest), ("all", largest)):
                totals[group] += 1
                hits[group] += index is not None
    lines += [
        "",
        f"| largest side of the face | {' | '.join((*heads, 'all'))} |",
        "| --- |" + " --- |" * (len(heads) + 1),
    ]
    for low, high in zip((24, *LARGEST_PX), LARGEST_PX, strict=False):
        cells = [
            f"{hits[head, high]} of {totals[head, high]}" if totals[head, high] else "-" for head in (*heads, "all")
        ]
        lines.append(f"| {low} to {high} px | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=240)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tuning", action="store_true", help="the other set, on which thresholds are chosen")
    parser.add_argument("--portrait", type=Path, action="append", default=[], metavar="FILE")
    parser.add_argument("--draw", type=Path, metavar="FOLDER")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    if options.draw is not None:
        options.draw.mkdir(parents=True, exist_ok=True)
    finder = FaceFinder.open(torch.device(options.device))
    maker = Maker(options.seed, options.tuning, [portrait(path, finder) for path in options.portrait])

    def find(picture: Picture) -> Sequence[Box]:
        return [face.box for face in finder.find(picture)]

    seen = list(measure(maker, find, options.pictures, options.draw))
    print(table(seen))
    times = sorted(one.seconds for one in seen)
    print(f"\nSeconds a picture: median {times[len(times) // 2]:.2f}, longest {times[-1]:.2f}.")


if __name__ == "__main__":
    main()
