"""Where a profile's weights are: in a folder, on the network volume, in the host's model cache, or to be fetched.

Each source of a profile is looked for by itself, in this order:

    MODELS_DIR/<name>                   a folder named by the operator
    MODELS_REPOSITORY/<name>            a repository that holds all sources, in RunPod's cached model
    VOLUME_DIR/models/<name>            what `infinitetalk fetch` leaves
    VOLUME_DIR/ComfyUI/models/<name>    ComfyUI installed on the volume
    the source's own repository, at the profile's commit, in RunPod's cached model
    a download from Hugging Face, if DOWNLOAD_WEIGHTS allows it, into MODELS_DIR or else onto the volume

The name is the repository's, or ComfyUI's folder of such files; in these, files are found by name, however deep.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HTTPError

import infinitetalk
from infinitetalk.contract.presets import Profile, Repository
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import ModelMissing
from infinitetalk.models.opening import WeightFiles
from infinitetalk.models.transformer import MULTI, SINGLE
from infinitetalk.startup.model_cache import cached_folder

LISTED = 4  # missing files shown by name
EQUIVALENTS = {"pytorch_model.bin": "model.safetensors"}  # transformers reads either
SYNONYMS = {"diffusion_models": ("unet",), "text_encoders": ("clip",)}  # ComfyUI's older names of its folders

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Weights:
    """Where a profile's files lie. The separator's alone may be missing.

    Args:
        folders: whole repositories by name; a path in the profile starts with that name.
        files_found: files that were found by themselves, by path in the profile.
    """

    profile: Profile
    folders: Mapping[str, Path]
    files_found: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def below(cls, folder: Path, profile: Profile) -> "Weights":
        """All of them in one folder."""
        return cls(profile, {name: folder / name for name in profile.source_names})

    def path(self, file: str) -> Path:
        """Where a file of the profile is."""
        if file in self.files_found:
            return self.files_found[file]
        name, _, rest = file.partition("/")
        return self.folders[name] / rest

    @property
    def separator(self) -> Path | None:
        """The separator of vocals; None where the profile has none, or it was not found."""
        file = self.profile.files.separator
        is_found = file is not None and (file in self.files_found or file.split("/")[0] in self.folders)
        return self.path(file) if file is not None and is_found else None

    @property
    def sources(self) -> tuple[Repository, ...]:
        """The profile's sources that were found."""
        return tuple(
            source
            for source in self.profile.sources
            if source.name in self.folders or set(source.paths.values()) <= self.files_found.keys()
        )

    @property
    def files(self) -> WeightFiles:
        """The profile's files, as the models are opened from them."""
        files = self.profile.files
        return WeightFiles(
            transformer=self.path(files.part("transformer")),
            text_encoder=self.path(files.part("text_encoder")),
            tokenizer=None if files.tokenizer is None else self.path(files.tokenizer),
            image_encoder=self.path(files.part("image_encoder")),
            vae=self.path(files.part("vae")),
            audio_encoder=self.path(files.audio_encoder),
            adapters={SINGLE: self.path(files.adapter_single), MULTI: self.path(files.adapter_multi)},
            loras=tuple((self.path(lora.file), lora.scale) for lora in self.profile.loras),
            separator=self.separator,
        )


def find_weights(profile: Profile, settings: Settings) -> Weights:
    """Where the profile's weights and the settings' LoRAs are; fetched if need be and allowed. Each place is logged.

    The separator of vocals may be missing, unless jobs isolate them by default (settings.isolate_vocals).

    Raises ModelMissing, which says where was looked, what was missing there and what to do.
    """
    if settings.isolate_vocals and profile.files.separator is None:
        raise ModelMissing(f"ISOLATE_VOCALS is true, but the profile {profile.name} has no separator: unset it.")
    loras = {file: _find_lora(file, settings) for file, _ in settings.lora_scales}
    if profile.is_embedded:
        weights = Weights.below(Path(infinitetalk.__file__).parent, profile)
        return Weights(profile, weights.folders, loras)
    folders: dict[str, Path] = {}
    files: dict[str, Path] = {}
    for source in profile.sources:
        try:
            folder = _find(source, settings)
        except ModelMissing as error:
            if profile.is_needed(source) or settings.isolate_vocals:
                raise
            logger.warning("Jobs with isolate_vocals will be refused: %s", error)
            continue
        if source.into:
            located = {path: _located(source, file, folder) for file, path in source.paths.items()}
            files |= {path: found for path, found in located.items() if found is not None}
        else:
            folders[source.name] = folder
    return Weights(profile, folders, files | loras)


