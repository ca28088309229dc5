"""Finished videos, marked: nothing of picture and sound changes, and whatever changes later is seen."""

import http.server
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import av
import numpy as np
import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from infinitetalk.contract.settings import Settings
from infinitetalk.errors import Cancelled, MarkingFailed
from infinitetalk.marking import marker as module
from infinitetalk.marking.credentials import read
from infinitetalk.marking.marker import OWN_CERTIFICATE, Marker
from infinitetalk.marking.xmp import read_source_type
from infinitetalk.media.child import ended_by
from infinitetalk.media.encode import VideoWriter, count_frames, hash_streams
from tests.support.certificates import CLAIM_SIGNING, KEYS, make_chain
from tests.support.media_samples import ffmpeg, write_tone

OWN = Marker.open(Settings())
CHAIN = make_chain()


def marker_of(chain: object = CHAIN, **settings: str) -> Marker:
    return Marker.open(Settings.from_env({"SIGN_CERT": chain.certificates, "SIGN_KEY": chain.key} | settings))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video with sound as the encoder leaves it."""
    folder = tmp_path_factory.mktemp("plain")
    tone = write_tone(folder / "tone.wav", seconds=1.0)
    ffmpeg("-i", tone, "-c:a", "aac", folder / "tone.m4a")
    frames = np.random.default_rng(1).integers(0, 255, (25, 64, 96, 3), np.uint8)
    with VideoWriter(folder / "result.mp4", 96, 64, soundtrack=folder / "tone.m4a") as writer:
        writer.append(writer.pack(frames))
        writer.finish(25)
    return folder / "result.mp4"


@pytest.fixture
def video(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(plain, tmp_path / "result.mp4"))


def boxes(path: Path) -> list[tuple[str, int, int]]:
    """(kind, start, end) of an mp4's outermost boxes."""
    content, found, at = path.read_bytes(), [], 0
    while at < len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        found.append((content[at + 4 : at + 8].decode(), at, at + size))
        at += size
    return found


@pytest.mark.parametrize("marker", [OWN, marker_of()], ids=["own chain", "operator's chain"])
def test_streams_and_the_index_at_the_front_stay_as_they_were(marker: Marker, video: Path, plain: Path) -> None:
    marked = marker.mark(video, False, "miniature")
    assert hash_streams(marked.path) == hash_streams(plain)
    assert sorted(hash_streams(plain)) == ["0 video", "1 audio"]
    assert [kind for kind, _, _ in boxes(marked.path)] == ["ftyp", "uuid", "moov", "free", "mdat", "uuid"]
    assert ffmpeg("-xerror", "-i", marked.path, "-f", "framemd5", "-") == ffmpeg("-i", plain, "-f", "framemd5", "-")
    assert count_frames(marked.path) == 25
    assert marked.path.stat().st_size - plain.stat().st_size < 16_000
    assert list(video.parent.iterdir()) == [marked.path]


def test_the_own_chain_says_that_readers_do_not_trust_it(video: Path) -> None:
    marked = OWN.mark(video, False, "miniature")
    assert marked.marking is not None
    assert (marked.marking.note, marked.warnings) == (OWN_CERTIFICATE, ())
    found = read(marked.path)
    assert (found.verdict, found.problems) == ("untrusted", ("signingCredential.untrusted",))
    assert found.signed_by == marked.marking.signed_by == "InfiniteTalk worker (own certificate)"


@pytest.mark.parametrize("kind", KEYS)
def test_an_operators_chain_is_trusted_by_whoever_trusts_its_root(kind: str, video: Path) -> None:
    chain = make_chain(kind)
    marked = marker_of(chain).mark(video, False, "miniature")
    assert marked.marking is not None
    assert (marked.marking.note, marked.marking.signed_by) == (None, "Example Films")
    assert read(marked.path, chain.root).verdict == "trusted"
    assert read(marked.path, make_chain().root).verdict == read(marked.path).verdict == "untrusted"


