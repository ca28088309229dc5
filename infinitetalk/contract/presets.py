"""Speed modes and model profiles: TOML files, validated when they are read.

They lie in `infinitetalk/presets/`; a profile may also be a file of the operator's.
"""

import tomllib
from collections.abc import Collection
from functools import cache
from math import log
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

import infinitetalk
from infinitetalk.contract.request import AspectRatio, Ratio, Resolution
from infinitetalk.contract.settings import Settings
from infinitetalk.shapes import SIDE_MULTIPLE, is_window_length

SchedulerName = Literal["dpm++_sde", "euler", "infinitetalk"]
DtypeName = Literal["bfloat16", "float32"]
Size = tuple[int, int]
MAX_SIDE = 4096  # pixels; beyond every video that the model makes


class PresetError(ValueError):
    """A preset file is missing or wrong. The message names the file and the key, and says what is allowed."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Preset(_Table):
    """What every preset file has."""

    name: str  # the file's, without .toml
    description: str


class Apg(_Table):
    """Adaptive projected guidance: damps what guidance adds along the prediction itself.

    No file in presets/modes uses it; it is there to be compared with the authors' numbers.
    """

    momentum: float = Field(-0.75, ge=-1, le=1)
    norm_threshold: float = Field(55.0, gt=0)


def _check_window_length(frames: int) -> int:
    if not is_window_length(frames):
        raise ValueError(f"must be 4n+1 frames (1, 5, 9, ...), not {frames}")
    return frames


WindowLength = Annotated[int, AfterValidator(_check_window_length)]


class SpeedMode(Preset):
    """How a clip is made: the numbers behind one value of `speed_mode`."""

    window_frames: WindowLength
    overlap_frames: WindowLength
    join_fade_frames: int = Field(ge=0, le=24)  # over which a window fades from the end of the one before
    steps: int = Field(ge=1, le=100)
    scheduler: SchedulerName
    shift: dict[Resolution, Annotated[float, Field(gt=0)]]  # of the noise schedule
    apg: Apg | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.overlap_frames >= self.window_frames:
            raise ValueError(
                f"overlap_frames ({self.overlap_frames}) must be below window_frames ({self.window_frames})"
            )
        _check_complete("shift", self.shift, get_args(Resolution))
        return self


def _check_path(path: str) -> str:
    parts = PurePosixPath(path)
    if not parts.parts or parts.is_absolute() or ".." in parts.parts or "\0" in path:
        raise ValueError(f"must be a relative path that names a file or folder and has no '..' in it, not {path!r}")
    return path


RelativePath = Annotated[str, AfterValidator(_check_path)]


class Lora(_Table):
    file: str
    scale: float


def _check_lora(lora: Lora) -> Lora:
    try:
        _check_path(lora.file)
    except ValueError as error:
        raise ValueError(f"file {error}") from error
    return lora


class Repository(_Table):
    """A repository on Hugging Face, and those of its files that a profile needs.

    `revision` is a commit and not a branch: what a branch names can change while an endpoint runs. If the commit is not
    known it is left out, and the files have to be put in place by hand.
    """

    repository: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str = Field("", pattern=r"^([0-9a-f]{40})?$")
    files: Annotated[tuple[RelativePath, ...], Field(strict=False, min_length=1)]
    # ComfyUI's folder for them below the models folder, such as "loras". They are found by their file names anywhere
    # in it and fetched into it. Without one, the folder has the repository's name and is laid out as the repository.
    into: str = Field("", pattern=r"^[\w.-]*$")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.name in (".", ".."):
            key = "into" if self.into else "repository"
            raise ValueError(f"{key} must end in the name of a folder, not {self.name!r}")
        return self

    @property
    def name(self) -> str:
        """The folder that its files lie in below the models folder."""
        return self.into or self.repository.split("/")[1]

    @property
    def paths(self) -> dict[str, str]:
        """How a profile names each of its files, by its path in the repository."""
        return {file: f"{self.name}/{file.rpartition('/')[2] if self.into else file}" for file in self.files}


class ModelFiles(_Table):
    """Paths below the models folder. The first part of each is a source's name, unless the profile is embedded.

    What has no file of its own is taken from `base`, the folder of a Wan model in either layout.
    """

    audio_encoder: RelativePath  # a folder, or one file
    adapter_single: RelativePath
    adapter_multi: RelativePath
    base: RelativePath | None = None
    transformer: RelativePath | None = None
    text_encoder: RelativePath | None = None
    tokenizer: RelativePath | None = None  # folder; of a text encoder in a file of its own that has no tokenizer in it
    image_encoder: RelativePath | None = None
    vae: RelativePath | None = None
    separator: RelativePath | None = None  # of vocals, for jobs with isolate_vocals

    @model_validator(mode="after")
    def _check(self) -> Self:
        parts = ("transformer", "text_encoder", "image_encoder", "vae")
        missing = [part for part in parts if getattr(self, part) is None]
        if self.base is None and missing:
            raise ValueError(f"without a base, {', '.join(missing)} must be named")
        if self.tokenizer is not None and self.text_encoder is None:
            raise ValueError("a tokenizer belongs to a text_encoder in a file of its own; the base has one")
        return self

    def part(self, name: str) -> str:
        """Where a part of the Wan model is: in a file of its own, or in the base."""
        path = getattr(self, name) or self.base
        assert path is not None, "_check sees to it"
        return str(path)

    @property
    def named(self) -> tuple[str, ...]:
        """All paths that are given."""
        return tuple(path for path in self.model_dump().values() if path is not None)


class Profile(Preset):
    """One set of weights: where the files are, how they run, and the sizes they make."""

    is_embedded: bool  # the files are part of the package
    timed_as: str | None = None  # the profile whose measured times hold for this one, too: the same network
    dtype: DtypeName
    min_vram_gib: float = Field(ge=0)  # of the whole GPU; 0: runs without one
    second_set_gib: float = Field(0.0, ge=0)  # in addition, if LANES has lanes in 8 bits beside others
    negative_prompt: str  # what text guidance moves away from unless the job says otherwise
    sizes: dict[Resolution, dict[Ratio, Annotated[Size, Field(strict=False)]]]  # (width, height)
    files: ModelFiles
    loras: Annotated[tuple[Annotated[Lora, AfterValidator(_check_lora)], ...], Field(strict=False)] = ()
    sources: Annotated[tuple[Repository, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_complete("sizes", self.sizes, get_args(Resolution))
        if self.timed_as is not None and self.timed_as not in list_presets("profiles"):
            known = ", ".join(list_presets("profiles"))
            raise ValueError(f"timed_as must be one of {known}, not {self.timed_as!r}")
        if not self.is_embedded:
            self._check_sources()
        for resolution, by_ratio in self.sizes.items():
            _check_complete(f"sizes.{resolution}", by_ratio, get_args(Ratio))
            for ratio, size in by_ratio.items():
                if any(not SIDE_MULTIPLE <= side <= MAX_SIDE or side % SIDE_MULTIPLE for side in size):
                    raise ValueError(
                        f"sizes.{resolution}.{ratio} must be multiples of {SIDE_MULTIPLE} pixels, at most {MAX_SIDE}, "
                        f"not {size}"
                    )
        return self

    def _check_sources(self) -> None:
        _check_complete("sources", [source.name for source in self.sources], self.source_names)
        self._check_places()
        whole = {source.name for source in self.sources if not source.into}
        single = {path for source in self.sources for path in source.paths.values()}
        missing = [path for path in self.paths if path.split("/")[0] not in whole and path not in single]
        if missing:
            raise ValueError(f"sources: none has {', '.join(missing)}")

    def _check_places(self) -> None:
        """Raise ValueError where two files of the sources, or a folder and a whole repository, have one place."""
        folders = [source.name for source in self.sources if not source.into]
        shared = {source.name for source in self.sources if source.into}.intersection(folders)
        places = [*folders, *(path for source in self.sources if source.into for path in source.paths.values())]
        twice = sorted(shared | {place for place in places if places.count(place) > 1})
        if twice:
            raise ValueError(f"sources: more than one goes to {', '.join(twice)}; give one of them another `into`")

    @property
    def paths(self) -> tuple[str, ...]:
        """All files and folders that the profile names."""
        return (*self.files.named, *(lora.file for lora in self.loras))

    @property
    def source_names(self) -> tuple[str, ...]:
        """The folders below the models folder that the profile's files lie in."""
        return tuple(dict.fromkeys(path.split("/")[0] for path in self.paths))

    def is_needed(self, source: Repository) -> bool:
        """Whether no worker starts without this source. The separator's own is the only one that may be missing."""
        needed = [path for path in self.paths if path != self.files.separator]
        if source.into:
            return not set(needed).isdisjoint(source.paths.values())
        return any(path.split("/")[0] == source.name for path in needed)

    @property
    def timing(self) -> str:
        """The profile under which this one's times were measured."""
        return self.timed_as or self.name

    def size(self, resolution: Resolution, aspect_ratio: AspectRatio, source: Size | None = None) -> Size:
        """(width, height) in pixels.

        Args:
            source: (width, height) of the input, whose shape decides where the aspect ratio is source.
        """
        sizes = self.sizes[resolution]
        if aspect_ratio != "source":
            return sizes[aspect_ratio]
        assert source is not None
        shape = log(source[0] / source[1])
        return min(sizes.values(), key=lambda size: abs(log(size[0] / size[1]) - shape))


