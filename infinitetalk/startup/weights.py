"""Where a profile's weights are: in a folder, on the network volume, in the host's model cache, or to be fetched.

Each repository of a profile is looked for by itself, in this order:

    MODELS_DIR/<name>                                                        a folder named by the operator
    VOLUME_DIR/models/<name>                                                 what `infinitetalk fetch` leaves
    VOLUME_DIR/huggingface-cache/hub/models--<owner>--<name>/snapshots/<commit>   RunPod's cached model
    a download from Hugging Face, if DOWNLOAD_WEIGHTS allows it, into the first of the two folders that can be used
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HTTPError

import infinitetalk
from infinitetalk.contract.presets import Profile, Repository
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import ModelMissing
from infinitetalk.models.opening import WeightFiles
from infinitetalk.models.transformer import MULTI, SINGLE

LISTED = 4  # missing files shown by name
EQUIVALENTS = {"pytorch_model.bin": "model.safetensors"}  # transformers reads either

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Weights:
    """Where each of a profile's repositories lies; a path in the profile starts with a repository's name.

    The repository of the separator alone may be missing.
    """

    profile: Profile
    folders: Mapping[str, Path]

    @classmethod
    def below(cls, folder: Path, profile: Profile) -> "Weights":
        """All of them in one folder."""
        return cls(profile, {name: folder / name for name in profile.source_names})

    def path(self, file: str) -> Path:
        """Where a file of the profile is."""
        name, _, rest = file.partition("/")
        return self.folders[name] / rest

    @property
    def separator(self) -> Path | None:
        """The separator of vocals; None where the profile has none, or it was not found."""
        file = self.profile.files.separator
        return self.path(file) if file is not None and file.split("/")[0] in self.folders else None

    @property
    def files(self) -> WeightFiles:
        """The profile's files, as the models are opened from them."""
        files = self.profile.files
        return WeightFiles(
            base=self.path(files.base),
            audio_encoder=self.path(files.audio_encoder),
            adapters={SINGLE: self.path(files.adapter_single), MULTI: self.path(files.adapter_multi)},
            loras=tuple((self.path(lora.file), lora.scale) for lora in self.profile.loras),
            separator=self.separator,
        )


def find_weights(profile: Profile, settings: Settings) -> Weights:
    """Where the profile's weights are; fetched if need be and allowed. What was found where is logged.

    The separator of vocals may be missing, unless jobs isolate them by default (settings.isolate_vocals).

    Raises ModelMissing saying where was looked, what was missing there and what to do.
    """
    if settings.isolate_vocals and profile.files.separator is None:
        raise ModelMissing(f"ISOLATE_VOCALS is true, but the profile {profile.name} has no separator: unset it.")
    if profile.is_embedded:
        return Weights.below(Path(infinitetalk.__file__).parent, profile)
    folders = {}
    for source in profile.sources:
        try:
            folders[source.name] = _find(source, settings)
        except ModelMissing as error:
            if source.name in profile.needed_names or settings.isolate_vocals:
                raise
            logger.warning("Jobs with isolate_vocals will be refused: %s", error)
    return Weights(profile, folders)


def fetch_weights(profile: Profile, folder: Path) -> None:
    """Download a profile's files from Hugging Face, at their commits, with progress bars.

    What is there already is kept, and a connection that breaks is taken up where it broke. HF_TOKEN and HF_ENDPOINT
    are read by huggingface_hub.

    Args:
        folder: each repository goes into a folder of its name below it.

    Raises:
        ModelMissing: a repository, commit or file does not exist or could not be fetched.
    """
    for source in profile.sources:
        _fetch(source, folder / source.name)


def volume_folder(settings: Settings) -> Path:
    """The folder on the network volume that weights are kept in."""
    return settings.volume_dir / "models"


def missing_files(source: Repository, folder: Path) -> list[str]:
    """The files of a source that a folder lacks.

    A Wan model in diffusers' layout, put there by hand under the name of the original, counts as whole: its loader
    names what it lacks.
    """
    if (folder / "transformer" / "config.json").is_file():
        return []
    return [
        file
        for file in source.files
        if not (folder / file).is_file() and not (folder / EQUIVALENTS.get(file, file)).is_file()
    ]


def _find(source: Repository, settings: Settings) -> Path:
    looked = []
    for place, folder in _places(source, settings):
        missing = missing_files(source, folder)
        if not missing:
            logger.info("%s: found in %s (%s)", source.name, place, folder)
            return folder
        looked.append(f"{place} ({folder}) {_lack(missing, folder)}")
        logger.info("%s: not in %s", source.name, looked[-1])
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


def _places(source: Repository, settings: Settings) -> Iterator[tuple[str, Path]]:
    if settings.models_dir is not None:
        yield "MODELS_DIR", settings.models_dir / source.name
    yield "the volume", volume_folder(settings) / source.name
    cached = f"models--{source.repository.replace('/', '--')}"
    yield "the host's cache", settings.volume_dir / "huggingface-cache/hub" / cached / "snapshots" / source.revision


def _lack(missing: list[str], folder: Path) -> str:
    if not folder.is_dir():
        return "does not exist"
    more = f" and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
    return f"lacks {', '.join(missing[:LISTED])}{more}"


def _fetch(source: Repository, folder: Path) -> Path:
    logger.info("%s: fetching commit %s into %s", source.name, source.revision, folder)
    try:
        snapshot_download(
            source.repository, revision=source.revision, local_dir=folder, allow_patterns=list(source.files)
        )
    except (HTTPError, OSError) as error:  # no network, no such repository or commit, a full disk
        raise ModelMissing(
            f"{source.repository} at commit {source.revision} could not be fetched into {folder} "
            f"({type(error).__name__}: {error}); run it again to go on."
        ) from error
    missing = missing_files(source, folder)
    if missing:
        raise ModelMissing(f"{source.repository} has no {', '.join(missing)} at commit {source.revision}.")
    return folder