@pytest.mark.parametrize("usage", [CLAIM_SIGNING, ExtendedKeyUsageOID.EMAIL_PROTECTION])
def test_one_of_the_two_usages_is_enough(usage: ObjectIdentifier, video: Path) -> None:
    chain = make_chain(usages=(usage,))
    marked = marker_of(chain).mark(video, False, "miniature")
    assert read(marked.path, chain.root).verdict == "trusted"
    assert read(marked.path).verdict == "untrusted"


def test_the_manifest_says_what_made_it_and_nothing_of_the_job(video: Path) -> None:
    marked = OWN.mark(video, False, "miniature")
    manifest = read(marked.path).manifest
    (action,) = (a["data"]["actions"] for a in manifest["assertions"] if a["label"].startswith("c2pa.actions"))
    kind = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    agent = {"name": "InfiniteTalk worker", "version": "0.1.0", "model": "InfiniteTalk", "profile": "miniature"}
    assert action == [{"action": "c2pa.created", "digitalSourceType": kind, "softwareAgent": agent}]
    assert {a["label"] for a in manifest["assertions"]} == {"c2pa.hash.bmff.v3", "c2pa.actions.v2"}
    assert "ingredients" not in manifest
    assert "title" not in manifest
    written = json.dumps(manifest)
    assert written.count("http") == 1  # the source type's name
    for kind_, start, end in boxes(marked.path):
        if kind_ == "uuid":
            box = marked.path.read_bytes()[start:end]
            assert b"result.mp4" not in box
            assert str(video.parent).encode() not in box


@pytest.mark.parametrize(
    ("is_composite", "source_type"),
    [(False, "trainedAlgorithmicMedia"), (True, "compositeWithTrainedAlgorithmicMedia")],
)
def test_credentials_and_xmp_have_the_source_type_and_readers_of_metadata_find_it(
    is_composite: bool, source_type: str, video: Path
) -> None:
    marked = OWN.mark(video, is_composite, "miniature")
    assert marked.marking is not None
    assert marked.marking.digital_source_type == source_type
    assert read(marked.path).source_types == (source_type,)
    assert read_source_type(marked.path) == source_type
    with av.open(str(marked.path), options={"export_xmp": "1"}) as opened:
        assert f"/{source_type}</Iptc4xmpExt:DigitalSourceType>" in opened.metadata["xmp"]


