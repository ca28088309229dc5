"""What the documents say, against what the code does: JSON, environment variables, estimates, links, commands."""

import ast
import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from benchmarks import costs
from infinitetalk.cli import main
from infinitetalk.contract.caller import CallerSettings
from infinitetalk.contract.gpus import runpod_gpus
from infinitetalk.contract.presets import load_mode, load_profile
from infinitetalk.contract.request import Request, SpeedModeName
from infinitetalk.contract.result import Failure, Result
from infinitetalk.contract.settings import Settings
from infinitetalk.planning.estimate import estimate, find_hardware
from infinitetalk.planning.plan import make_plan

ROOT = Path(__file__).parents[2]
DOCUMENTS = {path.name: path.read_text("utf-8") for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
DEPLOYMENT, COSTS = DOCUMENTS["deployment.md"], DOCUMENTS["costs.md"]
LINKED = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").glob("*.md"),
    *ROOT.glob("[!.]*/README.md"),
    *ROOT.glob("tests/*/README.md"),
]
H100 = "NVIDIA H100 80GB HBM3"
# Words in capitals that are no environment variables of the worker.
OTHER_WORDS = {"BUCKET_", "IN_QUEUE", "BAKE_WEIGHTS", "REGISTRY", "ENDPOINT_ID", "RUNPOD_API_KEY"}


def rows(document: str, header: str) -> list[list[str]]:
    """Cells of the table whose header starts so."""
    lines = document[document.index(header) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


OURS = {name for name, _, _ in Settings.variables()} | {name for name, _ in CallerSettings.variables()}
OTHERS = {row[0].strip("`") for row in rows(DEPLOYMENT, "| others' variable |")}

BLOCKS = [
    pytest.param(json.loads(text), id=f"{name}-{index}")
    for name, document in DOCUMENTS.items()
    for index, text in enumerate(re.findall(r"```json\n(.*?)```", document, re.DOTALL))
]


def test_a_callers_variables_are_listed() -> None:
    listed = [(name.strip("`"), meaning) for name, meaning in rows(DOCUMENTS["client.md"], "| variable |")]
    assert listed == CallerSettings.variables()


@pytest.mark.parametrize("block", BLOCKS)
def test_every_json_example_is_what_it_shows(block: dict[str, Any]) -> None:
    if "input" in block:
        Request.parse(block["input"])
        assert set(block) <= {"input", "policy", "s3Config"}
    elif "output" in block:
        (Failure if "error" in block["output"] else Result).model_validate(block["output"])
    else:
        pytest.fail("neither a job nor a result")


def test_json_examples_are_found() -> None:
    assert len(BLOCKS) >= 4


def test_every_claim_about_runpod_has_a_source_and_its_date() -> None:
    claims = rows(DOCUMENTS["runpod.md"], "| what is said |")
    assert len(claims) > 20
    for said, source, date in claims:
        linked = re.search(r"\]\(https://(docs\.runpod\.io|www\.runpod\.io|github\.com)/", source)
        assert linked or source.startswith("not found"), said
        assert re.fullmatch(r"20\d\d-\d\d-\d\d|undated|\N{EN DASH}", date), said
    assert runpod_gpus().priced_on in {date for said, _, date in claims if "price" in said.lower()}


def test_every_variable_that_a_document_names_is_read_by_someone() -> None:
    for name, document in DOCUMENTS.items():
        named = set(re.findall(r"`\$?([A-Z][A-Z0-9]*_[A-Z0-9_]*)(?:=[^`]*)?`", document))
        assert named <= OURS | OTHERS | OTHER_WORDS, name


def test_every_variable_that_the_code_reads_is_in_the_tables() -> None:
    read: set[str] = set()
    for path in (ROOT / "handler.py", *(ROOT / "infinitetalk").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            # whatever has a name in capitals beside os.environ or os.getenv
            if isinstance(node, ast.Subscript | ast.Call | ast.Compare) and re.search(
                r"os\.(environ|getenv)", ast.unparse(node)
            ):
                read |= {
                    constant.value
                    for constant in ast.walk(node)
                    if isinstance(constant, ast.Constant) and isinstance(constant.value, str)
                    if re.fullmatch(r"[A-Z][A-Z0-9]*_[A-Z0-9_]+", constant.value)
                }
    set_by_runpod = {name for name in read if name.startswith("RUNPOD_WEBHOOK_")}
    assert read - set_by_runpod <= OURS | OTHERS


def test_the_times_and_prices_are_the_estimates() -> None:
    profile = load_profile("infinitetalk-14b")
    hardware = find_hardware(profile.name, H100)
    modes = list(get_args(SpeedModeName))
    table = rows(COSTS, "| video |")
    assert len(table) >= 5
    for video, *cells in table:
        seconds, resolution, people = video.split(", ")
        job: dict[str, Any] = {
            "image_url": "https://a.b/c.png",
            "wav_url": "https://a.b/c.wav",
            "resolution": resolution,
        }
        if people == "two people":
            job |= {"person_count": "multi", "wav_url_2": "https://a.b/d.wav"}
        for mode, cell in zip(modes, cells, strict=True):
            request = Request.parse(job | {"speed_mode": mode})
            plan = make_plan(request, profile, load_mode(mode), 25 * int(seconds.removesuffix(" s")), 1)
            found = estimate(plan, hardware, H100, Settings().gpu_price_per_hour)
            assert cell == f"{found.seconds:.0f} s, ${found.cost_usd:.2f}"


def test_the_comparison_of_gpus_is_what_its_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert "`python -m benchmarks.costs`" in COSTS
    costs.main([])
    table, prices = capsys.readouterr().out.strip().split("\n\n")
    assert table in COSTS
    assert prices in " ".join(COSTS.split())


def headings(document: str) -> set[str]:
    """The names by which links lead to a document's headings."""
    lines = re.findall(r"^#+ (.+)$", document, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("path", LINKED, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text("utf-8")):
        target, _, heading = link.partition("#")
        if not target.startswith("https://"):
            found = path.parent / target if target else path
            assert found.exists(), link
            assert not heading or heading in headings(found.read_text("utf-8")), link


def test_the_checks_are_listed_in_order() -> None:
    from infinitetalk.startup.fitness import worker_checks

    assert [row[0] for row in rows(DEPLOYMENT, "| check |")] == [check.__name__ for check in worker_checks(Settings())]


def test_commands_exist(capsys: pytest.CaptureFixture[str]) -> None:
    commands = {word for text in DOCUMENTS.values() for word in re.findall(r"infinitetalk(?:\.cli)? ([a-z]+) --", text)}
    assert commands >= {"fetch", "check", "plan"}
    for command in commands:
        with pytest.raises(SystemExit) as stopped:
            main([command, "--help"])
        assert stopped.value.code == 0
        capsys.readouterr()
