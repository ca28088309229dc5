"""The device that the models are on."""

from typing import Literal

import torch


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is the GPU if there is one. Raises ValueError for a GPU that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("DEVICE is cuda, but torch finds no GPU; check driver and torch, or set auto or cpu")
    return torch.device(name)


def count_gpus(device: torch.device, wanted: int | Literal["auto"]) -> int:
    """On how many GPUs the model runs; on a CPU, how many processes share its work.

    Args:
        wanted: "auto" takes all GPUs that torch sees.

    Raises:
        ValueError: there are fewer GPUs.
    """
    if device.type != "cuda":
        return 1 if wanted == "auto" else wanted
    found = max(1, torch.cuda.device_count())
    if wanted == "auto":
        return found
    if wanted > found:
        raise ValueError(f"GPUS is {wanted}, and torch sees {found}: set it to at most that, or give the worker more")
    return wanted


def gpu_name(device: torch.device) -> str | None:
    """What the driver calls a GPU; None for the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done its work; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
