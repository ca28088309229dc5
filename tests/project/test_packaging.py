"""The commands a newcomer types: make demo, make test."""

import ast
import json
import os
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import imageio_ffmpeg
import pytest
import soundfile
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts import demo

ROOT = Path(__file__).parents[2]

FAKE_PYTHON = """#!/bin/sh
# Plays the python of a fresh machine: notes what it is asked to do; has torch if FAKE_TORCH is yes.
echo "$0 $*" >> "$NOTES"
case "$*" in
    *find_spec*) [ "$FAKE_TORCH" = yes ] ;;
    "-m venv "*) for folder; do :; done; mkdir -p "$folder/bin"; cp "$0" "$folder/bin/python" ;;
esac
"""


@pytest.fixture
def make(tmp_path):
    """Runs make with a python that installs nothing; returns what that was asked to do."""
    python = tmp_path / "python3"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)

    # Not what was given to the make that runs these tests.
    outside = {k: v for k, v in os.environ.items() if not k.startswith("MAKE") and k not in {"PYTHON", "TORCH", "VENV"}}

    def make(target, has_torch="no", **variables):
        notes = tmp_path / "notes"
        notes.write_text("")
        subprocess.run(
            ["make", "-C", ROOT, target, f"VENV={tmp_path}/venv", *(f"{k}={v}" for k, v in variables.items())],
            env=outside | {"PATH": f"{tmp_path}:{outside['PATH']}", "NOTES": notes, "FAKE_TORCH": has_torch},
            check=True,
            capture_output=True,
        )
        lines = notes.read_text().replace(f"{tmp_path}/venv/bin/python", "venv-python")
        return lines.replace(f"{tmp_path}/", "").splitlines()

    return make


def pip_installs(notes):
    return [line.split("--disable-pip-version-check ")[1] for line in notes if " -m pip install " in line]


NETWORKS = "--no-deps --require-hashes --only-binary=:all: -r requirements-networks.lock"
PAGE = "--no-deps --require-hashes --only-binary=:all: -r requirements-page.lock"


def test_demo_and_test_install_once_and_run(make):
    first = make("demo")
    assert pip_installs(first) == ["torch==2.13.0", "-e .", NETWORKS]
    assert first[-1] == "venv-python scripts/demo.py"
    assert make("demo") == ["venv-python scripts/demo.py"]
    second = make("test")
    assert pip_installs(second)[-3:] == ["-e .[dev,page]", NETWORKS, PAGE]
    assert second[-1].startswith("venv-python -m pytest ")
    assert make("test") == second[-1:]


def test_the_page_is_installed_beside_what_is_there(make):
    make("demo")
    notes = make("page")
    assert pip_installs(notes) == ["-e .[page]", PAGE]


def test_torch_that_is_there_is_used_and_not_replaced(make):
    notes = make("demo", has_torch="yes")
    assert pip_installs(notes) == ["-e .", NETWORKS]
    assert "python3 -m venv --system-site-packages venv" in notes


def test_a_fresh_machine_gets_an_isolated_environment(make):
    assert not any("--system-site-packages" in line for line in make("demo"))


def test_the_torch_build_can_be_chosen(make):
    notes = make("demo", TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu")
    assert pip_installs(notes)[0] == "torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"


def test_ci_runs_the_commands_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert "set -euo pipefail" in script
    readme = (ROOT / "README.md").read_text()
    assert "make test VENV" in script
    for command in ("make demo", "make test"):
        assert f"{command}\n" in readme


def test_ci_fails_where_a_step_fails(tmp_path):
    (tmp_path / "make").write_text('#!/bin/sh\n[ "$1" != "$FAILING" ]\n')
    (tmp_path / "make").chmod(0o755)
    for failing, status in (("none", 0), ("test", 1), ("lint", 1), ("check-lock", 1)):
        env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "FAILING": failing}
        assert subprocess.run([ROOT / ".ci" / "run"], env=env, check=False).returncode == status


COMES_WITH = {
    "botocore": "boto3",
    "fastapi": "runpod",  # serves its local API
    "pydantic_core": "pydantic",
    "starlette": "runpod",  # with fastapi
    "triton": "torch",  # the one for CUDA
}


def imported_packages(path: Path) -> set[str]:
    """The top names of what a file imports, but for Python's own and ours."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"infinitetalk"}


def test_what_the_package_imports_is_asked_for() -> None:
    """A package that is there for another reason, in the tests or on this machine, is missing in the image."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    distributions = packages_distributions()
    for path in [*(ROOT / "infinitetalk").rglob("*.py"), ROOT / "handler.py"]:
        lines = [*project["dependencies"], *(extras["quality"] if path.parent.name == "quality" else ())]
        asked = {canonicalize_name(Requirement(line).name) for line in lines}
        if path.parent.name == "page":
            asked |= {"gradio"}  # requirements-page.lock
        for name in imported_packages(path):
            found = {canonicalize_name(one) for one in distributions.get(COMES_WITH.get(name, name), [name])}
            assert found & asked, f"{path.name} imports {name}"


def test_importing_the_package_reads_and_makes_nothing(tmp_path):
    modules = "infinitetalk.transfer.downloads, infinitetalk.transfer.delivery, infinitetalk.contract.settings"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OUTPUT": "no such output"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long  # a whole installation's way, in a process of its own
def test_the_demo_prints_its_result_and_leaves_a_video_as_long_as_the_voice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The script with half a second of its voice, and handler.py as it starts it."""
    samples = tmp_path / "samples"
    samples.mkdir()
    shutil.copy(demo.SAMPLES / "portrait.png", samples)
    sound, rate_hz = soundfile.read(demo.SAMPLES / "voice.wav", stop=8_000)
    soundfile.write(samples / "voice.wav", sound, rate_hz)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "SAMPLES", samples)
    demo.main()
    printed = capsys.readouterr().out
    answer = json.loads(printed[printed.index("\n{") :])
    video = tmp_path / answer["output"]["video_path"]
    assert video == tmp_path / "out" / "infinitetalk-output" / "demo.mp4"
    probe = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-i", video], capture_output=True, text=True, check=False)
    for expected in ("Video: h264", "yuv420p", "25 fps", "Audio: aac"):
        assert expected in probe.stderr
    content = video.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # plays before it is loaded to the end
    voice_s = soundfile.info(samples / "voice.wav").duration
    frames, video_s = imageio_ffmpeg.count_frames_and_secs(video)
    assert frames == answer["output"]["settings"]["frames"]
    assert video_s == pytest.approx(voice_s, abs=1 / 25)
