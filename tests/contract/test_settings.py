import re
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from infinitetalk.contract.settings import Settings, SettingsError
from infinitetalk.errors import InvalidInput

BUCKET = {
    "BUCKET_ENDPOINT_URL": "https://s3.example.com",
    "BUCKET_ACCESS_KEY_ID": "key",
    "BUCKET_SECRET_ACCESS_KEY": "hush",
}

# every variable, a text that sets it, and the value that gives
EXAMPLES = {
    "MODEL_PROFILE": ("infinitetalk-14b", "infinitetalk-14b"),
    "MODELS_DIR": ("/models", Path("/models")),
    "MODELS_REPOSITORY": ("someone/weights", "someone/weights"),
    "LORAS": ("loras/one.safetensors:0.8,two.safetensors:-1", "loras/one.safetensors:0.8,two.safetensors:-1"),
    "DOWNLOAD_WEIGHTS": ("true", True),
    "MIN_VRAM_GIB": ("75.5", 75.5),
    "DEVICE": ("cpu", "cpu"),
    "GPUS": ("2", 2),
    "WORK_DIR": ("/scratch", Path("/scratch")),
    "VOLUME_DIR": ("/volume", Path("/volume")),
    "RESUME_HOURS": ("2", 2.0),
    "OUTPUT": ("volume", "volume"),
    "BUCKET_ENDPOINT_URL": ("https://s3.example.com", "https://s3.example.com"),
    "BUCKET_ACCESS_KEY_ID": ("key", "key"),
    "BUCKET_SECRET_ACCESS_KEY": ("hush", SecretStr("hush")),
    "BUCKET_NAME": ("videos", "videos"),
    "UPLOAD_TIMEOUT_S": ("60", 60.0),
    "EXECUTION_TIMEOUT_S": ("900", 900.0),
    "HARDWARE_FILE": ("/volume/gpu.toml", Path("/volume/gpu.toml")),
    "GPU_PRICE_PER_HOUR": ("1.89", 1.89),
    "ISOLATE_VOCALS": ("true", True),
    "MAX_AUDIO_S": ("90", 90.0),
    "MAX_IMAGE_MB": ("5", 5.0),
    "MAX_AUDIO_MB": ("6", 6.0),
    "MAX_VIDEO_MB": ("7.5", 7.5),
    "DOWNLOAD_TIMEOUT_S": ("20", 20.0),
    "ATTENTION_BACKEND": ("_native_cudnn", "_native_cudnn"),
    "FP8": ("true", True),
    "SPARSE_ATTENTION": ("0.2", 0.2),
    "LANES": ("fp8_sparse_20,exact", "fp8_sparse_20,exact"),
    "MARK": ("optional", "optional"),
    "CHECKS": ("off", "off"),
    "PREVIEW": ("false", False),
    "KEEP_PREVIEW": ("true", True),
    "SIGN_CERT": ("/keys/chain.pem", "/keys/chain.pem"),
    "SIGN_KEY": ("/keys/key.pem", SecretStr("/keys/key.pem")),
    "SIGN_TSA": ("http://timestamp.example.com", "http://timestamp.example.com"),
    "COMPILE": ("false", False),
    "CACHE_KEY": ("k" * 32, SecretStr("k" * 32)),
    "LOG_LEVEL": ("DEBUG", "DEBUG"),
}


@pytest.mark.parametrize("wrong", ["0", "x", "41"])
def test_a_setting_of_two_kinds_is_told_in_one_sentence(wrong: str):
    with pytest.raises(SettingsError, match=f"^GPUS is '{wrong}': Input should be 'auto' or should be [^;]*$"):
        Settings.from_env({"GPUS": wrong})


def test_the_environment_sets_every_field():
    settings = Settings.from_env({name: text for name, (text, _) in EXAMPLES.items()})
    for name, (_, value) in EXAMPLES.items():
        assert getattr(settings, name.lower()) == value
        assert getattr(Settings(), name.lower()) != value  # the example is not the default
    assert {name for name, _, _ in Settings.variables()} == set(EXAMPLES)


@pytest.mark.parametrize(
    ("environment", "lane"),
    [
        ({}, "exact"),
        ({"ATTENTION_BACKEND": "_flash_3"}, "exact"),
        ({"FP8": "true"}, "fp8"),
        ({"SPARSE_ATTENTION": "0.2"}, "sparse_20"),
        ({"FP8": "true", "SPARSE_ATTENTION": "0.125"}, "fp8_sparse_12.5"),
    ],
)
def test_the_lane_names_what_changes_results(environment: dict[str, str], lane: str):
    assert Settings.from_env(environment).arithmetic.lane == lane


