import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from infinitetalk.contract.request import MAX_PROMPT_CHARS, Request
from infinitetalk.contract.values import MAX_DATA_URI_CHARS
from infinitetalk.errors import InvalidInput, TooLarge

FACE = "https://example.com/face.png"
VOICE = "https://example.com/voice.wav"
IMAGE = {"image_url": FACE, "wav_url": VOICE}
VIDEO = {"input_type": "video", "video_url": "https://example.com/a.mp4", "wav_url": VOICE}
MULTI = IMAGE | {"person_count": "multi", "wav_url_2": "https://example.com/voice2.wav"}
HALVES = [[0, 0, 0.5, 1], [0.5, 0, 1, 1]]


def problem_of(job) -> str:
    with pytest.raises(InvalidInput) as raised:
        Request.parse(job)
    return str(raised.value)


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def test_the_defaults_are_the_published_ones():
    assert dict(Request.parse(IMAGE)) == {
        "speed_mode": "balanced",
        "input_type": "image",
        "person_count": "single",
        "prompt": "A person talking naturally.",
        "image_url": FACE,
        "video_url": None,
        "wav_url": VOICE,
        "wav_url_2": None,
        "aspect_ratio": "9:16",
        "fit": "crop",
        "resolution": "480p",
        "seed": None,
        "negative_prompt": None,
        "text_guidance": 1.0,
        "audio_guidance": 1.0,
        "max_duration_s": None,
        "speaker_order": "together",
        "speaker_boxes": None,
        "speakers": None,
        "split_voices": False,
        "isolate_vocals": None,
        "color_correction": 0.0,
        "video_strength": 1.0,
        "extend": "hold",
        "keep": "all",
        "lane": None,
        "output": None,
        "preview": None,
        "dry_run": False,
    }


@pytest.mark.parametrize(
    ("job", "field", "value"),
    [
        (IMAGE, "speed_mode", "turbo"),
        (IMAGE, "prompt", "A woman sings."),
        (IMAGE, "image_url", "data:image/png;base64,iVBORw0KGgo="),
        (IMAGE, "wav_url", "HTTP://127.0.0.1:8000/a%20b.wav?key=1#t"),
        (IMAGE, "wav_url", "https://[::1]/a.wav"),
        (IMAGE, "aspect_ratio", "16:9"),
        (IMAGE, "resolution", "720p"),
        (IMAGE, "seed", 0),
        (IMAGE, "seed", 2**63 - 1),
        (IMAGE | {"text_guidance": 5}, "negative_prompt", ""),
        (IMAGE, "text_guidance", 20),
        (IMAGE, "audio_guidance", 1.5),
        (IMAGE, "max_duration_s", 3),
        (IMAGE, "color_correction", 1),
        (IMAGE, "isolate_vocals", True),
        (IMAGE, "isolate_vocals", False),
        (IMAGE, "isolate_vocals", None),
        (IMAGE, "output", "volume"),
        (IMAGE, "dry_run", True),
        (VIDEO, "video_url", "http://example.com/b.mp4"),
        (VIDEO, "video_strength", 0.5),
        (MULTI, "wav_url_2", VOICE),
        (MULTI, "speaker_order", "second_then_first"),
        # defaults said aloud do no harm
        (IMAGE, "speaker_order", "together"),
        (IMAGE, "video_strength", 1),
        (IMAGE, "video_url", None),
        (IMAGE, "seed", None),
    ],
)
def test_a_valid_field_is_kept(job, field, value):
    assert getattr(Request.parse(job | {field: value}), field) == value


def test_texts_may_be_as_long_as_their_limits():
    voice = "data:audio/wav;base64,"
    voice += "A" * (MAX_DATA_URI_CHARS - len(voice))
    Request.parse({"image_url": FACE, "wav_url": voice, "prompt": "x" * MAX_PROMPT_CHARS})


def test_data_uris_over_the_limit_are_too_large_and_not_wrong():
    voice = f"data:audio/wav;base64,{'A' * MAX_DATA_URI_CHARS}"
    with pytest.raises(TooLarge, match=r"^wav_url is a data: URI of .*give larger media as an http\(s\) URL\.$"):
        Request.parse({"image_url": FACE, "wav_url": voice})
    with pytest.raises(TooLarge, match=r"^image_url is .*; wav_url is "):
        Request.parse({"image_url": voice, "wav_url": voice})
    for other in ({"seed": -1}, {"width": 8}, {"input_type": "video"}, {"speaker_order": "second_then_first"}):
        assert "characters" in problem_of({"image_url": FACE, "wav_url": voice} | other)


