"""The release as a table: made anew, compared with hollow files of the real sizes; files in wrong places are named."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from transformers import UMT5Config, UMT5ForConditionalGeneration

from benchmarks.random_models import UMT5_XXL
from infinitetalk.contract.presets import load_profile
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import ModelMissing
from infinitetalk.models.encoder_loading import CLIP_FILE, T5_FILE, VAE_FILE
from infinitetalk.startup.fitness import check_shapes
from infinitetalk.startup.release import compare_with_release, identify, known_files
from infinitetalk.startup.weights import Weights, other_commits
from scripts import release_tensors
from tests.support.full_size import (
    shapes_of,
    write_full_size_weights,
    write_hollow_safetensors,
    write_release,
)
from tests.support.separator import RELEASED, released_shapes

ROOT = Path(__file__).parents[2]
PROFILE = load_profile("infinitetalk-14b")
KNOWN = known_files(PROFILE.name)
BASE = PROFILE.files.base
Change = Callable[[Path], None]


@pytest.fixture
def release(tmp_path: Path) -> Iterator[Path]:
    """All files in the original layout at their real sizes, hollow: a hundred gigabytes that take a megabyte."""
    assert write_release(PROFILE, tmp_path, KNOWN) > 1e11
    yield tmp_path
    shutil.rmtree(tmp_path)


def compare(folder: Path) -> list[str]:
    return compare_with_release(PROFILE.name, Weights.below(folder, PROFILE).files)


def test_the_table_is_what_its_script_makes() -> None:
    assert release_tensors.TABLE.read_text("utf-8") == release_tensors.table()


def test_the_table_counts_what_the_release_holds() -> None:
    counts = {(file.part, file.layout): len(file.shapes) for file in KNOWN}
    assert counts["transformer", "original"] == counts["transformer", "diffusers"] == 1303
    assert counts["text_encoder", "original"] == 242
    assert counts["image_encoder", "original"] == 784
    assert counts["vae", "original"] == counts["vae", "diffusers"] == 194
    assert counts["adapter", "original"] == 330
    assert {file.part: file.shapes for file in KNOWN}["separator"] == released_shapes(**RELEASED)


# The peak is not getrusage's, which begins with the parent's.
CHECK = """
import re, sys
from pathlib import Path
from infinitetalk import cli
cli.main(["check", "--profile", "infinitetalk-14b", "--models-dir", sys.argv[1], "--device", "cpu"])
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.long  # in a process of its own
def test_the_whole_release_is_checked_within_a_gigabyte(
    release: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    environment = {"MIN_VRAM_GIB": "0", "WORK_DIR": str(tmp_path_factory.mktemp("work")), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", CHECK, str(release)], env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert "shapes      ok      infinitetalk-14b: every tensor has its place\n" in done.stdout, (
        done.stdout + done.stderr
    )
    assert int(done.stdout.splitlines()[-1]) * 1024 < 1e9


def test_the_diffusers_layout_is_known_too(tmp_path: Path) -> None:
    write_full_size_weights(PROFILE, tmp_path)
    assert compare(tmp_path) == []


def replace_transformer(folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    for shard in (folder / BASE).glob("diffusion_pytorch_model*"):
        shard.unlink()
    write_hollow_safetensors(folder / BASE / "diffusion_pytorch_model.safetensors", shapes)


def another_wan(folder: Path, original: bool = True, **sizes: int) -> None:
    with torch.device("meta"):
        shapes = shapes_of(WanTransformer3DModel(**sizes))
    if original and "pos_embed_seq_len" not in sizes:
        shapes = release_tensors.original_transformer(shapes)
    replace_transformer(folder, shapes)


def whole_t5(folder: Path) -> None:
    with torch.device("meta"):
        model = UMT5ForConditionalGeneration(UMT5Config(**UMT5_XXL | {"num_layers": 2, "num_decoder_layers": 2}))
    write_hollow_safetensors(folder / BASE / T5_FILE, shapes_of(model))


def put(source: str, target: str) -> Change:
    """The source's file in the place of the target; linked, for it has gigabytes of nothing."""

    def change(folder: Path) -> None:
        (folder / target).unlink()
        (folder / target).hardlink_to(folder / source)

    return change


I2V = {"image_dim": 1280, "added_kv_proj_dim": 5120, "in_channels": 36}
SINGLE, MULTI, LORA = PROFILE.files.adapter_single, PROFILE.files.adapter_multi, PROFILE.loras[0].file
CHANGES: dict[str, tuple[Change, str, str]] = {
    "text to video": (another_wan, "diffusion_pytorch_model", "text-to-video transformer of 14B"),
    "the same in diffusers' names": (
        lambda folder: another_wan(folder, original=False),
        "diffusion_pytorch_model", "text-to-video transformer of 14B",
    ),
    "1.3B": (
        lambda folder: another_wan(folder, num_attention_heads=12, ffn_dim=8960, num_layers=30),
        "diffusion_pytorch_model", "text-to-video transformer of 1.3B",
    ),
    "first and last frame": (
        lambda folder: another_wan(folder, pos_embed_seq_len=514, **I2V),
        "diffusion_pytorch_model", "transformer for first and last frames",
    ),
    "Wan2.2": (lambda folder: another_wan(folder, in_channels=36), "diffusion_pytorch_model", "one of Wan2.2's two"),
    "an adapter for the base": (
        lambda folder: replace_transformer(folder, next(k.shapes for k in KNOWN if k.part == "adapter")),
        "diffusion_pytorch_model", "InfiniteTalk's adapter",
    ),
    "text for picture encoder": (put(f"{BASE}/{T5_FILE}", f"{BASE}/{CLIP_FILE}"), CLIP_FILE, "umT5-XXL's encoder"),
    "pictures for autoencoder": (put(f"{BASE}/{CLIP_FILE}", f"{BASE}/{VAE_FILE}"), VAE_FILE, "CLIP XLM-RoBERTa"),
    "a LoRA for an adapter": (put(LORA, SINGLE), SINGLE, "a LoRA"),
    "the decoder too": (whole_t5, T5_FILE, "a whole umT5-XXL, with its decoder"),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_a_file_in_the_wrong_place_is_named_for_what_it_is(what: str, release: Path) -> None:
    change, file, found = CHANGES[what]
    change(release)
    with pytest.raises(ModelMissing, match=f"{file}.* is .*{found}.*belongs there"):
        compare(release)


def test_one_adapter_in_both_places_is_noticed(release: Path) -> None:
    """Two of the same shapes are not the same: `release` has such."""
    assert compare(release) == []
    put(SINGLE, MULTI)(release)
    with pytest.raises(ModelMissing, match="the same weights, but one is for one person and the other for several"):
        compare(release)


def test_what_differs_from_the_release_and_still_fits_is_said(tmp_path: Path) -> None:
    write_full_size_weights(PROFILE, tmp_path, layers=2)
    found = check_shapes(PROFILE, Settings.from_env({"MODELS_DIR": str(tmp_path)}))
    assert "every tensor has its place; " in found
    assert "text_encoder/model.safetensors is not the release's file: it lacks encoder.block.2." in found
    assert "adapter" not in found.split("InfiniteTalk/single")[0].split(";")[-1]


def test_a_whole_model_in_one_file_is_known_by_its_prefix() -> None:
    transformer = next(file for file in KNOWN if file.part == "transformer")
    shapes = {f"model.diffusion_model.{name}": shape for name, shape in transformer.shapes.items()}
    assert identify(shapes, KNOWN) == ("transformer", transformer.what)
    assert identify({"something.else": (3,)}, KNOWN) is None


def test_a_profile_without_a_table_differs_in_nothing() -> None:
    miniature = load_profile("miniature")
    assert compare_with_release("miniature", Weights.below(ROOT / "infinitetalk", miniature).files) == []


def test_files_of_another_commit_are_told_by_what_the_download_left(tmp_path: Path) -> None:
    """The only way to tell 720P's transformer from 480P's."""
    weights = Weights.below(tmp_path, PROFILE)
    assert other_commits(weights) == []
    source = PROFILE.sources[0]
    notes = weights.folders[source.name] / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    for file, commit in zip(
        source.files[1:3], (source.revision, "8823af45fcc58a8aa999a54b04be9abc7d2aac98"), strict=True
    ):
        (notes / f"{file}.metadata").write_text(f"{commit}\n0123\n1700000000.0\n", "utf-8")
    (sentence,) = other_commits(weights)
    assert sentence.startswith(f"{weights.folders[source.name]} was fetched at commit 8823af45")
    assert source.revision in sentence
