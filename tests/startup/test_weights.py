"""Where weights are found, and how they are fetched: from a server on loopback that plays the hub."""

import hashlib
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants

from infinitetalk.contract.presets import PresetError, Profile, Repository, load_profile, presets_dir, read_preset
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import ModelMissing
from infinitetalk.startup.weights import Weights, fetch_weights, find_weights, missing_files, volume_folder

ROOT = Path(__file__).parents[2]
PIECE_BYTES = 10 * 1024 * 1024  # what huggingface_hub writes at a time
BIG = bytes(range(256)) * (4 * PIECE_BYTES // 256)
TARGET = "MeiGen-AI/InfiniteTalk"
PROFILE = load_profile("infinitetalk-14b")
SOURCES = {source.name: source for source in PROFILE.sources}


def put(source: Repository, folder: Path) -> Path:
    """The files of a source, empty."""
    for file in source.files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def cache_folder(volume: Path, source: Repository) -> Path:
    owner, name = source.repository.split("/")
    return volume / "huggingface-cache" / "hub" / f"models--{owner}--{name}" / "snapshots" / source.revision


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "volume").mkdir()
    return Settings.from_env({"MODELS_DIR": str(tmp_path / "models"), "VOLUME_DIR": str(tmp_path / "volume")})


def test_each_repository_is_found_by_itself_in_the_stated_order(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "infinitetalk")
    assert settings.models_dir is not None
    talk = SOURCES["InfiniteTalk"]
    places = [settings.models_dir / talk.name, volume_folder(settings) / talk.name]
    places.append(cache_folder(settings.volume_dir, talk))
    others = {name: put(source, cache_folder(settings.volume_dir, source)) for name, source in SOURCES.items()}
    for place, said in zip(reversed(places), ("the host's cache", "the volume", "MODELS_DIR"), strict=True):
        put(talk, place)
        caplog.clear()
        weights = find_weights(PROFILE, settings)
        assert weights.folders == others | {talk.name: place}
        assert f"InfiniteTalk: found in {said} ({place})" in caplog.text
    assert weights.path(PROFILE.files.adapter_multi) == places[0] / "multi" / "infinitetalk.safetensors"
    assert weights.path(PROFILE.files.base) == others["Wan2.1-I2V-14B-480P"]


def test_a_folder_that_is_not_whole_is_passed_over_and_named(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "infinitetalk")
    assert settings.models_dir is not None
    for source in PROFILE.sources:
        put(source, cache_folder(settings.volume_dir, source))
        put(source, settings.models_dir / source.name)
    (settings.models_dir / "InfiniteTalk" / "multi" / "infinitetalk.safetensors").unlink()
    found = find_weights(PROFILE, settings).folders["InfiniteTalk"]
    assert found == cache_folder(settings.volume_dir, SOURCES["InfiniteTalk"])
    assert "lacks multi/infinitetalk.safetensors" in caplog.text


def test_another_commit_in_the_hosts_cache_does_not_count(settings: Settings) -> None:
    for source in PROFILE.sources:
        snapshot = put(source, cache_folder(settings.volume_dir, source))
        if source.name == "InfiniteTalk":
            snapshot.rename(snapshot.with_name("0" * 40))
    with pytest.raises(ModelMissing, match=f"^{TARGET} was not found"):
        find_weights(PROFILE, settings)


def test_weights_that_are_nowhere_are_named_with_every_place_and_the_remedies(settings: Settings) -> None:
    with pytest.raises(ModelMissing) as raised:
        find_weights(PROFILE, settings)
    for part in (
        "Wan-AI/Wan2.1-I2V-14B-480P",
        "MODELS_DIR",
        "models/Wan2.1",
        "snapshots/6b73f84e",
        "fetch",
        "DOWNLOAD",
    ):
        assert part in str(raised.value)


