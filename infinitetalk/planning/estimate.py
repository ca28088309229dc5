"""How long a plan will take and what it will cost: amounts of work, times the seconds that each took when measured.

The seconds are in `infinitetalk/presets/hardware/`, or in the file that `infinitetalk calibrate` wrote on the worker's
own GPU.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from infinitetalk.arithmetic import AUTO, Arithmetic
from infinitetalk.contract.presets import Preset, list_presets, load_preset, read_preset
from infinitetalk.contract.result import Estimate
from infinitetalk.planning.plan import Plan

DEFAULT = Arithmetic()
_SECONDS_PER_HOUR = 3600

GpuCount = Annotated[int, Field(strict=False, ge=2)]  # TOML's keys are text
Times = Annotated[float, Field(ge=1)]  # as fast as one GPU


def _check_times(times: dict[int, float]) -> dict[int, float]:
    for count, value in times.items():
        if value > count:
            raise ValueError(f"{count} GPUs cannot be {value:g} times as fast as one")
    return times


TimesByGpus = Annotated[dict[GpuCount, Times], AfterValidator(_check_times)]


@dataclass(frozen=True)
class Work:
    """How much work a plan is, by the kinds of work that its stages take time for.

    Args:
        tokens, tokens_squared: sums over the transformer's passes.
        shared_tokens: tokens of the passes in which several people speak and each token is bound to one of them.
        to_video, to_latents: frames that pass the autoencoder's decoder and encoder, times their megapixels.
        frames: frames of the clip.
        separated_chunks: chunks of sound that pass the separator of vocals.
    """

    tokens: int
    tokens_squared: int
    shared_tokens: int
    to_video: float
    to_latents: float
    frames: int
    separated_chunks: int = 0

    @classmethod
    def of(cls, plan: Plan) -> "Work":
        """The work of a plan."""
        width, height = plan.size
        megapixels = width * height / 1e6
        lengths = [window.length for window in plan.windows]
        passes, tokens = plan.mode.steps * plan.forwards_per_step, [plan.tokens(window) for window in plan.windows]
        # The reference clip of a picture becomes latents once. That of a video differs from window to window.
        reference = max(lengths) if plan.input_type == "image" else sum(lengths)
        noised = sum(lengths) if plan.video_strength < 1 else 0
        overlaps = sum(window.overlap for window in plan.windows)
        return cls(
            tokens=passes * sum(tokens),
            tokens_squared=passes * sum(n**2 for n in tokens),
            shared_tokens=passes * sum(tokens) if plan.is_shared else 0,
            to_video=megapixels * sum(lengths),
            to_latents=megapixels * (reference + noised + overlaps),
            frames=plan.n_frames,
            separated_chunks=plan.separated_chunks,
        )


class Lane(BaseModel):
    """Seconds that the transformer's passes take in one lane (`Arithmetic.lane`) with one attention kernel.

    A pass over N tokens takes s_per_token * N (linear layers) and s_per_token_squared * N^2 (self-attention).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    attention: str  # the kernel it was measured with, by diffusers' name
    s_per_token: float = Field(ge=0)
    s_per_token_squared: float = Field(ge=0)
    shared_s_per_token: float = Field(ge=0)  # in addition, if several people speak
    speedup: Annotated[TimesByGpus, Field(min_length=1)] | None = None  # of its passes; None: Speedup.passes

    def seconds(self, work: Work) -> float:
        """Seconds of all passes of a job."""
        return (
            self.s_per_token * work.tokens
            + self.s_per_token_squared * work.tokens_squared
            + self.shared_s_per_token * work.shared_tokens
        )


