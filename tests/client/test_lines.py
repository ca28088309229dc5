"""What a batch's lines say, and how all that is wrong with them is told at once."""

import json
import re
from pathlib import Path

import pytest

from infinitetalk.client.lines import BadLines, read_lines, read_pairs
from infinitetalk.contract.request import MEDIA
from infinitetalk.errors import InvalidInput
from infinitetalk.transfer.exchange import local_sources

OTHER = "https://example.com/pictures/b%C3%B6b.png?key=1"


@pytest.fixture
def write(tmp_path, face, voice):
    def write(text, name="jobs.jsonl"):
        path = tmp_path / name
        path.write_text(text if isinstance(text, str) else "\n".join(map(json.dumps, text)))
        return path

    return write


def test_lines_are_jobs_with_files_beside_the_list(write, tmp_path):
    source = write(
        [
            {"name": "anna", "image_url": "face.png", "wav_url": str(tmp_path / "voice.wav"), "speed_mode": "fast"},
            {"image_url": OTHER, "wav_url": "voice.wav"},
            {"image_url": "face.png", "speakers": [{"wav_url": "voice.wav", "face": 0}]},
            {"image_url": "data:image/png;base64,AAAA", "wav_url": "voice.wav"},
        ]
    )
    lines = read_lines(source, {"speed_mode": "turbo"})
    assert [line.name for line in lines] == ["anna", "002-böb", "003-face", "004"]
    assert [line.request.speed_mode for line in lines] == ["fast", "turbo", "turbo", "turbo"]
    assert [dict(local_sources(line.request)) for line in lines[:3]] == [
        {"image_url": tmp_path / "face.png", "wav_url": tmp_path / "voice.wav"},
        {"wav_url": tmp_path / "voice.wav"},
        {"image_url": tmp_path / "face.png", "speakers[0].wav_url": tmp_path / "voice.wav"},
    ]


def test_a_table_says_the_same(write):
    rows = "name,image_url,wav_url,seed,keep,speakers\nanna,face.png,voice.wav,7,all,\n\nben,face.png,,,,"
    speakers = '"[{""wav_url"": ""voice.wav"", ""box"": [0, 0, 0.5, 1]}]"'
    lines = read_lines(write("\ufeff" + rows + speakers, "jobs.csv"), {})
    assert [(line.name, line.request.seed) for line in lines] == [("anna", 7), ("ben", None)]
    assert lines[1].request.speakers[0].box == (0, 0, 0.5, 1)
    with pytest.raises(BadLines) as wrong:
        read_lines(write("image_url,wav_url,seed\nface.png,voice.wav,x\nface.png,voice.wav,1,2", "jobs.csv"), {})
    assert wrong.value.problems[0].startswith('line 2: seed is "x": must be a whole number')
    assert wrong.value.problems[1].startswith("line 3: has 4 cells")


def test_all_that_is_wrong_is_told_at_once(write):
    good = {"image_url": "face.png", "wav_url": "voice.wav"}
    source = write(
        [
            *(good | {"name": name} for name in ("a", "A", "../a")),
            *(good | change for change in ({"sped": 1}, {"wav_url": "no.wav"}, {"dry_run": True})),
            [1],
        ]
    )
    with source.open("a") as file:
        file.write('\n{"image_url": ')
    with pytest.raises(BadLines) as wrong:
        read_lines(source, {})
    cues = [
        "each video needs",
        "must be a file's name",
        '"sped" is not a field',
        "there is no file",
        "dry_run",
        "object",
        "JSON",
    ]
    assert len(wrong.value.problems) == len(cues)
    for number, (problem, cue) in enumerate(zip(wrong.value.problems, cues, strict=True), 2):
        assert problem.startswith(f"line {number}: ")
        assert cue in problem
    assert "line 1" in wrong.value.problems[0]


JOB = '{"image_url": "face.png", "wav_url": "voice.wav"%s}'


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.jsonl", JOB % ', "seed": 1, "seed": 2', 'line 1: names "seed" twice'),
        ("a.jsonl", "\ufeff" + JOB % "" + "\r\n" + JOB % ', "seed": "x"' + "\r\n", 'line 2: seed is "x": must be a'),
        ("a.jsonl", "\n\n" + JOB % "" + "}", "line 3: is not valid JSON (Extra data at character 50)"),
        ("a.jsonl", JOB % ', "seed": ' + "9" * 5000, "line 1: is not valid JSON"),
        ("a.jsonl", "[" * 5000, "line 1: is not valid JSON"),
        ("a.jsonl", JOB % ', "name": null', "line 1: name is null: must be a file's name"),
        ("a.jsonl", JOB % ', "name": ".."', 'line 1: name is "..": must be a file\'s name'),
        ("a.jsonl", JOB % ', "name": "a\\\\b"', "line 1: name is"),
        ("a.jsonl", JOB % ', "name": "\\ud800"', "line 1: name is"),
        ("a.jsonl", JOB % (', "name": "%s"' % ("ä" * 101)), "line 1: name is"),
        (
            "a.jsonl",
            '{"image_url": "a\\u0000b", "wav_url": "voice.wav"}',
            "line 1: image_url is a text of 3 characters",
        ),
        ("a.jsonl", '{"image_url": "%s", "wav_url": "voice.wav"}' % ("a" * 300), "line 1: image_url: "),
        ("a.jsonl", '{"image_url": ".", "wav_url": "voice.wav"}', "line 1: image_url: there is no file"),
        ("a.csv", "image_url;wav_url\nface.png;voice.wav", "line 1: must have commas between the names"),
        ("a.csv", "image_url,wav,wav_url\n,,", 'line 1: "wav" is not a field (did you mean wav_url?)'),
        ("a.csv", "image_url,wav_url,image_url\n,,", 'line 1: names "image_url" twice'),
        ("a.csv", "image_url,,wav_url\n,,", "line 1: names no field for column 2"),
        ("a.csv", 'image_url,wav_url\nface.png,"voice.wav\n', "line 2: is not valid CSV (unexpected end of data)"),
        (
            "a.csv",
            'image_url,wav_url,prompt\nface.png,voice.wav,"a\nb"\nx.png,voice.wav',
            "line 4: image_url: there is no",
        ),
        (
            "a.csv",
            "image_url,wav_url,prompt\nface.png,voice.wav," + "a" * 200_000,
            "line 2: is not valid CSV (field larger",
        ),
    ],
)
def test_a_wrong_line_is_told_by_line_and_field(write, name, text, problem):
    with pytest.raises(BadLines) as wrong:
        read_lines(write(text, name), {})
    assert len(wrong.value.problems) == 1
    assert wrong.value.problems[0].startswith(problem)


