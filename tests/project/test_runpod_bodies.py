"""What is sent to RunPod's REST API: the bodies in deploy/, against the schema as far as it is known."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from infinitetalk.contract.gpus import runpod_gpus
from infinitetalk.contract.presets import load_profile
from infinitetalk.contract.settings import Settings

ROOT = Path(__file__).parents[2]
SCHEMAS = json.loads((ROOT / "tests" / "support" / "runpod_rest_v2.json").read_text("utf-8"))["$defs"]
DEPLOYMENT = (ROOT / "docs" / "deployment.md").read_text("utf-8")
BODIES = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted((ROOT / "deploy").glob("*.json"))}
# (method, path below /v2, schema) of each body
REQUESTS = {
    "network_volume": ("POST", "network-volumes", "CreateNetworkVolume"),
    "fetch_pod": ("POST", "pods", "CreatePod"),
    "template": ("POST", "templates", "CreateTemplate"),
    "endpoint": ("POST", "serverless", "CreateEndpoint"),
    "wake": ("PATCH", "serverless/$ENDPOINT_ID", "UpdateEndpoint"),
}
TEMPLATE, ENDPOINT = BODIES["template"], BODIES["endpoint"]


def problems(schema: str, body: Any) -> list[str]:
    validator = Draft202012Validator({"$ref": f"#/$defs/{schema}", "$defs": SCHEMAS})
    return [error.message for error in validator.iter_errors(body)]


def test_every_body_is_sent_somewhere_and_the_documents_say_where() -> None:
    assert set(BODIES) == set(REQUESTS)
    fenced = DEPLOYMENT.split("```")[1::2]
    for name, (method, path, _) in REQUESTS.items():
        (command,) = [text for text in fenced if f"@deploy/{name}.json" in text]
        sent = " ".join(command.replace("\\\n", " ").split())
        assert f"https://api.runpod.io/v2/{path} " in sent
        assert ("-X PATCH" in sent) == (method == "PATCH")


@pytest.mark.parametrize("name", REQUESTS)
def test_bodies_have_the_schemas_fields_types_and_limits(name: str) -> None:
    assert problems(REQUESTS[name][2], BODIES[name]) == []


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("network_volume", {"dataCenterId": "EU-RO-1"}),  # v1's names
        ("network_volume", {"size": 4097}),
        ("template", {"imageName": "x"}),
        ("template", {"disk": 0}),
        ("template", {"env": {"FP8": True}}),
        ("fetch_pod", {"mounts": {"network": [{"volumeId": "x"}]}}),
        ("fetch_pod", {"cpu": {"id": "cpu5c"}}),
        ("endpoint", {"workersMax": 2}),
        ("endpoint", {"type": None}),
        ("endpoint", {"scaling": {"type": "QUEUE_DELAY"}}),
        ("endpoint", {"flashboot": True}),
        ("endpoint", {"gpu": {"count": 1}}),
        ("endpoint", {"gpu": {"pools": ["ADA_80_PRO"], "minCudaVersion": "13"}}),
        ("endpoint", {"workers": {"max": 2, "idleTimeout": 3601}}),
        ("wake", {"workers": {"workersMax": 2}}),
    ],
)
def test_the_schema_refuses_what_the_api_would_not_take(name: str, change: dict[str, Any]) -> None:
    assert problems(REQUESTS[name][2], BODIES[name] | change)


def test_an_endpoint_needs_an_image_or_a_template() -> None:
    assert problems("CreateEndpoint", {key: value for key, value in ENDPOINT.items() if key != "templateId"})


def test_the_template_sets_what_somebody_reads() -> None:
    rows = re.findall(r"^\| `([A-Z0-9_]+)` \|", DEPLOYMENT, re.MULTILINE)
    assert set(TEMPLATE["env"]) <= set(rows)
    settings = Settings.from_env(TEMPLATE["env"])
    assert TEMPLATE["serverless"] is True
    assert settings.execution_timeout_s is not None
    assert ENDPOINT["timeout"] == 1000 * settings.execution_timeout_s


def test_every_gpu_of_the_endpoints_pools_fits() -> None:
    gpus = [gpu for gpu in runpod_gpus().gpus if gpu.pool in ENDPOINT["gpu"]["pools"]]
    assert {gpu.pool for gpu in gpus} == set(ENDPOINT["gpu"]["pools"])
    needed_gib = load_profile(TEMPLATE["env"]["MODEL_PROFILE"]).min_vram_gib
    assert all(gpu.has_memory(needed_gib) for gpu in gpus)


def test_the_endpoint_asks_for_the_images_cuda() -> None:
    version = ENDPOINT["gpu"]["minCudaVersion"]
    hub = json.loads((ROOT / ".runpod" / "hub.json").read_text("utf-8"))
    assert f"cuda-{version}/" in (ROOT / "Dockerfile").read_text("utf-8")
    assert [version] == hub["config"]["allowedCudaVersions"]


def test_the_pod_fetches_the_profile_that_the_template_runs() -> None:
    pod = BODIES["fetch_pod"]
    assert pod["image"] == TEMPLATE["image"]
    assert f"--profile {TEMPLATE['env']['MODEL_PROFILE']} {pod['mounts']['network'][0]['path']}/models" in pod["args"]


def test_the_retired_api_is_called_nowhere() -> None:
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        assert "rest.runpod.io" not in path.read_text("utf-8").replace("`https://rest.runpod.io/v1`", ""), path.name
