"""Where the speakers are in each scene of a source video, with a stand-in for what finds faces."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infinitetalk.contract.presets import load_profile
from infinitetalk.contract.request import Request
from infinitetalk.job.scenes import Cast, Scenes, cast_scenes, find_scenes
from infinitetalk.media.video import SourceVideo
from infinitetalk.planning.framing import Box, holds
from infinitetalk.planning.places import Placed, place_speakers
from tests.support.media_samples import X264, ffmpeg
from tests.support.standing_faces import Finder

PROFILE = load_profile("miniature")
SIZE = (320, 192)  # of the shape of the miniature at 16:9
VOICE = "https://example.com/voice.wav"
LEFT, MIDDLE, RIGHT = (0.05, 0.1, 0.25, 0.5), (0.4, 0.1, 0.6, 0.5), (0.75, 0.1, 0.95, 0.5)


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
    colors = [part for name in ("red", "blue") for part in ("-f", "lavfi", "-i", f"color={name}:d=0.4:r=25:s=320x192")]
    ffmpeg(*colors, "-filter_complex", "[0:v][1:v]concat=n=2,format=yuv420p", *X264, path)
    return path


def scenes(
    film: Path,
    red: tuple[Box, ...],
    blue: tuple[Box, ...],
    order: tuple[int, ...] | None = None,
    cuts: tuple[int, ...] = (10,),
    **fields: Any,
) -> tuple[Cast, Placed, ByScene]:
    """What is said of a job of the film, whose scene of blue begins at frame 10."""
    job = {"input_type": "video", "video_url": "https://example.com/film.mp4", "aspect_ratio": "16:9"} | fields
    request, finder = Request.parse(job), ByScene(red, blue)
    size = PROFILE.size(request.resolution, request.aspect_ratio)
    video = SourceVideo.look(film, "video_url", *size, extend=request.extend)
    placed = place_speakers(request, red, SIZE, size, order)
    cast = cast_scenes(request, Scenes(clip=cuts), video, size, placed, finder)  # type: ignore[arg-type]
    assert len(cast.boxes) == len(cuts) + 1 and cast.boxes[0] == placed.places.boxes
    return cast, placed, finder


def voices(count: int) -> list[dict[str, object]]:
    return [{"wav_url": VOICE} for _ in range(count)]


def told(cast: Cast, start: str) -> str:
    """The one warning that begins so."""
    (warning,) = (warning for warning in cast.warnings if warning.startswith(start))
    return warning


def test_people_of_a_taken_apart_recording_are_looked_for_in_each_scene(film: Path) -> None:
    cast, _, _ = scenes(film, (LEFT, MIDDLE), (MIDDLE, RIGHT), person_count="multi", wav_url=VOICE, split_voices=True)
    assert [holds(box, face) for box, face in zip(cast.boxes[1], (MIDDLE, RIGHT), strict=True) if box] == [True, True]
    assert cast.warnings == ()


def test_voices_that_mouths_have_exchanged_stay_exchanged_in_the_next_scene(film: Path) -> None:
    cast, _, _ = scenes(film, (LEFT, MIDDLE), (MIDDLE, RIGHT), (1, 0), speakers=voices(2))
    for here, faces in zip(cast.boxes, ((MIDDLE, LEFT), (RIGHT, MIDDLE)), strict=True):
        assert [holds(box, face) for box, face in zip(here, faces, strict=True) if box] == [True, True]
    assert cast.warnings == ()


def test_three_voices_do_not_get_columns_where_two_faces_are(film: Path) -> None:
    cast, placed, _ = scenes(film, (LEFT, MIDDLE, RIGHT), (LEFT, RIGHT), speakers=voices(3))
    assert cast.boxes[1] == placed.places.boxes
    assert told(cast, "In the scene from 0.40 s the speakers are not found")
    assert len(cast.warnings) == 1


def test_a_face_that_the_shown_part_does_not_have_is_told(film: Path) -> None:
    chosen = [{"wav_url": VOICE, "face": 0}]
    cast, placed, _ = scenes(film, (LEFT, RIGHT), (RIGHT,), speakers=chosen, aspect_ratio="9:16")
    assert cast.boxes[1] == placed.places.boxes
    assert len(cast.warnings) == 1 and "their places of the first scene stand" in cast.warnings[0]
    cast, _, _ = scenes(film, (LEFT,), (LEFT, MIDDLE), speakers=voices(1))
    assert "anybody may be seen to speak" in told(cast, "In the scene from 0.40 s the speakers are not found")


def test_others_keep_still_in_all_scenes_where_a_later_one_shows_them(film: Path) -> None:
    one = [{"wav_url": VOICE, "face": 0}]
    cast, placed, _ = scenes(film, (LEFT,), (MIDDLE, RIGHT), speakers=one)
    assert not placed.places.others_silent and cast.others_silent
    assert [holds(box, face) for (box,), face in zip(cast.boxes, (LEFT, MIDDLE), strict=True) if box] == [True, True]
    assert "from 0.40 s: where it means somebody else" in told(cast, "The field face counts the faces of each scene")
    assert len(cast.warnings) == 1
    cast, _, _ = scenes(film, (LEFT,), (RIGHT,), speakers=one)
    assert not cast.others_silent and cast.warnings == ()


def test_what_is_wrong_in_a_later_scene_is_told_with_its_second(film: Path) -> None:
    small = (0.8, 0.2, 0.83, 0.25)
    cast, _, _ = scenes(film, (LEFT,), (small,), speakers=voices(1))
    assert "pixels high in the video" in told(cast, "In the scene from 0.40 s: The face of speakers[0].wav_url")
    boxed = [{"wav_url": VOICE, "box": [0.0, 0.1, 0.3, 0.6]}]
    cast, _, _ = scenes(film, (LEFT,), (RIGHT,), speakers=boxed)
    assert told(cast, "In the scene from 0.40 s: speakers[0].box holds no face that was found in its first frame")


def test_a_loop_searches_each_scene_once_and_tells_it_once(film: Path) -> None:
    cuts = tuple(range(10, 400, 10))
    cast, placed, finder = scenes(film, (LEFT, RIGHT), (), speakers=voices(2), cuts=cuts, extend="loop")
    assert len(finder.sizes) == 1
    assert set(cast.boxes) == {placed.places.boxes}
    assert "from 0.40, 1.20, 2.00" in cast.warnings[0] and "and 12 more s" in cast.warnings[0]
    assert len(cast.warnings) == 1


def test_a_loops_return_is_not_called_a_cut(film: Path) -> None:
    video = SourceVideo.look(film, "video_url", *SIZE, extend="loop").ready(0.5, needed_s=2.0)
    found, (note,) = find_scenes(video, 50)
    assert (found.source, found.clip) == ((10,), (10, 20, 30, 40))
    assert note.startswith("video_url is cut at 0.40, 1.20 s and begins again at 0.80, 1.60 s: ")
