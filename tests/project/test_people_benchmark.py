"""The conversations that benchmarks/people.py makes and measures."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.people import KINDS, conversation, measure, table, write
from infinitetalk.contract.request import Request
from infinitetalk.contract.values import LOCAL_FILES
from infinitetalk.planning.turns import Turns, frame_loudness
from infinitetalk.shapes import FPS
from training.faces import face_region
from training.speech import Corpus, load_corpus


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus("held_out", limit_s=60)


@pytest.mark.parametrize("name", ["three_in_turns", "two_of_three", "four_in_turns_720p"])
def test_people_speak_in_turns_each_with_a_face(name: str, corpus: Corpus, tmp_path: Path) -> None:
    kind = KINDS[name]
    talk = conversation(corpus, kind, 0)
    n_frames = talk.wanted.shape[1]
    sounds = Turns(frame_loudness(talk.voices, n_frames)).sounds
    assert (sounds.sum(axis=0) <= 1).all(), "two sound at once"
    assert sounds.any(axis=1).all()
    for speaker, person in enumerate(kind.speakers):
        assert (talk.wanted[person][sounds[speaker]] > 0).mean() > 0.8
    silent = set(range(kind.people)) - set(kind.speakers)
    assert not talk.wanted[list(silent)].any()
    width, height = kind.size
    for person, (x0, y0, x1, y1) in enumerate(talk.faces):
        head = face_region(talk.scene)[0, person].numpy()
        assert head[round(y0 * height) : round(y1 * height), round(x0 * width) : round(x1 * width)].all()
    request = Request.parse(write(talk, kind, tmp_path), LOCAL_FILES)
    assert [speaker.face for speaker in request.all_speakers] == list(kind.speakers)
    found = talk.find(np.zeros((2 * height, 2 * width, 3), np.uint8))
    assert [face.box[0] for face in found] == pytest.approx([2 * width * face[0] for face in talk.faces])


def test_mouths_are_compared_with_all_voices(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = KINDS["two_of_three"]
    talk = conversation(corpus, kind, 0)
    frames = np.zeros((talk.wanted.shape[1], kind.size[1], kind.size[0], 3), np.uint8)
    monkeypatch.setattr("benchmarks.people.read_frames", lambda *_: (frames, kind.size))
    noise = 0.01 * np.random.default_rng(0).standard_normal(talk.wanted.shape)
    mixed = talk.wanted + noise
    mixed[1] = 0.3 * talk.wanted[2]  # somebody silent follows a voice

    class Mouths:
        def __getitem__(self, _: object) -> "Mouths":
            return self

        def numpy(self) -> np.ndarray:
            return mixed[:, 1:]

    monkeypatch.setattr("benchmarks.people.measure_mouth", lambda *_: Mouths())
    first, second, third = measure(talk, kind, tmp_path / "video.mp4")
    assert first["own"] > 0.95
    assert third["own"] > 0.95
    assert abs(first["others"]) < 0.05
    assert (second["own"], second["speaks"]) == (None, False)
    assert second["others"] > 0.95
    about = {"kind": "two_of_three", "job": 0, "windows": 3, "seconds": talk.wanted.shape[1] / FPS}
    assert table([about | row for row in (first, second, third)]).count("\n") == 2
