"""The GPUs that RunPod offers to serverless workers: how much memory, at what price."""

from functools import cache
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from infinitetalk.contract.presets import Preset, load_preset

_SEEN = 0.98  # of a card's memory, the driver shows so much at least: 79.1 GiB of "80 GB"
_SECONDS_PER_HOUR = 3600


class Gpu(BaseModel):
    """One type of GPU.

    Args:
        id: what the driver calls it, and RunPod's REST API (`gpu.id` of Pods, `gpu.excludedTypes` of endpoints).
        name: what people call it; editions share one.
        pool: what RunPod's Hub (`gpuIds`) and REST API (`gpu.pools`) call the group that it is in.
        memory_gb: as the card's name has it.
        capability: NVIDIA's compute capability.
        usd_per_s: of a flex worker with one of it; None: not documented.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    id: str
    name: str
    pool: str
    memory_gb: int = Field(gt=0)
    capability: Annotated[tuple[int, int], Field(strict=False)]
    usd_per_s: float | None = Field(None, gt=0)

    @property
    def usd_per_hour(self) -> float | None:
        """The price of an hour; None: not documented."""
        return None if self.usd_per_s is None else round(self.usd_per_s * _SECONDS_PER_HOUR, 3)

    def has_memory(self, needed_gib: float) -> bool:
        """Whether the driver shows so much of it."""
        return self.memory_gb * _SEEN >= needed_gib


class GpuList(Preset):
    """RunPod's list, and when and where its prices were read."""

    priced_on: str
    prices_from: str
    gpus: Annotated[tuple[Gpu, ...], Field(strict=False, min_length=1)]


@cache
def runpod_gpus() -> GpuList:
    """presets/gpus/runpod.toml. Raises PresetError."""
    return load_preset("gpus", "runpod", GpuList)


def fitting_gpus(needed_gib: float, capability: tuple[int, int] = (0, 0)) -> dict[str, list[str]]:
    """Names of RunPod's GPUs by what is to be said of them: "fits", "too old", "too small".

    Args:
        needed_gib: memory of the whole GPU.
        capability: the least compute capability.
    """
    found: dict[str, list[str]] = {"fits": [], "too old": [], "too small": []}
    for gpu in runpod_gpus().gpus:
        verdict = "fits" if gpu.has_memory(needed_gib) else "too small"
        if verdict == "fits" and gpu.capability < capability:
            verdict = "too old"
        if gpu.name not in found[verdict]:
            found[verdict].append(gpu.name)
    return {verdict: names for verdict, names in found.items() if names}
