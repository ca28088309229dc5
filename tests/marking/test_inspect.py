"""`infinitetalk inspect`: what it shows, and that scripts can rely on its exit."""

import json
from pathlib import Path

import pytest

from infinitetalk.cli import main
from infinitetalk.contract.settings import Settings
from infinitetalk.marking.marker import Marker
from infinitetalk.media.encode import hash_streams
from tests.support.certificates import make_chain
from tests.support.media_samples import ffmpeg, write_picture, write_talking_video

CHAIN = make_chain()


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    plain = write_talking_video(tmp_path / "plain.mp4", seconds=0.4)
    marker = Marker.open(Settings.from_env({"SIGN_CERT": CHAIN.certificates, "SIGN_KEY": CHAIN.key}))
    return marker.mark(plain, False, "miniature").path


def test_it_shows_who_signed_what_and_the_streams(
    marked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    main(["inspect", str(marked)])
    shown = " ".join(capsys.readouterr().out.split())
    for said in (
        "untrusted: intact; whoever signed is on no list",
        "signed by Example Films",
        "unknown: there is no time stamp",
        "made by InfiniteTalk worker 0.1.0, model InfiniteTalk, profile miniature",
        "digital source type trainedAlgorithmicMedia",
        "XMP trainedAlgorithmicMedia",
        f"stream 0 video MD5 {hash_streams(marked)['0 video']}",
        '"action": "c2pa.created"',
    ):
        assert said in shown


def test_a_list_of_trusted_signers_may_be_given(
    marked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "root.pem").write_text(CHAIN.root)
    main(["inspect", str(marked), "--trust", str(tmp_path / "root.pem"), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["content_credentials"], found["signed_by"], found["problems"]) == ("trusted", "Example Films", [])
    assert found["digital_source_types"] == [found["xmp_digital_source_type"]] == ["trainedAlgorithmicMedia"]
    assert found["streams_md5"] == hash_streams(marked)
    assert found["manifest"]["claim_generator_info"][0]["name"] == "InfiniteTalk worker"


def test_a_changed_file_and_one_without_credentials_end_in_an_error(
    marked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ffmpeg("-i", marked, "-c", "copy", tmp_path / "remuxed.mp4")
    with pytest.raises(SystemExit, match=r"remuxed.mp4: content credentials: there are none$"):
        main(["inspect", str(tmp_path / "remuxed.mp4")])
    assert "no digital source type" in capsys.readouterr().out
    content = bytearray(marked.read_bytes())
    content[content.index(b"mdat") + 100] ^= 1
    marked.write_bytes(content)
    with pytest.raises(SystemExit, match="the file was changed or damaged after it was signed"):
        main(["inspect", str(marked)])
    assert "assertion.bmffHash.mismatch" in capsys.readouterr().out


def test_what_is_no_mp4_and_what_is_not_there_is_told_in_one_line(marked: Path, tmp_path: Path) -> None:
    picture = write_picture(tmp_path / "face.png")
    with pytest.raises(SystemExit, match=r"face.png is no mp4 file; name the video"):
        main(["inspect", str(picture)])
    with pytest.raises(SystemExit, match=r"nowhere.mp4 cannot be read \(No such file or directory\)"):
        main(["inspect", str(tmp_path / "nowhere.mp4")])
    with pytest.raises(SystemExit, match=r"nowhere.pem cannot be read \(No such file or directory\)"):
        main(["inspect", str(marked), "--trust", str(tmp_path / "nowhere.pem")])
    with pytest.raises(SystemExit, match=r"face.png cannot be read \(it is no PEM text\)"):
        main(["inspect", str(marked), "--trust", str(picture)])


def test_a_list_without_certificates_is_refused(marked: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("nobody")
    with pytest.raises(SystemExit, match=r"empty.pem holds no certificates"):
        main(["inspect", str(marked), "--trust", str(tmp_path / "empty.pem")])
