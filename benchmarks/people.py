"""Who speaks among several drawn people: jobs with `speakers`, made by the worker's own loop and measured.

    python -m benchmarks.people --out OUT [--jobs 3] [--kinds one_of_three three_in_turns]

In each job the people of a picture that no training has seen speak in turns of 1.6 to 3.2 s, with pauses of 0.4 s, or
only one of them speaks. Each voice is a file of its own and names its face; where the faces are is known, not found. A
mouth is compared with the height of the mouth that was drawn for its voice; it follows another's voice as far as its
correlation with that voice's mouth passes the correlation of the two drawn mouths. Prints a Markdown table
and writes OUT/people.json.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from PIL import Image

from infinitetalk.contract.request import Request
from infinitetalk.contract.settings import Settings
from infinitetalk.contract.values import LOCAL_FILES, Box
from infinitetalk.faces.finder import Face, FaceFinder
from infinitetalk.job.run import run_job
from infinitetalk.quality.measures import correlation
from infinitetalk.quality.report import read_frames
from infinitetalk.shapes import FPS, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from infinitetalk.startup.opening import open_models
from infinitetalk.transfer.exchange import local_exchange
from training.data import Maker
from training.faces import Scene, measure_mouth
from training.held_out import SEED
from training.speech import Corpus, load_corpus

Floats = NDArray[np.float32]
TURN_FRAMES, PAUSE_FRAMES = (40, 80), 10
MODE = "turbo"


@dataclass(frozen=True)
class Kind:
    """A kind of job.

    Args:
        people: how many the picture shows.
        speakers: who of them have voices, from left to right, counted from 0.
        size: (width, height) of the picture.
        turns: how many turns are taken.
    """

    people: int
    speakers: tuple[int, ...]
    size: tuple[int, int]
    turns: int


WIDE, LARGE = (160, 96), (224, 128)
KINDS = {
    "one_of_two": Kind(2, (1,), WIDE, 2),
    "one_of_three": Kind(3, (1,), WIDE, 2),
    "two_of_three": Kind(3, (0, 2), WIDE, 6),
    "three_in_turns": Kind(3, (0, 1, 2), WIDE, 9),
    "three_in_turns_720p": Kind(3, (0, 1, 2), LARGE, 9),
    "four_in_turns_720p": Kind(4, (0, 1, 2, 3), LARGE, 12),
}


@dataclass(frozen=True)
class Conversation:
    """A picture, who is where in it, and who says what when.

    Args:
        picture: (3, height, width) in [-1, 1].
        wanted: (people, frames), how far each mouth is drawn open; 0 for people without a voice and outside turns.
        voices: a wave of the whole clip for each speaker.
        faces: of all people, in fractions of the picture.
    """

    scene: Scene
    picture: torch.Tensor
    wanted: Floats
    voices: tuple[Floats, ...]
    faces: tuple[Box, ...]

    def find(self, picture: NDArray[np.uint8]) -> tuple[Face, ...]:
        """What `FaceFinder.find` finds, without looking."""
        scale = np.tile(picture.shape[1::-1], 2)
        points = np.zeros((468, 2), np.float32)
        return tuple(Face(tuple(np.multiply(face, scale).tolist()), points, 1.0) for face in self.faces)


def conversation(corpus: Corpus, kind: Kind, number: int) -> Conversation:
    """Job `number` of a kind."""
    maker = Maker(corpus, torch.device("cpu"), SEED + number)
    choices = np.random.default_rng(SEED + number)
    scene = maker.painter.scene(1, kind.people, kind.size)
    lengths = choices.integers(*TURN_FRAMES, kind.turns)
    frames = int(lengths.sum() + PAUSE_FRAMES * kind.turns)
    wanted = np.zeros((kind.people, frames), np.float32)
    voices = np.zeros((len(kind.speakers), frames * SAMPLES_PER_FRAME), np.float32)
    begin = PAUSE_FRAMES // 2
    for turn, length in enumerate(lengths.tolist()):
        speaker = turn % len(kind.speakers)
        start = int(maker.starts((1, 1), length)[0, 0])
        wanted[kind.speakers[speaker], begin : begin + length] = maker.height[start : start + length].numpy()
        said = corpus.sound[start * SAMPLES_PER_FRAME : (start + length) * SAMPLES_PER_FRAME]
        voices[speaker, begin * SAMPLES_PER_FRAME :][: len(said)] = said
        begin += length + PAUSE_FRAMES
    still = maker.starts((1, kind.people), 2, 1.0)
    closed = torch.zeros(1, kind.people), torch.full((1, kind.people), 0.5)
    motion = maker.motion(still, 2, torch.tensor([True]), closed)
    picture = maker.painter.draw(scene, motion)[0, :, 0].float()
    return Conversation(scene, picture, wanted, tuple(voices), tuple(_faces(scene, kind.size)))


def _faces(scene: Scene, size: tuple[int, int]) -> Iterator[Box]:
    """The drawn faces: from ear to ear 1.8 units, and 2 from the hair to the chin."""
    width, height = size
    for x, y, unit in zip(*(values[0].tolist() for values in (scene.x, scene.y, scene.unit)), strict=True):
        yield (x - 0.9 * unit) / width, (y - 0.8 * unit) / height, (x + 0.9 * unit) / width, (y + 1.2 * unit) / height


def write(talk: Conversation, kind: Kind, folder: Path) -> dict[str, Any]:
    """Write the picture and the voices; returns the job's fields."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = ((talk.picture + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(pixels).save(folder / "picture.png")
    speakers = []
    for number, (person, wave) in enumerate(zip(kind.speakers, talk.voices, strict=True)):
        path = folder / f"voice_{number}.wav"
        soundfile.write(path, wave, SAMPLE_RATE_HZ)
        speakers.append({"wav_url": path.resolve().as_uri(), "face": person})
    return {
        "image_url": (folder / "picture.png").resolve().as_uri(),
        "aspect_ratio": "16:9",
        "resolution": "480p" if kind.size == WIDE else "720p",
        "speed_mode": MODE,
        "seed": 1,
        "speakers": speakers,
    }


