"""From where on a finished video is one to look at: presets/checks/finished_videos.toml."""

from functools import cache

from pydantic import BaseModel, ConfigDict, Field

from infinitetalk.contract.presets import Preset, load_preset


class Threshold(BaseModel):
    """One limit.

    Args:
        unit: of the limit.
        source: the command and the videos by which it was set.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    limit: float = Field(ge=0)
    unit: str = Field(min_length=1)
    source: str = Field(min_length=1)


class Thresholds(Preset):
    """All limits. The file says what each is compared with."""

    sound_length: Threshold
    sound_offset: Threshold
    sound_likeness: Threshold
    blank: Threshold
    frozen_stir: Threshold
    frozen_speech: Threshold
    repeated: Threshold
    joins: Threshold
    jumps: Threshold
    color: Threshold
    sharpness_least: Threshold
    sharpness_most: Threshold
    face_sharpness_least: Threshold
    face_sharpness_most: Threshold
    follows: Threshold
    does_not_follow: Threshold
    moves_enough: Threshold
    does_not_move: Threshold
    speech: Threshold
    silence: Threshold


@cache
def load_thresholds() -> Thresholds:
    """The limits of the package. Raises PresetError."""
    return load_preset("checks", "finished_videos", Thresholds)