def test_what_other_programs_write_is_read(write):
    rows = 'name,image_url,wav_url,prompt,isolate_vocals,,\r\n"a, b",face.png,voice.wav,"""two""\r\nlines",FALSE,,\r\n'
    (line,) = read_lines(write("\ufeff" + rows + ",,,,,,\r\n", "jobs.csv"), {})
    assert (line.name, line.request.prompt, line.request.isolate_vocals) == ("a, b", '"two"\nlines', False)
    text = JOB % ', "prompt": "one\u2028line", "name": "Zoe\u0308, हिन्दी (1)"'
    (line,) = read_lines(write(text, "jobs.jsonl"), {})
    assert (line.name, line.request.prompt) == ("Zoë, हिन्दी (1)", "one\u2028line")
    source = write("")
    source.write_bytes(text.encode("utf-16"))
    with pytest.raises(InvalidInput, match="it is not UTF-8; save it as UTF-8"):
        read_lines(source, {})


@pytest.mark.parametrize(("name", "text", "sentence"), [("a.txt", "", "neither"), ("a.jsonl", "\n", "has no jobs")])
def test_a_file_without_jobs_is_told(write, name, text, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        read_lines(write(text, name), {})
    with pytest.raises(InvalidInput, match=r"cannot be read \(No such file"):
        read_lines(write("").with_name("none.csv"), {})


def test_another_content_is_another_job(write, face, voice):
    source = write([{"image_url": "face.png", "wav_url": "voice.wav"}])
    (before,) = read_lines(source, {})
    face.rename(face.with_name("other.png"))
    (renamed,) = read_lines(write([{"name": "x", "image_url": "other.png", "wav_url": "voice.wav"}]), {})
    assert renamed.digest == before.digest
    voice.write_bytes(voice.read_bytes() + b"x")
    (changed,) = read_lines(write([{"image_url": "other.png", "wav_url": "voice.wav"}]), {})
    assert len({changed.digest, before.digest, read_lines(source.with_name("jobs.jsonl"), {"seed": 1})[0].digest}) == 3


def test_pairs_are_files_of_the_same_name(tmp_path, face, voice):
    folder = tmp_path / "pairs"
    folder.mkdir()
    for name in ("anna.png", "anna.wav", "ben.MP4", "ben.mp3", "notes.txt", "._anna.png"):
        (folder / name).write_bytes(b"x")
    anna, ben = read_pairs(folder, {"speed_mode": "turbo"})
    assert (anna.name, anna.request.input_type, anna.request.speed_mode) == ("anna", "image", "turbo")
    assert (ben.name, ben.request.input_type) == ("ben", "video")
    (folder / "anna.jpg").write_bytes(b"x")
    (folder / "carl.wav").write_bytes(b"x")
    with pytest.raises(BadLines) as wrong:
        read_pairs(folder, {})
    assert [re.match(r"\w+: ", problem)[0] for problem in wrong.value.problems] == ["anna: ", "carl: "]
    assert "anna.jpg, anna.png, anna.wav" in wrong.value.problems[0]
    with pytest.raises(InvalidInput, match="is no folder"):
        read_pairs(folder / "none", {})


def test_every_field_of_a_file_may_be_a_path(tmp_path):
    assert set(MEDIA) == {"image_url", "video_url", "wav_url", "wav_url_2"}  # what `lines._with_files` turns into URLs


def test_the_lines_of_the_document_are_jobs(write, tmp_path, face, voice):
    document = (Path(__file__).parents[2] / "docs" / "client.md").read_text()
    (block,) = re.findall(r"```\n(\{.*?)```", document, re.DOTALL)
    (tmp_path / "voices").mkdir()
    for name, source in (("anna.png", face), ("anna.wav", voice), ("voices/second.wav", voice)):
        (tmp_path / name).write_bytes(source.read_bytes())
    assert [line.name for line in read_lines(write(block), {})] == ["anna", "002-portrait"]
