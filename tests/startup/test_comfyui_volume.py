"""A volume that was filled for ComfyUI serves as it is: where its files are found, and that they are the right ones."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infinitetalk.contract.presets import PresetError, Profile, load_profile, presets_dir, profile_of, read_preset
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import ModelMissing
from infinitetalk.startup.fitness import check_model_files, check_shapes
from infinitetalk.startup.weights import fetch_weights, find_weights, missing_files
from tests.startup.test_weights import Hub
from tests.support.full_size_comfyui import write_comfyui_volume

ROOT = Path(__file__).parents[2]
GGUF, FP8 = load_profile("infinitetalk-14b-gguf"), load_profile("infinitetalk-14b-fp8")
BASE = "wan2.1-i2v-14b-480p-Q8_0.gguf"
# Sizes of the real files in bytes, as public projects check them. Ours, hollow, differ in the header alone: less than
# 200 bytes a tensor.
PUBLISHED_BYTES = {
    "Wan2_1-InfiniteTalk_Single_Q8.gguf": (2_646_330_016, 246),
    "Wan2_1_VAE_bf16.safetensors": (253_815_318, 194),
    "clip_vision_h.safetensors": (1_264_219_396, 520),
    "wav2vec2-chinese-base_fp16.safetensors": (190_115_368, 220),
    "umt5_xxl_fp8_e4m3fn_scaled.safetensors": (6_735_906_897, 412),
}


def touch(models: Path, *, subfolder: str = "") -> Path:
    """Empty files of the GGUF profile in ComfyUI's folders."""
    for source in GGUF.sources:
        for file in source.files:
            path = models / source.into / subfolder / Path(file).name if source.into else models / source.name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return models


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_env({"VOLUME_DIR": str(tmp_path)})


@pytest.mark.parametrize("models", ["models", "ComfyUI/models"])
@pytest.mark.parametrize("subfolder", ["", "WanVideo/InfiniteTalk"])
def test_files_are_found_in_comfyuis_folders_however_deep(
    models: str, subfolder: str, tmp_path: Path, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "infinitetalk")
    folder = touch(tmp_path / models, subfolder=subfolder)
    files = find_weights(GGUF, settings).files
    assert files.transformer == folder / "diffusion_models" / subfolder / BASE
    assert files.text_encoder == folder / "text_encoders" / subfolder / "umt5-xxl-enc-bf16.safetensors"
    assert files.tokenizer == folder / "Wan2.1-I2V-14B-480P" / "google" / "umt5-xxl"
    assert files.vae.parent == folder / "vae" / subfolder
    assert [path.name for path in files.adapters.values()] == [
        "Wan2_1-InfiniteTalk_Single_Q8.gguf",
        "Wan2_1-InfiniteTalk_Multi_Q8.gguf",
    ]
    assert files.loras[0][0].is_file()
    assert all(path.is_file() for path in (files.image_encoder, files.audio_encoder, *files.adapters.values()))
    assert (
        f"diffusion_models: found in {'the volume' if models == 'models' else 'the volume' + chr(39) + 's ComfyUI'}"
        in caplog.text
    )


def test_comfyuis_older_folders_count(tmp_path: Path, settings: Settings) -> None:
    models = touch(tmp_path / "models")
    (models / "diffusion_models").rename(models / "unet")
    (models / "text_encoders").rename(models / "clip")
    files = find_weights(GGUF, settings).files
    assert files.transformer == models / "unet" / BASE
    assert files.text_encoder.parent == models / "clip"


def test_a_file_that_is_missing_is_named_with_where_it_was_looked_for(tmp_path: Path, settings: Settings) -> None:
    models = touch(tmp_path / "models")
    (models / "diffusion_models" / BASE).unlink()
    with pytest.raises(
        ModelMissing, match=rf"city96/.* was not found: the volume \({models}/diffusion_models\) lacks {BASE}"
    ):
        find_weights(GGUF, settings)
    shutil.rmtree(models / "Wan2.1-I2V-14B-480P")
    (models / "diffusion_models" / BASE).touch()
    with pytest.raises(ModelMissing, match=r"Wan-AI/Wan2\.1-I2V-14B-480P was not found: .* fetch"):
        find_weights(GGUF, settings)


def test_two_files_of_one_name_are_not_guessed_between(tmp_path: Path, settings: Settings) -> None:
    models = touch(tmp_path / "models", subfolder="one")
    shutil.copytree(models / "vae" / "one", models / "vae" / "two")
    with pytest.raises(ModelMissing, match=r"vae/one/Wan2_1_VAE_bf16\.safetensors and .*two.* have the same name"):
        find_weights(GGUF, settings)
    shutil.copy(models / "vae" / "one" / "Wan2_1_VAE_bf16.safetensors", models / "vae")
    assert find_weights(GGUF, settings).files.vae.parent == models / "vae"


