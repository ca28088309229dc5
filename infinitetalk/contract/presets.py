"""Speed modes and model profiles: TOML files in `infinitetalk/presets/`, validated when they are read."""

import tomllib
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

import infinitetalk
from infinitetalk.contract.request import AspectRatio, Resolution
from infinitetalk.shapes import SIDE_MULTIPLE, is_window_length

SchedulerName = Literal["dpm++_sde", "euler", "infinitetalk"]
DtypeName = Literal["bfloat16", "float32"]
Size = tuple[int, int]


class PresetError(ValueError):
    """A preset file is missing or wrong. The message names the file, the key and what is allowed."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Preset(_Table):
    """What every preset file has."""

    name: str  # the file's, without .toml
    description: str


class Apg(_Table):
    """Adaptive projected guidance: damps what guidance adds along the prediction itself."""

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
    join_fade_frames: int = Field(ge=0, le=24)  # over which a window takes up how the one before ended
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


class Lora(_Table):
    file: str
    scale: float


class Repository(_Table):
    """A repository on Hugging Face and the files of it that a profile needs.

    The commit, not a branch: what a branch names changes under a running endpoint.
    """

    repository: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str = Field(pattern=r"^[0-9a-f]{40}$")
    files: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]

    @property
    def name(self) -> str:
        """The repository's own name: the folder that its files lie in below the models folder."""
        return self.repository.split("/")[1]


class ModelFiles(_Table):
    """Paths below the models folder; the first part of each is the name of a source, unless the profile is embedded.

    separator: of vocals, for jobs with isolate_vocals; None where the profile has none.
    """

    base: str
    audio_encoder: str
    adapter_single: str
    adapter_multi: str
    separator: str | None = None


class Profile(Preset):
    """One set of weights: where the files are, how they run, and the sizes they make."""

    is_embedded: bool  # the files are part of the package
    dtype: DtypeName
    min_vram_gib: float = Field(ge=0)  # of the whole GPU; 0: runs without one
    negative_prompt: str  # what text guidance moves away from unless the job says otherwise
    sizes: dict[Resolution, dict[AspectRatio, Annotated[Size, Field(strict=False)]]]  # (width, height)
    files: ModelFiles
    loras: Annotated[tuple[Lora, ...], Field(strict=False)] = ()
    sources: Annotated[tuple[Repository, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_complete("sizes", self.sizes, get_args(Resolution))
        if not self.is_embedded:
            _check_complete("sources", [source.name for source in self.sources], self.source_names)
        for resolution, by_ratio in self.sizes.items():
            _check_complete(f"sizes.{resolution}", by_ratio, get_args(AspectRatio))
            for ratio, size in by_ratio.items():
                if any(side < SIDE_MULTIPLE or side % SIDE_MULTIPLE for side in size):
                    raise ValueError(
                        f"sizes.{resolution}.{ratio} must be multiples of {SIDE_MULTIPLE} pixels, not {size}"
                    )
        return self

    @property
    def source_names(self) -> tuple[str, ...]:
        """The folders below the models folder that the profile's files lie in."""
        return self._folders(self.files.model_dump(exclude_none=True))

    @property
    def needed_names(self) -> tuple[str, ...]:
        """Those without which no job runs: all but the separator's own."""
        return self._folders(self.files.model_dump(exclude={"separator"}))

    def _folders(self, files: Mapping[str, str]) -> tuple[str, ...]:
        paths = (*files.values(), *(lora.file for lora in self.loras))
        return tuple(dict.fromkeys(path.split("/")[0] for path in paths))

    def size(self, resolution: Resolution, aspect_ratio: AspectRatio) -> Size:
        """(width, height) in pixels."""
        return self.sizes[resolution][aspect_ratio]


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
    """The model profile of that name. Raises PresetError."""
    return load_preset("profiles", name, Profile)


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
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PresetError(f"{path}: not valid TOML: {error}") from error
    except ValidationError as error:
        problems = (
            f"{'.'.join(map(str, problem['loc'])) or 'file'}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_context=False)
        )
        raise PresetError(f"{path}: {'; '.join(problems)}") from error