def test_a_worker_starts_without_the_separator_unless_jobs_isolate_vocals_by_default(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    for source in PROFILE.sources:
        if source.name != "MelBandRoFormer_comfy":
            put(source, volume_folder(settings) / source.name)
    weights = find_weights(PROFILE, settings)
    assert "MelBandRoFormer_comfy" not in weights.folders
    assert weights.files.separator is None
    assert "Jobs with isolate_vocals will be refused: Kijai/MelBandRoFormer_comfy was not found" in caplog.text
    by_default = settings.model_copy(update={"isolate_vocals": True})
    with pytest.raises(ModelMissing, match=r"^Kijai/MelBandRoFormer_comfy was not found.*infinitetalk fetch"):
        find_weights(PROFILE, by_default)
    folder = put(SOURCES["MelBandRoFormer_comfy"], volume_folder(settings) / "MelBandRoFormer_comfy")
    assert find_weights(PROFILE, by_default).files.separator == folder / "MelBandRoformer_fp16.safetensors"


def test_a_profile_without_a_separator_cannot_isolate_vocals_by_default() -> None:
    with pytest.raises(ModelMissing, match="ISOLATE_VOCALS is true, but the profile miniature has no separator"):
        find_weights(load_profile("miniature"), Settings(isolate_vocals=True))


def test_a_download_needs_a_place(tmp_path: Path) -> None:
    settings = Settings.from_env({"VOLUME_DIR": str(tmp_path / "nowhere"), "DOWNLOAD_WEIGHTS": "true"})
    with pytest.raises(ModelMissing, match=r"no volume at .*nowhere.*MODELS_DIR"):
        find_weights(PROFILE, settings)


def test_both_layouts_and_both_formats_of_a_file_count(tmp_path: Path) -> None:
    wan, voice = SOURCES["Wan2.1-I2V-14B-480P"], SOURCES["chinese-wav2vec2-base"]
    assert missing_files(wan, tmp_path) == list(wan.files)
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").touch()
    assert missing_files(wan, tmp_path) == []
    put(voice, tmp_path / "voice")
    (tmp_path / "voice" / "pytorch_model.bin").rename(tmp_path / "voice" / "model.safetensors")
    assert missing_files(voice, tmp_path / "voice") == []


def test_the_package_has_the_miniatures_weights() -> None:
    profile = load_profile("miniature")
    weights = find_weights(profile, Settings())
    assert weights == Weights.below(ROOT / "infinitetalk", profile)
    assert weights.path(profile.files.adapter_single).is_file()
    assert weights.path(profile.files.base).is_dir()


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('revision = "6b73f84e66371cdfe870c72acd6826e1d61cf279"', 'revision = "main"', r"sources\.0\.revision"),
        ('repository = "Kijai/WanVideo_comfy"', 'repository = "Kijai/Other"', "sources: WanVideo_comfy missing"),
        ('repository = "Kijai/WanVideo_comfy"', 'repository = "WanVideo_comfy"', r"sources\.3\.repository"),
    ],
)
def test_a_profile_pins_commits_and_names_where_every_file_is_from(
    old: str, new: str, problem: str, tmp_path: Path
) -> None:
    text = (presets_dir() / "profiles" / "infinitetalk-14b.toml").read_text("utf-8")
    assert old in text
    path = tmp_path / "wrong.toml"
    path.write_text(text.replace(old, new), "utf-8")
    with pytest.raises(PresetError, match=problem):
        read_preset(path, Profile)


def test_fetching_takes_every_file_that_the_profile_reads() -> None:
    paths = {f"{source.name}/{file}" for source in PROFILE.sources for file in source.files}
    files = {PROFILE.files.adapter_single, PROFILE.files.adapter_multi, PROFILE.files.separator}
    assert files | {lora.file for lora in PROFILE.loras} <= paths


# --- fetching ----------------------------------------------------------------------------------------------------


