"""The field `speakers`: what it may hold, how it goes with the older fields, and what it stands for."""

import time
from pathlib import Path

import pytest

from infinitetalk.contract.request import Request
from infinitetalk.contract.speakers import Speaker
from infinitetalk.contract.values import MAX_DATA_URI_CHARS
from infinitetalk.errors import InvalidInput, JobError, TooLarge

FACE, VOICE = "https://example.com/a.png", "https://example.com/a.wav"
IMAGE = {"image_url": FACE}
URL = "must be an http(s) URL or a base64 data: URI"
BOX = "[x0, y0, x1, y1] in fractions of the picture: 0 <= x0 < x1 <= 1, 0 <= y0 < y1 <= 1"
LIST = "must be a list of 1 to 4 objects {wav_url, box or face, start_s}"


def entry(**fields):
    return {"wav_url": VOICE} | fields


def problem_of(job):
    with pytest.raises(JobError) as raised:
        Request.parse(job)
    return str(raised.value)


def test_speakers_have_a_voice_a_place_and_a_start():
    speakers = [entry(box=[0, 0, 0.5, 1]), entry(face=2, start_s=1.5), entry(face="auto"), entry()]
    request = Request.parse(IMAGE | {"speakers": speakers})
    assert request.all_speakers == (
        Speaker("speakers[0].wav_url", (0, 0, 0.5, 1), None, 0.0),
        Speaker("speakers[1].wav_url", None, 2, 1.5),
        Speaker("speakers[2].wav_url", None, "auto", 0.0),
        Speaker("speakers[3].wav_url", None, None, 0.0),
    )
    files = [(file.field, file.kind, file.url) for file in request.media_files]
    assert files == [("image_url", "image", FACE)] + [(f"speakers[{i}].wav_url", "audio", VOICE) for i in range(4)]


def test_the_older_fields_stand_for_speakers_as_before():
    boxes = [[0, 0, 0.5, 1], [0.5, 0, 1, 1]]
    two = {"wav_url": VOICE, "wav_url_2": VOICE, "person_count": "multi"}
    assert Request.parse(IMAGE | {"wav_url": VOICE}).all_speakers == (Speaker("wav_url"),)
    assert Request.parse(IMAGE | two).all_speakers == (Speaker("wav_url"), Speaker("wav_url_2"))
    placed = Request.parse(IMAGE | two | {"speaker_boxes": boxes})
    assert placed.all_speakers == (Speaker("wav_url", (0, 0, 0.5, 1)), Speaker("wav_url_2", (0.5, 0, 1, 1)))
    assert [file.field for file in placed.media_files] == ["image_url", "wav_url", "wav_url_2"]


@pytest.mark.parametrize(
    ("speakers", "message"),
    [
        ([], f"speakers is []: {LIST}."),
        ([entry()] * 5, f"speakers is a list of 5 items: {LIST}."),
        ("everybody", f'speakers is "everybody": {LIST}.'),
        (entry(), f"speakers is an object of 1 fields: {LIST}."),
        ([3], f"speakers[0] is 3: speakers {LIST}."),
        ([{}], f"speakers[0].wav_url is missing: {URL}."),
        ([entry(), entry(wav_url="voice.wav")], f"speakers[1].wav_url is a text of 9 characters: {URL}."),
        ([entry(box=[0, 0, 1])], f"speakers[0].box is [0, 0, 1]: must be a box {BOX}."),
        ([entry(box=[0, 0, 1, 1.5])], f"speakers[0].box[3] is 1.5: speakers[0].box must be a box {BOX}."),
        ([entry(box=[0.5, 0, 0.5, 1])], "speakers[0].box is [0.5, 0, 0.5, 1]: must have x0 < x1 and y0 < y1."),
        ([entry(face=-1)], 'speakers[0].face is -1: must be "auto" or a whole number from 0 to 999'),
        ([entry(face=True)], "speakers[0].face is true: must be "),
        ([entry(face="0")], 'speakers[0].face is "0": must be '),
        ([entry(face=1.0)], "speakers[0].face is 1.0: must be "),
        ([entry(start_s=-1)], "speakers[0].start_s is -1: must be a number from 0 to 86400."),
        ([entry(start_s=float("nan"))], "speakers[0].start_s is NaN: must be "),
        ([entry(start_s=None)], "speakers[0].start_s is null: must be "),
        ([entry(box=[0, 0, 1, 1], face=0)], "box and face both say where the speaker is: give one of them."),
        ([entry(start=3)], '"start" is not a field (did you mean start_s?)'),
        ([entry(face=1), entry(face=1)], "speakers[0].face and speakers[1].face are both 1: each face can have one"),
        (
            [entry(), entry(box=[0, 0, 0.6, 1]), entry(box=[0.5, 0, 1, 1])],
            "speakers[1].box and speakers[2].box overlap: each place can belong to one speaker only.",
        ),
        (
            [entry(wav_url=1), entry(start_s="3")],
            f'speakers[0].wav_url is 1: {URL}; speakers[1].start_s is "3": must be a number from 0 to 86400.',
        ),
    ],
    ids=lambda value: repr(value)[-60:],
)
def test_wrong_speakers_are_named_with_what_is_allowed(speakers, message):
    assert message in problem_of(IMAGE | {"speakers": speakers})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"wav_url": VOICE}, "wav_url is not read beside speakers: make it an entry of speakers."),
        ({"wav_url_2": VOICE}, "wav_url_2 is not read beside speakers: make it an entry of speakers."),
        (
            {"speaker_order": "first_then_second", "person_count": "multi"},
            "speaker_order is not read beside speakers: give each of the speakers its start_s.",
        ),
        (
            {"speaker_boxes": [[0, 0, 0.5, 1], [0.5, 0, 1, 1]]},
            "speaker_boxes is not read beside speakers: give each of the speakers its box.",
        ),
        ({"person_count": "single"}, "person_count is single, but speakers has 2: leave person_count out."),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_the_older_fields_are_refused_beside_speakers(fields, message):
    assert problem_of(IMAGE | {"speakers": [entry(), entry()]} | fields) == message


