"""The checks at start: each finds what it looks for, and says it in one sentence."""

from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
import torch
from cryptography.x509.oid import ExtendedKeyUsageOID

from infinitetalk.contract.presets import PresetError, load_profile
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import ModelMissing
from infinitetalk.media.ffmpeg import FfmpegError
from infinitetalk.startup import fitness
from infinitetalk.startup.fitness import (
    Unfit,
    check_estimates,
    check_ffmpeg,
    check_fits,
    check_gpu,
    check_marking,
    check_model_files,
    check_shapes,
    check_volume,
    check_work_dir,
    has_code_for,
    worker_checks,
)
from tests.support.certificates import Chain, make_chain
from tests.support.full_size import write_full_size_weights

LARGE = load_profile("infinitetalk-14b")
MINIATURE = load_profile("miniature")
CU128 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]  # as torch.cuda.get_arch_list() says it


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """An RTX PRO 6000 whose properties a test may change."""
    card = SimpleNamespace(capability=(12, 0), built_for=CU128, free=94 * 2**30, total=95 * 2**30, reserved=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA RTX PRO 6000 Blackwell Server Edition")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: card.capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: card.built_for)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (card.free, card.total))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: card.reserved)
    return card


def test_an_rtx_pro_6000_passes(gpu: SimpleNamespace) -> None:
    found = check_gpu(LARGE, Settings())
    assert found == "NVIDIA RTX PRO 6000 Blackwell Server Edition, sm_120, 94.0 of 95.0 GiB free"


def test_each_gpu_is_looked_at_and_named_as_a_rank(gpu: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    name = "NVIDIA RTX PRO 6000 Blackwell Server Edition, sm_120, 94.0 of 95.0 GiB free"
    assert check_gpu(LARGE, Settings()) == f"2 ranks: 0 {name}; 1 {name}"
    assert check_gpu(LARGE, Settings(gpus=1)) == name
    assert check_estimates(LARGE, Settings()).endswith(
        check_estimates(LARGE, Settings(gpus=2)).rpartition(" 2 GPUs")[2]
    )
    with pytest.raises(ValueError, match="GPUS is 3, and torch sees 2: set it to at most that"):
        check_gpu(LARGE, Settings(gpus=3))
    small = {0: 94, 1: 40}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (small[device.index] * 2**30, 95 * 2**30))
    with pytest.raises(Unfit, match=r"another process leaves 40\.0"):
        check_gpu(LARGE, Settings())


def test_estimates_say_whether_this_gpu_was_measured(
    gpu: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_estimates(LARGE, Settings()).startswith("Computed from published rates, not measured")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100-SXM4-80GB")
    assert check_estimates(LARGE, Settings()).endswith("(NVIDIA A100-SXM4-80GB) was not measured.")
    missing = Settings.from_env({"HARDWARE_FILE": str(tmp_path / "none.toml")})
    with pytest.raises(PresetError, match=r"none.toml cannot be read: No such file"):
        check_estimates(LARGE, missing)


def test_a_smaller_gpu_is_refused_unless_the_setting_allows_it(gpu: SimpleNamespace) -> None:
    gpu.total = gpu.free = 48 * 2**30
    with pytest.raises(Unfit, match=r"infinitetalk-14b needs a GPU of 75 GiB.*has 48\.0.*MIN_VRAM_GIB"):
        check_gpu(LARGE, Settings())
    assert check_gpu(LARGE, Settings.from_env({"MIN_VRAM_GIB": "45"}))
    with pytest.raises(Unfit, match="needs a GPU of 50 GiB"):
        check_gpu(LARGE, Settings.from_env({"MIN_VRAM_GIB": "50"}))


@pytest.mark.parametrize("profile", ["infinitetalk-14b", "infinitetalk-14b-fp8", "infinitetalk-14b-gguf"])
def test_a_gpu_of_80_gb_has_room_for_the_largest_job(gpu: SimpleNamespace, profile: str) -> None:
    """As the driver shows it on an H100 and an A100, with some of it taken by the context."""
    gpu.total, gpu.free = int(79.1 * 2**30), int(78.6 * 2**30)
    assert check_gpu(load_profile(profile), Settings())
    assert load_profile(profile).min_vram_gib > 69.5  # the measured peak, docs/costs.md


def test_the_gpus_of_runpods_list_that_fit_are_named() -> None:
    fits, small = check_fits(LARGE, Settings()).split("; ")
    assert fits == "RTX PRO 6000, H100, H200, B200, A100"
    assert small.startswith("under 75 GiB: L40S, L40, RTX 6000 Ada, ")
    with_fp8 = check_fits(LARGE, Settings(fp8=True))
    assert with_fp8.startswith("RTX PRO 6000, H100, H200, B200; too old for 8 bits: A100; under 75 GiB: L40S, ")
    both = check_fits(LARGE, Settings(lanes="exact,fp8"))
    assert both.startswith("RTX PRO 6000, H200, B200; under 91 GiB: H100, A100, ")
    allowed = check_fits(LARGE, Settings(min_vram_gib=100))
    assert allowed.startswith("H200, B200; under 100 GiB: RTX PRO 6000, H100, A100, ")
    assert check_fits(MINIATURE, Settings()) == "every GPU of RunPod's list"


@pytest.mark.parametrize(("lanes", "more_gib"), [("exact,sparse_20", 0), ("fp8,fp8_sparse_20", 0), ("exact,fp8", 16)])
def test_lanes_in_8_bits_beside_others_need_room_for_their_layers(
    lanes: str, more_gib: int, gpu: SimpleNamespace
) -> None:
    settings = Settings.from_env({"LANES": lanes})
    needed_gib = LARGE.min_vram_gib + more_gib
    gpu.total = gpu.free = int(needed_gib * 2**30)
    assert check_gpu(LARGE, settings)
    gpu.total = gpu.free = gpu.total - 2**30
    with pytest.raises(Unfit, match=f"needs a GPU of {needed_gib:g} GiB"):
        check_gpu(LARGE, settings)


def test_memory_that_another_process_holds_is_not_there(gpu: SimpleNamespace) -> None:
    gpu.free = 40 * 2**30
    with pytest.raises(Unfit, match=r"another process leaves 40\.0"):
        check_gpu(LARGE, Settings())
    gpu.reserved = 54 * 2**30  # by this process: the loaded model
    assert check_gpu(LARGE, Settings())


def test_a_gpu_that_torch_has_no_code_for_is_refused(gpu: SimpleNamespace) -> None:
    gpu.built_for = CU128[:-1]
    with pytest.raises(Unfit, match=r"no code for NVIDIA RTX.*\(sm_120\), only for sm_75, .*sm_100; install"):
        check_gpu(LARGE, Settings())


@pytest.mark.parametrize(
    ("capability", "built_for", "covered"),
    [
        ((12, 0), ["sm_90", "sm_120"], True),
        ((9, 0), ["sm_90a"], True),
        ((12, 1), ["sm_120"], True),
        ((12, 1), ["sm_120a"], False),
        ((12, 0), ["sm_121"], False),
        ((12, 0), ["sm_90"], False),
        ((12, 0), ["sm_80", "compute_90"], True),
        ((12, 0), ["compute_90a"], False),
        ((8, 9), ["sm_86"], True),
        ((8, 9), [], False),
    ],
)
def test_machine_code_holds_for_its_generation_and_portable_code_for_later_ones(
    capability: tuple[int, int], built_for: list[str], covered: bool
) -> None:
    assert has_code_for(capability, built_for) is covered


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_large_model_needs_a_gpu_and_the_miniature_none() -> None:
    with pytest.raises(Unfit, match=r"needs a GPU of 75 GiB and torch .* sees none"):
        check_gpu(LARGE, Settings())
    assert "CPU" in check_gpu(MINIATURE, Settings())


def test_ffmpeg_is_run_and_its_absence_or_fault_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_ffmpeg(Settings()).startswith("ffmpeg ")

    def fail(*_: str) -> None:
        raise FfmpegError("exit status 1: Unknown encoder 'libx264'")

    with monkeypatch.context() as patch:
        patch.setattr(fitness, "run", fail)
        with pytest.raises(Unfit, match=r"cannot encode H\.264 and AAC .exit status 1: Unknown encoder"):
            check_ffmpeg(Settings())
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    with pytest.raises(Unfit, match="ffmpeg does not run"):
        check_ffmpeg(Settings())


@pytest.mark.parametrize(
    ("does", "problem"),
    [
        ("exit 0", "gives back 0 of 5 frames"),
        ("echo nonsense", "gives back 0 of 5 frames"),
        ("head -c 61440 /dev/zero", "another picture or sound"),
        ("head -c 99999 /dev/zero", "gives back 8 of 5 frames"),
    ],
)
def test_an_ffmpeg_that_does_something_else_is_found_out(
    does: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "ffmpeg"
    fake.write_text(f"#!/bin/sh\ncat > /dev/null\n{does}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(fake))
    with pytest.raises(Unfit, match=rf"^ffmpeg .*{problem}.*install imageio-ffmpeg again"):
        check_ffmpeg(Settings())


def test_a_silent_soundtrack_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = [part.replace("sine=", "anullsrc=") for part in fitness._SAMPLE]
    monkeypatch.setattr(fitness, "_SAMPLE", silent)
    with pytest.raises(Unfit, match="another picture or sound"):
        check_ffmpeg(Settings())


def test_the_volume_is_said_to_be_there_or_not(tmp_path: Path) -> None:
    assert "GB free" in check_volume(Settings(volume_dir=tmp_path))
    assert list((tmp_path / "infinitetalk-output").iterdir()) == []
    assert "none at" in check_volume(Settings(volume_dir=tmp_path / "none"))


def test_output_volume_needs_a_volume_that_can_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unfit, match=r"OUTPUT is volume, and there is no volume at .*none"):
        check_volume(Settings(output="volume", volume_dir=tmp_path / "none"))

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(fitness.Volume, "probe", refuse)
    with pytest.raises(
        Unfit, match=r"OUTPUT is volume, and .*infinitetalk-output cannot be written to \(Permission denied"
    ):
        check_volume(Settings(output="volume", volume_dir=tmp_path))
    assert "cannot be written to" in check_volume(Settings(volume_dir=tmp_path))


@pytest.mark.parametrize("place", ["file", "file/below", "n" * 300])
@pytest.mark.parametrize("output", [None, "volume"])
def test_a_volume_that_is_no_folder_is_refused(place: str, output: Literal["volume"] | None, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unfit, match=r"VOLUME_DIR .*folder"):
        check_volume(Settings(output=output, volume_dir=tmp_path / place))


def test_the_work_folder_is_made_and_must_be_writable(tmp_path: Path) -> None:
    made = tmp_path / "new" / "folder"
    assert str(made) in check_work_dir(Settings.from_env({"WORK_DIR": str(made)}))
    assert list(made.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(Unfit, match=r"WORK_DIR .*file cannot be written to"):
        check_work_dir(Settings.from_env({"WORK_DIR": str(tmp_path / "file")}))


def test_the_largest_accepted_job_must_fit_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(fitness.shutil, "disk_usage", lambda _: usage(0, 0, 3_500_000_000))
    with pytest.raises(Unfit, match="has 3500 MB free; the largest job takes 4000"):
        check_work_dir(Settings.from_env({"WORK_DIR": str(tmp_path)}))
    assert check_work_dir(Settings.from_env({"WORK_DIR": str(tmp_path), "MAX_VIDEO_MB": "1400"}))


def test_the_largest_file_must_be_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(work_dir=tmp_path)
    monkeypatch.setattr(fitness.resource, "getrlimit", lambda _: (20_480, 20_480))
    with pytest.raises(Unfit, match=r"files of 0\.02048 MB at most \(ulimit -f\), and the largest one takes 2000"):
        check_work_dir(settings)
    monkeypatch.setattr(fitness.resource, "getrlimit", lambda _: (2_000_000_000, 2_000_000_000))
    assert "GB free" in check_work_dir(settings)


def test_all_checks_pass_with_the_miniature() -> None:
    checks = worker_checks(Settings())
    assert [check.__name__ for check in checks] == [
        "gpu",
        "ffmpeg",
        "work_dir",
        "volume",
        "marking",
        "estimates",
        "faces",
        "model_files",
    ]
    assert all(check() for check in checks)
    assert check_shapes(MINIATURE, Settings())


# --- the large model's files, hollow -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hollow(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """Two layers of the 14B model, their files' size in bytes."""
    folder = tmp_path_factory.mktemp("hollow")
    return folder, write_full_size_weights(LARGE, folder, layers=2)


def anonymous_bytes() -> int:
    """Memory of this process that is no file's, now."""
    status = Path("/proc/self/status").read_text("utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1]) * 1024


def test_shapes_of_the_real_sizes_are_checked_without_reading_a_tensor(hollow: tuple[Path, int]) -> None:
    folder, size_bytes = hollow
    settings = Settings.from_env({"MODELS_DIR": str(folder)})
    assert size_bytes > 5e9
    before = anonymous_bytes()
    assert "infinitetalk-14b" in check_model_files(LARGE, settings)
    assert "every tensor" in check_shapes(LARGE, settings)
    assert anonymous_bytes() - before < 0.05 * size_bytes


@pytest.mark.parametrize("file", [LARGE.files.adapter_multi, LARGE.loras[0].file])
def test_a_file_that_is_cut_off_is_named(hollow: tuple[Path, int], file: str) -> None:
    folder, _ = hollow
    path = folder / file
    size = path.stat().st_size
    with path.open("r+b") as handle:
        handle.truncate(size - 2)
    try:
        with pytest.raises(ModelMissing, match=f"{path.name} cannot be read .* cut off"):
            check_model_files(LARGE, Settings.from_env({"MODELS_DIR": str(folder)}))
    finally:
        with path.open("r+b") as handle:
            handle.truncate(size)


def test_a_worker_without_the_separator_is_fit_and_says_what_it_refuses(hollow: tuple[Path, int]) -> None:
    folder, _ = hollow
    settings = Settings.from_env({"MODELS_DIR": str(folder)})
    separator = folder / str(LARGE.files.separator)
    separator.rename(separator.with_suffix(".away"))
    try:
        assert check_model_files(LARGE, settings).endswith("; isolate_vocals is refused, its separator was not found")
        with pytest.raises(ModelMissing, match="MelBandRoFormer_comfy was not found"):
            check_model_files(LARGE, settings.model_copy(update={"isolate_vocals": True}))
    finally:
        separator.with_suffix(".away").rename(separator)
    assert "isolate_vocals" not in check_model_files(LARGE, settings)


# --- marking


def test_the_check_says_who_signs(tmp_path: Path) -> None:
    assert "own certificate: readers will show it as untrusted" in check_marking(Settings(work_dir=tmp_path))
    chain = make_chain()
    settings = Settings.from_env(signing(chain) | {"WORK_DIR": str(tmp_path)})
    assert check_marking(settings).startswith("signed by Example Films until ")
    assert "MARK is off" in check_marking(Settings(work_dir=tmp_path, mark="off"))
    assert not list(tmp_path.iterdir())


def signing(chain: Chain) -> dict[str, str]:
    return {"SIGN_CERT": chain.certificates, "SIGN_KEY": chain.key}


@pytest.mark.parametrize("mark", ["on", "optional"])
def test_a_certificate_that_may_not_sign_is_found_at_start(mark: str, tmp_path: Path) -> None:
    for_servers = make_chain(usages=(ExtendedKeyUsageOID.SERVER_AUTH,))
    settings = Settings.from_env(signing(for_servers) | {"MARK": mark, "WORK_DIR": str(tmp_path)})
    with pytest.raises(Unfit, match="videos cannot be signed with SIGN_CERT and SIGN_KEY"):
        check_marking(settings)


def test_a_time_stamp_authority_that_does_not_answer_is_found_at_start(tmp_path: Path) -> None:
    env = {"SIGN_TSA": "http://127.0.0.1:9", "WORK_DIR": str(tmp_path)}
    with pytest.raises(Unfit, match=r"no time stamp comes from SIGN_TSA http://127\.0\.0\.1:9"):
        check_marking(Settings.from_env(env))
    line = check_marking(Settings.from_env(env | {"MARK": "optional"}))
    assert "own certificate" in line
    assert "but no time stamp comes from SIGN_TSA" in line
