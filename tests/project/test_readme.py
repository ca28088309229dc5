"""What the README, its tables elsewhere, and the examples say, against what the code does."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import infinitetalk
from infinitetalk.contract.presets import load_mode
from infinitetalk.contract.request import Request
from infinitetalk.contract.result import Result
from infinitetalk.contract.settings import Settings

ROOT = Path(__file__).parents[2]
NO_DEFAULT = "\N{EN DASH}"
README = (ROOT / "README.md").read_text("utf-8")
DEPLOYMENT = (ROOT / "docs" / "deployment.md").read_text("utf-8")


def table(document: str, header: str) -> dict[str, list[str]]:
    """Rows of the document's table whose header starts so, by their first cell."""
    lines = document[document.index(header) :].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0].strip("`"): row[1:] for row in rows}


def test_every_environment_variable_is_listed_and_read() -> None:
    variables = {name: [default or NO_DEFAULT, description] for name, default, description in Settings.variables()}
    assert table(DEPLOYMENT, "| variable |") == variables


def test_every_field_is_listed_with_its_default() -> None:
    rows = table(README, "| field |")
    assert list(rows) == list(Request.model_fields)
    for name, field in Request.model_fields.items():
        default = rows[name][1]
        if field.is_required():
            assert default == "**required**"
        elif field.default is None:
            assert default == NO_DEFAULT
        else:
            assert default.lower() == str(field.default).lower()
        assert rows[name][2] == field.description


def test_speed_modes_are_the_presets() -> None:
    for name, cells in table(README, "| mode |").items():
        mode = load_mode(name.split()[0])
        numbers = (mode.window_frames, mode.overlap_frames, mode.join_fade_frames, mode.steps)
        assert cells[:5] == [*map(str, numbers), mode.scheduler]
        assert {f"{shift:g}" for shift in mode.shift.values()} == {cells[5]}


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.json")), ids=lambda path: path.stem)
def test_examples_are_valid_jobs_on_samples_that_exist(path: Path) -> None:
    request = Request.parse(json.loads(path.read_text("utf-8"))["input"])
    for url in (request.image_url, request.video_url, request.wav_url, request.wav_url_2):
        assert url is None or (ROOT / "samples" / url.rsplit("/", 1)[1]).is_file()
    assert path.name in README


def test_json_in_the_readme_is_a_job_or_a_result() -> None:
    blocks = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", README, re.DOTALL)]
    assert len(blocks) == 2
    Request.parse(blocks[0]["input"])
    Result.model_validate(blocks[1]["output"])


def test_the_python_lines_make_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    imported = block.splitlines()[0].removeprefix("from infinitetalk import ")
    assert imported.split(", ") == infinitetalk.__all__
    assert block.count('speed_mode="turbo"') == 1
    monkeypatch.chdir(tmp_path)
    Path("samples").symlink_to(ROOT / "samples")
    names: dict[str, Any] = {}
    exec(block.replace('speed_mode="turbo"', 'speed_mode="turbo", max_duration_s=0.2'), names)  # the rest as it stands
    assert isinstance(names["result"], Result)
    assert (names["result"].video_path, names["result"].settings.frames) == ("out.mp4", 5)
    assert Path("out.mp4").stat().st_size > 0