def test_what_says_the_same_does_no_harm_beside_speakers():
    both = {"speakers": [entry(), entry()], "person_count": "multi", "speaker_order": "together", "wav_url": None}
    assert len(Request.parse(IMAGE | both).all_speakers) == 2
    assert len(Request.parse(IMAGE | {"speakers": [entry()], "person_count": "single"}).all_speakers) == 1


def test_one_of_wav_url_and_speakers_is_needed():
    assert problem_of(IMAGE) == f"wav_url is missing: {URL}."
    assert problem_of(IMAGE | {"speakers": []}) == f"speakers is []: {LIST}."


def test_too_large_a_voice_among_speakers_is_too_large_and_not_wrong():
    voice = f"data:audio/wav;base64,{'A' * MAX_DATA_URI_CHARS}"
    with pytest.raises(TooLarge, match=r"^speakers\[1\]\.wav_url is a data: URI of .*give larger media as an http"):
        Request.parse(IMAGE | {"speakers": [entry(), entry(wav_url=voice)]})


def test_addresses_are_not_in_the_representation():
    assert "example.com" not in repr(Request.parse(IMAGE | {"speakers": [entry()]}))


@pytest.mark.parametrize(
    "speakers",
    [
        [entry()] * 1_000_000,
        [entry(**{f"field_{i}": i for i in range(1_000_000)})],
        [entry(box=[0] * 1_000_000)],
        [{"wav_url": "x" * 10_000_000}],
        [entry(face=10**5000)],
    ],
    ids=("many", "many fields", "a long box", "a long text", "a long number"),
)
def test_hostile_speakers_are_refused_quickly_and_shortly(speakers):
    def processor_s():
        start = time.process_time()
        with pytest.raises((InvalidInput, TooLarge)) as raised:
            Request.parse(IMAGE | {"speakers": speakers})
        assert len(str(raised.value)) < 3000
        return time.process_time() - start

    assert min(processor_s() for _ in range(3)) < 0.05


def test_files_of_this_machine_become_speakers(tmp_path: Path):
    request = Request.of_files(image=tmp_path / "a.png", speakers=[{"audio": tmp_path / "b.wav", "face": 1}])
    (speaker,) = request.all_speakers
    assert (speaker.voice, speaker.face) == ("speakers[0].wav_url", 1)
    assert request.media_files[1].url == (tmp_path / "b.wav").as_uri()
    with pytest.raises(InvalidInput, match=r"speakers\[0\]\.wav_url is missing"):
        Request.of_files(image=tmp_path / "a.png", speakers=[{"face": 1}])


def test_the_schema_describes_every_field_of_a_speaker():
    (schema,) = (part for part in Request.json_schema()["$defs"].values() if "wav_url" in part["properties"])
    assert set(schema["properties"]) == {"wav_url", "box", "face", "start_s"}
    assert schema["required"] == ["wav_url"]
    assert schema["additionalProperties"] is False
    assert all(field["description"].endswith(".") for field in schema["properties"].values())
