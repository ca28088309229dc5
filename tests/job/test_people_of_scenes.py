"""Where the speakers are in each scene of a source video, with a stand-in for what finds faces."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infinitetalk.contract.presets import load_mode, load_profile
from infinitetalk.contract.request import Request
from infinitetalk.job.scenes import Boxes, boxes_of_scenes
from infinitetalk.media.video import SourceVideo
from infinitetalk.planning.framing import Box, holds
from infinitetalk.planning.places import Placed, place_speakers
from infinitetalk.planning.plan import make_plan
from tests.support.media_samples import X264, ffmpeg
from tests.support.standing_faces import Finder

PROFILE = load_profile("miniature")
SIZE = (320, 180)
VOICE = "https://example.com/voice.wav"
LEFT, MIDDLE, RIGHT = (0.1, 0.2, 0.2, 0.4), (0.45, 0.2, 0.55, 0.4), (0.8, 0.2, 0.9, 0.4)


class ByScene(Finder):
    """Finds other faces where the picture is blue than where it is red."""

    def __init__(self, red: tuple[Box, ...], blue: tuple[Box, ...]) -> None:
        super().__init__()
        self.by_scene = red, blue

    def find(self, picture: np.ndarray) -> Any:
        self.boxes = self.by_scene[int(picture[..., 2].mean() > picture[..., 0].mean())]
        return super().find(picture)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    colors = [part for name in ("red", "blue") for part in ("-f", "lavfi", "-i", f"color={name}:d=0.4:r=25:s=320x180")]
    ffmpeg(*colors, "-filter_complex", "[0:v][1:v]concat=n=2,format=yuv420p", *X264, path)
    return path


def scenes(
    film: Path,
    red: tuple[Box, ...],
    blue: tuple[Box, ...],
    order: tuple[int, ...] | None = None,
    cuts: tuple[int, ...] = (10,),
    **fields: Any,
) -> tuple[tuple[Boxes, ...], list[str], Placed, ByScene]:
    """What is said of a job of the film, whose scene of blue begins at frame 10."""
    job = {"input_type": "video", "video_url": "https://example.com/film.mp4", "aspect_ratio": "16:9"} | fields
    request, finder = Request.parse(job), ByScene(red, blue)
    plan = make_plan(request, PROFILE, load_mode("turbo"), max(20, cuts[-1] + 5), 1, cuts=cuts)
    video = SourceVideo.look(film, "video_url", *plan.size, extend=request.extend)
    placed = place_speakers(request, red, SIZE, plan.size, order)
    boxes, notes = boxes_of_scenes(request, plan, video, placed, finder)  # type: ignore[arg-type]
    assert len(boxes) == len(cuts) + 1 and boxes[0] == placed.places.boxes
    return boxes, notes, placed, finder


def voices(count: int) -> list[dict[str, object]]:
    return [{"wav_url": VOICE} for _ in range(count)]


def test_people_of_a_taken_apart_recording_are_looked_for_in_each_scene(film: Path) -> None:
    boxes, notes, _, _ = scenes(
        film, (LEFT, MIDDLE), (MIDDLE, RIGHT), person_count="multi", wav_url=VOICE, split_voices=True
    )
    assert [holds(box, face) for box, face in zip(boxes[1], (MIDDLE, RIGHT), strict=True) if box] == [True, True]
    assert notes == []


def test_voices_that_mouths_have_exchanged_stay_exchanged_in_the_next_scene(film: Path) -> None:
    boxes, notes, _, _ = scenes(film, (LEFT, MIDDLE), (MIDDLE, RIGHT), (1, 0), speakers=voices(2))
    for here, faces in zip(boxes, ((MIDDLE, LEFT), (RIGHT, MIDDLE)), strict=True):
        assert [holds(box, face) for box, face in zip(here, faces, strict=True) if box] == [True, True]
    assert notes == []


def test_three_voices_do_not_get_columns_where_two_faces_are(film: Path) -> None:
    boxes, notes, placed, _ = scenes(film, (LEFT, MIDDLE, RIGHT), (LEFT, RIGHT), speakers=voices(3))
    assert boxes[1] == placed.places.boxes
    assert len(notes) == 1 and notes[0].startswith("In the scene from 0.40 s the speakers are not found")


def test_a_face_that_the_shown_part_does_not_have_is_told(film: Path) -> None:
    chosen = [{"wav_url": VOICE, "face": 0}]
    boxes, notes, placed, _ = scenes(film, (LEFT, RIGHT), (RIGHT,), speakers=chosen, aspect_ratio="9:16")
    assert boxes[1] == placed.places.boxes
    assert len(notes) == 1 and "their places of the first scene stand" in notes[0]
    _, (note,), _, _ = scenes(film, (LEFT,), (LEFT, MIDDLE), speakers=voices(1))
    assert "anybody may be seen to speak" in note
    one = [{"wav_url": VOICE, "face": 0}]  # the first scene shows nobody else, so that the voice has no place
    _, (note,), _, _ = scenes(film, (LEFT,), (LEFT, MIDDLE), speakers=one)
    assert "anybody may be seen to speak" in note
    assert scenes(film, (LEFT,), (LEFT, MIDDLE), speakers=one, keep="speakers")[1] == []


def test_a_loop_searches_each_scene_once_and_tells_it_once(film: Path) -> None:
    cuts = tuple(range(10, 400, 10))
    boxes, notes, placed, finder = scenes(film, (LEFT, RIGHT), (), speakers=voices(2), cuts=cuts, extend="loop")
    assert len(finder.sizes) == 1
    assert set(boxes) == {placed.places.boxes}
    assert len(notes) == 1 and "from 0.40, 1.20, 2.00" in notes[0] and "and 12 more s" in notes[0]
