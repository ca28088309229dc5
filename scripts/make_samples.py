"""Draws the people and speaks the voices of samples/, the same bytes each time.

Needs espeak-ng (apt-get install espeak-ng) and the extra `dev`: python scripts/make_samples.py
"""

import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import cos, pi, radians, sin
from pathlib import Path

import librosa
import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from infinitetalk.media.encode import VideoWriter
from infinitetalk.shapes import FPS

SAMPLES = Path(__file__).parent.parent / "samples"
SMOOTH = 3  # drawn this much larger, then reduced
VOICE = "Hello! I am a picture that can talk. Watch how my lips follow every word."
VOICE_2 = "Good to meet you. With my voice, two people can share one video."
Point = tuple[float, float]


@dataclass(frozen=True)
class Look:
    """Who is drawn. Colours are hexadecimal RGB."""

    skin: str
    shade: str
    hair: str
    iris: str
    lips: str
    clothes: str
    collar: str
    long_hair: bool


@dataclass(frozen=True)
class Pose:
    """How the head is held: angles in degrees, the rest from 0 to 1."""

    turn: float = 0.0
    tilt: float = 0.0
    nod: float = 0.0
    mouth: float = 0.15
    eyes: float = 1.0


ANNA = Look("#f0c3a0", "#dca27c", "#5a3423", "#4c7a5a", "#b8575a", "#2f6f73", "#f4efe6", long_hair=True)
BEN = Look("#c98f68", "#ac724d", "#241c1a", "#4a3120", "#9c5346", "#b5523b", "#f0dfc0", long_hair=False)


class Canvas:
    """Draws smooth shapes given in a person's own units: the head's middle is (0, 0), half its width 1."""

    def __init__(self, image: Image.Image, centre: Point, unit: float) -> None:
        self._draw = ImageDraw.Draw(image)
        self._centre, self._unit = centre, unit
        self.pose = Pose()
        self.depth = 0.0  # how far in front of the neck's axis: what turns and nods more

    def place(self, point: Point) -> Point:
        """A point of the head, turned, nodded and tilted about the neck, in pixels."""
        x = point[0] + self.depth * sin(radians(self.pose.turn))
        y = point[1] + self.depth * sin(radians(self.pose.nod))
        angle, pivot = radians(self.pose.tilt), 1.6
        x, y = x * cos(angle) - (y - pivot) * sin(angle), x * sin(angle) + (y - pivot) * cos(angle) + pivot
        return self._centre[0] + x * self._unit, self._centre[1] + y * self._unit

    def shape(self, points: Sequence[Point], fill: str) -> None:
        """A closed curve through the points."""
        self._draw.polygon([self.place(point) for point in curve(points)], fill=fill)

    def ellipse(self, centre: Point, radius_x: float, radius_y: float, fill: str) -> None:
        angles = np.linspace(0, 2 * pi, 48, endpoint=False)
        points = [(centre[0] + radius_x * cos(a), centre[1] + radius_y * sin(a)) for a in angles]
        self._draw.polygon([self.place(point) for point in points], fill=fill)

    def line(self, points: Sequence[Point], width: float, fill: str) -> None:
        """An open curve through the points, with round ends."""
        path = [self.place(point) for point in curve(points, closed=False)]
        pixels = max(1, round(width * self._unit))
        self._draw.line(path, fill=fill, width=pixels, joint="curve")
        for x, y in (path[0], path[-1]):
            self._draw.ellipse((x - pixels / 2, y - pixels / 2, x + pixels / 2, y + pixels / 2), fill=fill)


def curve(points: Sequence[Point], closed: bool = True) -> list[Point]:
    """A Catmull-Rom spline through the points."""
    p = np.array([points[-1], *points, points[0], points[1]] if closed else [points[0], *points, points[-1]])
    t = np.linspace(0, 1, 12, endpoint=False)[:, None]
    parts = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        for a, b, c, d in zip(p[:-3], p[1:-2], p[2:-1], p[3:], strict=True)
    ]
    smooth = np.concatenate(parts if closed else [*parts, p[-1:]])
    return [(float(x), float(y)) for x, y in smooth]


