"""What comes back: a video and how it was made, what a job would take, or why it failed."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from infinitetalk.contract.request import Extend, Keep, SpeedModeName
from infinitetalk.errors import JobError
from infinitetalk.progress import Preview

_NOTHING_SEEN = Preview()
_PEOPLE = "The faces of the input, from left to right; left out where the worker cannot find faces."


class _Reply(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def to_json(self) -> dict[str, Any]:
        """A dict ready for JSON; fields without a value are left out."""
        return self.model_dump(mode="json", exclude_none=True)


class ResolvedSettings(_Reply):
    """The numbers a video was made with."""

    profile: str = Field(description="The weights: a file of presets/profiles, or of the operator's.")
    loras: list[str] | None = Field(None, description="The LoRAs that are merged, each with its scale: path:scale.")
    window: int = Field(description="Frames of a full window.")
    overlap: int = Field(description="Frames that each window takes over from the one before.")
    windows: int = Field(description="How many windows the clip has.")
    steps: int = Field(description="Denoising steps per window.")
    forwards: int = Field(description="Passes of the transformer in all.")
    scheduler: str
    shift: float = Field(description="Shift of the noise schedule.")
    width: int = Field(description="Pixels.")
    height: int = Field(description="Pixels.")
    fps: int | float = Field(description="Frames per second.")
    frames: int = Field(description="Frames of the video.")
    duration_s: float = Field(description="Seconds.")
    isolate_vocals: bool = Field(False, description="Whether the model hears the vocals alone.")
    lane: str = Field(description="How the transformer computed: exact, or faster and less exact.")
    precision: str = Field(description="Number format of the transformer's weights.")
    attention: str = Field(description="Attention kernel, by diffusers' name.")
    gpus: int = Field(1, description="How many GPUs make the video together; 1 if a CPU does.")
    cuts_s: list[float] | None = Field(
        None, description="Seconds at which further scenes begin; left out where there is one."
    )
    extend: Extend | None = Field(None, description="How a source video shorter than the sound goes on.")
    keep: Keep | None = Field(None, description="Given where only the speakers come from the model.")
    generated: str | None = Field(
        None,
        description="The size in pixels at which the model works, 25 times a second, where the result has another: "
        "with keep speakers, and with fit whole.",
    )


class Estimate(_Reply):
    """What a job will take."""

    seconds: float | None = Field(None, description="Time on the worker; left out where it is unknown.")
    cost_usd: float | None = None
    basis: str = Field(description="The measurements that the estimate is made from.")


class Alternative(_Reply):
    """What a job would take on a worker with other GPUs, in the same lane, at RunPod's documented price."""

    gpu: str
    gpus: int
    seconds: float
    cost_usd: float
    is_measured: bool = Field(description="Whether the time comes from measurements there; otherwise it is computed.")


class Person(_Reply):
    """A face that was found in the picture, or in the first frame of the video."""

    index: int = Field(description="Counted from left to right, from 0: what a speaker's field face may say.")
    box: tuple[float, float, float, float] = Field(
        strict=False, description="[x0, y0, x1, y1] in fractions of the input picture."
    )
    width: int = Field(description="Of the face, in pixels of the result.")
    height: int = Field(description="Likewise.")
    is_shown: bool = Field(description="Whether the result shows most of it.")
    voice: str | None = Field(None, description="The voice that the person has, by its field, if one is known.")


class Turn(_Reply):
    """What one of two speakers says before the other does, in the recording that split_voices took apart."""

    speaker: int = Field(description="1, who speaks first, or 2.")
    start_s: float = Field(description="Seconds from the beginning of the recording.")
    end_s: float


SourceType = Literal["trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"]


class Marking(_Reply):
    """What the video's file says about how it was made: content credentials (C2PA), and the same in XMP."""

    digital_source_type: SourceType = Field(
        description="IPTC's digital source type: made by a model, or by one out of a video."
    )
    signed_by: str = Field(description="The organisation that the signing certificate names.")
    note: str | None = Field(None, description="What keeps readers from trusting the signature, if something does.")