class Speedup(BaseModel):
    """How many times as fast as one GPU several are, by how many there are.

    What is not known of a number of GPUs is computed from the largest number of which it is.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    source: str  # where the numbers come from
    passes: Annotated[TimesByGpus, Field(min_length=1)]  # in lanes that have none of their own
    to_video: TimesByGpus = {}

    def of_passes(self, n_gpus: int, lane: Lane) -> float:
        """How many times as fast the transformer's passes in a lane are.

        A rank computes 1/n of a pass and sends (n-1)/n of what it has, so that a pass takes the one-GPU time over n
        times 1 + c * (n-1)/n. For a number that is not known, c follows from the largest one that is.
        """
        known = lane.speedup or self.passes
        if n_gpus in known:
            return known[n_gpus]
        most = max(known)
        c = (most / known[most] - 1) * most / (most - 1)
        return n_gpus / (1 + c * (n_gpus - 1) / n_gpus)

    def of_to_video(self, n_gpus: int) -> float:
        """How many times as fast the decoding is; 1 if that is not known for any number.

        For a number that is not known, what the GPUs do not share takes as long as in the largest one that is.
        """
        if n_gpus == 1 or not self.to_video:
            return 1.0
        if n_gpus in self.to_video:
            return self.to_video[n_gpus]
        most = max(self.to_video)
        return 1 / (1 / n_gpus + 1 / self.to_video[most] - 1 / most)

    def basis(self, n_gpus: int, lane: Lane) -> str:
        """Where the times of so many GPUs come from, in one or two sentences."""
        known = lane.speedup or self.passes
        said = f"{n_gpus} GPUs: " if n_gpus in known else f"{n_gpus} GPUs: by arithmetic from {max(known)}. "
        return said + self.source + ("" if self.to_video else " The decoding counts as on one GPU.")


# Of hardware that was measured with one GPU only. benchmarks/rank_share.py on one H200 (2026-11-29), 146 GB/s between
# GPUs assumed: one GPU's part of a 720p pass (81 frames, two people, exact cuDNN attention) and of decoding it.
ASSUMED_SPEEDUP = Speedup(
    source="The speed-up is computed: one NVIDIA H200 was timed at one GPU's part of 720p, with assumed transfers.",
    passes={2: 1.96, 4: 3.85, 8: 7.31},
    to_video={2: 1.78, 4: 3.20, 8: 5.18},
)


class Hardware(Preset):
    """What one profile's work takes on one machine, all in seconds on one GPU."""

    profile: str
    gpus: tuple[str, ...] = Field(strict=False)  # parts of the device names that it holds for; empty for any CPU
    source: str  # where the coefficients come from
    is_computed: bool = False  # from published rates; nothing of it was measured
    to_video_s_per_megapixel: float = Field(ge=0)  # for each decoded frame: decoder, colour, bytes
    to_latents_s_per_megapixel: float = Field(ge=0)  # for each encoded frame: reference, overlap, noised source
    s_per_frame: float = Field(ge=0)  # for each frame of the clip: reading and hearing the sound
    s_per_job: float = Field(ge=0)  # everything else
    separate_s_per_chunk: float | None = Field(None, ge=0)  # for 8 s of sound in the separator; None: not measured
    # By lane. Each has an entry for every attention kernel it was measured with, first one that every such GPU has.
    lanes: dict[str, Annotated[tuple[Lane, ...], Field(strict=False, min_length=1)]] = Field(min_length=1)
    speedup: Speedup | None = None  # by several of these GPUs; None: ASSUMED_SPEEDUP

    def holds_for(self, gpu_name: str | None) -> bool:
        """Whether it was measured on that device; None is a CPU."""
        if gpu_name is None:
            return not self.gpus
        return any(part in gpu_name for part in self.gpus)

    def lane(self, arithmetic: Arithmetic) -> Lane:
        """The times of that arithmetic. If its kernel or its lane was not measured, those of the first one that was."""
        lanes = self.lanes[self.nearest_lane(arithmetic)]
        return next((lane for lane in lanes if lane.attention == arithmetic.attention), lanes[0])

    def nearest_lane(self, arithmetic: Arithmetic) -> str:
        """The lane of that arithmetic, or the file's first one if that was not measured."""
        return arithmetic.lane if arithmetic.lane in self.lanes else next(iter(self.lanes))

    def seconds(self, work: Work, arithmetic: Arithmetic, n_gpus: int = 1) -> float:
        """Seconds of a whole job on so many GPUs."""
        return self.seconds_in(self.lane(arithmetic), work, n_gpus)

    def seconds_in(self, lane: Lane, work: Work, n_gpus: int = 1) -> float:
        """Seconds of a whole job in one of the lanes. Several GPUs share the passes and the decoding, and no more."""
        passes, to_video = 1.0, 1.0
        if n_gpus > 1 and self.gpus:  # processes on a CPU share its cores
            speedup = self.speedup or ASSUMED_SPEEDUP
            passes, to_video = speedup.of_passes(n_gpus, lane), speedup.of_to_video(n_gpus)
        return (
            lane.seconds(work) / passes
            + self.to_video_s_per_megapixel * work.to_video / to_video
            + self.to_latents_s_per_megapixel * work.to_latents
            + self.s_per_frame * work.frames
            + self.s_per_job
            + (self.separate_s_per_chunk or 0.0) * work.separated_chunks
        )

    def is_measured(self, lane: Lane, n_gpus: int) -> bool:
        """Whether the times of so many GPUs in one of the lanes come from measurements alone."""
        known = self.speedup is not None and n_gpus in (lane.speedup or self.speedup.passes)
        return not self.is_computed and (n_gpus == 1 or known)