def mirrored(points: Sequence[Point]) -> list[Point]:
    """A left half, from top to bottom, and its mirror image."""
    return [*points, *((-x, y) for x, y in reversed(points) if x != 0)]


def draw_person(canvas: Canvas, look: Look, pose: Pose) -> None:
    """A person from the chest up."""
    canvas.pose, canvas.depth = Pose(), 0.0
    body = [(0, 2.05), (-0.5, 2.15), (-1.5, 2.5), (-2.15, 3.0), (-2.4, 4.2), (-2.5, 7.0), (0, 7.2)]
    if look.long_hair:
        canvas.pose = replace(pose, tilt=pose.tilt * 0.6)
        canvas.shape(
            mirrored(
                [(0, -1.6), (-0.8, -1.42), (-1.25, -0.7), (-1.3, 0.3), (-1.42, 1.4), (-1.5, 2.6), (-1.0, 2.9), (0, 2.6)]
            ),
            look.hair,
        )
        canvas.pose = Pose()
    canvas.shape(mirrored(body), look.clothes)
    canvas.shape(mirrored([(0, 1.0), (-0.46, 1.0), (-0.48, 1.8), (-0.75, 2.2), (-0.4, 2.66), (0, 2.8)]), look.skin)
    canvas.shape([(-0.42, 1.05), (0.42, 1.05), (0.41, 1.5), (0.05, 1.7), (-0.41, 1.5)], look.shade)
    canvas.line([(-0.8, 2.12), (-0.45, 2.62), (0, 2.82), (0.45, 2.62), (0.8, 2.12)], 0.16, look.collar)
    if not look.long_hair:
        for y in (3.3, 3.9, 4.5):
            canvas.ellipse((0, y), 0.07, 0.07, look.collar)

    canvas.pose, canvas.depth = pose, -0.25
    for side in (-1, 1):
        canvas.ellipse((side * 1.0, 0.12), 0.17, 0.28, look.shade)
    canvas.depth = 0.1
    canvas.shape(
        mirrored([(0, -1.38), (-0.6, -1.2), (-0.97, -0.6), (-1.0, 0.1), (-0.88, 0.72), (-0.5, 1.2), (0, 1.36)]),
        look.skin,
    )
    draw_face(canvas, look, pose)
    draw_hair(canvas, look)


def draw_face(canvas: Canvas, look: Look, pose: Pose) -> None:
    canvas.depth = 0.45
    for side in (-1, 1):
        canvas.ellipse((side * 0.56, 0.5), 0.2, 0.13, "#" + blend(look.skin, "#e0705a", 0.3))
        eye, openness = side * 0.4, 0.15 * pose.eyes
        if pose.eyes > 0.2:
            canvas.shape(
                [(eye - 0.22, 0.02), (eye, 0.02 - openness), (eye + 0.22, 0.02), (eye, 0.02 + 0.8 * openness)],
                "#fbf8f4",
            )
            gaze = eye + 0.05 * sin(radians(pose.turn))
            height = min(0.115, openness)
            canvas.ellipse((gaze, 0.0), 0.115, height, look.iris)
            canvas.ellipse((gaze, 0.0), 0.055, min(0.055, height), "#15100e")
            canvas.ellipse((gaze + 0.04, -0.04), 0.028, min(0.028, height / 2), "#ffffff")
        lid = 0.02 - openness
        canvas.line([(eye - 0.23, 0.03), (eye, lid), (eye + 0.23, 0.03)], 0.05, "#2a1a16")
        brow = [(eye - side * 0.24, -0.3), (eye, -0.37), (eye + side * 0.26, -0.27)]
        canvas.line(brow, 0.07 if look.long_hair else 0.1, look.hair)
    canvas.depth = 0.6
    canvas.line([(0.05, 0.05), (0.12, 0.38), (0.1, 0.5), (-0.08, 0.5)], 0.045, look.shade)
    canvas.depth = 0.5
    gap = 0.26 * pose.mouth
    canvas.shape(
        [(-0.36, 0.79), (-0.12, 0.77), (0, 0.795), (0.12, 0.77), (0.36, 0.79), (0.17, 0.94 + gap), (-0.17, 0.94 + gap)],
        look.lips,
    )
    canvas.shape([(-0.28, 0.81), (0, 0.84), (0.28, 0.81), (0.14, 0.86 + gap), (-0.14, 0.86 + gap)], "#4a1a1c")
    if pose.mouth > 0.25:
        canvas.shape(
            [(-0.19, 0.835), (0.19, 0.835), (0.15, 0.835 + gap * 0.35), (-0.15, 0.835 + gap * 0.35)], "#f7f2ea"
        )


