"""What a job will take, known before it is made."""

from collections.abc import Sequence

import torch

from infinitetalk.arithmetic import Arithmetic
from infinitetalk.contract.presets import Profile
from infinitetalk.contract.request import SpeedModeName
from infinitetalk.contract.result import DryRun, Estimate, Person
from infinitetalk.contract.settings import Settings
from infinitetalk.models.device import gpu_name
from infinitetalk.planning.comparison import alternatives
from infinitetalk.planning.estimate import estimate, find_hardware
from infinitetalk.planning.plan import Plan
from infinitetalk.progress import TimeLimit


def forecast(
    plan: Plan, profile: Profile, device: torch.device, settings: Settings, arithmetic: Arithmetic, n_gpus: int = 1
) -> Estimate:
    """Time and price of a plan on so many of that device, if the transformer computes in that way."""
    gpu = gpu_name(device)
    hardware = find_hardware(profile.timing, gpu, settings.hardware_file)
    return estimate(plan, hardware, gpu, settings.gpu_price_per_hour, arithmetic, n_gpus)


def dry_run(
    plan: Plan,
    speed_mode: SpeedModeName,
    profile: Profile,
    expected: Estimate,
    arithmetic: Arithmetic,
    warnings: list[str],
    n_gpus: int = 1,
    people: Sequence[Person] | None = None,
) -> DryRun:
    """What a job would do, as the answer to its caller."""
    return DryRun(
        seed=plan.seed,
        speed_mode=speed_mode,
        settings=plan.resolved(profile, arithmetic, n_gpus),
        estimate=expected,
        alternatives=alternatives(plan, profile.timing, arithmetic) or None,
        people=None if people is None else list(people),
        turns=list(plan.conversation) or None,
        warnings=warnings,
    )


def time_warnings(expected: Estimate, limit: TimeLimit | None) -> list[str]:
    """A warning if the job is expected to pass its time limit."""
    if limit is None or expected.seconds is None or expected.seconds <= limit.seconds:
        return []
    until = f"its execution timeout is {limit.seconds:g} s"
    if not limit.is_certain:
        until = (
            f"RunPod stops it after {limit.seconds:g} s if the endpoint or policy.executionTimeout set no other limit"
        )
    return [f"The job is estimated to take {expected.seconds:.0f} s, and {until}."]
