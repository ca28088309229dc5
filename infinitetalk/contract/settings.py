"""What the environment sets. It is read once, at start, from a mapping."""

import math
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from infinitetalk.arithmetic import AUTO, EXACT, Arithmetic
from infinitetalk.contract.request import MediaKind, Output
from infinitetalk.contract.values import MAX_DURATION_S
from infinitetalk.errors import InvalidInput
from infinitetalk.shapes import FPS

# Numbers beyond these are mistakes, which would fail every job, and not as the setting's fault.
WEEK_S = 604_800
LEAST_MB, MOST_MB = 0.001, 1_000_000

_MAX_GPUS = 40  # the model's attention heads; each rank has one at least
_SECRET = ("bucket_secret_access_key", "cache_key", "sign_cert", "sign_key")
_HTTP_URL = re.compile(r"https?://[^/?#\s]+[^\s]*$")
_BUCKET = ("bucket_endpoint_url", "bucket_access_key_id", "bucket_secret_access_key")


class SettingsError(ValueError):
    """An environment variable is wrong. The message names it, and says what came and what is allowed."""


def _temporary_folder() -> Path:
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise SettingsError(
            "WORK_DIR is not set, and no temporary folder can be written to: set WORK_DIR to a folder that can"
        ) from error


class Settings(BaseModel):
    """The worker's settings; each field is the environment variable of the same name in capitals."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, hide_input_in_errors=True)

    model_profile: str = Field(
        "miniature",
        description="Which model runs: the name of a file in presets/profiles, such as infinitetalk-14b, or the path "
        "of a .toml file of your own.",
    )
    models_dir: Path | None = Field(
        None, description="Folder of the model files. It is searched before the volume and the host's model cache."
    )
    models_repository: str | None = Field(
        None,
        description="A repository of your own on Hugging Face that holds all weights in the folders that `fetch` "
        "makes: owner/name, or owner/name@ and a commit of 40 characters. It is looked for in RunPod's cached model, "
        "before the volume.",
    )
    download_weights: bool = Field(
        False,
        description="Download model files that are not found: into MODELS_DIR if it is set, else onto the volume.",
    )
    loras: str | None = Field(
        None,
        description="LoRA files that are merged besides the profile's: paths below the models folders, each with its "
        "scale, such as loras/one.safetensors:0.8,loras/two.safetensors:1.0.",
    )
    min_vram_gib: float | None = Field(
        None,
        ge=0,
        le=100_000,
        description="Memory in GiB that the whole GPU must have. The worker refuses to start on a smaller one.",
        json_schema_extra={"default": "the profile's: 75 for infinitetalk-14b"},
    )
    device: Literal["auto", "cuda", "cpu"] = Field(
        "auto", description="Where the model runs; auto takes the GPU if there is one."
    )
    gpus: Literal["auto"] | Annotated[int, Field(ge=1, le=_MAX_GPUS)] = Field(
        "auto",
        description="On how many GPUs of this machine each job runs; auto takes all. A number that divides the model's "
        "40 attention heads (2, 4, 5, 8) shares the work evenly.",
    )
    work_dir: Path = Field(
        default_factory=_temporary_folder,
        description="Where each job gets its own temporary folder.",
        json_schema_extra={"default": "the system's temporary folder"},
    )
    volume_dir: Path = Field(
        Path("/runpod-volume"), description="Where the network volume is. Output `volume` puts videos there."
    )
    resume_hours: float = Field(
        24.0,
        ge=0,
        le=8760,
        description="Hours that the finished windows of a broken-off job stay on the volume; 0 keeps none.",
    )
    output: Output | None = Field(
        None,
        description="How a video comes back if the job does not say: url, base64 or volume.",
        json_schema_extra={"default": "url with a bucket, else base64"},
    )
    bucket_endpoint_url: str | None = Field(None, description="S3 endpoint that videos are uploaded to.")
    bucket_access_key_id: str | None = Field(None, description="Access key of the bucket.")
    bucket_secret_access_key: SecretStr | None = Field(None, description="Secret key of the bucket.")
    bucket_name: str | None = Field(
        None,
        description="Name of the bucket.",
        json_schema_extra={"default": "the SDK's: month and year"},
    )
    preview: bool = Field(
        True,
        description="Whether finished windows can be watched while a job runs, if the job does not say and there is a "
        "bucket or a volume.",
    )
    keep_preview: bool = Field(False, description="Whether the preview stays where it is when its video is delivered.")
    upload_timeout_s: float = Field(
        300.0, gt=0, le=WEEK_S, description="Longest time for the upload of a video, in seconds."
    )
    execution_timeout_s: float | None = Field(
        None,
        gt=0,
        le=WEEK_S,
        description="The endpoint's execution timeout, in seconds. A job stops itself just before it, and says so.",
        json_schema_extra={"default": "RunPod's 600, which only makes a warning"},
    )
    hardware_file: Path | None = Field(
        None, description="A file that `infinitetalk calibrate` wrote on this GPU. Estimates of time and price use it."
    )
    gpu_price_per_hour: float = Field(
        3.96, ge=0, le=1_000_000, description="Price of one GPU in US dollars per hour, for cost_usd."
    )
    isolate_vocals: bool = Field(
        False,
        description="Whether the model hears only the vocals of the sound if the job does not say. The worker then "
        "needs the separator's weights to start.",
    )
    max_audio_s: float = Field(600.0, ge=1 / FPS, le=MAX_DURATION_S, description="Longest sound accepted, in seconds.")
    max_image_mb: float = Field(
        50.0, ge=LEAST_MB, le=MOST_MB, description="Largest picture file accepted, in MB (10^6 bytes)."
    )
    max_audio_mb: float = Field(500.0, ge=LEAST_MB, le=MOST_MB, description="Largest sound file accepted, in MB.")
    max_video_mb: float = Field(2000.0, ge=LEAST_MB, le=MOST_MB, description="Largest video file accepted, in MB.")
    download_timeout_s: float = Field(
        300.0, gt=0, le=WEEK_S, description="Longest time for all downloads of a job together, in seconds."
    )
    attention_backend: str = Field(
        AUTO,
        description="Attention kernel by diffusers' name, such as _native_cudnn or _flash_3. auto takes the fastest "
        "exact one that works, tried at start.",
    )
    fp8: bool = Field(
        False,
        description="Compute large linear layers in 8 bits, and self-attention too if a kernel for it works. "
        "This is faster, smaller and less exact. It needs a GPU of compute capability 8.9 or more.",
    )
    sparse_attention: float | None = Field(
        None,
        gt=0,
        le=1,
        description="The share of the self-attention that is computed token by token, such as 0.2. In the rest a mean "
        "stands for each 128 tokens. This is faster and less exact.",
    )
    lanes: str | None = Field(
        None,
        description="Lanes that jobs may choose from with their field `lane`, such as exact,fp8,fp8_sparse_20. The "
        "first one is the default. If FP8 or SPARSE_ATTENTION is set too, it must be the lane they set.",
        json_schema_extra={"default": "the one that FP8 and SPARSE_ATTENTION set"},
    )
    mark: Literal["on", "optional", "off"] = Field(
        "on",
        description="Whether finished videos are marked as made by AI: signed content credentials (C2PA) and the IPTC "
        "digital source type in XMP. With optional, a video that cannot be signed is delivered with a warning.",
    )
    sign_cert: str | None = Field(
        None,
        description="The certificate that signs and those above it, in this order, as PEM: a file's path or the text.",
        json_schema_extra={"default": "a chain that the worker makes at start"},
    )
    sign_key: SecretStr | None = Field(
        None, description="The key of SIGN_CERT as PEM without a password: a file's path or the text."
    )
    sign_tsa: str | None = Field(
        None, description="The http(s) URL of a time stamp authority (RFC 3161), asked once for each video."
    )
    checks: Literal["on", "off"] = Field(
        "on",
        description="Whether each finished video is looked at, on the CPU: sound, black and frozen frames, joins, "
        "colours, lips. The result's field `checks` says what is found. It takes 10 s at most, or 2 % of the job's "
        "time.",
    )
    compile: bool = Field(
        True,
        description="Compile the transformer's blocks on a GPU at start. Without it starts are faster, passes slower.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="The lowest level that is logged: DEBUG, INFO, WARNING or ERROR."
    )
    cache_key: SecretStr | None = Field(
        None,
        min_length=32,
        description="A secret of 32 characters or more that lies nowhere on the volume. With it, what was compiled is "
        "kept on the volume, signed, and later workers start sooner.",
    )

    @model_validator(mode="after")
    def _check_bucket(self) -> Self:
        missing = [name for name in _BUCKET if getattr(self, name) is None]
        if missing and (len(missing) < len(_BUCKET) or self.bucket_name is not None):
            raise ValueError(
                f"{_variables(missing)} missing: set {_variables(_BUCKET)} together, or no BUCKET_ variable"
            )
        if missing and self.output == "url":
            raise ValueError(f"OUTPUT is url, which needs {_variables(_BUCKET)}")
        if not missing and not _HTTP_URL.match(self.bucket_endpoint_url or ""):
            raise ValueError("BUCKET_ENDPOINT_URL is not an http(s) URL, such as https://s3.eu-west-1.example.com")
        return self

    @model_validator(mode="after")
    def _check_signing(self) -> Self:
        if (self.sign_cert is None) != (self.sign_key is None):
            raise ValueError("SIGN_CERT and SIGN_KEY belong together: set both, or neither")
        if self.mark == "off" and (self.sign_cert is not None or self.sign_tsa is not None):
            raise ValueError("MARK is off, so nothing is signed: leave SIGN_CERT, SIGN_KEY and SIGN_TSA out, or MARK")
        if self.sign_tsa is not None and not _HTTP_URL.match(self.sign_tsa):
            raise ValueError("SIGN_TSA is not an http(s) URL, such as http://timestamp.example.com")
        return self

    @model_validator(mode="after")
    def _check_models_repository(self) -> Self:
        name = self.models_repository
        if name is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+(@[0-9a-f]{40})?", name):
            raise ValueError(
                f"MODELS_REPOSITORY is {name[:80]!r}: give owner/name, without an address before it and a branch after "
                "it, or owner/name@ and the 40 characters of a commit"
            )
        return self

    @model_validator(mode="after")
    def _check_loras(self) -> Self:
        _ = self.lora_scales
        return self

    @model_validator(mode="after")
    def _check_lanes(self) -> Self:
        first, own = self.arithmetic.lane, self._own_arithmetic.lane
        if own not in (EXACT, first):
            raise ValueError(
                f"LANES begins with {first}, but FP8 and SPARSE_ATTENTION set the lane {own}: let LANES "
                f"begin with {own}, or leave the other two out"
            )
        return self

    @property
    def lora_scales(self) -> tuple[tuple[str, float], ...]:
        """(path, scale) of each LoRA in `loras`."""
        return tuple(_lora_scale(entry.strip()) for entry in (self.loras or "").split(",") if entry.strip())

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Settings from environment variables. Other variables are ignored; empty ones count as not set.

        Raises SettingsError, which lists every wrong variable.
        """
        given = {name: env[name.upper()] for name in cls.model_fields if env.get(name.upper())}
        try:
            return cls.model_validate_strings(given)
        except ValidationError as error:
            raise SettingsError("; ".join(_problems(error, given))) from error

    @classmethod
    def variables(cls) -> list[tuple[str, str, str]]:
        """(name, default, description) of every environment variable, for the documentation."""
        rows = []
        for name, field in cls.model_fields.items():
            extra = field.json_schema_extra
            shown = extra["default"] if isinstance(extra, dict) else field.default
            rows.append((name.upper(), "" if shown is None else str(shown), field.description or ""))
        return rows

    @property
    def arithmetics(self) -> dict[str, Arithmetic]:
        """How the transformer is to compute, by lane, the default first; attention kernels may still be `AUTO`."""
        if self.lanes is None:
            return {self._own_arithmetic.lane: self._own_arithmetic}
        names = [name.strip() for name in self.lanes.split(",")]
        try:
            found = {name: Arithmetic.in_lane(name, self.attention_backend) for name in names}
        except ValueError as error:
            raise ValueError(f"LANES: {error}") from error
        if len(found) < len(names):
            raise ValueError(f"LANES names a lane twice: {self.lanes}")
        return found

    @property
    def _own_arithmetic(self) -> Arithmetic:
        return Arithmetic(self.attention_backend, self.fp8, self.sparse_attention)

    @property
    def arithmetic(self) -> Arithmetic:
        """How the transformer is to compute for a job that names no lane."""
        return next(iter(self.arithmetics.values()))

    def arithmetic_of(self, lane: str | None) -> Arithmetic:
        """How the transformer is to compute for a job whose field `lane` has that value.

        Raises InvalidInput if this worker does not have the lane.
        """
        arithmetics = self.arithmetics
        if lane is None:
            return self.arithmetic
        if lane not in arithmetics:
            allowed = "one of " * (len(arithmetics) > 1) + ", ".join(arithmetics)
            raise InvalidInput(f"lane must be {allowed}, not {lane!r}: the worker's LANES says which there are.")
        return arithmetics[lane]

    @property
    def has_second_set(self) -> bool:
        """Whether the transformer's large layers are held twice: in the weights' own number format and in 8 bits."""
        return len({arithmetic.fp8 for arithmetic in self.arithmetics.values()}) == 2

    def max_bytes(self, kind: MediaKind) -> int:
        """The largest file of that kind that is accepted."""
        limits_mb = {"image": self.max_image_mb, "audio": self.max_audio_mb, "video": self.max_video_mb}
        return int(limits_mb[kind] * 1e6)

    @property
    def default_output(self) -> Output:
        """How a video comes back if the job does not say: a URL if a bucket is set, else base64."""
        return self.output or ("base64" if self.bucket_endpoint_url is None else "url")


def _lora_scale(entry: str) -> tuple[str, float]:
    file, number = (part.strip() for part in entry.rpartition(":")[::2])
    try:
        scale = float(number)
    except ValueError:
        scale = math.nan
    if not file or not math.isfinite(scale):
        raise ValueError(f"LORAS has {entry!r}, which is not a path and a scale, as in loras/one.safetensors:0.8")
    return file, scale


def _variables(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(name.upper() for name in names)


def _problems(error: ValidationError, given: Mapping[str, str]) -> list[str]:
    problems: dict[str, str] = {}
    for problem in error.errors(include_url=False):
        if not problem["loc"]:  # a rule over several variables names them itself
            told = str(problem["ctx"]["error"])
            problems[told] = told
            continue
        name = str(problem["loc"][0])
        shown = "(not shown)" if name in _SECRET else repr(given[name][:80])
        if name in problems:  # it may be of several kinds, and is of none
            problems[name] += f" or {problem['msg'].removeprefix('Input ')}"
        else:
            problems[name] = f"{name.upper()} is {shown}: {problem['msg']}"
    return list(problems.values())