def with_a_flipped_bit(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def test_a_flipped_bit_of_picture_sound_index_or_xmp_is_seen(video: Path, tmp_path: Path) -> None:
    marked, changed = OWN.mark(video, False, "miniature").path, tmp_path / "changed.mp4"
    content = marked.read_bytes()
    assert read(marked).verdict == "untrusted"
    _, _, index, _, media, xmp = boxes(marked)
    for kind, start, end in (index, media, xmp):
        for at in np.linspace(start + 32, end - 1, 12).astype(int):
            changed.write_bytes(with_a_flipped_bit(content, at))
            assert read(changed).verdict == "tampered", (kind, at - start)
    changed.write_bytes(content[:-1000])
    assert read(changed).verdict == "tampered"


def test_a_flipped_bit_of_the_credentials_is_seen_or_changes_nothing_that_they_say(video: Path, tmp_path: Path) -> None:
    """They have room that is left over, with nothing in it."""
    marked, changed = OWN.mark(video, False, "miniature").path, tmp_path / "changed.mp4"
    content, said = marked.read_bytes(), read(marked)
    _, start, end = boxes(marked)[1]
    seen = 0
    for at in np.linspace(start + 32, end - 1, 60).astype(int):
        changed.write_bytes(with_a_flipped_bit(content, at))
        found = read(changed)
        seen += found != said
        assert found == said or found.verdict not in ("trusted", "untrusted")
    assert seen > 5


def test_a_damaged_file_without_credentials_has_none(video: Path) -> None:
    video.write_bytes(video.read_bytes()[:-1000])
    assert read(video).verdict == "none"


def test_a_remux_loses_both_marks_and_keeps_the_streams(video: Path, tmp_path: Path) -> None:
    marked, remuxed = OWN.mark(video, False, "miniature").path, tmp_path / "remuxed.mp4"
    ffmpeg("-i", marked, "-c", "copy", remuxed)
    assert (read(remuxed).verdict, read_source_type(remuxed)) == ("none", None)
    assert hash_streams(remuxed) == hash_streams(marked)


def test_two_runs_give_the_same_streams_in_other_files(plain: Path, tmp_path: Path) -> None:
    first, second = (
        OWN.mark(Path(shutil.copy(plain, tmp_path / name)), False, "miniature").path for name in ("a.mp4", "b.mp4")
    )
    assert first.read_bytes() != second.read_bytes()
    assert hash_streams(first) == hash_streams(second)


def test_with_mark_off_the_file_is_left_alone(video: Path, plain: Path) -> None:
    marked = Marker.open(Settings(mark="off")).mark(video, False, "miniature")
    assert (marked.path, marked.marking, marked.warnings) == (video, None, ())
    assert video.read_bytes() == plain.read_bytes()


# --- what keeps a video from being signed


def expired(marker: Marker) -> Marker:
    assert marker.identity is not None
    return replace(marker, identity=replace(marker.identity, valid_until=datetime.now(UTC)))


def test_an_expired_certificate_is_known_before_the_work() -> None:
    OWN.check_valid()
    Marker(None).check_valid()
    marker = expired(marker_of())
    replace(marker, is_optional=True).check_valid()
    with pytest.raises(MarkingFailed, match="certificate expired on"):
        marker.check_valid()


NO_PURPOSE = make_chain(usages=(ExtendedKeyUsageOID.SERVER_AUTH,))
FAILING: dict[str, Callable[[], Marker]] = {
    "a certificate that expired while the worker ran": lambda: expired(marker_of()),
    "a certificate for web servers": lambda: marker_of(NO_PURPOSE),
    "a time stamp authority that is not there": lambda: marker_of(SIGN_TSA="http://127.0.0.1:9"),
}


@pytest.mark.parametrize("failing", FAILING)
def test_a_failure_to_sign_fails_the_job_or_warns_if_marking_is_optional(
    failing: str, video: Path, plain: Path
) -> None:
    marker = FAILING[failing]()
    with pytest.raises(MarkingFailed, match="could not be signed, so it is not delivered") as failed:
        marker.mark(Path(shutil.copy(video, video.with_name("strict.mp4"))), False, "miniature")
    assert (failed.value.code, failed.value.retryable) == ("marking_failed", True)
    marked = replace(marker, is_optional=True).mark(video, False, "miniature")
    assert (marked.path, marked.marking) == (video, None)
    assert "carries no content credentials" in marked.warnings[0]
    assert hash_streams(video) == hash_streams(plain)
    assert not list(video.parent.glob("signed-*"))


def test_a_full_disk_leaves_the_video_whole(video: Path, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "sign", full)
    marked = replace(OWN, is_optional=True).mark(video, False, "miniature")
    assert hash_streams(marked.path) == hash_streams(plain)


@contextmanager
def silent_server() -> Iterator[str]:
    """A time stamp authority that takes a request and does not answer."""
    let_go = threading.Event()

    class Silent(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            let_go.wait(20)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            let_go.set()
            server.shutdown()
            thread.join()


def test_a_cancelled_job_does_not_wait_for_a_time_stamp(video: Path) -> None:
    def check() -> None:
        if time.monotonic() > started_s + 0.5:
            raise Cancelled("stopped")

    with silent_server() as url:
        marker, started_s = marker_of(SIGN_TSA=url), time.monotonic()
        with ended_by(check), pytest.raises(Cancelled):
            marker.mark(video, False, "miniature")
        assert time.monotonic() - started_s < 3


def test_a_time_stamp_that_does_not_come_is_given_up(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIME_LIMIT_S", 0.5)
    with silent_server() as url, pytest.raises(MarkingFailed):
        marker_of(SIGN_TSA=url).mark(video, False, "miniature")
