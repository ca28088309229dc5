"""GPUs side by side: every row is the estimate for that GPU, at the documented price."""

import pytest

from infinitetalk.arithmetic import Arithmetic
from infinitetalk.contract.gpus import runpod_gpus
from infinitetalk.contract.presets import load_mode, load_profile
from infinitetalk.contract.request import Request
from infinitetalk.planning.comparison import alternatives, comparison
from infinitetalk.planning.estimate import estimate, find_hardware
from infinitetalk.planning.plan import make_plan

LARGE = load_profile("infinitetalk-14b")
JOB = {"image_url": "https://example.com/face.png", "wav_url": "https://example.com/voice.wav", "resolution": "720p"}
PLAN = make_plan(Request.parse(JOB), LARGE, load_mode("balanced"), 500, 7)


@pytest.mark.parametrize("arithmetic", [Arithmetic(), Arithmetic("_flash_3"), Arithmetic("_flash_3", fp8=True)])
def test_an_alternative_is_the_estimate_of_a_worker_with_those_gpus(arithmetic: Arithmetic) -> None:
    found = alternatives(PLAN, LARGE.timing, arithmetic)
    assert [(one.gpu, one.gpus) for one in found] == [
        (name, n) for name in ("RTX PRO 6000", "H100", "H200") for n in (1, 2, 4, 8)
    ]
    ids = {gpu.name: gpu for gpu in reversed(runpod_gpus().gpus)}
    for one in found:
        gpu = ids[one.gpu]
        assert gpu.usd_per_hour is not None
        hardware = find_hardware(LARGE.timing, gpu.id)
        expected = estimate(PLAN, hardware, gpu.id, gpu.usd_per_hour, arithmetic, one.gpus)
        assert one.seconds == expected.seconds
        assert one.cost_usd == pytest.approx(expected.cost_usd, abs=0.006)
        assert one.is_measured == (one.gpus == 1 and one.gpu != "RTX PRO 6000")


def test_a_lane_without_known_times_has_no_alternatives() -> None:
    assert alternatives(PLAN, LARGE.timing, Arithmetic(density=0.35)) == []
    assert alternatives(PLAN, "miniature", Arithmetic()) == []


def test_the_table_has_each_lane_and_marks_what_was_computed() -> None:
    lines = comparison({"balanced": PLAN}, LARGE.timing).split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    assert {row[-1] for row in rows if row[0] == "RTX PRO 6000" or row[1] != "1"} == {"arithmetic"}
    assert {row[-1] for row in rows if row[0] != "RTX PRO 6000" and row[1] == "1"} == {"measurements"}
    for name, hardware in (("H100", "nvidia-h100"), ("H200", "nvidia-h200"), ("RTX PRO 6000", "nvidia-rtx-pro-6000")):
        lanes = [row[2] for row in rows if row[:2] == [name, "8"]]
        found = find_hardware(LARGE.timing, f"NVIDIA {name}")
        assert found is not None and found.name == hardware
        assert lanes == [f"{lane}, {one.attention}" for lane, kernels in found.lanes.items() for one in kernels]
