"""Drawn people who talk, made on the GPU as the training asks for them.

A `Scene` holds what stays the same (looks, background), and a `Motion` holds what moves. Lengths of a face are in units
of half the head's width, with the head's middle at (0, 0), as in scripts/make_samples.py, whose people these resemble.

Axes: B scenes, P people, T frames.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

Palette = tuple[float, ...] | tuple[tuple[float, ...], ...]  # a colour, or several

BASE_SIDE = 96  # lengths in pixels are given for pictures whose shorter side is this long

SKINS = ((0.97, 0.80, 0.68), (0.94, 0.76, 0.63), (0.86, 0.65, 0.48), (0.79, 0.56, 0.41), (0.64, 0.45, 0.32))
HAIRS = (
    (0.35, 0.20, 0.14), (0.14, 0.11, 0.10), (0.52, 0.34, 0.18), (0.82, 0.66, 0.34), (0.62, 0.26, 0.14),
    (0.66, 0.66, 0.68),
)  # fmt: skip
IRISES = ((0.30, 0.48, 0.35), (0.29, 0.19, 0.13), (0.25, 0.42, 0.66), (0.36, 0.36, 0.38))
LIPS = (0.74, 0.37, 0.36)
MOUTH_INSIDE = (0.27, 0.09, 0.10)
BOOKS = ((0.55, 0.23, 0.25), (0.26, 0.38, 0.49), (0.76, 0.60, 0.28), (0.31, 0.44, 0.32))
WOOD = (0.48, 0.36, 0.24)

MOUTH_TOP, MOUTH_MIN = 0.82, 0.03
LARGE_UNIT = 20  # a head whose half width has fewer pixels is small
NOD, SWAY = 0.09, 0.10  # how far a head moves at full nod and sway, in units


@dataclass(frozen=True)
class Scene:
    """What stays the same in a clip. People's numbers are (B, P) in units, colours (B, P, 3) in [0, 1].

    Args:
        x, y, unit: the head's middle and its half width, in pixels.
        mouth_width: half the opening's width when the motion's width is 0.5.
        mouth_height: the opening's whole height when the motion's height is 1.
        background: (B, 3, H, W), everything behind the heads, bodies included.
    """

    x: Tensor
    y: Tensor
    unit: Tensor
    mouth_width: Tensor
    mouth_height: Tensor
    lip: Tensor
    hairline: Tensor
    hair_curve: Tensor
    hair_height: Tensor
    brow: Tensor
    nose: Tensor
    gaze: Tensor
    cheeks: Tensor
    teeth: Tensor
    skin: Tensor
    hair: Tensor
    iris: Tensor
    lips: Tensor
    background: Tensor

    def repeat(self, times: int) -> "Scene":
        """Every scene `times` times in a row."""
        return Scene(*(getattr(self, f.name).repeat_interleave(times, 0) for f in fields(self)))

    def __getitem__(self, index: Tensor) -> "Scene":
        return Scene(*(getattr(self, f.name)[index] for f in fields(self)))


@dataclass(frozen=True)
class Motion:
    """What moves, (B, P, T): mouth height and width in [0, 1], eyes open in [0, 1], the head's shift in units."""

    height: Tensor
    width: Tensor
    eyes: Tensor
    shift_x: Tensor
    shift_y: Tensor

    def at(self, frames: slice) -> "Motion":
        return Motion(*(getattr(self, f.name)[..., frames] for f in fields(self)))


def _ellipse(x: Tensor, y: Tensor, a: Tensor | float, b: Tensor | float, edge: Tensor) -> Tensor:
    """Coverage of the ellipse with half axes a, b around 0. `edge` is a pixel's size in the same units."""
    u, v = x / a, y / b
    k = (u * u + v * v + 1e-9).sqrt()
    slope = ((u / a) ** 2 + (v / b) ** 2 + 1e-9).sqrt()
    return (0.5 - k * (k - 1) / slope / edge).clamp(0, 1)


