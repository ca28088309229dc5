import tempfile

import pytest

from infinitetalk.temporary_folder import require_temporary_folder


def test_no_temporary_folder_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    require_temporary_folder()

    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    with pytest.raises(SystemExit, match=r"No temporary folder can be written to, .*: set TMPDIR"):
        require_temporary_folder()