def test_boxes_become_tuples():
    boxes = Request.parse(MULTI | {"speaker_boxes": HALVES}).speaker_boxes
    assert boxes == ((0, 0, 0.5, 1), (0.5, 0, 1, 1))


def test_a_request_does_not_change():
    request = Request.parse(IMAGE)
    with pytest.raises(ValidationError):
        request.seed = 3


def test_a_request_is_checked_however_it_is_made():
    with pytest.raises(ValidationError, match="video_url is missing: input_type video needs it"):
        Request(input_type="video", wav_url=VOICE)


NUMBER_1_20 = "must be a number from 1 to 20"
SEED = "must be a whole number from 0 to 9223372036854775807"
BOXES = "must be two boxes [x0, y0, x1, y1] in fractions of the picture"
URL = "must be an http(s) URL or a base64 data: URI"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("speed_mode", "Fast", '"Fast": must be maximum_quality, balanced, fast or turbo'),
        ("speed_mode", None, "null: must be"),
        ("input_type", "gif", '"gif": must be image or video'),
        ("person_count", 2, "2: must be single or multi"),
        ("aspect_ratio", "5:4", '"5:4": must be 16:9, 9:16, 1:1, 4:3, 3:4 or source'),
        ("resolution", "1080p", '"1080p": must be 480p or 720p'),
        ("output", "s3", '"s3": must be url, base64 or volume'),
        ("prompt", 5, "5: must be text of at most 4000 characters"),
        ("prompt", "x" * 4001, "a text of 4001 characters: must be text"),
        ("prompt", "\ud800", "must be text"),
        ("seed", 1.0, f"1.0: {SEED}"),
        ("seed", "7", f'"7": {SEED}'),
        ("seed", True, f"true: {SEED}"),
        ("seed", -1, f"-1: {SEED}"),
        ("seed", 2**63, SEED),
        ("text_guidance", 0.9, f"0.9: {NUMBER_1_20}"),
        ("text_guidance", "5", f'"5": {NUMBER_1_20}'),
        ("audio_guidance", 20.1, f"20.1: {NUMBER_1_20}"),
        ("audio_guidance", float("inf"), f"Infinity: {NUMBER_1_20}"),
        ("audio_guidance", True, f"true: {NUMBER_1_20}"),
        ("max_duration_s", 0, "0: must be a number from 0.04"),
        ("max_duration_s", -3, "-3: must be a number from 0.04"),
        ("max_duration_s", float("nan"), "NaN: must be a number from 0.04"),
        ("max_duration_s", 10**400, "must be a number from 0.04"),
        ("color_correction", 1.1, "1.1: must be a number from 0 to 1"),
        ("color_correction", -0.1, "-0.1: must be a number from 0 to 1"),
        ("video_strength", 0, "0: must be a number above 0 to 1"),
        ("isolate_vocals", "true", '"true": must be true or false'),
        ("dry_run", 1, "1: must be true or false"),
        ("dry_run", "yes", '"yes": must be true or false'),
        ("image_url", {"a": 1}, f"an object of 1 fields: {URL}"),
        ("wav_url", "", URL),
        ("wav_url", "voice.wav", f"a text of 9 characters: {URL}"),
        ("wav_url", "ftp://example.com/a.wav", f'a text of 23 characters at "ftp://example.com": {URL}'),
        ("wav_url", "file:///etc/passwd", URL),
        ("wav_url", "//example.com/a.wav", URL),
        ("wav_url", "http://", URL),
        ("wav_url", "http:///a.wav", URL),
        ("wav_url", "http://[::1/a.wav", URL),
        ("wav_url", "http://example.com:99999/a.wav", URL),
        ("wav_url", "http://example.com/a b.wav", f"{URL} without spaces or line breaks"),
        ("wav_url", "http://example.com/a\n.wav", "without spaces or line breaks"),
        ("wav_url", "http://example.com/" + "a" * 8192, "of at most 8192 characters"),
        ("wav_url", "data:audio/wav;base64,", "a data: URI of 22 characters: must look like data:"),
        ("wav_url", "data:audio/wav,abc", "must look like data:"),
        ("wav_url", "data:audio/wav;base64,é", "must look like data:"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_wrong_value_is_named_with_what_is_allowed(field, value, message):
    problem = problem_of(IMAGE | {field: value})
    assert problem.startswith(f"{field} is ")
    assert message in problem


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([], f"speaker_boxes is []: {BOXES}"),
        (HALVES[:1], f"speaker_boxes is a list of 1 items: {BOXES}"),
        ([*HALVES, HALVES[0]], f"speaker_boxes is a list of 3 items: {BOXES}"),
        ([HALVES[0], [0.5, 0, 1]], f"speaker_boxes[1] is [0.5, 0, 1]: speaker_boxes {BOXES}"),
        ([HALVES[0], [0.5, 0, 1.5, 1]], f"speaker_boxes[1][2] is 1.5: speaker_boxes {BOXES}"),
        ([HALVES[0], [-0.5, 0, 1, 1]], "speaker_boxes[1][0] is -0.5"),
        ([HALVES[0], [0.5, 0, 1, "1"]], 'speaker_boxes[1][3] is "1"'),
        ([HALVES[0], [1, 0, 0.5, 1]], "speaker_boxes[1] is [1, 0, 0.5, 1]: must have x0 < x1 and y0 < y1"),
        ([HALVES[0], [0.5, 0.5, 1, 0.5]], "must have x0 < x1 and y0 < y1"),
        ([HALVES[0], [0.4, 0, 1, 1]], "speaker_boxes overlap"),
        ("halves", 'speaker_boxes is "halves"'),
    ],
)
def test_wrong_boxes_are_refused(boxes, message):
    assert message in problem_of(MULTI | {"speaker_boxes": boxes})


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ({"wav_url": VOICE}, "image_url is missing: input_type image needs it."),
        ({"image_url": FACE}, f"wav_url is missing: {URL}."),
        (IMAGE | {"wav_url": None}, f"wav_url is null: {URL}."),
        (VIDEO | {"video_url": None}, "video_url is missing: input_type video needs it."),
        (MULTI | {"wav_url_2": None}, "wav_url_2 is missing: person_count multi needs it."),
        (IMAGE | {"video_url": FACE}, "video_url is only for input_type video, but input_type is image."),
        (VIDEO | {"image_url": FACE}, "image_url is only for input_type image, but input_type is video."),
        (IMAGE | {"wav_url_2": VOICE}, "wav_url_2 is only for person_count multi, but person_count is single."),
        (IMAGE | {"video_strength": 0.5}, "video_strength is only for input_type video, but input_type is image."),
        (
            IMAGE | {"speaker_order": "first_then_second"},
            "speaker_order is only for person_count multi, but person_count is single.",
        ),
        (
            IMAGE | {"speaker_boxes": HALVES},
            "speaker_boxes is only for person_count multi, but person_count is single.",
        ),
        (
            IMAGE | {"negative_prompt": "blurred"},
            "negative_prompt is only read with text_guidance above 1: raise the guidance or leave the prompt out.",
        ),
    ],
)
def test_fields_that_do_not_go_together_are_refused(job, message):
    assert problem_of(job) == message


