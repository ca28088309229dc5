"""The page's fields as a job, and the clicks that say who is where."""

import json

import numpy as np
import pytest

from infinitetalk.errors import InvalidInput
from infinitetalk.page.form import Form, job_curl, job_json
from infinitetalk.page.pointing import Pointing
from tests.support.media_samples import write_picture, write_talking_video, write_tone

LEFT, RIGHT = (0.1, 0.2, 0.3, 0.6), (0.6, 0.2, 0.8, 0.6)


@pytest.fixture
def pointing():
    return Pointing(np.zeros((100, 200, 3), np.uint8), (LEFT, RIGHT))


@pytest.fixture
def files(tmp_path):
    return (
        write_picture(tmp_path / "face.png"),
        write_tone(tmp_path / "a.wav", 0.2),
        write_tone(tmp_path / "b's.wav", 0.2),
    )


def form(source, *voices, pointing=None, start_s=0.0, **fields):
    return Form(source, (*voices, None, None)[:2], start_s, pointing, fields)


def told(filled):
    return json.loads(job_json(filled.request()))["input"]


def test_what_is_as_it_was_is_not_said(files):
    job = told(form(files[0], files[1], speed_mode="balanced", prompt="", seed=None, text_guidance=1.0, extend="hold"))
    assert job == {
        "input_type": "image",
        "person_count": "single",
        "image_url": "https://example.com/face.png",
        "wav_url": "https://example.com/a.wav",
    }


def test_numbers_in_text_fields(files):
    job = told(form(files[0], files[1], seed="7", max_duration_s=" 2.5 ", isolate_vocals="false", prompt="12"))
    assert (job["seed"], job["max_duration_s"], job["isolate_vocals"], job["prompt"]) == (7, 2.5, False, "12")
    with pytest.raises(InvalidInput, match=r"seed is .*: must be a whole number"):
        form(files[0], files[1], seed="seven").request()


def test_a_video_and_two_voices(files, tmp_path):
    video = write_talking_video(tmp_path / "head.mp4", seconds=0.2)
    job = told(form(video, files[1], files[2], speed_mode="turbo"))
    assert (job["input_type"], job["person_count"], job["speed_mode"]) == ("video", "multi", "turbo")
    assert "speakers" not in job


def test_places_and_starts_become_speakers(files, pointing):
    placed = pointing.clicked(140, 40, 0).clicked(2, 2, 1).clicked(60, 90, 1)
    job = told(form(*files, pointing=placed, start_s=1.5))
    assert job["speakers"] == [
        {"wav_url": "https://example.com/a.wav", "face": 1},
        {"wav_url": "https://example.com/b's.wav", "box": [0.01, 0.02, 0.3, 0.9], "start_s": 1.5},
    ]
    later = told(form(*files, pointing=pointing, start_s=1.5))
    assert later["speakers"][1] == {"wav_url": "https://example.com/b's.wav", "start_s": 1.5}


def test_a_place_without_its_voice_is_not_said(files, pointing):
    placed = pointing.clicked(140, 40, 1)
    assert told(form(files[0], files[1], pointing=placed))["wav_url"]


def test_one_recording_of_two_people(files, pointing):
    split = {"split_voices": True}
    assert told(form(files[0], files[1], **split))["person_count"] == "multi"
    boxes = pointing.clicked(2, 2, 0).clicked(60, 90, 0).clicked(180, 2, 1).clicked(199, 99, 1)
    assert told(form(files[0], files[1], pointing=boxes, **split))["speaker_boxes"][1] == [0.9, 0.02, 0.995, 0.99]
    with pytest.raises(InvalidInput, match="draw a box for each"):
        form(files[0], files[1], pointing=pointing.clicked(140, 40, 0), **split).request()
    with pytest.raises(InvalidInput, match="is one file"):
        form(*files, **split).request()


def test_what_is_missing_or_wrong_is_told(files):
    with pytest.raises(InvalidInput, match="no picture or video yet"):
        form(None, files[1]).request()
    with pytest.raises(InvalidInput, match="no voice yet"):
        form(files[0]).request()
    with pytest.raises(InvalidInput, match="negative_prompt is only read with text_guidance above 1"):
        form(files[0], files[1], negative_prompt="rain").request()


def test_one_face_has_one_voice_and_a_slip_is_no_box(pointing):
    first = pointing.clicked(30, 40, 0)
    assert first.places == (0, None)
    assert first.clicked(30, 40, 1).places == (None, 0)
    slip = first.clicked(100, 5, 0).clicked(101, 6, 0)
    assert (slip.places, slip.corner) == ((0, None), None)
    assert first.cleared().places == (None, None)


def test_what_is_chosen_is_seen(pointing):
    plain, chosen = (np.asarray(one.drawn()).astype(int) for one in (pointing, pointing.clicked(140, 40, 0)))
    changed = np.argwhere((plain != chosen).any(2))
    assert len(changed)
    assert changed[:, 1].min() >= 200 * RIGHT[0] - 8  # nothing of the other face


def test_the_command_names_the_key_and_holds_none(files):
    request = form(*files).request()
    remote = job_curl(request, "https://api.runpod.ai/v2/abc")
    assert 'https://api.runpod.ai/v2/abc/run -H "Authorization: Bearer $RUNPOD_API_KEY"' in remote
    assert "Authorization" not in job_curl(request, "http://localhost:8000")
    assert "$(base64 < 'b'\"'\"'s.wav' | tr" in remote
