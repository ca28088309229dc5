"""Sixty held-out jobs of many kinds, made by the worker's own loop: the videos that benchmarks.checks looks at.

Faces, voices and sentences are of no training. Half of the jobs are of one person and half of two.
"""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from infinitetalk.contract.request import LOCAL_FILES, Request, SpeedModeName
from infinitetalk.contract.settings import Settings
from infinitetalk.faces.finder import FaceFinder
from infinitetalk.job.run import run_job
from infinitetalk.media.encode import VideoWriter
from infinitetalk.models.opening import Models
from infinitetalk.shapes import FPS, SAMPLES_PER_FRAME
from infinitetalk.transfer.exchange import local_exchange
from training.data import SIZES
from training.held_out import HeldOutJob, held_out_job
from training.speech import Corpus

SETTINGS = Settings(checks="off")
FIRST = 300  # of the held-out jobs; benchmarks.quality has those below
LONG_S, SHORT_S = 12.0, 5.0
_OTHER_WORDS = 500  # what a filmed person says is what this many jobs later is said


@dataclass(frozen=True)
class Task:
    """One video to make.

    Args:
        number: of the held-out job.
        is_filmed: whether a drawn film is animated, whose people say something else; otherwise a picture.
        source_s: how long the film is.
        pause_s: from when to when nobody speaks.
        fields: further ones of the job.
    """

    name: str
    number: int
    people: int
    size: tuple[int, int]
    seconds: float
    is_filmed: bool = False
    source_s: float | None = None
    pause_s: tuple[float, float] | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)

    def write(self, corpus: Corpus, folder: Path) -> dict[str, Any]:
        """Write the media, and return the request's fields."""
        n_frames = round(self.seconds * FPS)
        job = held_out_job(corpus, self.number, self.people, self.size, n_frames)
        if self.pause_s is not None:
            job = replace(job, waves=tuple(_silenced(wave, *self.pause_s) for wave in job.waves))
        wanted: dict[str, Any] = job.write(folder) | {"seed": 1} | dict(self.fields)
        if self.is_filmed:
            film = self._film(corpus)
            path = folder / "film.mp4"
            path.unlink(missing_ok=True)
            with VideoWriter(path, *self.size) as writer:
                writer.append(writer.pack(film.drawn))
                writer.finish(len(film.drawn))
            del wanted["image_url"]
            wanted |= {"input_type": "video", "video_url": path.resolve().as_uri()}
        return wanted

    def _film(self, corpus: Corpus) -> HeldOutJob:
        n_frames = round((self.source_s or self.seconds) * FPS)
        return held_out_job(corpus, self.number + _OTHER_WORDS, self.people, self.size, n_frames, wander=True)


def tasks() -> Iterator[Task]:
    """The sixty: pictures in all modes and sizes, films, films and pictures that are kept, pauses, short films."""
    modes = get_args(SpeedModeName)
    films = ("hold", "loop", "ping-pong")
    for index in range(60):
        people, sizes = 1 + index % 2, SIZES[: len(SIZES) // 2] if index % 5 else SIZES[len(SIZES) // 2 :]
        mode = {"speed_mode": modes[(index + index // 8) % len(modes)]}
        plain = Task(f"{index:02}", FIRST + index, people, sizes[index // 2 % 2], LONG_S, fields=mode)
        short = replace(plain, seconds=SHORT_S)
        if index < 20:
            yield replace(plain if index < 14 else short, name=f"{index:02}-picture")
        elif index < 32:
            yield replace(plain if index < 26 else short, name=f"{index:02}-film", is_filmed=True)
        elif index < 40:
            kept = mode | {"keep": "speakers"}
            yield replace(plain if index < 34 else short, name=f"{index:02}-kept-film", is_filmed=True, fields=kept)
        elif index < 46:
            yield replace(short, name=f"{index:02}-kept-picture", fields=mode | {"keep": "speakers"})
        elif index < 52:
            yield replace(plain if index < 48 else short, name=f"{index:02}-pause", pause_s=(2.0, 4.0))
        else:
            extend, keep = films[index % 3], "speakers" if index >= 56 else "all"
            fields = mode | {"extend": extend, "keep": keep}
            name = f"{index:02}-short-film-{extend}"
            yield replace(short, name=name, is_filmed=True, source_s=2.0, fields=fields)


def make_all(
    todo: Sequence[Task], corpus: Corpus, out: Path, models: Models, faces: FaceFinder | None, until_s: float
) -> bool:
    """Make the videos that are not there yet, each in a folder of `out` beside its media and its request.

    Args:
        until_s: no further one is begun after this time of the monotonic clock.

    Returns whether all are there.
    """
    for task in todo:
        folder = out / task.name
        if (folder / "job.json").is_file():
            continue
        if time.monotonic() > until_s:
            return False
        wanted = task.write(corpus, folder)
        (folder / "video.mp4").unlink(missing_ok=True)
        request = Request.parse(wanted, LOCAL_FILES)
        result = run_job(request, models, SETTINGS, local_exchange(folder / "video.mp4"), faces=faces)
        (folder / "result.json").write_text(json.dumps(result.to_json()), "utf-8")
        (folder / "job.json").write_text(json.dumps(wanted), "utf-8")  # the last: with it, all is there
        print(task.name, file=sys.stderr, flush=True)
    return True


def _silenced(wave: np.ndarray, start_s: float, stop_s: float) -> np.ndarray:
    quiet = wave.copy()
    quiet[round(start_s * FPS) * SAMPLES_PER_FRAME : round(stop_s * FPS) * SAMPLES_PER_FRAME] = 0
    return quiet