@pytest.mark.parametrize(
    ("environment", "lanes"),
    [
        ({}, ["exact"]),
        ({"FP8": "true"}, ["fp8"]),
        ({"LANES": "exact"}, ["exact"]),
        ({"LANES": "fp8, exact ,sparse_12.5,fp8_sparse_20"}, ["fp8", "exact", "sparse_12.5", "fp8_sparse_20"]),
    ],
)
def test_lanes_are_named_in_the_order_of_their_setting(environment: dict[str, str], lanes: list[str]):
    settings = Settings.from_env(environment | {"ATTENTION_BACKEND": "native"})
    assert list(settings.arithmetics) == [arithmetic.lane for arithmetic in settings.arithmetics.values()] == lanes
    assert settings.arithmetic == settings.arithmetic_of(None) == settings.arithmetics[lanes[0]]
    assert {arithmetic.attention for arithmetic in settings.arithmetics.values()} == {"native"}
    assert settings.has_second_set == (len(lanes) == 4)


@pytest.mark.parametrize(
    "lane", ["", "fast", "fp8_", "_sparse_20", "sparse_20_fp8", "sparse_0", "sparse_101", "sparse_20.0", "sparse_1e1"]
)
def test_unknown_lanes_are_refused_by_name(lane: str):
    with pytest.raises(SettingsError, match=f"LANES: '{lane}' is no lane: lanes are exact, fp8, sparse_20"):
        Settings.from_env({"LANES": f"exact,{lane}"})


def test_lanes_are_set_in_one_way():
    with pytest.raises(SettingsError, match="LANES names a lane twice: exact,exact"):
        Settings.from_env({"LANES": "exact,exact"})
    assert list(Settings.from_env({"LANES": "fp8,exact", "FP8": "true"}).arithmetics) == ["fp8", "exact"]
    for variable, value, lane in (("FP8", "true", "fp8"), ("SPARSE_ATTENTION", "0.2", "sparse_20")):
        with pytest.raises(SettingsError, match=f"LANES begins with exact, but .* set the lane {lane}: let"):
            Settings.from_env({"LANES": f"exact,{lane}", variable: value})


def test_a_job_s_lane_is_one_of_the_worker_s():
    settings = Settings.from_env({"LANES": "exact,sparse_20"})
    assert settings.arithmetic_of("sparse_20").density == 0.2
    with pytest.raises(InvalidInput, match=r"^lane must be one of exact, sparse_20, not 'fp8': the worker's LANES"):
        settings.arithmetic_of("fp8")
    with pytest.raises(InvalidInput, match=r"^lane must be exact, not 'fp8': the worker's LANES says"):
        Settings.from_env({}).arithmetic_of("fp8")


def test_every_variable_is_documented():
    for name, default, description in Settings.variables():
        assert description.endswith("."), name
        assert isinstance(default, str), name
    assert ("GPU_PRICE_PER_HOUR", "3.96") in [row[:2] for row in Settings.variables()]


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("loras/one.safetensors:0.8", (("loras/one.safetensors", 0.8),)),
        (" a.safetensors:1 , /volume/b.gguf:-0.25,", (("a.safetensors", 1.0), ("/volume/b.gguf", -0.25))),
        ("a.safetensors : 1,b c.gguf :2", (("a.safetensors", 1.0), ("b c.gguf", 2.0))),
        ("a:b.safetensors:2", (("a:b.safetensors", 2.0),)),
        (",", ()),
    ],
)
def test_loras_are_paths_with_scales(text: str, pairs: tuple[tuple[str, float], ...]):
    assert Settings.from_env({"LORAS": text}).lora_scales == pairs


@pytest.mark.parametrize(
    "text", ["one.safetensors", "one.safetensors:", ":0.8", " : 0.8", "a:0.8,b:much", "a:nan", "a:inf"]
)
def test_a_lora_without_its_scale_is_named(text: str):
    with pytest.raises(SettingsError, match=r"LORAS has '.*', which is not a path and a scale, as in loras/one"):
        Settings.from_env({"LORAS": text})


def test_other_and_empty_variables_are_ignored():
    assert Settings.from_env({"PATH": "/bin", "DEVICE": "", "MAX_AUDIO_S": ""}) == Settings()