@pytest.mark.parametrize(
    ("field", "advice"),
    [
        ("width", ": the size follows from aspect_ratio and resolution"),
        ("Height", ": the size follows from aspect_ratio and resolution"),
        ("size", ": the size follows from aspect_ratio and resolution"),
        ("fps", ": the video has 25 frames a second"),
        ("steps", ": speed_mode chooses it"),
        ("num_frames", ": the length is the audio's, or max_duration_s"),
        ("audio_url", " (did you mean wav_url?)"),
        ("aspectRatio", " (did you mean aspect_ratio?)"),
        ("image", " (did you mean image_url?)"),
        ("wav_url2", " (did you mean wav_url_2?)"),
        ("mode", " (did you mean speed_mode?)"),
    ],
)
def test_an_unknown_field_is_refused_with_advice(field, advice):
    assert problem_of(IMAGE | {field: 1}) == f'"{field}" is not a field{advice}.'


def test_a_field_like_no_other_gets_the_list_of_fields():
    assert problem_of(IMAGE | {"zzz": 1}).startswith('"zzz" is not a field; the fields are speed_mode, input')


def test_one_message_lists_every_problem():
    problem = problem_of({"input_type": "video", "width": 8, "seed": -1, "wav_url": "x", "color_correction": 2})
    for part in (
        '"width" is not',
        "seed is -1",
        "wav_url is a text of 1 characters",
        "color_correction is 2",
        "video_url is missing",
    ):
        assert part in problem
    assert problem.count(";") == 4