def _segment(
    x: Tensor, y: Tensor, start: tuple[float, float], stop: tuple[float, float], width: float, edge: Tensor
) -> Tensor:
    """Coverage of a line with round ends."""
    dx, dy = stop[0] - start[0], stop[1] - start[1]
    along = (((x - start[0]) * dx + (y - start[1]) * dy) / (dx * dx + dy * dy)).clamp(0, 1)
    distance = ((x - start[0] - along * dx) ** 2 + (y - start[1] - along * dy) ** 2 + 1e-9).sqrt()
    return (0.5 - (distance - width / 2) / edge).clamp(0, 1)


def _below(value: Tensor, edge: Tensor) -> Tensor:
    """Coverage of the region where `value`, a signed distance, is negative."""
    return (0.5 - value / edge).clamp(0, 1)


def _paint(canvas: Tensor, coverage: Tensor, color: Tensor) -> Tensor:
    """Paint a colour (n, 3) over a canvas (n, 3, H, W) where covered (n, H, W)."""
    return torch.lerp(canvas, color[:, :, None, None].expand_as(canvas), coverage.unsqueeze(1))


class Painter:
    """Draws random numbers and pictures on one device."""

    def __init__(self, device: torch.device, seed: int) -> None:
        self.device = device
        self.generator = torch.Generator(device).manual_seed(seed)
        self.constants: dict[Palette, Tensor] = {}

    def constant(self, values: Palette) -> Tensor:
        """The numbers on the device. They are sent once, since sending waits until the device has done all its work."""
        if values not in self.constants:
            self.constants[values] = torch.tensor(values, device=self.device)
        return self.constants[values]

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, device=self.device, generator=self.generator)

    def chance(self, probability: float, *shape: int) -> Tensor:
        return torch.rand(shape, device=self.device, generator=self.generator) < probability

    def _pick(self, palette: Palette, jitter: float, *shape: int) -> Tensor:
        index = torch.randint(len(palette), shape, device=self.device, generator=self.generator)
        colors = self.constant(palette)[index]
        return (colors + self.uniform(-jitter, jitter, *shape, 3)).clamp(0, 1)

    def scene(self, count: int, people: int, size: tuple[int, int], teeth: float = 0.0, alike: float = 0.0) -> Scene:
        """`count` new scenes of people side by side for pictures of size (width, height).

        Args:
            people: in each picture. The training draws one or two; more are for measurements.
            teeth: share of people who show teeth. A closed mouth does not tell whether there are any, so only the
                autoencoder, which copies what it sees, is shown some.
            alike: share of people whose hair has nearly their skin's colour. Blurring such faces costs an autoencoder
                little, but it loses their mouths.
        """
        width, height = size
        b, p = count, people
        scale = min(size) / BASE_SIDE
        wide = width > height
        if p == 1:
            unit = self.uniform(17, 28, b, p) * scale
            x = width / 2 + self.uniform(-0.16 if wide else -0.09, 0.16 if wide else 0.09, b, p) * width
            y = height * self.uniform(0.37, 0.50, b, p)
        elif p > 2:
            unit = self.uniform(0.2, 0.26, b, p) * width / p
            centres = (torch.arange(p, device=self.device) + 0.5) / p
            x = (centres + self.uniform(-0.06, 0.06, b, p) / p) * width
            y = height * self.uniform(0.36, 0.48, b, p)
        else:
            unit = (self.uniform(15, 20, b, p) if wide else self.uniform(10.5, 14, b, p)) * scale
            centres = self.constant((0.265, 0.735))
            x = (centres + self.uniform(-0.035, 0.035, b, p)) * width
            y = height * self.uniform(0.36, 0.48, b, p)
        # Long faces must stay in the picture: the chin is 1.37 units below the middle.
        y = torch.minimum(torch.maximum(y, unit), height - 1.5 * unit)
        long_hair = self.chance(0.5, b, p)
        skin, hair = self._pick(SKINS, 0.03, b, p), self._pick(HAIRS, 0.04, b, p)
        if alike > 0:  # otherwise no random numbers are drawn, so that held-out jobs stay the same
            near = (skin + self.uniform(-0.12, 0.12, b, p, 3)).clamp(0, 1)
            hair = torch.where(self.chance(alike, b, p, 1), near, hair)
        looks = {
            "x": x,
            "y": y,
            "unit": unit,
            "mouth_width": self.uniform(0.24, 0.32, b, p),
            "mouth_height": self.uniform(0.26, 0.38, b, p),
            "lip": self.uniform(0.05, 0.09, b, p),
            "hairline": torch.where(long_hair, self.uniform(-1.05, -0.85, b, p), self.uniform(-0.95, -0.6, b, p)),
            "hair_curve": torch.where(long_hair, self.uniform(0.8, 1.2, b, p), self.uniform(0.2, 0.6, b, p)),
            "hair_height": self.uniform(1.4, 1.65, b, p),
            "brow": self.uniform(0.06, 0.11, b, p),
            "nose": self.uniform(-1, 1, b, p).sign(),
            "gaze": self.uniform(-0.05, 0.05, b, p),
            "cheeks": self.uniform(0, 0.4, b, p),
            "teeth": self.chance(teeth, b, p).float(),
            "skin": skin,
            "hair": hair,
            "iris": self._pick(IRISES, 0.05, b, p),
            "lips": (0.75 * self.constant(LIPS) + 0.25 * skin + self.uniform(-0.05, 0.05, b, p, 3)),
        }
        background = self._background(b, size)
        for person in range(p):
            background = self._body(background, {k: v[:, person] for k, v in looks.items()}, long_hair[:, person])
        return Scene(**looks, background=background)

    def _grid(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        width, height = size
        return (
            torch.arange(width, device=self.device).float()[None, None, :] + 0.5,
            torch.arange(height, device=self.device).float()[None, :, None] + 0.5,
        )

    def _background(self, b: int, size: tuple[int, int]) -> Tensor:
        """(B, 3, H, W): a wall with discs, sometimes a picture, books and other things."""
        width, height = size
        scale = min(size) / BASE_SIDE
        x, y = self._grid(size)
        one = torch.ones(b, 1, 1, device=self.device)
        wall = self.uniform(0.3, 0.85, b, 1) + self.uniform(-0.12, 0.12, b, 3)
        foot = wall + self.uniform(-0.12, 0.12, b, 3)
        canvas = torch.lerp(wall[:, :, None, None], foot[:, :, None, None], (y / height).unsqueeze(1)).expand(
            b, 3, height, width
        )

        def number(low: float, high: float) -> Tensor:
            return self.uniform(low, high, b, 1, 1)

        def box(x0: Tensor, y0: Tensor, w: Tensor | float, h: Tensor | float) -> Tensor:
            return _below(torch.maximum((x - x0 - w / 2).abs() - w / 2, (y - y0 - h / 2).abs() - h / 2), one)

        def present(probability: float) -> Tensor:
            return self.chance(probability, b, 1, 1).float()

        center_x, center_y = number(0.3, 0.7) * width, number(0.2, 0.6) * height
        for reach in (0.62, 0.4):
            radius = reach * max(size) * number(0.7, 1.1)
            disc = _below((((x - center_x) ** 2 + (y - center_y) ** 2).sqrt() - radius), one) * present(0.6)
            canvas = _paint(canvas, disc * 0.5, wall + self.uniform(-0.1, 0.2, b, 1))
        for _ in range(2):  # anything
            things = _ellipse(
                x - number(0, 1) * width, y - number(0, 0.8) * height, number(4, 16) * scale, number(4, 16) * scale, one
            )
            canvas = _paint(canvas, things * present(0.35), self.uniform(0.1, 0.9, b, 3))
            thing = box(number(0, 0.9) * width, number(0, 0.7) * height, number(5, 28) * scale, number(5, 28) * scale)
            canvas = _paint(canvas, thing * present(0.3), self.uniform(0.1, 0.9, b, 3))
        wood = self.constant(WOOD) + self.uniform(-0.06, 0.06, b, 3)
        side, picture_x, picture_y = number(12, 24) * scale, number(0.02, 0.75) * width, number(0.03, 0.3) * height
        shown = present(0.6)
        tall = side * number(0.9, 1.4)
        canvas = _paint(canvas, box(picture_x, picture_y, side, tall) * shown, wood)
        inner = box(picture_x + 0.1 * side, picture_y + 0.1 * side, 0.8 * side, tall - 0.2 * side)
        canvas = _paint(canvas, inner * shown, 0.85 + self.uniform(-0.1, 0.1, b, 3))
        peak = picture_y + tall - 0.1 * side - (0.42 * side - (x - picture_x - side / 2).abs()) * 1.4
        canvas = _paint(canvas, inner * _below(peak - y, one) * shown, self.uniform(0.2, 0.7, b, 3))
        shelf_x, shelf_y, shown = number(0.0, 0.85) * width, number(0.12, 0.4) * height, present(0.6)
        canvas = _paint(canvas, box(shelf_x, shelf_y, 26 * scale, 2.2 * scale) * shown, wood)
        for i, color in enumerate(BOOKS):
            tall = number(8, 17) * scale
            book = box(shelf_x + (3 + 5 * i) * scale, shelf_y - tall, 4.2 * scale, tall)
            canvas = _paint(canvas, book * shown, self.constant(color) + self.uniform(-0.1, 0.1, b, 3))
        return canvas.clamp(0.02, 0.98)

    def _body(self, canvas: Tensor, look: dict[str, Tensor], long_hair: Tensor) -> Tensor:
        """Long hair, clothes and neck, which do not move."""
        b, _, height, width = canvas.shape
        x, y = self._grid((width, height))
        unit = look["unit"][:, None, None]
        x, y, edge = (x - look["x"][:, None, None]) / unit, (y - look["y"][:, None, None]) / unit, 1 / unit
        skin, hair = look["skin"], look["hair"]
        clothes, collar = self.uniform(0.1, 0.8, b, 3), self.uniform(0.1, 0.95, b, 3)
        falls = long_hair.float()[:, None, None]
        length = self.uniform(1.2, 2.9, b, 1, 1)
        sides = torch.maximum(x.abs() - 1.2 - 0.1 * y.clamp(-1, 3), torch.maximum(y - length, -0.2 - y))
        canvas = _paint(canvas, _ellipse(x, y + 0.2, 1.25, 1.45, edge) * falls, hair)
        canvas = _paint(canvas, _below(sides, edge) * falls, hair)
        slope = self.uniform(0.9, 1.1, b, 1, 1)
        shoulders = torch.maximum(
            _ellipse(x, y - 4.3, 2.45 * slope, 2.2, edge), _below(torch.maximum(x.abs() - 2.45 * slope, 4.3 - y), edge)
        )
        canvas = _paint(canvas, shoulders, clothes)
        neckline = _ellipse(x, y - 2.05, 0.72, 0.72, edge) * _below(1.9 - y, edge)
        canvas = _paint(canvas, neckline, skin)
        canvas = _paint(canvas, _below(torch.maximum(x.abs() - 0.47, torch.maximum(0.9 - y, y - 2.2)), edge), skin)
        canvas = _paint(canvas, _ellipse(x, y - 1.28, 0.42, 0.42, edge), skin * 0.84)
        ring = _below((x.square() + (y - 2.05).square()).sqrt().sub(0.76).abs() - 0.09, edge) * _below(2.0 - y, edge)
        has_collar = self.chance(0.6, b, 1, 1).float()
        canvas = _paint(canvas, ring * has_collar, collar)
        has_buttons = self.chance(0.4, b, 1, 1).float()
        for place in (3.3, 3.9):
            canvas = _paint(canvas, _ellipse(x, y - place, 0.07, 0.07, edge) * has_buttons, collar)
        return canvas

    @torch.no_grad()
    def draw(self, scene: Scene, motion: Motion, chunk: int = 512) -> Tensor:
        """Video (B, 3, T, H, W) in [-1, 1]; float16 on the GPU, to save memory."""
        b, _, height, width = scene.background.shape
        people, frames = motion.height.shape[1:]
        dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        video = torch.empty(b * frames, 3, height, width, device=self.device, dtype=dtype)
        owner = torch.arange(b, device=self.device).repeat_interleave(frames)
        moves = [getattr(motion, f.name).transpose(1, 2).flatten(0, 1) for f in fields(motion)]  # (B*T, P)
        for start in range(0, b * frames, chunk):
            part = slice(start, start + chunk)
            canvas = scene.background[owner[part]]
            for person in range(people):
                look = {f.name: getattr(scene, f.name)[owner[part]] for f in fields(scene) if f.name != "background"}
                look = {name: value[:, person].contiguous() for name, value in look.items()}
                # Of two people, each is painted on little more than a half of the picture.
                left, right = (0, width) if people != 2 else ((0, 5 * width // 8), (3 * width // 8, width))[person]
                look["x"] = look["x"] - left
                head = self.draw_head(canvas[..., left:right].contiguous(), look, [m[part, person] for m in moves])
                canvas = torch.cat((canvas[..., :left], head, canvas[..., right:]), -1)
            video[part] = (canvas * 2 - 1).to(dtype)
        return video.view(b, frames, 3, height, width).transpose(1, 2)

    def draw_head(self, canvas: Tensor, look: dict[str, Tensor], moves: list[Tensor]) -> Tensor:
        mouth, wide, eyes, shift_x, shift_y = (m[:, None, None] for m in moves)
        number = {name: value[:, None, None] for name, value in look.items() if value.ndim == 1}
        x, y = self._grid((canvas.shape[-1], canvas.shape[-2]))
        x = (x - number["x"]) / number["unit"] - shift_x
        y = (y - number["y"]) / number["unit"] - shift_y
        edge = 1 / number["unit"]
        skin, hair = look["skin"], look["hair"]
        shade, side = skin * 0.84, x.abs()

        canvas = _paint(canvas, _ellipse(side - 1.0, y - 0.12, 0.17, 0.28, edge), shade)
        canvas = _paint(canvas, _ellipse(x, y, 1.0, 1.37, edge), skin)
        # There are two eyes and two cheeks. The left is the right's mirror image, except for where the eye looks.
        rosy = torch.lerp(skin, self.constant((0.88, 0.44, 0.35)).expand_as(skin), 0.3)
        canvas = _paint(
            canvas, _ellipse(side - 0.56, y - 0.5, 0.2, 0.13, edge) * (2 * number["cheeks"]).clamp(0, 1), rosy
        )
        eye = side - 0.4
        opened = 0.15 * eyes.clamp(min=0.05)
        white = _ellipse(eye, y - 0.02, 0.22, opened, edge) * (eyes > 0.2)
        canvas = _paint(canvas, white, self.constant((0.98, 0.97, 0.96)).expand_as(skin))
        gaze = eye - number["gaze"] * x.sign()
        canvas = _paint(canvas, white * _ellipse(gaze, y, 0.115, 0.115, edge), look["iris"])
        canvas = _paint(canvas, white * _ellipse(gaze, y, 0.055, 0.055, edge), skin.new_full(skin.shape, 0.08))
        lid = y - 0.03 + (opened * 1.1) * (1 - (eye / 0.23) ** 2)
        canvas = _paint(
            canvas, _below(lid.abs() - 0.028, edge) * _below(eye.abs() - 0.24, edge), skin.new_full(skin.shape, 0.14)
        )
        arch = y + 0.36 - 0.09 * ((eye - 0.02) / 0.25) ** 2
        canvas = _paint(canvas, _below(arch.abs() - number["brow"] / 2, edge) * _below(eye.abs() - 0.26, edge), hair)
        turned = x * number["nose"]
        nose = torch.maximum(
            _segment(turned, y, (0.07, 0.05), (0.12, 0.46), 0.05, edge),
            _segment(turned, y, (0.11, 0.5), (-0.08, 0.5), 0.05, edge),
        )
        canvas = _paint(canvas, nose, shade)

        gap = number["mouth_height"] * mouth
        half = number["mouth_width"] * (0.75 + 0.5 * wide)
        middle = MOUTH_TOP + gap / 2
        canvas = _paint(
            canvas, _ellipse(x, y - middle - 0.01, half + 0.08, gap / 2 + MOUTH_MIN + number["lip"], edge), look["lips"]
        )
        inside = _ellipse(x, y - middle, half, gap / 2 + MOUTH_MIN, edge)
        canvas = _paint(canvas, inside, self.constant(MOUTH_INSIDE).expand_as(skin))
        teeth = inside * _below(y - MOUTH_TOP - 0.3 * gap, edge) * number["teeth"] * (mouth > 0.25)
        canvas = _paint(canvas, teeth, skin.new_full(skin.shape, 0.95))

        cap = _ellipse(x, y + 0.12, 1.16, number["hair_height"], edge)
        cap = cap * _below(y - number["hairline"] - number["hair_curve"] * side**3, edge)
        canvas = _paint(canvas, cap, hair)
        glow = _segment(x, y, (-0.6, -1.15), (0.2, -1.3), 0.06, edge) * cap
        return _paint(canvas, glow, torch.lerp(hair, torch.ones_like(hair), 0.22))


# --- where things are, and what the mouth does on a picture ------------------------------------------------------


def _place(scene: Scene, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    width, height = size
    unit = scene.unit[..., None, None]
    x = (torch.arange(width, device=unit.device) + 0.5 - scene.x[..., None, None]) / unit
    y = ((torch.arange(height, device=unit.device) + 0.5)[:, None] - scene.y[..., None, None]) / unit
    return x, y, 1 / unit


def mouth_region(scene: Scene, margin: float = 0.12) -> Tensor:
    """(B, P, H, W), 1 where a mouth and its surroundings are."""
    x, y, _ = _place(scene, (scene.background.shape[-1], scene.background.shape[-2]))
    top, low = MOUTH_TOP - 0.15, MOUTH_TOP + scene.mouth_height[..., None, None] + 0.15
    return ((x.abs() < 0.5 + margin) & (y > top - margin) & (y < low + margin)).float()


def small_head_weight(scene: Scene) -> Tensor:
    """(B, P, 1, 1), the factor by which parts of small heads count more, to weigh as much as those of larger heads."""
    return (LARGE_UNIT / scene.unit).square().clamp(1, 3)[..., None, None]


def face_region(scene: Scene, reach: float = 1.3) -> Tensor:
    """(B, P, H, W), 1 where a head is."""
    x, y, _ = _place(scene, (scene.background.shape[-1], scene.background.shape[-2]))
    return ((x.abs() < reach) & (y > -1.75) & (y < 1.6)).float()


def eye_region(scene: Scene) -> Tensor:
    """(B, P, H, W), 1 where eyes are."""
    x, y, _ = _place(scene, (scene.background.shape[-1], scene.background.shape[-2]))
    return (((x.abs() - 0.4).abs() < 0.32) & (y.abs() < 0.3)).float()


_LUMINANCE = (0.299, 0.587, 0.114)
_DARK, _LIGHT = 0.15, 0.34


def measure_mouth(scene: Scene, video: Tensor) -> Tensor:
    """How far the mouths of `video` (B, 3, T, H, W) in [-1, 1] are open, (B, P, T): 0 is shut, 1 wide open.

    It is the height of what is dark in the mouth's middle columns, minus the gap between shut lips.
    """
    x, y, _ = _place(scene, (video.shape[-1], video.shape[-2]))
    columns = x.abs() < 0.5 * scene.mouth_width[..., None, None]
    low = MOUTH_TOP + scene.mouth_height[..., None, None] + NOD + 0.08
    region = (columns & (y > MOUTH_TOP - 0.14) & (y < low)).float()
    weights = video.new_tensor(_LUMINANCE, dtype=torch.float32)
    luminance = torch.einsum("bcthw,c->bthw", (video.float() + 1) / 2, weights)
    dark = ((_LIGHT - luminance) / (_LIGHT - _DARK)).clamp(0, 1)
    height = torch.einsum("bthw,bphw->bpt", dark, region) / columns.float()[..., 0, :].sum(-1).clamp(min=1)[..., None]
    shut = 2 * MOUTH_MIN * scene.unit
    return (height - shut[..., None]) / (scene.mouth_height * scene.unit)[..., None]