def test_settings_do_not_change_and_know_no_other_field():
    with pytest.raises(ValidationError):
        Settings().device = "cpu"
    with pytest.raises(ValidationError):
        Settings(gpu="yes")


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"DEVICE": "tpu"}, ["DEVICE", "'tpu'", "'auto', 'cuda' or 'cpu'"]),
        ({"MAX_AUDIO_S": "ten"}, ["MAX_AUDIO_S", "'ten'", "valid number"]),
        ({"MAX_AUDIO_S": "0"}, ["MAX_AUDIO_S", "'0'", "greater than or equal to 0.04"]),
        ({"MAX_AUDIO_S": "inf"}, ["MAX_AUDIO_S", "'inf'", "finite"]),
        ({"MAX_AUDIO_S": "1e300"}, ["MAX_AUDIO_S", "'1e300'", "less than or equal to 86400"]),
        ({"GPU_PRICE_PER_HOUR": "-1"}, ["GPU_PRICE_PER_HOUR", "'-1'", "greater than or equal to 0"]),
        ({"OUTPUT": "s3"}, ["OUTPUT", "'s3'", "'url', 'base64' or 'volume'"]),
        ({"OUTPUT": "url"}, ["OUTPUT", "BUCKET_ENDPOINT_URL"]),
        ({"DEVICE": "tpu", "LOG_LEVEL": "loud"}, ["DEVICE", "LOG_LEVEL"]),
    ],
)
def test_a_wrong_variable_is_named_with_what_came_and_what_is_allowed(env, expected):
    with pytest.raises(SettingsError) as raised:
        Settings.from_env(env)
    for part in expected:
        assert part in str(raised.value)


NUMBERS = [name for name, _, _ in Settings.variables() if name != "SPARSE_ATTENTION"]
NUMBERS = [name for name in NUMBERS if "float" in str(Settings.model_fields[name.lower()].annotation)]


@pytest.mark.parametrize("value", ["1e300", "nan", "inf", "-1"])
@pytest.mark.parametrize("name", NUMBERS)
def test_no_number_is_absurd(name, value):
    """Such a one would start, and fail every job with something else."""
    with pytest.raises(SettingsError, match=name):
        Settings.from_env({name: value})


@pytest.mark.parametrize(
    "url", ["not a url", "http://", "s3.example.com", "ftp://s3.example.com", "https:// x", "https://a b"]
)
def test_a_buckets_endpoint_is_an_address(url):
    with pytest.raises(SettingsError, match="BUCKET_ENDPOINT_URL is not an http"):
        Settings.from_env(BUCKET | {"BUCKET_ENDPOINT_URL": url})


def test_a_secret_that_is_too_short_is_not_shown():
    with pytest.raises(SettingsError, match=r"CACHE_KEY is \(not shown\): .*at least 32") as raised:
        Settings.from_env({"CACHE_KEY": "hush"})
    assert "hush" not in str(raised.value)


@pytest.mark.parametrize("left_out", BUCKET)
def test_the_bucket_is_set_whole_or_not_at_all(left_out):
    partial = {name: value for name, value in BUCKET.items() if name != left_out}
    with pytest.raises(SettingsError, match=f"{left_out} missing") as raised:
        Settings.from_env(partial)
    assert "hush" not in str(raised.value)


def test_a_bucket_name_needs_its_bucket():
    with pytest.raises(SettingsError, match="BUCKET_ENDPOINT_URL"):
        Settings.from_env({"BUCKET_NAME": "videos"})


def test_output_is_a_url_with_a_bucket_and_base64_without():
    assert Settings().default_output == "base64"
    assert Settings.from_env(BUCKET).default_output == "url"
    assert Settings.from_env(BUCKET | {"OUTPUT": "volume"}).default_output == "volume"


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"MARK": "maybe"}, "MARK is 'maybe': Input should be 'on', 'optional' or 'off'"),
        ({"SIGN_CERT": "/chain.pem"}, "SIGN_CERT and SIGN_KEY belong together: set both, or neither"),
        ({"SIGN_KEY": "hush"}, "SIGN_CERT and SIGN_KEY belong together: set both, or neither"),
        ({"SIGN_TSA": "timestamp.example.com"}, "SIGN_TSA is not an http"),
        ({"MARK": "off", "SIGN_CERT": "/chain.pem", "SIGN_KEY": "hush"}, "MARK is off, so nothing is signed"),
        ({"MARK": "off", "SIGN_TSA": "http://timestamp.example.com"}, "MARK is off, so nothing is signed"),
    ],
)
def test_settings_of_marking_that_contradict_each_other_are_told(env, expected):
    with pytest.raises(SettingsError, match=re.escape(expected)) as raised:
        Settings.from_env(env)
    assert "hush" not in str(raised.value)


def test_the_secret_is_not_printed():
    assert "hush" not in repr(Settings.from_env({"SIGN_CERT": "/chain.pem", "SIGN_KEY": "hush"}))
    assert "hush" not in repr(Settings.from_env(BUCKET))