# --- profiles -----------------------------------------------------------------------------------------------------


def altered(folder: Path, *changes: tuple[str, str]) -> Path:
    text = (presets_dir() / "profiles" / "infinitetalk-14b-gguf.toml").read_text("utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    (folder / "mine.toml").write_text(text, "utf-8")
    return folder / "mine.toml"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('vae = "vae/Wan2_1_VAE_bf16.safetensors"', "", "files: .*without a base, vae must be named"),
        ('text_encoder = "text', '# "text', "without a base, text_encoder must be named"),
        ("Wan2_1_VAE_bf16.safetensors", "other.safetensors", "sources: none has vae/other.safetensors"),
        ("loras/lightx2v", "loras/deeper/lightx2v", "sources: none has loras/deeper/lightx2v"),
        ('into = "vae"', 'into = "../vae"', r"sources\.\d\.into"),
        ("b4b6b3b3", "b4b6", r"sources\.\d\.revision"),
    ],
)
def test_a_profile_that_does_not_add_up_is_refused(old: str, new: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(PresetError, match=problem):
        read_preset(altered(tmp_path, (old, new)), Profile)


def test_parts_without_a_file_of_their_own_come_from_the_base(tmp_path: Path) -> None:
    path = altered(
        tmp_path,
        ('vae = "vae/Wan2_1_VAE_bf16.safetensors"', 'base = "Wan2.1-I2V-14B-480P"'),
        ('image_encoder = "clip_vision/clip_vision_h.safetensors"', ""),
    )
    files = read_preset(path, Profile).files
    assert files.part("vae") == files.part("image_encoder") == "Wan2.1-I2V-14B-480P"
    assert files.part("transformer") == f"diffusion_models/{BASE}"


def test_a_profile_of_ones_own_is_named_by_its_path(tmp_path: Path) -> None:
    path = altered(tmp_path, (BASE, "mine-Q4_K_M.gguf"), (f'files = ["{BASE}"]', 'files = ["mine-Q4_K_M.gguf"]'))
    profile = profile_of(Settings.from_env({"MODEL_PROFILE": str(path)}))
    assert profile.name == "mine"
    assert profile.timing == "infinitetalk-14b"
    assert profile.files.transformer == "diffusion_models/mine-Q4_K_M.gguf"
    with pytest.raises(PresetError, match=r"nowhere\.toml cannot be read"):
        profile_of(Settings.from_env({"MODEL_PROFILE": str(tmp_path / "nowhere.toml")}))


# --- LoRAs of the settings ------------------------------------------------------------------------------------------


def test_loras_of_the_settings_are_merged_after_the_profiles(tmp_path: Path) -> None:
    models = touch(tmp_path / "models")
    elsewhere = tmp_path / "elsewhere.safetensors"
    for path in (models / "loras" / "mine.safetensors", elsewhere):
        path.touch()
    text = f"loras/mine.safetensors:0.8,{elsewhere}:-1"
    settings = Settings.from_env({"VOLUME_DIR": str(tmp_path), "LORAS": text, "MODEL_PROFILE": "infinitetalk-14b-gguf"})
    profile = profile_of(settings)
    assert [(lora.file, lora.scale) for lora in profile.loras[1:]] == [
        ("loras/mine.safetensors", 0.8),
        (str(elsewhere), -1.0),
    ]
    first, *others = find_weights(profile, settings).files.loras
    assert first[0].name.startswith("lightx2v")
    assert others == [(models / "loras" / "mine.safetensors", 0.8), (elsewhere, -1.0)]


@pytest.mark.parametrize("profile", ["infinitetalk-14b-gguf", "miniature"])
def test_a_lora_that_is_not_there_is_named_with_where_it_was_looked_for(profile: str, tmp_path: Path) -> None:
    touch(tmp_path / "models")
    settings = Settings.from_env({"VOLUME_DIR": str(tmp_path), "LORAS": "loras/none.gguf:1", "MODEL_PROFILE": profile})
    with pytest.raises(ModelMissing, match=rf"LORAS names loras/none\.gguf, .* {tmp_path}/models/loras/none\.gguf"):
        find_weights(profile_of(settings), settings)


# --- fetching -------------------------------------------------------------------------------------------------------

FETCH = """
import logging, sys
from pathlib import Path
from infinitetalk.contract.presets import Profile, load_profile
from infinitetalk.startup.weights import fetch_weights
logging.basicConfig(level="INFO")
profile = load_profile(sys.argv[1])
kept = tuple(source for source in profile.sources if source.name in ("vae", "diffusion_models"))
fetch_weights(profile.model_copy(update={"sources": kept}), Path(sys.argv[2]))
"""


def run_fetch(site, profile: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own: huggingface_hub reads its environment when it is imported."""
    env = {
        "PATH": os.environ["PATH"],
        "HF_ENDPOINT": site.url,
        "HF_HOME": str(folder / "home"),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", FETCH, profile, str(folder)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.long  # in a process of its own
def test_a_fetch_fills_comfyuis_folders_with_what_is_not_there(site, tmp_path: Path) -> None:
    sources = [source for source in GGUF.sources if source.name in ("vae", "diffusion_models")]
    for source in sources:
        Hub(site, source)
    single = tmp_path / "diffusion_models" / "WanVideo" / "Wan2_1-InfiniteTalk_Single_Q8.gguf"
    for path in (tmp_path / "unet" / "deeper" / BASE, single):
        path.parent.mkdir(parents=True)
        path.touch()
    done = run_fetch(site, GGUF.name, tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"diffusion_models: {BASE}: there already" in done.stderr
    assert not any(hits for path, hits in site.hits.items() if path.endswith(BASE))
    assert (tmp_path / "vae" / "Wan2_1_VAE_bf16.safetensors").read_bytes() == b"vae/Wan2_1_VAE_bf16.safetensors"
    assert missing_files(sources[1], tmp_path / "diffusion_models") == []
    assert list((tmp_path / "diffusion_models").rglob(single.name)) == [single]
    assert run_fetch(site, GGUF.name, tmp_path).returncode == 0


@pytest.mark.long  # in a process of its own
def test_a_source_without_a_commit_is_not_fetched_and_says_what_to_do(site, tmp_path: Path) -> None:
    path = altered(tmp_path, ('revision = "b4b6b3b3f0f64975fb33b1d5d1a46ca24e065f03"\n', ""))
    profile = load_profile(str(path))
    unset = next(source for source in profile.sources if not source.revision)
    assert unset.repository == "city96/Wan2.1-I2V-14B-480P-gguf"
    for source in profile.sources:
        if source.revision and source.name in ("vae", "diffusion_models"):
            Hub(site, source)
    done = run_fetch(site, str(path), tmp_path)
    asked = f"put {BASE} into {tmp_path}/diffusion_models by hand, or name a commit"
    assert (
        f"ModelMissing: The profile names no commit of {unset.repository}, so it is not fetched: {asked}" in done.stderr
    )
    assert (tmp_path / "vae" / "Wan2_1_VAE_bf16.safetensors").is_file(), "the others are fetched all the same"
    for download in ("true", "false"):
        settings = Settings.from_env({"MODELS_DIR": str(tmp_path), "DOWNLOAD_WEIGHTS": download})
        with pytest.raises(ModelMissing, match=r"city96/.* was not found: .*MODELS_DIR.* names no commit of city96/"):
            find_weights(profile.model_copy(update={"sources": (unset,)}), settings)
    with pytest.raises(ModelMissing, match="names no commit"):
        fetch_weights(profile.model_copy(update={"sources": (unset,)}), tmp_path)


# --- the files themselves, hollow -----------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", [GGUF, FP8], ids=lambda profile: profile.name)
def test_every_tensor_of_the_real_sizes_has_its_place(profile: Profile, tmp_path: Path) -> None:
    write_comfyui_volume(profile, tmp_path / "models", layers=2)
    settings = Settings.from_env({"VOLUME_DIR": str(tmp_path)})
    assert str(tmp_path / "models" / "diffusion_models") in check_model_files(profile, settings)
    assert "every tensor" in check_shapes(profile, settings)
    assert profile.files.transformer is not None
    (tmp_path / "models" / profile.files.transformer).write_bytes(b"GGUF")
    with pytest.raises(ModelMissing, match=r"cannot be read \(a GGUF file, incomplete or damaged"):
        check_model_files(profile, settings)


@pytest.mark.parametrize("profile", [GGUF, FP8], ids=lambda profile: profile.name)
def test_the_layouts_are_those_of_the_published_sizes(profile: Profile, tmp_path: Path) -> None:
    sizes = write_comfyui_volume(profile, tmp_path)
    compared = 0
    for name, (published, count) in PUBLISHED_BYTES.items():
        if name in sizes:
            assert abs(sizes[name] - published) < 200 * count, f"{name}: {published - sizes[name]:,} bytes more"
            compared += 1
    assert compared == 4