def fetch_weights(profile: Profile, folder: Path) -> None:
    """Download a profile's files from Hugging Face, at their commits, with progress bars.

    Files that are there already are kept, and a download whose connection breaks goes on where it broke.
    huggingface_hub reads HF_TOKEN and HF_ENDPOINT.

    Args:
        folder: of all models. Each source goes below it, into a folder of its name.

    Raises:
        ModelMissing: a repository, commit or file does not exist or could not be fetched, or no commit is named.
    """
    refused = []
    for source in profile.sources:
        if source.into and any(not missing_files(source, found) for found in _below(folder, source)):
            logger.info("%s: %s: there already", source.name, ", ".join(source.files))
        elif not source.revision:
            refused.append(_by_hand(source, folder / source.name))
        else:
            _fetch(source, folder / source.name)
    if refused:
        raise ModelMissing(" ".join(refused))


def volume_folder(settings: Settings) -> Path:
    """The folder on the network volume that weights are kept in."""
    return settings.volume_dir / "models"


def missing_files(source: Repository, folder: Path) -> list[str]:
    """The files of a source that a folder lacks.

    A Wan model in diffusers' layout, put there by hand under the name of the original, counts as complete. Its loader
    names what it lacks.
    """
    if (folder / "transformer" / "config.json").is_file():
        return []
    return [file for file in source.files if _located(source, file, folder) is None]


def _located(source: Repository, file: str, folder: Path) -> Path | None:
    """Where a file of a source is in its folder."""
    if not source.into:
        found = [folder / file, folder / EQUIVALENTS.get(file, file)]
    else:
        name = Path(file).name
        found = [folder / name] if (folder / name).is_file() else sorted(folder.rglob(escape(name)))
    found = [path for path in found if path.is_file()]
    if source.into and len(found) > 1:
        raise ModelMissing(f"{found[0]} and {found[1]} have the same name; leave the one that is meant.")
    return found[0] if found else None


def other_commits(weights: Weights) -> list[str]:
    """Files that huggingface_hub fetched at another commit than the profile's, one sentence for each repository.

    That is the only trace of where a file is from: the transformers for 480P and 720P have the same tensors. Nothing is
    known of files that came in another way.
    """
    sentences = []
    for source in weights.sources:
        found = {file: weights.path(path) for file, path in source.paths.items()}
        roots = {file: path.parents[len(Path(file).parts) - 1] for file, path in found.items()}
        commits = {_fetched_commit(root, file) for file, root in roots.items()} - {None, source.revision}
        if commits and source.revision:
            fetched, folder = " and ".join(sorted(map(str, commits))), next(iter(roots.values()))
            sentences.append(f"{folder} was fetched at commit {fetched} and not at the profile's, {source.revision}")
    return sentences


def _fetched_commit(folder: Path, file: str) -> str | None:
    """The commit that a file was fetched at, by what huggingface_hub leaves in a local folder."""
    try:
        lines = (folder / ".cache" / "huggingface" / "download" / f"{file}.metadata").read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    return lines[0].strip() if lines else None


