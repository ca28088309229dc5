"""The image and the files for RunPod's Hub: built nowhere here, so checked for what can be checked."""

import base64
import fnmatch
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import soundfile
from packaging.requirements import Requirement
from packaging.version import Version
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, HttpUrl

from infinitetalk.contract.gpus import runpod_gpus
from infinitetalk.contract.presets import load_profile
from infinitetalk.contract.request import Request
from infinitetalk.contract.settings import Settings
from infinitetalk.faces.networks import INSTALL as FACES
from infinitetalk.models.voices import INSTALL as VOICES

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
PLATFORM_VARIABLES = {"RUNPOD_INIT_TIMEOUT"}  # read by RunPod, not by the worker
BUILD_TOOLS = {"gcc", "g++", "clang", "make", "cmake", "ninja-build", "build-essential", "python3-dev", "git", "nvcc"}

# --- the Hub: its published schema --------------------------------------------------------------------------------


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Option(Table):
    label: str
    value: str


class Input(Table):
    name: str
    type: Literal["string", "number", "boolean", "huggingface"]
    description: str
    default: str | float | bool
    options: list[Option] | None = None
    min: float | None = None
    max: float | None = None
    trueValue: str | None = None  # noqa: N815
    falseValue: str | None = None  # noqa: N815
    advanced: bool = False


class Variable(Table):
    key: str
    value: str | None = None
    input: Input | None = None


class HubPreset(Table):
    name: str
    defaults: dict[str, str | float | bool]


class HubConfig(Table):
    runsOn: Literal["GPU"]  # noqa: N815
    containerDiskInGb: Annotated[int, Field(gt=0)]  # noqa: N815
    gpuCount: Annotated[int, Field(gt=0)]  # noqa: N815
    gpuIds: str  # noqa: N815
    allowedCudaVersions: list[str]  # noqa: N815
    env: list[Variable]
    presets: list[HubPreset]


class Hub(Table):
    title: str
    description: str
    type: Literal["serverless"]
    category: Literal["audio", "embedding", "language", "video", "image"]
    iconUrl: Annotated[HttpUrl | None, Field(strict=False)] = None  # noqa: N815
    config: HubConfig


class HubTest(Table):
    name: str
    input: dict[str, Any]
    timeout: Annotated[int, Field(gt=1000)]  # milliseconds


class TestVariable(Table):
    __test__ = False
    key: str
    value: str


class TestConfig(Table):
    __test__ = False
    gpuTypeId: Literal["NVIDIA RTX PRO 6000 Blackwell Server Edition"]  # noqa: N815
    gpuCount: Annotated[int, Field(gt=0)]  # noqa: N815
    env: list[TestVariable]
    allowedCudaVersions: list[str]  # noqa: N815


class HubTests(Table):
    tests: Annotated[list[HubTest], Field(min_length=1)]
    config: TestConfig


HUB = Hub.model_validate_json((ROOT / ".runpod" / "hub.json").read_text("utf-8"))
TESTS = HubTests.model_validate_json((ROOT / ".runpod" / "tests.json").read_text("utf-8"))


def as_environment(value: str | float | bool, field: Input | None = None) -> str:
    """What the worker reads where the Hub's form says `value`."""
    if isinstance(value, bool):
        return (field.trueValue if value else field.falseValue) if field else str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def read_by_the_worker(environment: dict[str, str]) -> dict[str, str]:
    known = {name for name, _, _ in Settings.variables()}
    assert set(environment) - known <= PLATFORM_VARIABLES
    return {name: value for name, value in environment.items() if name in known}


def test_the_forms_defaults_are_settings() -> None:
    fields = {variable.key: variable.input for variable in HUB.config.env if variable.input}
    assert len(fields) == len(HUB.config.env)
    defaults = {name: as_environment(field.default, field) for name, field in fields.items()}
    Settings.from_env(read_by_the_worker(defaults))
    for preset in HUB.config.presets:
        changed = {name: as_environment(value, fields[name]) for name, value in preset.defaults.items()}
        Settings.from_env(read_by_the_worker(defaults | changed))


def test_the_hub_offers_gpus_that_the_large_profile_fits() -> None:
    needed_gib = load_profile("infinitetalk-14b").min_vram_gib
    pools = HUB.config.gpuIds.split(",")
    assert len(set(pools)) == len(pools)
    for pool in pools:
        gpus = [gpu for gpu in runpod_gpus().gpus if gpu.pool == pool]
        assert gpus and all(gpu.has_memory(needed_gib) for gpu in gpus), pool
    assert TESTS.config.gpuTypeId in {gpu.id for gpu in runpod_gpus().gpus if gpu.pool in pools}


def test_every_choice_of_the_form_is_a_setting() -> None:
    bucket = dict.fromkeys(("BUCKET_ENDPOINT_URL", "BUCKET_ACCESS_KEY_ID", "BUCKET_SECRET_ACCESS_KEY"), "https://x")
    for variable in HUB.config.env:
        for option in (variable.input and variable.input.options) or []:
            Settings.from_env(bucket | {variable.key: option.value})
        for value in (False, True) if variable.input and variable.input.type == "boolean" else ():
            Settings.from_env({variable.key: as_environment(value, variable.input)})


