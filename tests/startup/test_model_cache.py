"""All weights of a profile in one repository of the operator's own, which RunPod's cached model holds."""

import logging
from pathlib import Path

import pytest
from huggingface_hub import constants, snapshot_download

from infinitetalk.contract.presets import Profile, Repository, load_profile
from infinitetalk.contract.settings import Settings, SettingsError
from infinitetalk.errors import ModelMissing
from infinitetalk.startup.model_cache import cached_folder
from infinitetalk.startup.weights import find_weights, volume_folder
from tests.startup.test_weights import Hub, cache_folder, put

OWN = "someone/infinitetalk"
COMMIT, OTHER = "a" * 40, "b" * 40
PROFILES = [load_profile(name) for name in ("infinitetalk-14b", "infinitetalk-14b-gguf", "infinitetalk-14b-fp8")]


def fetched_files(profile: Profile) -> list[str]:
    """What `infinitetalk fetch` leaves, by path below the models folder: so it is uploaded."""
    return [f"{source.name}/{file}" for source in profile.sources for file in source.files]


def set_up(volume: Path, name: str = OWN) -> Settings:
    return Settings.from_env({"VOLUME_DIR": str(volume), "MODELS_REPOSITORY": name})


def snapshot(volume: Path, commit: str, repository: str = OWN) -> Path:
    """A cached repository with all of the profile's files, empty."""
    own = Repository(repository=repository, revision=commit, files=tuple(fetched_files(PROFILES[0])))
    return put(own, cache_folder(volume, own))


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_all_weights_are_found_in_one_repository_as_huggingface_hub_caches_it(
    profile: Profile, site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The library itself makes the cache, blobs and links and all, from a server on loopback that plays the hub."""
    caplog.set_level(logging.INFO, "infinitetalk")
    own = Repository(repository=OWN, revision=COMMIT, files=tuple(dict.fromkeys(fetched_files(profile))))
    Hub(site, own)
    monkeypatch.setattr(constants, "ENDPOINT", site.url)
    pages = "{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{site.url}/{pages}")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    hub = tmp_path / "huggingface-cache" / "hub"
    folder = Path(snapshot_download(OWN, revision=COMMIT, cache_dir=hub, allow_patterns=list(own.files)))

    files = find_weights(profile, set_up(tmp_path)).files

    found = (files.transformer, files.text_encoder, files.image_encoder, files.vae, files.audio_encoder)
    for path in (*found, *files.adapters.values(), *(path for path, _ in files.loras), files.separator):
        assert path is not None and path.exists() and path.is_relative_to(folder)
    assert caplog.text.count("found in the cached MODELS_REPOSITORY") == len(profile.sources)
    assert f"snapshots/{COMMIT}" in caplog.text


def test_the_named_repository_comes_after_models_dir_and_before_the_volume(tmp_path: Path) -> None:
    talk = next(source for source in PROFILES[0].sources if source.name == "InfiniteTalk")
    own = snapshot(tmp_path, COMMIT)
    put(talk, volume_folder(set_up(tmp_path)) / talk.name)
    put(talk, cache_folder(tmp_path, talk))
    assert find_weights(PROFILES[0], set_up(tmp_path)).folders[talk.name] == own / talk.name
    named = set_up(tmp_path).model_copy(update={"models_dir": tmp_path / "named"})
    put(talk, tmp_path / "named" / talk.name)
    assert find_weights(PROFILES[0], named).folders[talk.name] == tmp_path / "named" / talk.name
    (own / "InfiniteTalk" / "single" / "infinitetalk.safetensors").unlink()  # an upload that was broken off
    assert find_weights(PROFILES[0], set_up(tmp_path)).folders[talk.name] == volume_folder(named) / talk.name


def test_a_lora_of_the_settings_may_lie_in_the_repository_too(tmp_path: Path) -> None:
    lora = snapshot(tmp_path, COMMIT) / "loras" / "style.safetensors"
    lora.parent.mkdir()
    lora.touch()
    settings = set_up(tmp_path).model_copy(update={"loras": "loras/style.safetensors:0.5"})
    assert find_weights(PROFILES[0], settings).path("loras/style.safetensors") == lora


def test_an_own_repository_in_the_cache_does_not_count_unless_it_is_named(tmp_path: Path) -> None:
    snapshot(tmp_path, COMMIT)
    with pytest.raises(ModelMissing, match="was not found"):
        find_weights(PROFILES[0], Settings.from_env({"VOLUME_DIR": str(tmp_path)}))


def test_a_repository_that_is_not_in_the_cache_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match=r"the cached MODELS_REPOSITORY \(.*models--someone--infinitetalk"):
        find_weights(PROFILES[0], set_up(tmp_path))


def test_the_commit_is_the_one_named_or_mains_or_the_only_one(tmp_path: Path) -> None:
    first = snapshot(tmp_path, COMMIT)
    assert cached_folder(tmp_path, OWN) == first
    second = snapshot(tmp_path, OTHER)
    with pytest.raises(ModelMissing, match=f"several commits .*MODELS_REPOSITORY={OWN}@{COMMIT}"):
        cached_folder(tmp_path, OWN)
    refs = first.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text(f"{OTHER}\n", "utf-8")
    assert cached_folder(tmp_path, OWN) == second
    assert cached_folder(tmp_path, OWN, COMMIT) == first
    assert find_weights(PROFILES[0], set_up(tmp_path, f"{OWN}@{COMMIT}")).folders["InfiniteTalk"].parent == first


def test_a_name_typed_in_other_letters_is_the_same_repository(tmp_path: Path) -> None:
    assert cached_folder(tmp_path, "Someone/InfiniteTalk") == tmp_path / "huggingface-cache" / "hub" / (
        "models--Someone--InfiniteTalk/snapshots"
    )
    own = snapshot(tmp_path, COMMIT)
    assert cached_folder(tmp_path, "Someone/InfiniteTalk") == own


@pytest.mark.parametrize("name", ["infinitetalk", f"https://huggingface.co/{OWN}", f"{OWN}:main", f"{OWN}@main"])
def test_a_setting_that_is_no_repository_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^MODELS_REPOSITORY is '.*': give owner/name"):
        set_up(tmp_path, name)
