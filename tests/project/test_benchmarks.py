"""The benchmarks run on the miniature: what they print and write, not how fast they are."""

import json
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import weights
from benchmarks.fit import lanes_of
from benchmarks.job import extrapolate, new_frame_s
from benchmarks.plot import COLORS, draw, parts_of
from infinitetalk.contract.presets import load_mode, load_profile
from infinitetalk.contract.request import Request
from infinitetalk.models.opening import Models, load_models
from infinitetalk.planning.estimate import find_hardware
from infinitetalk.planning.plan import Plan, make_plan
from tests.support.miniature import quicken

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ALL = [path.name for path in sorted(BENCHMARKS.glob("*.py"))]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a script of benchmarks/ as its command line does, in this process; returns what it printed."""

    def run(script: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        import_module(f"benchmarks.{script.removesuffix('.py')}").main()
        return capsys.readouterr().out

    return run


def quick_models(*how: Any) -> Models:
    """What `load_models` gives, with a quick autoencoder."""
    models = load_models(*how)
    quicken(models.vae.float())
    return models


@pytest.mark.parametrize("script", ALL)
def test_every_benchmark_says_how_it_is_run(script: str) -> None:
    head = (BENCHMARKS / script).read_text("utf-8").split('"""')[1]
    module = script.removesuffix(".py")
    assert (
        module in ("clean_jobs", "fault_places", "loopback", "planted", "random_models", "reporting", "weight_files")
        or f"python -m benchmarks.{module}" in head
    )


def test_a_ranks_share_is_timed_for_each_number_of_ranks(run: Callable[..., str], tmp_path: Path) -> None:
    report = tmp_path / "share.json"
    how = ("--miniature", "--repeats", 1, "--ranks", 2, 4, "--people", 1, 2, "--gb-per-s", 100, "--json", report)
    printed = run("rank_share.py", *how).splitlines()
    torch.distributed.destroy_process_group()
    assert "| what | size | people | one GPU, s | one of 2, s | one of 4, s |" in printed
    told = json.loads(report.read_text("utf-8"))
    assert told["link"] == {"gb_per_s": 100.0, "channels": 32}
    assert [(row["people"], sorted(row["seconds"])) for row in told["rows"]] == [
        (1, ["1", "2", "4"]),
        (2, ["1", "2", "4"]),
    ]
    assert all(seconds > 0 for row in told["rows"] for seconds in row["seconds"].values())


def plan_of(mode: str, windows: int, steps: int, n_frames: int | None = None) -> Plan:
    preset = load_mode(mode).model_copy(update={"steps": steps})
    request = Request.parse({"image_url": "https://a.b/c.png", "wav_url": "https://a.b/c.wav", "speed_mode": mode})
    length = preset.window_frames + (windows - 1) * (preset.window_frames - preset.overlap_frames)
    return make_plan(request, load_profile("miniature"), preset, n_frames or length, 1)


SECONDS = {"text": 0.5, "image": 2.0, "denoise": 10.0, "decode": 4.0, "overlap": 1.0, "audio": 0.1, "bytes": 0.4}


def test_a_longer_job_takes_each_stage_by_what_it_grows_with() -> None:
    short, whole = plan_of("balanced", windows=2, steps=1), plan_of("balanced", windows=10, steps=5)
    longer = extrapolate(SECONDS, short, whole)
    assert longer["text"] == SECONDS["text"]
    assert longer["image"] == SECONDS["image"]
    assert longer["denoise"] == pytest.approx(5 * 5 * SECONDS["denoise"])
    assert longer["decode"] == pytest.approx(5 * SECONDS["decode"])
    assert longer["overlap"] == pytest.approx(9 * SECONDS["overlap"])
    assert longer["audio"] == pytest.approx(765 / 157 * SECONDS["audio"])
    assert extrapolate(SECONDS, short, short) == pytest.approx(SECONDS)


def test_a_new_frame_takes_a_windows_time_by_the_frames_it_adds() -> None:
    plan = plan_of("balanced", windows=2, steps=1)
    assert new_frame_s(SECONDS, plan, 5) == pytest.approx((5 * 10 / 2 + 4 / 2 + 1 / 1 + 0.4 / 2) / 76)


