"""What is logged, and what the libraries below keep to themselves."""

import logging
from typing import TextIO

import diffusers.utils.logging
import transformers.utils.logging


def configure_logging(level: str, stream: TextIO) -> None:
    """Log this package from `level` on, everything else from WARNING on, to `stream`; no progress bars of others.

    At DEBUG, HTTP libraries would log URLs with the keys in them.
    """
    logging.basicConfig(level="WARNING", format="%(levelname)-7s| %(message)s", stream=stream, force=True)
    logging.getLogger("infinitetalk").setLevel(level)
    transformers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()
