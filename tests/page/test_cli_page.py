"""`infinitetalk page`: what keeps it from being served is told in a sentence."""

import pytest

from infinitetalk import cli_page
from infinitetalk.cli import main
from infinitetalk.page import server


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("WORK_DIR", str(tmp_path))
    monkeypatch.setattr(cli_page, "open_faces", lambda settings: None)


def test_a_missing_gradio_is_told(monkeypatch):
    monkeypatch.setattr(server, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="The page needs Gradio: `make page` installs it"):
        main(["page"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [(["--endpoint", "a/b"], "give the endpoint's id"), (["--url", "localhost:8000"], "give an http")],
)
def test_a_wrong_endpoint_is_told(options, sentence):
    with pytest.raises(SystemExit, match=sentence):
        main(["page", *options])


@pytest.mark.parametrize("port", ["0", "65536", "x"])
def test_a_wrong_port_is_told(port, capsys):
    with pytest.raises(SystemExit):
        main(["page", "--port", port])
    assert "--port" in capsys.readouterr().err
