"""Jobs with `speakers`: what reading them gives, with a stand-in for what finds faces, and whole jobs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from infinitetalk.contract.presets import load_mode, load_profile
from infinitetalk.contract.request import Request
from infinitetalk.contract.result import DryRun, Result
from infinitetalk.contract.settings import Settings
from infinitetalk.contract.values import LOCAL_FILES
from infinitetalk.errors import InvalidInput, ModelMissing, TooLarge
from infinitetalk.job.read import Job, read_job
from infinitetalk.job.resume import fingerprint
from infinitetalk.job.run import run_job
from infinitetalk.media.encode import hash_streams
from infinitetalk.models.opening import Models
from infinitetalk.planning.windows import SILENCE
from infinitetalk.shapes import FPS, SAMPLE_RATE_HZ
from infinitetalk.transfer.exchange import local_exchange, local_files
from tests.support.media_samples import write_picture, write_talking_video, write_tone
from tests.support.standing_faces import Finder

SETTINGS = Settings.from_env({})
MINIATURE = load_profile("miniature")
OLD_TWO = ("wav_url", "wav_url_2")


TWO = Finder((0.1, 0.2, 0.35, 0.5), (0.65, 0.2, 0.9, 0.5))
THREE = Finder((0.05, 0.2, 0.2, 0.5), (0.4, 0.2, 0.55, 0.5), (0.75, 0.2, 0.9, 0.5))


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """URLs of a wide and a square picture, a video, and three voices of 0.36, 0.2 and 0.28 s."""
    folder = tmp_path_factory.mktemp("media")
    lengths = {"a": 0.36, "b": 0.2, "c": 0.28}
    files = {name: write_tone(folder / f"{name}.wav", seconds, frequency_hz=110) for name, seconds in lengths.items()}
    files["image_url"] = write_picture(folder / "face.png", width=320, height=96)
    files["video_url"] = write_talking_video(folder / "head.mp4", seconds=0.4)
    return {name: path.as_uri() for name, path in files.items()}


@pytest.fixture
def read(media: dict[str, str], tmp_path: Path) -> Callable[..., Job]:
    """Reads a job of a picture with the given fields; voices are named by their letters."""

    def read(*speakers: dict[str, Any], faces: Any = None, **fields: Any) -> Job:
        job = {"image_url": media["image_url"], "aspect_ratio": "16:9"} | fields
        if speakers:
            job["speakers"] = [entry | {"wav_url": media[entry["wav_url"]]} for entry in speakers]
        request = Request.parse(job, LOCAL_FILES)
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        files = local_files(request, folder)
        return read_job(request, files, MINIATURE, SETTINGS, load_mode("turbo"), 1, faces)

    return read


def test_speakers_with_boxes_are_the_older_fields_job(read: Callable[..., Job], media: dict[str, str]) -> None:
    boxes = [[0.3, 0, 0.5, 1], [0.5, 0, 0.7, 1]]
    voices = {"wav_url": media["a"], "wav_url_2": media["b"], "person_count": "multi"}
    old = read(**voices, speaker_boxes=boxes)
    new = read({"wav_url": "a", "box": boxes[0]}, {"wav_url": "b", "box": boxes[1]})
    assert new.plan == old.plan
    assert new.places == old.places
    assert old.person_masks is not None
    assert torch.equal(new.person_masks, old.person_masks)
    assert all(np.array_equal(a, b) for a, b in zip(new.waves, old.waves, strict=True))
    assert np.array_equal(new.footage.frame(0), old.footage.frame(0))


def test_faces_change_nothing_of_the_older_fields_jobs(read: Callable[..., Job], media: dict[str, str]) -> None:
    for fields in ({}, {"wav_url_2": media["b"], "person_count": "multi"}):
        without = read(wav_url=media["a"], **fields)
        for faces in (Finder(), TWO, THREE):
            found = read(wav_url=media["a"], **fields, faces=faces)
            assert (found.plan, found.places) == (without.plan, without.places)
            assert np.array_equal(found.footage.frame(0), without.footage.frame(0))
            assert (found.person_masks is None) == (without.person_masks is None)
            assert len(found.people or ()) == len(faces.boxes)


def test_voices_begin_when_they_are_asked_to(read: Callable[..., Job]) -> None:
    job = read({"wav_url": "a"}, {"wav_url": "b", "start_s": 0.5})
    assert [len(wave) for wave in job.waves] == [round(0.7 * SAMPLE_RATE_HZ)] * 2
    assert not job.waves[1][: round(0.5 * SAMPLE_RATE_HZ)].any()
    assert job.waves[1][round(0.5 * SAMPLE_RATE_HZ) + 10 :].any()
    assert [track.start_s for track in job.tracks] == [0, 0.5]
    assert job.plan.n_frames == round(0.7 * FPS)
    cut = read({"wav_url": "a"}, {"wav_url": "b", "start_s": 86_400}, max_duration_s=0.4)
    assert [len(wave) for wave in cut.waves] == [round(0.4 * SAMPLE_RATE_HZ)] * 2
    assert any("speakers[1].wav_url is not heard" in warning for warning in cut.warnings(cut.plan))
    with pytest.raises(TooLarge, match=r"would last 86400.2 s \(speakers\[0\].wav_url and speakers\[1\].wav_url "):
        read({"wav_url": "a"}, {"wav_url": "b", "start_s": 86_400})


def test_a_voice_that_cannot_be_read_is_named_by_its_entry(read: Callable[..., Job], media: dict[str, str]) -> None:
    with pytest.raises(InvalidInput, match=r"^speakers\[1\]\.wav_url: there is no file"):
        media_missing = media | {"gone": "file:///nowhere/voice.wav"}
        media.update(media_missing)
        read({"wav_url": "a"}, {"wav_url": "gone"})


def test_one_of_several_people_speaks_and_the_others_hear_silence(read: Callable[..., Job]) -> None:
    job = read({"wav_url": "a", "face": 1}, faces=THREE)
    assert {window.heard for window in job.plan.windows} == {(0, SILENCE)}
    assert job.plan.is_shared
    assert job.person_masks is not None
    assert job.person_masks.shape[1] == 2
    assert [person.voice for person in job.people or ()] == [None, "speakers[0].wav_url", None]
    two = read({"wav_url": "a", "face": 0}, {"wav_url": "b", "face": 1}, faces=THREE)
    assert {window.heard for window in two.plan.windows} == {(0, 1, SILENCE)}


def test_three_voices_in_turns_are_heard_two_at_a_time(read: Callable[..., Job], media: dict[str, str]) -> None:
    folder = Path(media["a"].removeprefix("file://")).parent
    rng = np.random.default_rng(0)
    soundfile.write(folder / "long.wav", rng.uniform(-0.1, 0.1, 2 * SAMPLE_RATE_HZ), SAMPLE_RATE_HZ)
    media["long"] = (folder / "long.wav").as_uri()
    job = read(*({"wav_url": "long", "start_s": 2.5 * i} for i in range(3)))
    heard = [window.heard for window in job.plan.windows]
    assert all(voices is not None and len(voices) <= 3 and voices[-1] == SILENCE for voices in heard)
    assert {voice for voices in heard for voice in voices or ()} == {0, 1, 2, SILENCE}
    assert job.person_masks is not None
    assert job.person_masks.shape[1] == 4
    assert not any("moves no lips" in warning for warning in job.warnings(job.plan))
    together = read(*[{"wav_url": "long"}] * 3)
    (warning,) = (warning for warning in together.warnings(together.plan) if "moves no lips" in warning)
    assert warning == (
        "speakers[2].wav_url moves no lips from 0.00 to 2.00 s: more than 2 voices are heard there, and 2 others are "
        "louder."
    )


def test_the_shown_part_follows_the_speaker(read: Callable[..., Job], tmp_path: Path) -> None:
    left, right = (read({"wav_url": "a", "face": i}, faces=TWO, aspect_ratio="9:16") for i in (0, 1))
    assert left.places.crop < 0.5 < right.places.crop
    assert not np.array_equal(left.footage.frame(0), right.footage.frame(0))
    assert any("moved to the left" in warning for warning in left.warnings(left.plan))
    assert left.person_masks is not None


def test_faces_are_looked_for_in_the_whole_picture_and_in_a_videos_first_frame(
    read: Callable[..., Job], media: dict[str, str]
) -> None:
    finder = Finder((0.4, 0.2, 0.6, 0.5))
    read({"wav_url": "a"}, faces=finder)
    job = read({"wav_url": "a"}, faces=finder, input_type="video", image_url=None, video_url=media["video_url"])
    assert finder.sizes[0] == (320, 96)
    assert finder.sizes[1] == job.footage.source_size
    with pytest.raises(InvalidInput, match="1 face was found in the first frame of video_url"):
        read(
            {"wav_url": "a", "face": 3},
            faces=finder,
            input_type="video",
            image_url=None,
            video_url=media["video_url"],
        )


def test_a_face_cannot_be_asked_for_where_nothing_finds_faces(read: Callable[..., Job]) -> None:
    for face in (0, "auto"):
        with pytest.raises(
            ModelMissing, match=r"^speakers\[1\]\.face needs the networks .* `pip install .*or give a box"
        ):
            read({"wav_url": "a"}, {"wav_url": "b", "face": face})
    assert read({"wav_url": "a"}, {"wav_url": "b"}).people is None


def test_places_are_part_of_the_fingerprint(read: Callable[..., Job], models: Models) -> None:
    jobs = [read({"wav_url": "a", "face": i}, faces=THREE) for i in (0, 2)]
    assert jobs[0].plan == jobs[1].plan
    prints = [fingerprint(job.plan, [], models, SETTINGS, job.places) for job in jobs]
    assert prints[0] != prints[1]
    scenes = [fingerprint(jobs[0].plan, [], models, SETTINGS, jobs[0].places, boxes) for boxes in ((), jobs[0].boxes)]
    assert scenes[0] == prints[0] != scenes[1]


def test_a_dry_run_and_a_result_list_the_people(models: Models, media: dict[str, str], tmp_path: Path) -> None:
    job = {
        "image_url": media["image_url"],
        "speakers": [{"wav_url": media["b"], "face": 1}],
        "aspect_ratio": "16:9",
        "speed_mode": "turbo",
        "seed": 1,
    }
    digests = []
    for more in ({"dry_run": True}, {}, {"speakers": [{"wav_url": media["b"], "face": 0}]}):
        request = Request.parse(job | more, LOCAL_FILES)
        output = tmp_path / "out.mp4"
        result = run_job(request, models, SETTINGS, local_exchange(output), faces=TWO)  # type: ignore[arg-type]
        assert isinstance(result, DryRun if more.get("dry_run") else Result)
        people = result.to_json()["people"]
        assert [person["index"] for person in people] == [0, 1]
        assert people[0]["box"] == [0.1, 0.2, 0.35, 0.5]
        # 320x96 is shown at 160x96: a quarter of its width is 80 pixels there.
        assert (people[0]["width"], people[0]["height"]) == (80, 29)
        speaks = 0 if "speakers" in more else 1
        assert [person.get("voice") for person in people] == [
            "speakers[0].wav_url" if index == speaks else None for index in (0, 1)
        ]
        if isinstance(result, Result):
            digests.append(hash_streams(output))
    assert digests[0] != digests[1], "whoever speaks, the video is the same"


def test_people_are_left_out_where_nothing_finds_faces(models: Models, media: dict[str, str], tmp_path: Path) -> None:
    job = {"image_url": media["image_url"], "wav_url": media["b"], "dry_run": True}
    result = run_job(Request.parse(job, LOCAL_FILES), models, SETTINGS, local_exchange(tmp_path / "out.mp4"))
    assert "people" not in result.to_json()


def test_a_place_that_is_not_shown_is_called_as_the_job_calls_it(
    read: Callable[..., Job], media: dict[str, str], tmp_path: Path
) -> None:
    wide = {"image_url": write_picture(tmp_path / "wide.png", width=1280, height=96).as_uri(), "aspect_ratio": "9:16"}
    two = {"wav_url": media["a"], "wav_url_2": media["b"], "person_count": "multi"}
    column = r"The place of {} \(the picture's left half, since no box is given\) lies outside the part of the picture"
    with pytest.raises(InvalidInput, match=f"{column.format('wav_url')} that the video shows; give a box"):
        read(**two, **wide)
    with pytest.raises(InvalidInput, match=column.format(r"speakers\[0\].wav_url")):
        read({"wav_url": "a"}, {"wav_url": "b"}, **wide)
    with pytest.raises(InvalidInput, match=r"^speaker_boxes\[1\] lies outside"):
        read(**two, **wide, speaker_boxes=[[0.48, 0, 0.52, 1], [0.9, 0, 1, 1]])