@pytest.mark.parametrize("test", TESTS.tests, ids=lambda test: test.name)
def test_the_hubs_test_jobs_are_valid_and_bring_their_media(test: HubTest) -> None:
    request = Request.parse(test.input)
    assert request.image_url is not None
    Image.open(io.BytesIO(content(request.image_url))).load()
    for url in filter(None, (request.wav_url, request.wav_url_2)):
        assert soundfile.info(io.BytesIO(content(url))).duration == pytest.approx(0.4, abs=0.01)


def content(url: object) -> bytes:
    return base64.b64decode(str(url).split(",", 1)[1], validate=True)


def test_the_hubs_test_jobs_need_no_weights() -> None:
    environment = {variable.key: variable.value for variable in TESTS.config.env}
    assert Settings.from_env(read_by_the_worker(environment)).model_profile == "miniature"
    assert len({test.name for test in TESTS.tests}) == len(TESTS.tests)


# --- the image ----------------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) of the Dockerfile, continued lines joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def stages() -> dict[str, list[tuple[str, str]]]:
    """Instructions of each stage, those of the stages it stands on included."""
    result: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for kind, arguments in instructions():
        if kind == "FROM":
            base, _, name = arguments.split()
            result[name] = list(result.get(base, []))
        result[name].append((kind, arguments))
    return result


FINAL = list(stages().values())[-1]


def test_the_linter_has_nothing_to_say() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_final_stage_has_no_build_tools_and_no_root() -> None:
    words = {word for kind, arguments in FINAL if kind == "RUN" for word in shlex.split(arguments)}
    assert words & {"apt-get"}
    assert not words & BUILD_TOOLS
    users = [arguments for kind, arguments in FINAL if kind == "USER"]
    assert users and users[-1].isdigit() and int(users[-1]) > 0
    assert FINAL[-2:] == [("USER", users[-1]), ("CMD", '["python", "handler.py"]')]
    assert any(tool in arguments.split() for _, arguments in stages()["launcher"] for tool in ("gcc", "python3-dev"))


def test_the_code_comes_last_and_torch_before_the_other_packages() -> None:
    copied = [arguments.split()[-2] for kind, arguments in FINAL if kind == "COPY" and "--from" not in arguments]
    assert copied == [
        "requirements-torch.lock",
        "requirements.lock",
        "requirements-networks.lock",
        "infinitetalk",
        "handler.py",
    ]
    after_code = FINAL[[kind for kind, _ in FINAL].index("ENV", 10) :]
    assert not [arguments for kind, arguments in after_code if kind == "RUN"]


def test_what_is_copied_is_what_the_builder_gets() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = {
        arguments.split()[-2]
        for _, stage in stages().items()
        for kind, arguments in stage
        if kind == "COPY" and "--from" not in arguments
    }
    assert copied == allowed
    assert all((ROOT / path).exists() for path in copied)
    assert any(fnmatch.fnmatch("infinitetalk/__pycache__", rule) for rule in rules[1:] if not rule.startswith("!"))


def test_baked_weights_are_looked_into_and_none_are_not() -> None:
    environment = next(arguments for kind, arguments in reversed(FINAL) if kind == "ENV")
    assert "MODELS_DIR=${BAKE_WEIGHTS:+/models}" in environment
    assert Settings.from_env({"MODELS_DIR": ""}).models_dir is None
    assert "MODEL_PROFILE=infinitetalk-14b" in environment


# --- the pins -----------------------------------------------------------------------------------------------------


def pins(name: str) -> dict[str, str]:
    """Versions by name; each line of the lock is an exact pin with at least one hash."""
    entries = re.split(r"\n(?=[a-zA-Z])", re.sub(r"^#.*\n", "", (ROOT / name).read_text("utf-8"), flags=re.MULTILINE))
    result = {}
    for entry in entries:
        first, *hashes = [line.strip().removesuffix(" \\") for line in entry.strip().splitlines()]
        package, version = first.split("==")
        assert hashes and all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", line) for line in hashes), first
        result[package.partition("[")[0]] = version
    return result


def test_every_dependency_is_pinned_within_its_bounds() -> None:
    locked = pins("requirements.lock")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for requirement in map(Requirement, project["dependencies"]):
        assert requirement.specifier.contains(locked[requirement.name]), requirement
    assert pins("requirements-torch.lock").items() <= locked.items()


def test_the_face_networks_are_the_ones_that_the_sentence_about_them_names() -> None:
    wheels = pins("requirements-networks.lock")
    named = {word for word in f"{FACES} {VOICES}".split() if "==" in word}
    assert named == {f"{package}=={version}" for package, version in wheels.items()}
    assert "-r /tmp/requirements-networks.lock" in DOCKERFILE


def test_torch_and_the_base_image_are_of_one_cuda() -> None:
    locked = pins("requirements.lock")
    image = re.search(r"^FROM nvidia/cuda:(\d+)\.(\d+)\.\d+-base-", DOCKERFILE, re.MULTILINE)
    assert image is not None
    cuda = Version(locked["nvidia-cuda-runtime"])
    assert (cuda.major, cuda.minor) == (int(image[1]), int(image[2])) >= (12, 8)
    assert f"cuda-driver-dev-{cuda.major}-{cuda.minor}" in DOCKERFILE
    for config in (HUB.config, TESTS.config):
        assert all(Version(version) >= Version(f"{cuda.major}.{cuda.minor}") for version in config.allowedCudaVersions)


def test_json_is_written_for_people() -> None:
    for name in ("hub.json", "tests.json"):
        text = (ROOT / ".runpod" / name).read_text("utf-8")
        assert text.endswith("}\n")
        assert len(json.dumps(json.loads(text))) < 100_000