@pytest.mark.parametrize("job_input", [None, [], "image", 3, True])
def test_the_input_is_an_object(job_input):
    assert "must be an object with the job's fields" in problem_of(job_input)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/a.wav?key=HUSH",
        "ftp://me:HUSH@example.com/a.wav",
        "me:HUSH@example.com/a//b",
        "example.com/a.wav?key=HUSH",
        " https://example.com/a.wav#HUSH",
        " data:audio/wav;base64,HUSH",
        "data:audio/wav,HUSH",
        "HTTP://HUSH@",
        "http://me:HUSH@example.com:port/a.wav",
        "http://me:HU/SH@example.com:port/a.wav",
        "/home/HUSH/voice.wav",
        "file:///HUSH.wav",
        "HUSH" * 30,
    ],
)
def test_errors_do_not_repeat_what_may_be_secret(url):
    assert "HUSH" not in problem_of(IMAGE | {"wav_url": url})
    assert "HUSH" not in problem_of(IMAGE | {"prompt": 1, "speed_mode": url})
    assert "HUSH" not in problem_of(IMAGE | {url: 1})


def test_urls_are_not_in_the_representation():
    assert "example.com" not in repr(Request.parse(MULTI))


HOSTILE = {
    "a million unknown fields": lambda: {f"field_{i}": i for i in range(1_000_000)},
    "long unknown fields": lambda: {f"{i}" + "k" * 1_000_000: 1 for i in range(10)},
    "a long number": lambda: {"seed": 10**5000, "max_duration_s": 10**5000},
    "a long prompt": lambda: {"prompt": "x" * 10_000_000},
    "a long URL": lambda: {"wav_url": "https://example.com/" + "@" * 10_000_000},
    "a long data: URI": lambda: {"wav_url": "data:audio/wav;base64," + "A" * 20_000_000},
    "a long list of boxes": lambda: {"speaker_boxes": HALVES * 1_000_000},
    "long boxes": lambda: {"speaker_boxes": [[0] * 1_000_000, [0] * 1_000_000]},
    "deep nesting": lambda: dict.fromkeys(("speaker_boxes", "seed", "prompt", "wav_url", "x"), nested(50_000)),
}


@pytest.mark.parametrize("make_fields", HOSTILE.values(), ids=HOSTILE)
def test_hostile_input_is_refused_quickly_and_shortly(make_fields):
    job = MULTI | make_fields()

    def processor_s():
        start = time.process_time()
        with pytest.raises((InvalidInput, TooLarge)) as raised:
            Request.parse(job)
        assert len(str(raised.value)) < 3000
        return time.process_time() - start

    assert min(processor_s() for _ in range(3)) < 0.05


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
FIELDS = st.sampled_from([*Request.model_fields, "width", "zzz"])
VALUES = JSON | st.sampled_from(["multi", "video", "turbo", FACE, VOICE, HALVES, 1, 0.5, True])


@given(job=JSON | st.dictionaries(FIELDS, VALUES).map(lambda fields: IMAGE | fields))
@settings(max_examples=200, deadline=None)
def test_any_json_gives_a_request_or_one_clear_error(job):
    try:
        request = Request.parse(job)
    except InvalidInput as error:
        assert str(error).endswith(".")
        str(error).encode()  # can be sent
    else:
        assert Request.parse(request.model_dump(mode="json")) == request


def test_the_schema_describes_every_field():
    schema = json.loads(json.dumps(Request.json_schema()))
    assert set(schema["properties"]) == set(Request.model_fields)
    assert schema["additionalProperties"] is False
    assert schema["anyOf"] == [{"required": ["wav_url"]}, {"required": ["speakers"]}]
    assert "required" not in schema
    for name, field in schema["properties"].items():
        assert field["description"].endswith("."), name
    assert schema["properties"]["text_guidance"]["maximum"] == 20
