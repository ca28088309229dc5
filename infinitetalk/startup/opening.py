"""The models that the settings name, opened on the device that they name."""

import torch

from infinitetalk.contract.presets import Profile, profile_of
from infinitetalk.contract.settings import Settings
from infinitetalk.models import opening
from infinitetalk.models.compiling import CompiledFiles
from infinitetalk.models.device import choose_device
from infinitetalk.models.opening import Models
from infinitetalk.startup.weights import find_weights
from infinitetalk.transfer.volume import Volume


def open_models(settings: Settings) -> Models:
    """Find the weights and open them. Raises ModelMissing, or ValueError for a bad setting."""
    profile = profile_of(settings)
    return opening.open_models(
        find_weights(profile, settings).files,
        choose_device(settings.device),
        dtype_of(profile),
        tuple(settings.arithmetics.values()),
        compiled=settings.compile,
        compiled_files=_compiled_files(settings),
    )


def _compiled_files(settings: Settings) -> CompiledFiles | None:
    """None without a volume, and without a key: what lies on the volume is not trusted then."""
    if settings.cache_key is None or not settings.volume_dir.is_dir():
        return None
    return CompiledFiles(Volume(settings.volume_dir), settings.cache_key.get_secret_value().encode())


def dtype_of(profile: Profile) -> torch.dtype:
    """The number format of a profile's weights."""
    return torch.bfloat16 if profile.dtype == "bfloat16" else torch.float32