class Hub:
    """A repository of the hub: its listing, and its files with ranges; may break a file's first answers off."""

    def __init__(self, site, source: Repository) -> None:
        self.files = {file: f"{source.name}/{file}".encode() for file in source.files}
        self.ranges: list[str] = []
        self.cuts = 0
        self._site = site
        listing = f"/api/models/{source.repository}/tree/{source.revision}"
        site.pages[listing] = lambda request: self._answer(
            request, self._listing(), {"Content-Type": "application/json"}
        )
        for file in source.files:
            site.pages[f"/{source.repository}/resolve/{source.revision}/{file}"] = self._file(source, file)

    def _listing(self) -> bytes:
        rows = [{"type": "file", "path": name, "size": len(body), "oid": "0" * 40} for name, body in self.files.items()]
        return json.dumps([*rows, {"type": "file", "path": "not_wanted.bin", "size": 1, "oid": "1" * 40}]).encode()

    def _answer(self, request, body: bytes, headers: dict[str, str]) -> None:
        start = 0
        if found := re.match(r"bytes=(\d+)-$", request.headers.get("Range", "")):
            start = int(found[1])
            self.ranges.append(found[0])
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(body) - start))
        request.end_headers()
        if request.command == "HEAD":
            return
        whole = body[start:]
        if self.cuts and len(whole) > 1000:
            self.cuts -= 1
            whole = whole[: len(whole) // 2]
            request.close_connection = True
        request.wfile.write(whole)

    def _file(self, source: Repository, file: str):
        def answer(request) -> None:
            body = self.files[file]
            etag = hashlib.sha256(body).hexdigest()
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": source.revision, "Accept-Ranges": "bytes"}
            self._answer(request, body, headers)

        return answer


@pytest.fixture
def hub(site) -> Hub:
    return Hub(site, SOURCES["InfiniteTalk"])


ONE_SOURCE = PROFILE.model_copy(update={"sources": (SOURCES["InfiniteTalk"],)})
NOT_FETCHED = f"^{TARGET} at commit {SOURCES['InfiniteTalk'].revision} could not be fetched"


@pytest.fixture
def fetch(site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Fetches the one source into tmp_path; huggingface_hub, which has read its environment, is told the address."""
    monkeypatch.setattr(constants, "ENDPOINT", site.url)
    pages = "{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{site.url}/{pages}")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    return lambda: fetch_weights(ONE_SOURCE, tmp_path)


FETCH = """
import logging, sys
from pathlib import Path
from infinitetalk.contract.presets import load_profile
from infinitetalk.startup.weights import fetch_weights
logging.basicConfig(level="INFO")
profile = load_profile("infinitetalk-14b")
profile = profile.model_copy(update={"sources": tuple(s for s in profile.sources if s.name == "InfiniteTalk")})
fetch_weights(profile, Path(sys.argv[1]))
"""


@pytest.mark.long  # in a process of its own
def test_a_fetch_brings_the_wanted_files_and_takes_a_broken_one_up_where_it_broke(
    site, hub: Hub, tmp_path: Path
) -> None:
    """In a process of its own, which is told the hub's address as an operator tells it."""
    hub.files["single/infinitetalk.safetensors"] = BIG
    hub.cuts = 2
    env = {
        "PATH": os.environ["PATH"],
        "HF_ENDPOINT": site.url,
        "HF_HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", FETCH, str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "InfiniteTalk" / "single" / "infinitetalk.safetensors").read_bytes() == BIG
    assert (tmp_path / "InfiniteTalk" / "multi" / "infinitetalk.safetensors").is_file()
    assert not (tmp_path / "InfiniteTalk" / "not_wanted.bin").exists()
    assert hub.ranges == [f"bytes={2 * PIECE_BYTES}-", f"bytes={3 * PIECE_BYTES}-"]
    assert "%|" in done.stderr  # the progress bar
    assert SOURCES["InfiniteTalk"].revision in done.stderr


@pytest.mark.usefixtures("hub")
def test_a_second_fetch_downloads_nothing(site, fetch: Callable[[], None]) -> None:
    fetch()
    files = [path for path in site.pages if "/resolve/" in path]
    before = [site.hits[path] for path in files]
    assert all(before)
    fetch()
    assert [site.hits[path] for path in files] == before


@pytest.mark.usefixtures("hub")
def test_a_fetch_that_failed_goes_on_with_what_is_missing(site, fetch: Callable[[], None]) -> None:
    path = next(path for path in site.pages if path.endswith("multi/infinitetalk.safetensors"))
    page = site.pages.pop(path)
    with pytest.raises(ModelMissing, match=NOT_FETCHED):
        fetch()
    site.pages[path] = page
    single = next(path for path in site.pages if path.endswith("single/infinitetalk.safetensors"))
    before = site.hits[single]
    assert before
    fetch()
    assert site.hits[single] == before


def test_a_commit_that_does_not_exist_is_named(fetch: Callable[[], None]) -> None:
    with pytest.raises(ModelMissing, match=NOT_FETCHED):
        fetch()


def test_a_file_that_the_commit_does_not_have_is_named(hub: Hub, fetch: Callable[[], None]) -> None:
    del hub.files["multi/infinitetalk.safetensors"]
    with pytest.raises(ModelMissing, match=f"^{TARGET} has no multi/infinitetalk.safetensors at commit"):
        fetch()


@pytest.mark.usefixtures("hub", "fetch")
def test_a_worker_downloads_what_is_nowhere_if_it_may(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "infinitetalk")
    settings = Settings.from_env({"MODELS_DIR": str(tmp_path), "DOWNLOAD_WEIGHTS": "true"})
    assert find_weights(ONE_SOURCE, settings).folders == {"InfiniteTalk": tmp_path / "InfiniteTalk"}
    assert "not in MODELS_DIR" in caplog.text
    caplog.clear()
    find_weights(ONE_SOURCE, settings)
    assert "found in MODELS_DIR" in caplog.text