def draw_hair(canvas: Canvas, look: Look) -> None:
    canvas.depth = 0.15
    if look.long_hair:
        canvas.shape(
            [
                (-1.05, 0.35),
                (-1.18, -0.5),
                (-0.9, -1.25),
                (0, -1.62),
                (0.9, -1.25),
                (1.18, -0.5),
                (1.05, 0.35),
                (0.92, -0.35),
                (0.55, -0.82),
                (-0.1, -1.0),
                (-0.7, -0.7),
                (-0.95, -0.2),
            ],
            look.hair,
        )
        canvas.line([(-0.75, -1.05), (-0.2, -1.3), (0.35, -1.3)], 0.06, "#" + blend(look.hair, "#ffffff", 0.22))
    else:
        canvas.shape(
            [
                (-1.04, 0.0),
                (-1.12, -0.6),
                (-0.85, -1.3),
                (-0.1, -1.62),
                (0.7, -1.42),
                (1.08, -0.75),
                (1.04, 0.0),
                (0.93, -0.45),
                (0.6, -0.8),
                (0.0, -0.72),
                (-0.55, -0.88),
                (-0.92, -0.45),
            ],
            look.hair,
        )
        canvas.line([(-0.5, -1.25), (0.0, -1.38), (0.5, -1.25)], 0.06, "#" + blend(look.hair, "#ffffff", 0.22))


def blend(color: str, other: str, part: float) -> str:
    """Hexadecimal RGB, without #, between two colours."""
    pairs = zip(bytes.fromhex(color[1:]), bytes.fromhex(other[1:]), strict=True)
    return bytes(round(a + (b - a) * part) for a, b in pairs).hex()


def draw_room(width: int, height: int, wall: str) -> Image.Image:
    """A wall with a lamp's glow, a picture and a shelf."""
    image = Image.new("RGB", (width, height), wall)
    draw = ImageDraw.Draw(image)
    unit = min(width, height)
    for part, radius in ((0.05, 0.9), (0.1, 0.65), (0.15, 0.42)):
        r = radius * unit
        x, y = 0.5 * width, 0.35 * height
        draw.ellipse((x - r, y - r, x + r, y + r), fill="#" + blend(wall, "#fff6e0", part + 0.05))
    x, y, side = 0.04 * width, 0.05 * height, 0.22 * unit
    draw.rectangle((x, y, x + side, y + 1.25 * side), fill="#7a5a3c")
    draw.rectangle((x + 0.1 * side, y + 0.1 * side, x + 0.9 * side, y + 1.15 * side), fill="#dfe8dc")
    draw.polygon(
        [(x + 0.1 * side, y + 1.15 * side), (x + 0.45 * side, y + 0.5 * side), (x + 0.9 * side, y + 1.15 * side)],
        fill="#6b8f71",
    )
    shelf = 0.26 * height
    draw.rectangle((width - 0.25 * unit, shelf, width, shelf + 0.022 * unit), fill="#7a5a3c")
    for i, color in enumerate(("#8a3b3b", "#3f5e7a", "#c49a4a", "#4f6f52")):
        left = width - 0.22 * unit + i * 0.052 * unit
        draw.rectangle((left, shelf - (0.13 + 0.02 * (i % 3)) * unit, left + 0.042 * unit, shelf), fill=color)
    return image


def reduced(image: Image.Image) -> Image.Image:
    return image.reduce(SMOOTH)


def portrait(pose: Pose, look: Look, width: int, height: int, wall: str) -> Image.Image:
    """One person in the middle."""
    image = draw_room(width * SMOOTH, height * SMOOTH, wall)
    unit = 0.24 * min(width, height) * SMOOTH
    draw_person(Canvas(image, (image.width / 2, 0.42 * image.height), unit), look, pose)
    return reduced(image)