@cache
def load_hardware(name: str) -> Hardware:
    """The coefficients of that name. Raises PresetError."""
    return load_preset("hardware", name, Hardware)


def find_hardware(profile_name: str, gpu_name: str | None, file: Path | None = None) -> Hardware | None:
    """The profile's coefficients for a device, or else for another one; None if it was measured on no machine.

    Args:
        gpu_name: the device; None for a CPU.
        file: a file of coefficients that goes before the package's own.

    Raises:
        PresetError: a file of coefficients is wrong.
    """
    candidates = [] if file is None else [read_preset(file, Hardware)]
    candidates += [load_hardware(name) for name in list_presets("hardware")]
    candidates = [hardware for hardware in candidates if hardware.profile == profile_name]
    if not candidates:
        return None
    return next((hardware for hardware in candidates if hardware.holds_for(gpu_name)), candidates[0])


def estimate(
    plan: Plan,
    hardware: Hardware | None,
    gpu_name: str | None,
    gpu_price_per_hour: float,
    arithmetic: Arithmetic = DEFAULT,
    n_gpus: int = 1,
) -> Estimate:
    """Seconds and US dollars for a plan, and the measurements they are made from.

    Args:
        hardware: what the work takes; None leaves seconds and dollars unknown.
        gpu_name: the device that would run it; None for a CPU.
        gpu_price_per_hour: US dollars for each GPU.
        arithmetic: how the transformer computes.
        n_gpus: how many GPUs work on the job together.
    """
    basis = basis_of(hardware, gpu_name, arithmetic, n_gpus)
    if hardware is None:
        return Estimate(seconds=None, cost_usd=None, basis=basis)
    if plan.separated_chunks and hardware.separate_s_per_chunk is None:
        basis += " Isolating the vocals was not measured: its time is left out."
    if plan.kept is not None:
        basis += " Following the faces and putting them into the source (keep) was not measured: its time is left out."
    seconds = hardware.seconds(Work.of(plan), arithmetic, n_gpus)
    return Estimate(
        seconds=round(seconds, 1),
        cost_usd=round(cost_usd(seconds, gpu_price_per_hour, n_gpus), 4),
        basis=basis,
    )


def cost_usd(seconds: float, gpu_price_per_hour: float, n_gpus: int = 1) -> float:
    """What so many seconds of a worker cost, in US dollars; the price is that of one GPU."""
    return seconds / _SECONDS_PER_HOUR * gpu_price_per_hour * n_gpus


def basis_of(hardware: Hardware | None, gpu_name: str | None, arithmetic: Arithmetic = DEFAULT, n_gpus: int = 1) -> str:
    """The measurements that an estimate is made from, and what of this worker was not measured."""
    if hardware is None:
        return "Unknown: jobs of this profile were measured on no machine."
    basis = hardware.source
    if not hardware.holds_for(gpu_name):
        basis += f" This device ({gpu_name or 'CPU'}) was not measured."
    measured = hardware.lane(arithmetic).attention
    if arithmetic.lane not in hardware.lanes:
        nearest = hardware.nearest_lane(arithmetic)
        basis += f" The lane {arithmetic.lane} was not measured: these are the times of {nearest}."
    elif arithmetic.attention not in (AUTO, measured):
        basis += f" The attention {arithmetic.attention} was not measured: these are the times of {measured}."
    if n_gpus > 1 and not hardware.gpus:
        basis += " Several processes on one CPU count as one."
    elif n_gpus > 1:
        basis += f" {(hardware.speedup or ASSUMED_SPEEDUP).basis(n_gpus, hardware.lane(arithmetic))}"
    return basis
