"""Where a preview's files lie: in a bucket behind signed URLs, on the volume, beside a file of this machine."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

from infinitetalk.contract.request import Request
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import Cancelled
from infinitetalk.progress import Preview
from infinitetalk.transfer.bucket import Bucket, BucketError
from infinitetalk.transfer.exchange import Exchange, local_exchange, network_exchange
from infinitetalk.transfer.preview_folder import FOLDER, BucketFolder, VolumeFolder
from infinitetalk.transfer.volume import Volume
from tests.transfer.test_delivery import BUCKET

WEEK_S = 7 * 86_400


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A client of an S3 server on loopback."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    client = boto3.client(
        "s3", endpoint_url=url, aws_access_key_id="a", aws_secret_access_key="SECRET", region_name="us-east-1"
    )
    yield client
    server.stop()


@pytest.fixture
def folder(s3: Any) -> BucketFolder:
    """In an empty bucket."""
    requests.post(f"{s3.meta.endpoint_url}/moto-api/reset", timeout=5)
    s3.create_bucket(Bucket="videos")
    return BucketFolder(Bucket(s3.meta.endpoint_url, "videos", "a", "SECRET"), f"{FOLDER}/job-1")


def keys_of(s3: Any) -> list[str]:
    return [entry["Key"] for entry in s3.list_objects_v2(Bucket="videos").get("Contents", ())]


def go_on() -> None:
    """The job need not end."""


def test_a_bucket_gives_each_file_one_signed_address_for_a_week(folder: BucketFolder, s3: Any, tmp_path: Path) -> None:
    segment = tmp_path / "part"
    segment.write_bytes(b"frames")
    folder.write({"00000.m4s": segment, "preview.m3u8": b"list"}, go_on)
    for name, content, kind in (
        ("00000.m4s", b"frames", "video/iso.segment"),
        ("preview.m3u8", b"list", "application/vnd.apple.mpegurl"),
    ):
        url = folder.address(name)
        assert url.startswith(f"{s3.meta.endpoint_url}/videos/{FOLDER}/job-1/{name}?")
        assert "X-Amz-Signature=" in url
        assert f"X-Amz-Expires={WEEK_S}" in url
        assert folder.address(name) == url, "players would take another address for another file"
        answer = requests.get(url, timeout=5)
        assert (answer.content, answer.headers["Content-Type"]) == (content, kind)
        assert (answer.headers.get("Cache-Control") == "no-cache") == (name == "preview.m3u8")
    assert folder.seen("preview.m3u8") == Preview(preview_url=folder.address("preview.m3u8"))
    assert "SECRET" not in repr(folder)


def test_files_in_a_bucket_are_removed_whether_they_are_there_or_not(folder: BucketFolder, s3: Any) -> None:
    folder.write({"init.mp4": b"1", "00000.m4s": b"2"}, go_on)
    s3.put_object(Bucket="videos", Key=f"{FOLDER}/job-2/init.mp4", Body=b"another's")
    folder.remove(["init.mp4", "00000.m4s", *(f"{i:05}.m4s" for i in range(1, 1003))])
    assert keys_of(s3) == [f"{FOLDER}/job-2/init.mp4"]


def test_a_service_that_does_not_remove_many_at_once_removes_them_one_by_one(
    folder: BucketFolder, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write({"init.mp4": b"1", "00000.m4s": b"2"}, go_on)

    class Old:
        def delete_objects(self, **_: object) -> None:
            raise ClientError({"Error": {"Code": "MissingContentMD5"}}, "DeleteObjects")

        delete_object = s3.delete_object

    monkeypatch.setattr(Bucket, "do", lambda _self, work, *_: work(Old()))
    folder.remove(["init.mp4", "00000.m4s"])
    assert keys_of(s3) == []


def test_a_bucket_that_is_not_there_is_told_in_a_word(s3: Any) -> None:
    nowhere = BucketFolder(Bucket(s3.meta.endpoint_url, "none", "a", "SECRET"), FOLDER)
    with pytest.raises(BucketError, match=r"^NoSuchBucket$"):
        nowhere.write({"init.mp4": b"1"}, go_on)
    with pytest.raises(BucketError, match=r"^NoSuchBucket$"):
        nowhere.remove(["init.mp4"])
    assert str(nowhere) == f"{FOLDER} in the bucket"


def test_a_job_that_ends_ends_an_upload() -> None:
    def ended() -> None:
        raise Cancelled("now")

    silent = BucketFolder(Bucket("http://127.0.0.1:9", "videos", "a", "SECRET"), FOLDER)
    started_s = time.monotonic()
    with pytest.raises(Cancelled):
        silent.write({"init.mp4": b"1"}, ended)
    assert time.monotonic() - started_s < 3


def test_a_folder_on_the_volume_has_relative_names_and_goes_when_it_is_empty(tmp_path: Path) -> None:
    folder = VolumeFolder(Volume(tmp_path), f"{FOLDER}/job-1")
    folder.write({"init.mp4": b"1", "preview.m3u8": b"list"}, go_on)
    place = tmp_path / FOLDER / "job-1"
    assert folder.address("init.mp4") == "init.mp4"
    assert folder.seen("preview.m3u8") == Preview(preview_path=str(place / "preview.m3u8"))
    assert (place / "preview.m3u8").read_bytes() == b"list"
    (place / "notes.txt").write_text("of somebody else")
    folder.remove(["init.mp4", "preview.m3u8", "00000.m4s"])
    assert [file.name for file in place.iterdir()] == ["notes.txt"]
    (place / "notes.txt").unlink()
    folder.remove(["init.mp4"])
    assert not place.exists()
    folder.remove(["init.mp4"])  # nothing is there any more


@pytest.mark.parametrize("is_swept", [True, False])
def test_what_ended_jobs_have_left_on_the_volume_goes_after_a_week(is_swept: bool, tmp_path: Path) -> None:
    for name, age_s in (("old", WEEK_S + 60), ("young", WEEK_S - 3600)):
        (tmp_path / FOLDER / name).mkdir(parents=True)
        os.utime(tmp_path / FOLDER / name, (time.time() - age_s,) * 2)
    VolumeFolder(Volume(tmp_path), f"{FOLDER}/job-1", is_swept).sweep()
    assert (tmp_path / FOLDER / "old").exists() != is_swept
    assert (tmp_path / FOLDER / "young").exists()


@pytest.mark.parametrize(
    ("env", "output", "volume", "kind", "is_unasked"),
    [
        ({}, None, False, None, False),
        ({}, None, True, VolumeFolder, True),
        ({}, "volume", True, VolumeFolder, True),
        (BUCKET, None, False, BucketFolder, True),
        (BUCKET, None, True, BucketFolder, True),
        (BUCKET, "base64", True, VolumeFolder, True),
        (BUCKET, "base64", False, None, False),
        (BUCKET | {"PREVIEW": "false"}, None, True, BucketFolder, False),
    ],
)
def test_a_preview_lies_beside_its_video(
    env: dict[str, str], output: str | None, volume: bool, kind: type | None, is_unasked: bool, tmp_path: Path
) -> None:
    settings = Settings.from_env(env | {"VOLUME_DIR": str(tmp_path if volume else tmp_path / "none")})
    job = {"image_url": "https://example.com/a.png", "wav_url": "https://example.com/a.wav"}
    request = Request.parse(job | ({} if output is None else {"output": output}))
    exchange = network_exchange(request, settings, "job/1")
    folder = exchange.open_preview()
    assert (type(folder) if folder else None, exchange.previews_unasked) == (kind, is_unasked)
    if isinstance(folder, VolumeFolder | BucketFolder):
        assert folder.folder.startswith(f"{FOLDER}/job_1-"), "an id is no path"
    if isinstance(folder, VolumeFolder):
        assert folder.is_swept


def test_kept_previews_are_not_swept(tmp_path: Path) -> None:
    settings = Settings.from_env({"VOLUME_DIR": str(tmp_path), "KEEP_PREVIEW": "true"})
    job = {"image_url": "https://example.com/a.png", "wav_url": "https://example.com/a.wav"}
    folder = network_exchange(Request.parse(job), settings, "job-1").open_preview()
    assert isinstance(folder, VolumeFolder)
    assert not folder.is_swept


def test_on_this_machine_it_lies_beside_the_file_and_only_for_those_who_ask(tmp_path: Path) -> None:
    exchange: Exchange = local_exchange(tmp_path / "out.mp4")
    folder = exchange.open_preview()
    assert isinstance(folder, VolumeFolder)
    assert str(folder) == str(tmp_path / "out-preview")
    assert not folder.is_swept
    assert not exchange.previews_unasked