CheckName = Literal[
    "size",
    "frames",
    "sound_length",
    "sound",
    "blank",
    "frozen",
    "repeated",
    "joins",
    "jumps",
    "color",
    "sharpness",
    "lip_sync",
    "other_voice",
    "silence",
]
LOOK_AT_IT: Literal["look at it"] = "look at it"


class Check(_Reply):
    """One thing that was looked at in the finished file."""

    name: CheckName
    voice: str | None = Field(default=None, description="Whose mouth it is about, by the voice's field.")
    outcome: Literal["ok", "look at it", "undecided", "not measured"]
    value: float | None = Field(default=None, description="What was measured, in the unit of the limit.")
    limit: float | None = Field(default=None, description="From where on it is one to look at.")
    unit: str | None = Field(default=None, description="Of value and limit.")
    note: str | None = Field(
        default=None, description="What to look at and where, or why it was not measured or decided."
    )


class Checks(_Reply):
    """What was found in the finished file. The video is delivered whatever it is."""

    verdict: Literal["ok", "look at it"]
    look_at: list[str] = Field(default_factory=list, description="What to look at and where, a sentence each.")
    retryable_with: dict[str, int | float | bool] | None = Field(
        default=None,
        description="Fields of the job, and values that may help, where something is found.",
    )
    details: list[Check] = Field(default_factory=list, description="Everything that was looked at, or was not and why.")
    seconds: float = Field(description="How long it took.")


class Result(_Reply):
    """A finished video. Exactly one of video_url, video and video_path says where it is."""

    video_url: str | None = Field(None, description="Where to download the video, for a limited time.")
    video: str | None = Field(None, repr=False, description="The video itself, as a data: URI.")
    video_path: str | None = Field(None, description="The video's path on the network volume.")
    preview_url: str | None = Field(None, description="The playlist of the preview, if the worker keeps it.")
    preview_path: str | None = Field(None, description="Likewise, on the network volume.")
    seed: int
    speed_mode: SpeedModeName
    settings: ResolvedSettings
    timings_s: dict[str, float] = Field(description="Seconds per stage.")
    gpu_seconds: float = Field(description="Seconds the worker was busy with this job, however many GPUs it has.")
    cost_usd: float = Field(description="Those seconds at the price of all of its GPUs.")
    people: list[Person] | None = Field(None, description=_PEOPLE)
    turns: list[Turn] | None = Field(None, description="Who speaks when; only with split_voices.")
    checks: Checks | None = Field(None, description="What was found in the finished file; left out with CHECKS=off.")
    marking: Marking | None = Field(None, description="Left out where the video is not signed.")
    warnings: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _check_place(self) -> Self:
        places = [self.video_url, self.video, self.video_path]
        if sum(place is not None for place in places) != 1:
            raise ValueError("exactly one of video_url, video and video_path is given")
        return self


class DryRun(_Reply):
    """What a job with dry_run would do."""

    dry_run: Literal[True] = True
    seed: int
    speed_mode: SpeedModeName
    settings: ResolvedSettings
    estimate: Estimate
    alternatives: list[Alternative] | None = Field(
        None, description="The job on other GPUs; left out where no GPU's times are known."
    )
    people: list[Person] | None = Field(None, description=_PEOPLE)
    turns: list[Turn] | None = Field(None, description="Who speaks when; only with split_voices.")
    warnings: list[str] = Field(default_factory=list)


class Failure(_Reply):
    """Why there is no video."""

    error: str = Field(description="One sentence: which field or part is wrong, and what to do.")
    error_code: str
    retryable: bool = Field(description="Whether the same job may succeed later.")
    refresh_worker: Literal[True] | None = Field(None, description="Asks RunPod to replace the worker.")
    preview_url: str | None = Field(None, description="Where the finished part can be watched, for a limited time.")
    preview_path: str | None = Field(None, description="Likewise, on the network volume.")

    @classmethod
    def of(cls, error: JobError, preview: Preview = _NOTHING_SEEN) -> Self:
        """The answer for an error, and for what could be seen of the video until then."""
        return cls(
            error=str(error),
            error_code=error.code,
            retryable=error.retryable,
            refresh_worker=True if error.refresh_worker else None,
            preview_url=preview.preview_url,
            preview_path=preview.preview_path,
        )