def measure(talk: Conversation, kind: Kind, video: Path) -> list[dict[str, Any]]:
    """A row for each person of the picture."""
    frames = torch.from_numpy(read_frames(video, "video")[0]).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    mouths = measure_mouth(talk.scene, frames)[0, :, 1:].numpy()
    wanted = talk.wanted[:, 1 : 1 + mouths.shape[1]]
    rows = []
    for person, mouth in enumerate(mouths):
        speaks = person in kind.speakers
        others = []
        for other in set(kind.speakers) - {person}:
            value = correlation(mouth, wanted[other])
            shared = correlation(wanted[person], wanted[other]) if speaks else 0.0
            others.append(None if value is None else value - (shared or 0.0))
        known = [value for value in others if value is not None]
        rows.append(
            {
                "person": person,
                "speaks": speaks,
                "unit_px": round(float(talk.scene.unit[0, person]), 1),
                "own": correlation(mouth, wanted[person]) if speaks else None,
                "others": max(known) if known else None,
                "movement": float(np.std(mouth)),
            }
        )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: a line for each kind of job."""
    lines = [
        "| kind | jobs | windows | own voice, mean (worst) | others' voices, largest | movement of speakers "
        "| movement of the silent, largest |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        group = [row for row in rows if row["kind"] == kind]
        own = [row["own"] for row in group if row["own"] is not None]
        others = [row["others"] for row in group if row["speaks"] and row["others"] is not None]
        moving = [row["movement"] for row in group if row["speaks"]]
        silent = [row["movement"] for row in group if not row["speaks"]]
        cells = [
            kind,
            str(len({row["job"] for row in group})),
            ", ".join(map(str, sorted({row["windows"] for row in group}))),
            f"{np.mean(own):.3f} ({min(own):.3f})",
            f"{max(others):.3f}" if others else "-",
            f"{np.mean(moving):.2f}",
            f"{max(silent):.3f}" if silent else "-",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the videos and of people.json")
    parser.add_argument("--jobs", type=int, default=3, help="of each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    options = parser.parse_args(arguments)
    corpus, settings = load_corpus("held_out"), Settings()
    models = open_models(settings)
    rows: list[dict[str, Any]] = []
    for name in options.kinds:
        for number in range(options.jobs):
            kind, folder = KINDS[name], options.out / f"{name}-{number}"
            talk = conversation(corpus, kind, number)
            job, video = write(talk, kind, folder), folder / "video.mp4"
            result_file = folder / "result.json"
            if not result_file.is_file():  # a run that was cut off goes on
                faces = cast(FaceFinder, talk)
                result = run_job(Request.parse(job, LOCAL_FILES), models, settings, local_exchange(video), faces=faces)
                result_file.write_text(json.dumps(result.to_json()), "utf-8")
            made = json.loads(result_file.read_text("utf-8"))
            about = {"kind": name, "job": number, "windows": made["settings"]["windows"], "warnings": made["warnings"]}
            about["seconds"] = made["settings"]["frames"] / FPS
            for row in measure(talk, kind, video):
                rows.append(about | row)
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    (options.out / "people.json").write_text(json.dumps(rows, indent=1), "utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
