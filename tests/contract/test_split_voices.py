"""The field split_voices: what goes with it, and who then speaks."""

from pathlib import Path

import pytest

from infinitetalk.cli import COMMANDS
from infinitetalk.cli_options import make_parser, request_of
from infinitetalk.contract.request import Request
from infinitetalk.errors import InvalidInput

VOICE = "https://example.com/conversation.wav"
JOB = {
    "image_url": "https://example.com/two.png",
    "wav_url": VOICE,
    "person_count": "multi",
    "split_voices": True,
}
HALVES = [[0, 0, 0.5, 1], [0.5, 0, 1, 1]]


def problem_of(job: dict[str, object]) -> str:
    with pytest.raises(InvalidInput) as caught:
        Request.parse(job)
    return str(caught.value)


def test_one_recording_has_two_speakers() -> None:
    request = Request.parse(JOB)
    assert [(one.voice, one.part, one.name) for one in request.all_speakers] == [
        ("wav_url", 1, "wav_url (speaker 1)"),
        ("wav_url", 2, "wav_url (speaker 2)"),
    ]
    assert [file.field for file in request.media_files] == ["image_url", "wav_url"]


def test_speaker_boxes_say_where_the_two_are() -> None:
    request = Request.parse(JOB | {"speaker_boxes": HALVES[::-1]})
    assert [one.box for one in request.all_speakers] == [tuple(box) for box in HALVES[::-1]]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"person_count": "single"}, "split_voices is only for person_count multi, but person_count is single."),
        (
            {"wav_url_2": VOICE},
            "wav_url_2 is not read with split_voices: leave split_voices out if each voice is a file of its own.",
        ),
        (
            {"speaker_order": "second_then_first"},
            "speaker_order is not read with split_voices: the recording itself says when each of them speaks.",
        ),
        ({"split_voices": False}, "wav_url_2 is missing: person_count multi needs it."),
        (
            {"split_voices": "yes"},
            'split_voices is "yes": must be true or false; wav_url_2 is missing: person_count multi needs it.',
        ),
    ],
)
def test_what_does_not_go_with_it_is_refused(more: dict[str, object], message: str) -> None:
    assert problem_of(JOB | more) == message


def test_it_takes_no_speakers_apart() -> None:
    job = {"image_url": JOB["image_url"], "speakers": [{"wav_url": VOICE}, {"wav_url": VOICE}], "split_voices": True}
    assert "split_voices is not read beside speakers: it takes apart wav_url" in problem_of(job)


def test_the_command_line_has_it() -> None:
    words = ["plan", "--audio", "a.wav", "--image", "a.png", "--split-voices"]
    assert request_of(make_parser(COMMANDS).parse_args(words)).split_voices


def test_files_of_this_machine_need_no_person_count(tmp_path: Path) -> None:
    request = Request.of_files(audio=tmp_path / "a.wav", image=tmp_path / "a.png", split_voices=True)
    assert request.person_count == "multi" and len(request.all_speakers) == 2
