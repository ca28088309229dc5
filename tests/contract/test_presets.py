from typing import get_args

import pytest

from infinitetalk.contract.presets import (
    PresetError,
    Profile,
    SpeedMode,
    list_presets,
    load_mode,
    load_profile,
    presets_dir,
    read_preset,
)
from infinitetalk.contract.request import Ratio, Request, Resolution, SpeedModeName
from infinitetalk.contract.settings import Settings

MODES = list_presets("modes")
PROFILES = list_presets("profiles")


def test_every_preset_file_is_of_a_known_kind():
    kinds = {path.parent.name for path in presets_dir().rglob("*") if path.is_file()}
    assert kinds == {"modes", "profiles", "hardware", "weights", "gpus", "checks"}


def test_the_contracts_modes_and_the_default_profile_exist():
    assert set(MODES) == set(get_args(SpeedModeName))
    assert Request.model_fields["speed_mode"].default in MODES
    assert Settings.model_fields["model_profile"].default in PROFILES


@pytest.mark.parametrize("name", MODES)
def test_every_mode_is_valid(name):
    mode = load_mode(name)
    assert mode.name == name
    assert set(mode.shift) == set(get_args(Resolution))
    assert mode.join_fade_frames == 8


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_is_valid(name):
    profile = load_profile(name)
    assert profile.name == name
    assert profile.timing in PROFILES
    for resolution in get_args(Resolution):
        wide = profile.size(resolution, "16:9")
        for ratio in get_args(Ratio):
            width, height = profile.size(resolution, ratio)
            across, down = map(int, ratio.split(":"))
            assert width / height == pytest.approx(across / down, rel=0.07)
            assert profile.size(resolution, f"{down}:{across}") == (height, width)
            assert width * height == pytest.approx(wide[0] * wide[1], rel=0.1)
            assert profile.size(resolution, "source", (10 * width, 10 * height + 3)) == (width, height)
        assert profile.size(resolution, "source", (3000, 500)) == wide


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("maximum_quality", (121, 9, 6, "dpm++_sde")),
        ("balanced", (81, 5, 5, "dpm++_sde")),
        ("fast", (65, 5, 4, "euler")),
        ("turbo", (49, 5, 3, "euler")),
    ],
)
def test_the_modes_are_the_published_ones(name, numbers):
    mode = load_mode(name)
    assert (mode.window_frames, mode.overlap_frames, mode.steps, mode.scheduler) == numbers


def test_the_14b_profile_makes_the_published_sizes():
    profile = load_profile("infinitetalk-14b")
    assert profile.size("480p", "16:9") == (848, 480)
    assert profile.size("720p", "9:16") == (720, 1280)
    assert not profile.is_embedded


def test_an_unknown_preset_is_named_with_the_known_ones():
    with pytest.raises(PresetError, match="no 'slow' among the modes: balanced, fast, maximum_quality, turbo"):
        load_mode("slow")
    with pytest.raises(PresetError, match="among the profiles"):
        load_profile("../modes/fast")


