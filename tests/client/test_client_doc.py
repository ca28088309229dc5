"""The Python lines of docs/client.md bring a video home."""

import re
from pathlib import Path

from infinitetalk.media.probe import probe

ROOT = Path(__file__).parents[2]


def test_the_python_lines_bring_a_video_home(api, tmp_path, monkeypatch, capsys):
    (block,) = re.findall(
        r"```\n(from pathlib import Path\n.*?)```", (ROOT / "docs" / "client.md").read_text(), re.DOTALL
    )
    monkeypatch.chdir(tmp_path)
    Path("samples").symlink_to(ROOT / "samples")
    short = block.replace('speed_mode="turbo"', 'speed_mode="turbo", max_duration_s=0.2')
    assert short.count("http://localhost:8000") == 1
    exec(short.replace("http://localhost:8000", api), {})
    assert probe(Path("out.mp4"), "video").has_video
    assert "JobView" in capsys.readouterr().out
