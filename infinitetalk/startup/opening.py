"""The models that the settings name, opened on the device, or the GPUs, that they name; and what finds faces."""

import logging

import torch

from infinitetalk.contract.presets import Profile, profile_of
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import ModelMissing
from infinitetalk.faces.finder import FaceFinder
from infinitetalk.models import opening
from infinitetalk.models.compiling import CompiledFiles
from infinitetalk.models.device import choose_device, count_gpus
from infinitetalk.models.opening import Models
from infinitetalk.ranks.group import Ranks
from infinitetalk.ranks.sharing import share_models
from infinitetalk.startup.weights import find_weights
from infinitetalk.transfer.volume import Volume

logger = logging.getLogger(__name__)


def open_models(settings: Settings) -> Models:
    """Find the weights and open them on as many GPUs as the settings name.

    Raises ModelMissing, RankFailed, or ValueError for a bad setting.
    """
    profile, device = profile_of(settings), choose_device(settings.device)
    n_gpus = count_gpus(device, settings.gpus)
    weights = find_weights(profile, settings)
    ranks = Ranks(n_gpus, device) if n_gpus > 1 else None  # they start while the weights are read
    try:
        models = opening.load_models(weights.files, device, dtype_of(profile), tuple(settings.arithmetics.values()))
        compiled, files = settings.compile, _compiled_files(settings)
        if ranks is None:
            opening.make_fast(models, compiled=compiled, compiled_files=files)
            return models
        ranks.join()
        return share_models(models, ranks, compiled=compiled, compiled_files=files)
    except BaseException:
        if ranks is not None:
            ranks.close()
        raise


def open_faces(settings: Settings) -> FaceFinder | None:
    """What finds faces, on the device of the models; None, and a line in the log, where it is not installed.

    Raises ValueError for a device that is not there.
    """
    device = choose_device(settings.device)
    try:
        return FaceFinder.open(device)
    except ModelMissing as error:
        logger.warning(str(error))
        return None


def _compiled_files(settings: Settings) -> CompiledFiles | None:
    """None without a volume, and without a key: what lies on the volume is not trusted then."""
    if settings.cache_key is None or not settings.volume_dir.is_dir():
        return None
    return CompiledFiles(Volume(settings.volume_dir), settings.cache_key.get_secret_value().encode())


def dtype_of(profile: Profile) -> torch.dtype:
    """The number format of a profile's weights."""
    return torch.bfloat16 if profile.dtype == "bfloat16" else torch.float32