def _check_complete(key: str, present: Collection[str], names: tuple[str, ...]) -> None:
    missing = [name for name in names if name not in present]
    if missing:
        raise ValueError(f"{key}: {', '.join(missing)} missing")


PresetT = TypeVar("PresetT", bound=Preset)


def presets_dir() -> Path:
    """The folder of the preset files."""
    return Path(infinitetalk.__file__).parent / "presets"


def list_presets(kind: str) -> list[str]:
    """Names of all presets of a kind: modes, profiles or hardware."""
    return sorted(path.stem for path in (presets_dir() / kind).glob("*.toml"))


@cache
def load_mode(name: str) -> SpeedMode:
    """The speed mode of that name. Raises PresetError."""
    return load_preset("modes", name, SpeedMode)


@cache
def load_profile(name: str) -> Profile:
    """The model profile of that name, or in the file that ends in .toml. Raises PresetError."""
    return read_preset(Path(name), Profile) if name.endswith(".toml") else load_preset("profiles", name, Profile)


def profile_of(settings: Settings) -> Profile:
    """The model profile that the settings name, with their LoRAs after its own. Raises PresetError."""
    profile = load_profile(settings.model_profile)
    loras = [Lora(file=file, scale=scale) for file, scale in settings.lora_scales]
    return profile.model_copy(update={"loras": (*profile.loras, *loras)}) if loras else profile


def load_preset(kind: str, name: str, model: type[PresetT]) -> PresetT:
    """Read and validate `presets/<kind>/<name>.toml`. Raises PresetError naming the file and each bad key."""
    if name not in list_presets(kind):
        raise PresetError(f"no {name!r} among the {kind}: {', '.join(list_presets(kind))}")
    return read_preset(presets_dir() / kind / f"{name}.toml", model)


def read_preset(path: Path, model: type[PresetT]) -> PresetT:
    """Read and validate one preset file. Raises PresetError naming the file and each bad key."""
    try:
        table = tomllib.loads(path.read_text("utf-8"))
        if "name" in table:
            raise PresetError(f"{path}: name: the file's name is the preset's name; leave it out")
        return model.model_validate({"name": path.stem, **table})
    except OSError as error:
        raise PresetError(f"{path} cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise PresetError(f"{path}: not valid TOML: it is nested too deeply") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PresetError(f"{path}: not valid TOML: {error}") from error
    except ValidationError as error:
        problems = (
            f"{'.'.join(map(str, problem['loc'])) or 'file'}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_context=False)
        )
        raise PresetError(f"{path}: {'; '.join(problems)}") from error
