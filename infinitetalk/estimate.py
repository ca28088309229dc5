"""How long a plan will take and what it will cost, from measured coefficients in `presets/hardware/`."""

from functools import cache

from pydantic import Field

from infinitetalk.plan import Plan
from infinitetalk.presets import Preset, list_presets, load_preset
from infinitetalk.result import Estimate

_SECONDS_PER_HOUR = 3600


class Hardware(Preset):
    """What one profile's work takes on one machine, all in seconds.

    A pass of the transformer over N tokens takes s_per_token * N (linear layers) plus
    s_per_token_squared * N^2 (self-attention).
    """

    profile: str
    gpus: tuple[str, ...] = Field(strict=False)  # parts of the device names it holds for; none: any CPU
    source: str  # where the coefficients come from
    s_per_token: float = Field(ge=0)
    s_per_token_squared: float = Field(ge=0)
    second_person_s_per_token: float = Field(ge=0)  # in addition, where two people speak
    vae_decode_s_per_megapixel_frame: float = Field(ge=0)
    vae_encode_s_per_megapixel_frame: float = Field(ge=0)
    s_per_job: float = Field(ge=0)  # everything else

    def holds_for(self, gpu_name: str | None) -> bool:
        """Whether it was measured on that device; None: on a CPU."""
        if gpu_name is None:
            return not self.gpus
        return any(part in gpu_name for part in self.gpus)


@cache
def load_hardware(name: str) -> Hardware:
    """The coefficients of that name. Raises PresetError."""
    return load_preset("hardware", name, Hardware)


def find_hardware(profile_name: str, gpu_name: str | None) -> Hardware | None:
    """The profile's coefficients for this device (None: a CPU), or else for another one; None if it was measured on
    no machine."""
    candidates = [load_hardware(name) for name in list_presets("hardware")]
    candidates = [hardware for hardware in candidates if hardware.profile == profile_name]
    if not candidates:
        return None
    return next((hardware for hardware in candidates if hardware.holds_for(gpu_name)), candidates[0])


def estimate(plan: Plan, hardware: Hardware | None, gpu_name: str | None, gpu_price_per_hour: float) -> Estimate:
    """Seconds and US dollars for a plan, and what they stand on. Without hardware both are unknown, and it says so.

    gpu_name: the device that would run it, None for a CPU. gpu_price_per_hour: US dollars.
    """
    if hardware is None:
        return Estimate(seconds=None, cost_usd=None, basis="Unknown: jobs of this profile were measured on no machine.")
    megapixels = plan.width * plan.height / 1e6
    seconds = hardware.s_per_job
    for window in plan.windows:
        seconds += plan.steps * plan.forwards_per_step * _forward_s(plan.tokens(window), plan.speakers, hardware)
        seconds += hardware.vae_decode_s_per_megapixel_frame * megapixels * window.length
    seconds += hardware.vae_encode_s_per_megapixel_frame * megapixels * _encoded_frames(plan)
    basis = hardware.source
    if not hardware.holds_for(gpu_name):
        basis += f" This device ({gpu_name or 'CPU'}) was not measured."
    return Estimate(
        seconds=round(seconds, 1),
        cost_usd=round(seconds / _SECONDS_PER_HOUR * gpu_price_per_hour, 4),
        basis=basis,
    )


def _forward_s(tokens: int, speakers: int, hardware: Hardware) -> float:
    per_token = hardware.s_per_token + (speakers - 1) * hardware.second_person_s_per_token
    return per_token * tokens + hardware.s_per_token_squared * tokens**2


def _encoded_frames(plan: Plan) -> int:
    """Video frames that the VAE encodes: reference clips, overlaps, and the source video if it is noised."""
    lengths = [window.length for window in plan.windows]
    # A picture's reference clip is encoded once; a video's differs from window to window.
    reference = max(lengths) if plan.input_type == "image" else sum(lengths)
    noised = sum(lengths) if plan.video_strength < 1 else 0
    return reference + noised + sum(window.overlap for window in plan.windows)