@pytest.mark.long  # jobs in all modes
def test_a_job_is_measured_extrapolated_and_drawn(
    run: Callable[..., str], models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.job.open_models", lambda _: models)
    report, picture = tmp_path / "job.json", tmp_path / "job.svg"
    modes = ("maximum_quality", "turbo")
    small = ("--window", 13, "--windows", 1, "--steps", 1, "--people", 1)
    printed = run("job.py", "--miniature", "--speed-mode", *modes, *small, "--json", report)
    jobs: list[dict[str, Any]] = json.loads(report.read_text("utf-8"))["jobs"]
    assert [job["speed_mode"] for job in jobs] == list(modes)
    for job in jobs:
        assert (job["window"], job["windows"], job["steps"], job["frames"]) == (13, 1, 1, 13)
        assert {"download", "read_media", "audio", "denoise", "decode", "bytes", "encode"} <= set(job["seconds"])
        assert sum(job["seconds"].values()) == pytest.approx(job["total_s"], abs=0.02)
        assert 0 < job["extrapolated"]["outside_transformer"] < 1
        assert job["extrapolated"]["steps"] == load_mode(job["speed_mode"]).steps
    assert printed.count("| 80 s, ") == 2
    hardware = tmp_path / "cpu.toml"
    assert "| turbo, 160x96 |" in run("fit.py", report, "-o", hardware)
    assert find_hardware("miniature", None, hardware).name == "cpu"
    run("plot.py", report, picture)
    assert picture.read_text("utf-8").startswith("<svg")


def test_the_picture_shows_every_job_by_its_share() -> None:
    job = {"video_s": 10.0, "seconds": SECONDS}
    twice = {"video_s": 10.0, "seconds": {stage: 2 * spent for stage, spent in SECONDS.items()}}
    rows = [{"speed_mode": name, "size": "8x8", "extrapolated": e} for name, e in (("fast", job), ("slow", twice))]
    picture = ElementTree.fromstring(draw({"device": "<GPU>", "torch": "2", "date": "today", "jobs": rows}))
    bars: dict[str, list[float]] = {}
    for element in picture:
        if element.get("height") == "18.0":
            bars.setdefault(element.attrib["y"], []).append(float(element.attrib["width"]))
    fast, slow, *shares = bars.values()
    assert slow == pytest.approx([2 * width for width in fast], rel=0.01)
    assert sum(fast) * 18 / 18 == pytest.approx(sum(slow) / 2, rel=0.01)
    assert shares[0] == shares[1]
    assert fast[0] / sum(fast) == pytest.approx(SECONDS["denoise"] / sum(SECONDS.values()), rel=0.01)
    words = [element.text for element in picture if element.text]
    assert {"fast, 8x8", "slow, 8x8", "1.8 s", "3.6 s"} <= set(words)


def test_stages_that_are_not_drawn_apart_count_as_other() -> None:
    parts = parts_of(SECONDS)
    assert set(parts) <= set(COLORS)
    assert parts["other"] == pytest.approx(SECONDS["text"] + SECONDS["audio"])
    assert sum(parts.values()) == pytest.approx(sum(SECONDS.values()))


def test_passes_of_a_small_transformer_are_measured(run: Callable[..., str], tmp_path: Path) -> None:
    report = tmp_path / "passes.json"
    run("transformer.py", "--miniature", "--repeats", 1, "--no-errors", "--json", report)
    measured = json.loads(report.read_text("utf-8"))
    assert {row["people"] for row in measured["passes"]} == {1, 2}
    assert all(row["milliseconds"] > 0 for row in measured["passes"])
    assert {"eager", "fp8"} <= {row["lane"] for row in measured["passes"]}
    assert set(lanes_of(measured)) == {row["lane"] for row in measured["passes"]} - {"eager"}


@pytest.mark.long  # eight talking videos
def test_lanes_are_compared_by_the_pictures_they_make(
    run: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.lanes.load_models", quick_models)
    printed = run("lanes.py", "--out", tmp_path, "--jobs", 1, "--seconds", 0.4, "--mode", "turbo")
    psnrs = {line.split("| ")[1].strip(): line.split("| ")[2].split()[0] for line in printed.splitlines()[2:]}
    assert psnrs.pop("eager") == "-"
    assert float(psnrs["fp8"]) > float(psnrs["fp8_sparse_20"]) > 20
    assert float(psnrs["sparse_20"]) > 30


@pytest.mark.long  # both autoencoders, several times
def test_the_autoencoder_is_measured_beside_diffusers(run: Callable[..., str], tmp_path: Path) -> None:
    report = tmp_path / "vae.json"
    printed = run("vae.py", "--miniature", "--repeats", 1, "--json", report)
    rows = json.loads(report.read_text("utf-8"))["autoencoder"]
    assert [row["what"] for row in rows] == ["decode", "encode", "encode condition"]
    assert all(row["difference"] < 1e-4 for row in rows)
    assert all(row["milliseconds"] > 0 and row["diffusers"]["milliseconds"] > 0 for row in rows)
    assert "| 96x64x13 | decode |" in printed


def test_attention_kernels_are_measured(run: Callable[..., str], tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    printed = run("attention.py", "--miniature", "--repeats", 1, "--json", report)
    assert printed.count("| ---") >= 3
    assert json.loads(report.read_text("utf-8"))["torch"] in printed


def test_8_bit_products_are_measured_with_either_kind_of_scales(run: Callable[..., str], tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    printed = run("products.py", "--miniature", "--repeats", 1, "--json", report)
    rows = json.loads(report.read_text("utf-8"))["products"]
    errors = {row["numbers"]: row["error"] for row in rows}
    assert errors.keys() == {"bfloat16", "8 bits, scales by rows", "8 bits, scales by tensors"}
    assert errors["bfloat16"] < 0.005 < errors["8 bits, scales by rows"] < 0.1
    assert printed.count("8 bits, scales by rows") == 2


def test_the_separator_is_measured(run: Callable[..., str], tmp_path: Path) -> None:
    report = tmp_path / "separate.json"
    printed = run("separate.py", "--miniature", "--seconds", 1, "--repeats", 1, "--json", report)
    row = json.loads(report.read_text("utf-8"))["separator"]
    assert row["chunks"] == 2
    assert row["s_per_minute"] == pytest.approx(16 / 2 * row["seconds"], rel=0.02, abs=0.01)
    assert f"| 1 s | 2 | {row['seconds']:.2f} |" in printed


@pytest.mark.long  # starts a second process, twice
def test_several_gpus_are_measured_beside_one(run: Callable[..., str], tmp_path: Path) -> None:
    output = run(
        "ranks.py", "--miniature", "--sizes", "96x64x13", "--repeats", "1", "--json", str(tmp_path / "ranks.json")
    )
    report = json.loads((tmp_path / "ranks.json").read_text("utf-8"))
    assert [(row["what"], row["people"]) for row in report["rows"]] == [("pass", 1), ("pass", 2), ("decode", 0)]
    assert all(row["difference"] < 1e-5 for row in report["rows"])
    assert "| speed-up |" in output
    output = run(
        "windows.py", "--miniature", "--window", "13", "--resolution", "480p", "--json", str(tmp_path / "windows.json")
    )
    (job,) = json.loads((tmp_path / "windows.json").read_text("utf-8"))["jobs"]
    assert job["difference"] < 0.01
    assert job["whole"]["one"]["denoise"] > 5 * job["ran"]["one"]["denoise"]  # five steps, and more windows
    assert "| balanced | 160x96 |" in output


def test_marking_is_measured(run: Callable[..., str]) -> None:
    printed = run("marking.py", "--videos", "480p:0.2")
    assert "more when marked; signed in" in printed
    assert printed.strip().endswith("untrusted")


@pytest.mark.long  # two jobs, each in a process of its own
def test_host_memory_is_compared_between_lengths(run: Callable[..., str]) -> None:
    printed = run("memory.py", "--grey", "--seconds", 0.4, 0.8)
    assert "0.8 s of sound: " in printed
    assert float(printed.rsplit("longest against shortest: ", 1)[1].split("x")[0]) < 1.2


def test_formats_are_held_against_bfloat16(run: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        weights, "FORMATS", {name: weights.FORMATS[name] for name in ("bfloat16", "GGUF Q8_0", "fp8 e4m3")}
    )
    monkeypatch.setattr(weights, "TIMES", (500.0,))
    monkeypatch.setattr(sys, "argv", ["weights"])
    lines = [line.split("|")[1:-1] for line in run("weights.py").splitlines()[2:]]
    of_matrices, of_passes = ([float(line[column]) for line in lines] for column in (2, 3))
    assert of_matrices[0] == of_passes[0] == 0
    for errors in (of_matrices, of_passes):
        assert 0 < errors[1] < errors[2] < 0.1