def _find(source: Repository, settings: Settings) -> Path:
    looked = []
    for place, folder in _places(source, settings):
        missing = missing_files(source, folder)
        if not missing:
            logger.info("%s: found in %s (%s)", source.name, place, folder)
            return folder
        looked.append(f"{place} ({folder}) {_lack(missing, folder)}")
        logger.info("%s: not in %s", source.name, looked[-1])
    if not source.revision:
        folder = (settings.models_dir or volume_folder(settings)) / source.name
        raise ModelMissing(f"{source.repository} was not found: {'; '.join(looked)}. {_by_hand(source, folder)}")
    if not settings.download_weights:
        raise ModelMissing(
            f"{source.repository} was not found: {'; '.join(looked)}. Put it on the volume with `infinitetalk fetch`, "
            "set MODELS_DIR, or let the worker download it with DOWNLOAD_WEIGHTS=true."
        )
    target = settings.models_dir or (volume_folder(settings) if settings.volume_dir.is_dir() else None)
    if target is None:
        raise ModelMissing(
            f"DOWNLOAD_WEIGHTS is set, but there is no volume at {settings.volume_dir} to keep {source.repository} on; "
            "attach one, or name a folder with MODELS_DIR."
        )
    return _fetch(source, target / source.name)


def _models_folders(settings: Settings) -> Iterator[tuple[str, Path]]:
    if settings.models_dir is not None:
        yield "MODELS_DIR", settings.models_dir
    if settings.models_repository is not None:
        repository, _, commit = settings.models_repository.partition("@")
        yield "the cached MODELS_REPOSITORY", cached_folder(settings.volume_dir, repository, commit)
    yield "the volume", volume_folder(settings)
    yield "the volume's ComfyUI", settings.volume_dir / "ComfyUI" / "models"


def _below(folder: Path, source: Repository) -> list[Path]:
    """The folders in which a source may be below a folder of models."""
    return [folder / name for name in (source.name, *(SYNONYMS.get(source.into, ())))]


def _places(source: Repository, settings: Settings) -> Iterator[tuple[str, Path]]:
    for place, models in _models_folders(settings):
        for folder in _below(models, source):
            yield place, folder
    if source.revision:
        yield "the host's cache", cached_folder(settings.volume_dir, source.repository, source.revision)


def _find_lora(file: str, settings: Settings) -> Path:
    """A LoRA of the settings: a path below a folder of models, or a whole one."""
    places = [folder / file for _, folder in _models_folders(settings)]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise ModelMissing(
            f"LORAS names {file}, which is not there: {', '.join(map(str, dict.fromkeys(places)))}. Put it there, or "
            "name a path below a folder of models."
        )
    return found


def _lack(missing: list[str], folder: Path) -> str:
    if not folder.is_dir():
        return "does not exist"
    more = f" and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
    return f"lacks {', '.join(missing[:LISTED])}{more}"


def _by_hand(source: Repository, folder: Path) -> str:
    """What to do where the profile does not say which commit to fetch."""
    return (
        f"The profile names no commit of {source.repository}, so it is not fetched: put {', '.join(source.files)} into "
        f"{folder} by hand, or name a commit that you have looked at (its 40 characters, as revision) in a profile of "
        "your own, and set MODEL_PROFILE to that file."
    )


def _fetch(source: Repository, folder: Path) -> Path:
    logger.info("%s: fetching commit %s into %s", source.name, source.revision, folder)
    # huggingface_hub knows the files that it began itself, and not those that lie elsewhere in ComfyUI's folders.
    files = missing_files(source, folder) if source.into else list(source.files)
    try:
        snapshot_download(source.repository, revision=source.revision, local_dir=folder, allow_patterns=files)
    except (HTTPError, OSError) as error:  # no network, no such repository or commit, a full disk
        raise ModelMissing(
            f"{source.repository} at commit {source.revision} could not be fetched into {folder} "
            f"({type(error).__name__}: {error}); fetch it again to go on."
        ) from error
    missing = missing_files(source, folder)
    if missing:
        raise ModelMissing(f"{source.repository} has no {', '.join(missing)} at commit {source.revision}.")
    return folder