def two_people(width: int, height: int, poses: Sequence[Pose]) -> Image.Image:
    """One person in each half, in these poses."""
    image = draw_room(width * SMOOTH, height * SMOOTH, "#8fa3ad")
    unit = 0.19 * image.height
    for look, x, pose in zip((ANNA, BEN), (0.28, 0.72), poses, strict=True):
        draw_person(Canvas(image, (x * image.width, 0.4 * image.height), unit), look, pose)
    return reduced(image)


def talking_frames(seconds: float, width: int, height: int) -> NDArray[np.uint8]:
    """The head sways and nods, the eyes blink, the mouth opens and closes."""
    frames = []
    for i in range(round(seconds * FPS)):
        t = i / FPS
        pose = Pose(
            turn=16 * sin(2 * pi * t / 4),
            tilt=4 * sin(2 * pi * t / 2.7),
            nod=7 * sin(2 * pi * t / 1.9),
            mouth=0.15 + 0.75 * max(0.0, sin(2 * pi * 3.1 * t)) * (0.6 + 0.4 * sin(2 * pi * 0.7 * t)),
            eyes=min(1.0, abs((t + 0.9) % 1.7 - 0.12) / 0.12),
        )
        frames.append(np.asarray(portrait(pose, BEN, width, height, "#a9b8a4")))
    return np.stack(frames)


def two_moving_frames(seconds: float, width: int, height: int) -> NDArray[np.uint8]:
    """Two people turned to each other. They sway, nod and blink, each in a rhythm of their own; mouths hardly move."""
    frames = []
    for i in range(round(seconds * FPS)):
        poses = []
        for facing, pace in ((12.0, 1.0), (-12.0, 1.3)):
            t = pace * i / FPS
            poses.append(
                Pose(
                    turn=facing + 4 * sin(2 * pi * t / 3.1),
                    tilt=facing / 4 + 2 * sin(2 * pi * t / 4.3),
                    nod=3 * sin(2 * pi * t / 1.9),
                    mouth=0.15 + 0.1 * sin(2 * pi * t / 1.3),
                    eyes=min(1.0, abs((t + 0.9) % 2.3 - 0.12) / 0.12),
                )
            )
        frames.append(np.asarray(two_people(width, height, poses)))
    return np.stack(frames)


def speak(text: str, voice: str, words_per_minute: int) -> tuple[NDArray[np.float64], int]:
    """Speech of espeak-ng, without the silence around it, and its sample rate in Hz."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        subprocess.run(["espeak-ng", "-v", voice, "-s", str(words_per_minute), "-w", path, text], check=True)
        wave, rate_hz = soundfile.read(path)
    loud = np.flatnonzero(np.abs(wave) > 0.01)
    margin = rate_hz // 10
    return wave[max(0, loud[0] - margin) : loud[-1] + margin], rate_hz


def main() -> None:
    """Write all samples."""
    SAMPLES.mkdir(exist_ok=True)
    portrait(Pose(turn=4, tilt=-2), ANNA, 480, 848, "#8c9bb5").save(SAMPLES / "portrait.png", optimize=True)
    poses = [Pose(turn=turn, tilt=turn / 4) for turn in (12.0, -12.0)]
    two_people(848, 480, poses).save(SAMPLES / "two_people.png", optimize=True)
    wave, rate_hz = speak(VOICE, "en-us+f3", 165)
    wave = librosa.resample(wave, orig_sr=rate_hz, target_sr=16_000, fix=False)
    soundfile.write(SAMPLES / "voice.wav", wave, 16_000, subtype="PCM_16")
    wave, rate_hz = speak(VOICE_2, "en-gb+m3", 160)
    soundfile.write(SAMPLES / "voice_2.flac", wave, rate_hz, subtype="PCM_16")
    write_video("talking_head.mp4", talking_frames(4.0, 360, 640))
    write_video("two_people.mp4", two_moving_frames(5.2, 848, 480))


def write_video(name: str, frames: NDArray[np.uint8]) -> None:
    """Frames (T, height, width, 3) as a sample without sound."""
    with VideoWriter(SAMPLES / name, frames.shape[2], frames.shape[1]) as writer:
        writer.append(writer.pack(frames))
        writer.finish()


if __name__ == "__main__":
    main()
