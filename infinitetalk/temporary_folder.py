"""The temporary folder, which torch wants when it is imported. The programs of this package look for it before that."""

import sys
import tempfile


def require_temporary_folder() -> None:
    """End the program with one sentence if no temporary folder can be written to."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        sys.exit("No temporary folder can be written to, and torch needs one: set TMPDIR to a folder that can.")
