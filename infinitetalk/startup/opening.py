"""The models that the settings name, opened on the device that they name."""

import torch

from infinitetalk.contract.presets import Profile, profile_of
from infinitetalk.contract.settings import Settings
from infinitetalk.models import opening
from infinitetalk.models.device import choose_device
from infinitetalk.models.opening import Models
from infinitetalk.startup.weights import find_weights


def open_models(settings: Settings) -> Models:
    """Find the weights and open them. Raises ModelMissing, or ValueError for a bad setting."""
    profile = profile_of(settings)
    return opening.open_models(
        find_weights(profile, settings).files,
        choose_device(settings.device),
        dtype_of(profile),
        settings.arithmetic,
        compiled=settings.compile,
        volume=settings.volume_dir,
    )


def dtype_of(profile: Profile) -> torch.dtype:
    """The number format of a profile's weights."""
    return torch.bfloat16 if profile.dtype == "bfloat16" else torch.float32
