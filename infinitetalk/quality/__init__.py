"""How good a talking video is, measured from its pixels and its sound only. docs/quality.md says how."""

from importlib import import_module
from typing import Any


def scikit_image(part: str) -> Any:  # noqa: ANN401
    """A module of scikit-image. Raises an ImportError that says how to get it."""
    try:
        return import_module(f"skimage.{part}")
    except ImportError as error:
        raise ImportError("these measures need scikit-image: pip install scikit-image") from error
