"""The command line."""

import json
from pathlib import Path
from urllib.parse import unquote

import pytest

from infinitetalk import cli, cli_machine
from infinitetalk.arithmetic import Arithmetic
from infinitetalk.cli import main
from infinitetalk.cli_display import print_plans
from infinitetalk.cli_options import make_parser, request_of
from infinitetalk.contract.presets import load_mode, load_profile
from infinitetalk.contract.request import Request
from infinitetalk.contract.result import Estimate, Turn
from infinitetalk.contract.settings import Settings
from infinitetalk.contract.speakers import Speaker
from infinitetalk.job.forecast import dry_run
from infinitetalk.media.probe import probe
from infinitetalk.models.opening import Models
from infinitetalk.planning.plan import make_plan
from tests.support.media_samples import write_picture, write_talking_video, write_tone
from tests.support.standing_faces import Finder


@pytest.fixture
def face(tmp_path: Path) -> str:
    return str(write_picture(tmp_path / "face of someone.png"))


@pytest.fixture
def voice(tmp_path: Path) -> str:
    return str(write_tone(tmp_path / "voice.wav", 0.2))


@pytest.fixture
def opened(models: Models, monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings that the command opens the models with; they are open already."""
    asked: list[Settings] = []
    monkeypatch.setattr(cli_machine, "open_models", lambda settings: asked.append(settings) or models)
    return asked


def test_generate_makes_a_video_and_prints_the_result(
    face: str, voice: str, opened: list[Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new folder" / "out.mp4"
    options = ["--speed-mode", "turbo", "--seed", "3", "--prompt", "A man."]
    main(["generate", "--image", face, "--audio", voice, *options, "-o", str(output)])
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert result["video_path"] == str(output)
    assert result["seed"] == 3
    assert result["settings"]["frames"] == 5
    assert probe(output, "result").has_audio
    assert "step 3/3" in shown.err or "deliver" in shown.err
    assert [settings.model_profile for settings in opened] == ["miniature"]


@pytest.mark.usefixtures("opened")
def test_generate_takes_a_video_and_two_voices(voice: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = str(write_talking_video(tmp_path / "head.mp4", seconds=0.2))
    output = str(tmp_path / "out.mp4")
    boxes = ["--speaker-boxes", "[[0, 0, 0.5, 1], [0.5, 0, 1, 1]]", "--speaker-order", "first_then_second"]
    mode = ["--speed-mode", "turbo", "--aspect-ratio", "16:9"]
    main(["generate", "--video", video, "--audio", voice, "--audio-2", voice, *boxes, *mode, "-o", output])
    assert json.loads(capsys.readouterr().out)["settings"]["frames"] == 10


def test_plan_shows_one_mode_or_all_of_them_without_weights(
    face: str, voice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["plan", "--image", face, "--audio", voice, "--profile", "infinitetalk-14b", "--speed-mode", "fast"])
    one = capsys.readouterr().out
    assert "480x848" in one
    assert "balanced" not in one
    shape = ["--aspect-ratio", "1:1", "--fit", "whole", "--speed-mode", "fast"]
    main(["plan", "--image", face, "--audio", voice, "--profile", "infinitetalk-14b", *shape])
    assert "640x426" in capsys.readouterr().out, "a picture of 3:2 without its border"
    main(["plan", "--image", face, "--audio", voice])
    every = capsys.readouterr().out
    for word in ("maximum_quality", "balanced", "fast", "turbo", "windows", "forwards", "estimated price"):
        assert word in every


def test_plan_puts_gpus_side_by_side(face: str, voice: str, capsys: pytest.CaptureFixture[str]) -> None:
    job = ["plan", "--image", face, "--audio", voice, "--speed-mode", "turbo"]
    large = [*job, "--profile", "infinitetalk-14b"]
    main([*large, "--compare"])
    one, table = capsys.readouterr().out.split("| GPU |")
    assert "| H200 | 8 | exact, _native_cudnn | " in table
    assert "Prices of one GPU for an hour of a flex worker: RTX PRO 6000 $4.00, H100 $4.18, H200 $5.58 (" in table
    main([*large, "--gpus", "2"])
    two = capsys.readouterr().out
    price = [float(text.partition("estimated price")[2].split()[0].strip("$")) for text in (one, two)]
    assert price[0] < price[1] < 2 * price[0]
    assert "2 GPUs: The speed-up is computed" in " ".join(two.split())
    main([*job, "--compare"])
    assert "There is no comparison" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*job, "--gpus", "0"])
    assert "argument --gpus: must be 1 or more, not 0" in capsys.readouterr().err


def test_plan_shows_the_lane_that_is_asked_for(
    face: str, voice: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANES", "exact,fp8")
    words = ["plan", "--image", face, "--audio", voice, "--profile", "infinitetalk-14b"]
    seconds = {}
    for lane in ("exact", "fp8"):
        main([*words, "--lane", lane])
        lines = {line.strip()[:14].strip(): line.split() for line in capsys.readouterr().out.splitlines()}
        assert lines["lane"][1:] == [lane] * 4
        seconds[lane] = float(lines["estimated time"][2])
    assert seconds["fp8"] < seconds["exact"]
    with pytest.raises(SystemExit, match="infinitetalk: lane must be one of exact, fp8, not 'sparse_20'"):
        main([*words, "--lane", "sparse_20"])


def test_schema_is_the_requests(capsys: pytest.CaptureFixture[str]) -> None:
    main(["schema"])
    assert json.loads(capsys.readouterr().out) == Request.json_schema()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--audio", "voice.wav"], "image_url"),
        (["--image", "nowhere.png", "--audio", "nowhere.wav"], "there is no file"),
        (["--image", "a.png", "--audio", "b.wav", "--max-duration-s", "0"], "max_duration_s"),
        (["--image", "a.png", "--audio", "b.wav", "--profile", "nowhere"], "nowhere"),
        (["--image", "a.png", "--audio", "b.wav", "--profile", "infinitetalk-14b"], "75 GiB"),
    ],
)
def test_problems_end_in_one_line(arguments: list[str], problem: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["generate", *arguments, "-o", str(tmp_path / "out.mp4")])
    message = str(stopped.value)
    assert message.startswith("infinitetalk: ")
    assert problem in message
    assert "\n" not in message


def test_an_output_that_cannot_be_written_is_found_out_before_the_work(
    face: str, voice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infinitetalk.job.render.generate", lambda *_: pytest.fail("the model ran"))
    (tmp_path / "file").write_text("")
    for output, problem in ((tmp_path, "is a folder"), (tmp_path / "file" / "out.mp4", "exists")):
        with pytest.raises(SystemExit, match=f"^infinitetalk: .*{problem}"):
            main(["generate", "--image", face, "--audio", voice, "-o", str(output)])


def test_plan_makes_the_work_folder(
    face: str, voice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORK_DIR", str(tmp_path / "new"))
    main(["plan", "--image", face, "--audio", voice, "--speed-mode", "turbo"])
    assert "turbo" in capsys.readouterr().out
    assert list((tmp_path / "new").iterdir()) == []


def test_check_says_what_it_found_and_fails_if_the_worker_would_not_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["check"])
    lines = capsys.readouterr().out.splitlines()
    checks = ["gpu", "ffmpeg", "work_dir", "volume", "marking", "estimates", "faces", "model_files", "shapes", "fits"]
    assert [line.split()[:2] for line in lines] == [[name, "ok"] for name in checks]
    with pytest.raises(SystemExit, match="infinitetalk: 3 of the checks failed"):
        main(["check", "--profile", "infinitetalk-14b", "--models-dir", str(tmp_path), "--device", "cpu"])
    shown = capsys.readouterr().out
    assert "gpu         FAILED  infinitetalk-14b needs a GPU of 75 GiB" in shown
    assert f"model_files FAILED  Wan-AI/Wan2.1-I2V-14B-480P was not found: MODELS_DIR ({tmp_path}" in shown
    assert "ffmpeg      ok" in shown


def test_fetch_goes_to_the_volume_or_to_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fetched = []
    monkeypatch.setattr(
        "infinitetalk.cli_machine.fetch_weights", lambda profile, folder: fetched.append((profile, folder))
    )
    profile = load_profile("infinitetalk-14b")
    main(["fetch", "--profile", "infinitetalk-14b", str(tmp_path / "here")])
    monkeypatch.setenv("VOLUME_DIR", str(tmp_path))
    main(["fetch", "--profile", "infinitetalk-14b"])
    assert fetched == [(profile, tmp_path / "here"), (profile, tmp_path / "models")]
    assert f"are in {tmp_path / 'models'}" in capsys.readouterr().out


def test_fetch_needs_a_place_and_something_to_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOLUME_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(SystemExit, match=r"there is no volume at .*nowhere; name a folder"):
        main(["fetch", "--profile", "infinitetalk-14b"])
    with pytest.raises(SystemExit, match="miniature are part of the package"):
        main(["fetch", str(tmp_path)])


def test_every_field_of_a_job_can_be_given() -> None:
    """All but where the video goes, and dry_run, which is the command plan."""
    given = {
        "speed_mode": "fast",
        "prompt": "A man sings.",
        "negative_prompt": "blurred",
        "seed": 3,
        "text_guidance": 2.0,
        "audio_guidance": 3.0,
        "max_duration_s": 0.5,
        "color_correction": 0.5,
        "isolate_vocals": True,
        "video_strength": 0.5,
        "extend": "loop",
        "keep": "speakers",
        "speaker_order": "first_then_second",
        "speaker_boxes": [[0, 0, 0.5, 1], [0.5, 0, 1, 1]],
        "aspect_ratio": "source",
        "fit": "pad",
        "resolution": "720p",
        "lane": "exact",
        "preview": True,
    }
    files = {"video": "a.mp4", "audio": "a.wav", "audio_2": "b.wav"}
    options = {name: value for name, value in (given | files).items() if value is not True}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    words += ["--isolate-vocals", "--preview"]
    request = request_of(make_parser(cli.COMMANDS).parse_args(["plan", *words]))
    boxes = ((0, 0, 0.5, 1), (0.5, 0, 1, 1))
    assert request.model_dump(include=set(given)) == given | {"speaker_boxes": boxes}
    assert [Path(url).name for url in (request.video_url, request.wav_url, request.wav_url_2)] == [*files.values()]
    assert (
        request_of(make_parser(cli.COMMANDS).parse_args(["plan", *words, "--no-isolate-vocals"])).isolate_vocals
        is False
    )
    left = {"image_url", "video_url", "wav_url", "wav_url_2", "input_type", "person_count", "output", "dry_run"}
    assert given.keys() | left | {"speakers", "split_voices"} == Request.model_fields.keys()


def test_speakers_are_files_with_settings() -> None:
    words = ["--image", "a.png", "--speaker", "b.wav", "face=1", "start_s=2.5", "--speaker", "c d.wav"]
    words += ["box=[0, 0, 0.5, 1]", "--speaker", "e=f.wav", "face=auto"]
    request = request_of(make_parser(cli.COMMANDS).parse_args(["plan", *words]))
    assert request.all_speakers == (
        Speaker("speakers[0].wav_url", None, 1, 2.5),
        Speaker("speakers[1].wav_url", (0, 0, 0.5, 1), None, 0.0),
        Speaker("speakers[2].wav_url", None, "auto", 0.0),
    )
    assert [Path(unquote(file.url)).name for file in request.media_files[1:]] == ["b.wav", "c d.wav", "e=f.wav"]


def test_a_plan_lists_the_faces(
    voice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli_machine, "open_faces", lambda _: Finder((0.1, 0.2, 0.3, 0.6), (0.6, 0.2, 0.8, 0.6)))
    image = str(write_picture(tmp_path / "a.png", width=160, height=96))
    words = ["plan", "--image", image, "--speaker", voice, "face=1", "--aspect-ratio", "16:9"]
    main(words)
    printed = capsys.readouterr().out
    assert "Face 0: box (0.10, 0.20, 0.30, 0.60), 32x38 pixels, no voice" in printed
    assert "Face 1: box (0.60, 0.20, 0.80, 0.60), 32x38 pixels, speakers[0].wav_url" in printed


def test_a_plan_lists_the_turns(capsys: pytest.CaptureFixture[str]) -> None:
    profile, turns = load_profile("miniature"), (Turn(speaker=1, start_s=0.5, end_s=2.25),)
    request = Request.parse({"image_url": "https://example.com/a.png", "wav_url": "https://example.com/a.wav"})
    plan = make_plan(request, profile, load_mode("turbo"), 100, 7, conversation=turns)
    print_plans({"turbo": dry_run(plan, "turbo", profile, Estimate(basis="Unknown."), Arithmetic(), [])})
    assert "Speaker 1: 0.50 to 2.25 s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--speaker", "b.wav", "left"], r'--speaker: "left" is no setting such as face=1'),
        (["--speaker", "b.wav", "voice=1"], r'speakers\[0\] is an object of 2 fields: "voice" is not a field'),
        (["--speaker", "b.wav", "face=left"], r'speakers\[0\]\.face is "left": must be "auto" or a whole number'),
        (["--speaker", "b.wav", "box=" + "[" * 100_000], r"speakers\[0\]\.box is "),
        (["--speaker", "b.wav", "--audio", "c.wav"], "wav_url is not read beside speakers"),
        ([], "wav_url is missing: must be an http"),
        (["--speaker", "gone.wav"], r"speakers\[0\]\.wav_url: there is no file .*gone\.wav"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_speakers_are_named(words: list[str], message: str, tmp_path: Path) -> None:
    image = str(write_picture(tmp_path / "a.png"))
    with pytest.raises(SystemExit, match=rf"^infinitetalk: .*{message}"):
        main(["plan", "--image", image, *words])


@pytest.mark.parametrize(
    "content", ["[]", '{"output": []}', '{"output": {"settings": []}}', '{"output": null}', "{", "[" * 100_000]
)
def test_a_result_that_is_none_is_named(content: str, tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    result.write_text(content)
    with pytest.raises(SystemExit, match=r"^infinitetalk: .*result\.json holds no result with settings; give"):
        main(["quality", "video.mp4", "--result", str(result)])


@pytest.mark.parametrize("boxes", ["[[0, 0", "[" * 100_000])
def test_boxes_that_are_no_json_are_an_options_error(boxes: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["plan", "--audio", "voice.wav", "--speaker-boxes", boxes])
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("infinitetalk plan: error: argument --speaker-boxes: not valid JSON: '[[")
    assert len(last) < 200
