"""InfiniteTalk: one picture (or video) and one to four voices become a talking video of any length.

from infinitetalk import Request, Settings, local_exchange, open_faces, open_models, run_job

settings = Settings()
request = Request.of_files(audio="voice.wav", image="face.png", speed_mode="turbo")
exchange = local_exchange("out.mp4")
result = run_job(request, open_models(settings), settings, exchange, faces=open_faces(settings))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infinitetalk.contract.request import Request
    from infinitetalk.contract.settings import Settings
    from infinitetalk.job.run import run_job
    from infinitetalk.startup.opening import open_faces, open_models
    from infinitetalk.transfer.exchange import local_exchange

__version__ = "0.1.0"
__all__ = ["Request", "Settings", "local_exchange", "open_faces", "open_models", "run_job"]

# Imported when they are asked for, so that the parts of the package that need no torch do not load it.
_PLACES = {
    "Request": "infinitetalk.contract.request",
    "Settings": "infinitetalk.contract.settings",
    "local_exchange": "infinitetalk.transfer.exchange",
    "open_faces": "infinitetalk.startup.opening",
    "open_models": "infinitetalk.startup.opening",
    "run_job": "infinitetalk.job.run",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