@pytest.mark.parametrize(
    ("model", "kind", "old", "new", "expected"),
    [
        (SpeedMode, "modes/balanced", "steps = 5", "steps = 0", "steps: Input should be greater"),
        (SpeedMode, "modes/balanced", "steps = 5", "steps = 5.0", "steps: Input should be a valid integer"),
        (SpeedMode, "modes/balanced", "steps = 5", "stps = 5", "steps: Field required; stps: Extra inputs"),
        (SpeedMode, "modes/balanced", "window_frames = 81", "window_frames = 80", "window_frames: .*4n.1"),
        (SpeedMode, "modes/balanced", "overlap_frames = 5", "overlap_frames = 81", "must be below window"),
        (SpeedMode, "modes/balanced", "join_fade_frames = 8", "", "join_fade_frames: Field required"),
        (SpeedMode, "modes/balanced", "fade_frames = 8", "fade_frames = -1", "join_fade_frames: .*or equal to 0"),
        (SpeedMode, "modes/balanced", "fade_frames = 8", "fade_frames = 25", "join_fade_frames: .*or equal to 24"),
        (SpeedMode, "modes/balanced", "fade_frames = 8", "fade_frames = 8.0", "join_fade_frames: .*valid integer"),
        (SpeedMode, "modes/balanced", "dpm++_sde", "ddim", "scheduler: .*'dpm.._sde'"),
        (SpeedMode, "modes/balanced", "480p = 11.0", "", "shift: 480p missing"),
        (SpeedMode, "modes/balanced", "480p = 11.0", "480p = nan", "shift.480p: .*finite"),
        (SpeedMode, "modes/balanced", "steps = 5", 'steps = 5\nname = "x"', "name: the file's name"),
        (SpeedMode, "modes/balanced", "steps = 5", "steps = ", "not valid TOML"),
        (Profile, "profiles/miniature", "[160, 96]", "[160, 90]", "480p.16:9 must be multiples of 16"),
        (Profile, "profiles/miniature", "[160, 96]", "[160]", "sizes.480p.16:9"),
        (Profile, "profiles/miniature", '"9:16" = [96, 160]', "", "sizes.480p: 9:16 missing"),
        (Profile, "profiles/miniature", '"float32"', '"int4"', "dtype: .*'bfloat16' or 'float32'"),
        (Profile, "profiles/miniature", "[160, 96]", "[160, 4112]", "480p.16:9 must be multiples of 16 .*at most 4096"),
        (Profile, "profiles/miniature", '"miniature"', '""', "files.base: .*must be a relative path"),
        (Profile, "profiles/miniature", '"miniature/audio', '"/miniature/audio', "files.audio_encoder: .*relative"),
        (Profile, "profiles/miniature", '"miniature/audio', '"../miniature/audio', "files.audio_encoder: .*relative"),
        (Profile, "profiles/miniature", '"miniature/audio', '"a\\u0000/audio', "files.audio_encoder: .*relative"),
        (Profile, "profiles/miniature", "dtype", 'timed_as = "nobody"\ndtype', "timed_as must be one of .*'nobody'"),
        (Profile, "profiles/miniature", "dtype", f"a = {'[' * 3000}\ndtype", "not valid TOML: .*deep"),
        (Profile, "profiles/infinitetalk-14b-fp8", 'into = "vae"', 'into = ".."', "sources.3: .*into must .*'..'"),
        (Profile, "profiles/infinitetalk-14b", '"Kijai/WanVideo_comfy"', '"Kijai/.."', "sources.3: .*repository must"),
        (Profile, "profiles/infinitetalk-14b", '["config.json"', '["", "config.json"', "sources.2.files.0: .*relative"),
        (Profile, "profiles/infinitetalk-14b", '["config.json"', '["/a", "config.json"', "sources.2.files.0: .*relat"),
        (Profile, "profiles/infinitetalk-14b", 'file = "', 'file = "/', "loras.0: .*file must be a relative path"),
        (
            Profile,
            "profiles/infinitetalk-14b",
            '"MeiGen-AI/Inf',
            '"x/WanVideo_comfy"\nfiles = ["x"]\n[[sources]]\nrepository = "MeiGen-AI/Inf',
            "sources: more than one goes to WanVideo_comfy",
        ),
        (
            Profile,
            "profiles/infinitetalk-14b-fp8",
            'files = ["Wan2_1_VAE',
            'files = ["a/Wan2_1_VAE_bf16.safetensors", "Wan2_1_VAE',
            "sources: more than one goes to vae/Wan2_1_VAE_bf16.safetensors",
        ),
        (Profile, "profiles/infinitetalk-14b", "scale = 1.0", "", "loras.0.scale: Field required"),
    ],
)
def test_a_wrong_file_is_named_with_the_wrong_key(tmp_path, model, kind, old, new, expected):
    text = (presets_dir() / f"{kind}.toml").read_text("utf-8")
    assert old in text
    path = tmp_path / "wrong.toml"
    path.write_text(text.replace(old, new, 1), "utf-8")
    with pytest.raises(PresetError, match=expected) as raised:
        read_preset(path, model)
    assert str(path) in str(raised.value)


def test_a_mode_may_turn_on_projected_guidance(tmp_path):
    path = tmp_path / "projected.toml"
    text = (presets_dir() / "modes/fast.toml").read_text("utf-8")
    path.write_text(f"{text}\n[apg]\nmomentum = -0.75\nnorm_threshold = 55.0\n", "utf-8")
    apg = read_preset(path, SpeedMode).apg
    assert apg is not None
    assert (apg.momentum, apg.norm_threshold) == (-0.75, 55.0)
