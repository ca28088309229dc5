"""`infinitetalk faces`: what the worker sees in a file."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from infinitetalk.cli import main
from infinitetalk.faces import networks
from infinitetalk.faces.networks import INSTALL
from infinitetalk.media import video
from tests.support.media_samples import write_result


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A wide picture of two people."""
    head = Image.fromarray(skimage.data.astronaut()[:260, 90:360])
    picture = Image.new("RGB", (800, 300), (120, 130, 140))
    picture.paste(head, (40, 20))
    picture.paste(head.resize((135, 130)), (560, 100))
    path = tmp_path / "two [people].png"
    picture.save(path)
    return path


def test_each_face_has_a_number_a_box_in_fractions_its_quality_and_size(
    two: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["faces", str(two), "--json"])
    seen = json.loads(capsys.readouterr().out)
    left, right = seen["faces"]
    assert (seen["width"], seen["height"], left["index"], right["index"]) == (800, 300, 0, 1)
    assert left["box"] == pytest.approx([127 / 800, 82 / 300, 224 / 800, 197 / 300], abs=0.04)
    assert left["size_px"] == pytest.approx(112, abs=8) and right["size_px"] == pytest.approx(56, abs=5)
    assert min(left["quality"], right["quality"]) > 0.9


def test_what_is_found_is_drawn_and_printed(two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = tmp_path / "drawn.png"
    main(["faces", str(two), "-o", str(drawn)])
    printed = capsys.readouterr().out
    assert "two [people].png: 800x300" in printed
    assert re.search(r"\n  0 .* 1[01]\d px +\n  1 .* 5\d px", printed)
    with Image.open(drawn) as after, Image.open(two) as before:
        changed = np.any(np.asarray(after) != np.asarray(before), axis=-1)
    assert changed[60:220, 120:230].sum() > 300 and changed[:60].sum() == 0


def test_of_a_video_some_frames_are_looked_at(
    two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "MAX_GROUP_PIXELS", 0)  # of such a video jobs make a copy
    film, drawn = tmp_path / "film.mp4", tmp_path / "drawn.png"
    with Image.open(two) as picture:
        write_result(film, np.repeat(np.asarray(picture)[None], 30, 0))
    main(["faces", str(film), "--json", "-o", str(drawn)])
    frames = json.loads(capsys.readouterr().out)["frames"]
    assert len(frames) == 8 and [len(frame["faces"]) for frame in frames] == [2] * 8
    assert frames[-1]["time_s"] == pytest.approx(29 / 25)
    with Image.open(drawn) as sheet:
        assert sheet.size == (4 * 480, 2 * 180)
    assert {file.name for file in tmp_path.iterdir()} <= {film.name, drawn.name, two.name}


def refused(*arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(["faces", *arguments])
    return str(caught.value.code)


def test_what_cannot_be_looked_at_is_said_in_one_sentence(two: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.png"
    Image.new("RGB", (64, 64)).save(empty)
    text = tmp_path / "text.png"
    text.write_text("hello")
    assert "no face is found" in refused(str(empty))
    assert "cannot be read as a picture" in refused(str(text))
    assert "No such file" in refused(str(tmp_path / "nowhere.png"))
    assert "would be lost" in refused(str(two), "-o", str(two))
    assert "does not end in .png" in refused(str(two), "-o", str(tmp_path / "drawn.jpg"))


def test_without_the_wheel_the_command_that_brings_it_is_said(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "find_spec", lambda _: None)
    assert INSTALL in refused(str(two))
