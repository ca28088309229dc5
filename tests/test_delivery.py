import base64
import json
import re

import boto3
import pytest
import requests
from moto.server import ThreadedMotoServer

from infinitetalk import delivery
from infinitetalk.delivery import (
    ANSWER_LIMIT_BYTES,
    MAX_BASE64_VIDEO_BYTES,
    Delivered,
    choose_delivery,
    estimate_video_bytes,
)
from infinitetalk.errors import DeliveryFailed, InvalidInput, TooLarge
from infinitetalk.settings import Settings

BUCKET = {
    "BUCKET_ENDPOINT_URL": "https://s3.example.com",
    "BUCKET_ACCESS_KEY_ID": "test-key",
    "BUCKET_SECRET_ACCESS_KEY": "test-SECRET",
}


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "made.mp4"
    path.write_bytes(bytes(range(256)) * 1000)
    return path


@pytest.fixture
def volume(tmp_path):
    folder = tmp_path / "volume"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def s3_url():
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_url):
    """A bucket named `videos`; returns the settings of a worker that uploads to it."""
    requests.post(f"{s3_url}/moto-api/reset", timeout=5)
    _client(s3_url).create_bucket(Bucket="videos")
    return Settings.from_env(BUCKET | {"BUCKET_ENDPOINT_URL": s3_url, "BUCKET_NAME": "videos"})


def _client(s3_url):
    return boto3.client(
        "s3",
        endpoint_url=s3_url,
        region_name="us-east-1",
        aws_access_key_id="test-key",
        aws_secret_access_key="test-secret",
    )


# ---- choosing ----


@pytest.mark.parametrize(
    ("asked", "env", "chosen"),
    [
        (None, {}, "base64"),
        (None, BUCKET, "url"),
        (None, BUCKET | {"OUTPUT": "base64"}, "base64"),
        ("base64", BUCKET, "base64"),
        ("url", BUCKET | {"OUTPUT": "base64"}, "url"),
    ],
)
def test_the_job_chooses_before_the_worker(asked, env, chosen):
    assert choose_delivery(asked, Settings.from_env(env)).output == chosen


def test_a_mounted_volume_can_be_chosen(volume):
    settings = Settings.from_env({"VOLUME_DIR": str(volume)})
    assert choose_delivery("volume", settings).output == "volume"


def test_url_without_a_bucket_names_what_to_set():
    with pytest.raises(InvalidInput, match=r"output is url, .*BUCKET_ENDPOINT_URL.*base64, volume"):
        choose_delivery("url", Settings.from_env({}))


def test_a_missing_volume_is_the_callers_error_only_if_the_caller_chose_it(tmp_path):
    env = {"VOLUME_DIR": str(tmp_path / "none")}
    with pytest.raises(InvalidInput, match=r"output is volume, .*VOLUME_DIR.*url, base64"):
        choose_delivery("volume", Settings.from_env(env))
    with pytest.raises(DeliveryFailed, match=r"output is volume, .*VOLUME_DIR"):
        choose_delivery(None, Settings.from_env(env | {"OUTPUT": "volume"}))


def test_a_read_only_volume_is_refused(volume, monkeypatch):
    monkeypatch.setattr(delivery.os, "access", lambda *_: False)
    with pytest.raises(InvalidInput, match="read-only"):
        choose_delivery("volume", Settings.from_env({"VOLUME_DIR": str(volume)}))


# ---- base64 ----


def test_base64_holds_the_videos_bytes(video):
    delivered = choose_delivery("base64", Settings.from_env({})).deliver(video, "job-1")
    head, content = delivered.video.split(",")
    assert head == "data:video/mp4;base64"
    assert base64.b64decode(content) == video.read_bytes()
    assert delivered == Delivered(video=delivered.video)


def test_the_largest_base64_video_fits_into_an_answer_with_room_for_the_rest(tmp_path):
    video = tmp_path / "large.mp4"
    video.write_bytes(bytes(MAX_BASE64_VIDEO_BYTES))
    delivered = choose_delivery("base64", Settings.from_env({})).deliver(video, "job-1")
    answer = json.dumps({"output": {"video": delivered.video}})
    assert 0 < ANSWER_LIMIT_BYTES - len(answer) < 150_000


def test_a_video_too_large_for_base64_is_refused_before_and_after_it_is_made(tmp_path):
    way = choose_delivery("base64", Settings.from_env({}))
    way.check_fits(MAX_BASE64_VIDEO_BYTES)
    with pytest.raises(TooLarge, match=r"^output base64: .* 7.4 MB .* url or volume"):
        way.check_fits(MAX_BASE64_VIDEO_BYTES + 1)
    video = tmp_path / "large.mp4"
    video.write_bytes(bytes(MAX_BASE64_VIDEO_BYTES + 1))
    with pytest.raises(TooLarge):
        way.deliver(video, "job-1")


def test_other_ways_have_no_size_limit(volume):
    for way in ("url", "volume"):
        choose_delivery(way, Settings.from_env(BUCKET | {"VOLUME_DIR": str(volume)})).check_fits(10**12)


def test_the_estimate_lets_short_videos_pass_and_stops_hopeless_ones():
    way = choose_delivery("base64", Settings.from_env({}))
    way.check_fits(estimate_video_bytes(720, 1280, n_frames=60 * 25))
    with pytest.raises(TooLarge):
        way.check_fits(estimate_video_bytes(720, 1280, n_frames=180 * 25))
    with pytest.raises(TooLarge):
        way.check_fits(estimate_video_bytes(480, 848, n_frames=600 * 25))


# ---- volume ----


def test_volume_keeps_the_video_under_the_jobs_id(video, volume):
    settings = Settings.from_env({"VOLUME_DIR": str(volume)})
    delivered = choose_delivery("volume", settings).deliver(video, "abc-123-u1")
    path = volume / "infinitetalk-output" / "abc-123-u1.mp4"
    assert delivered == Delivered(video_path=str(path))
    assert path.read_bytes() == video.read_bytes()
    assert [entry.name for entry in path.parent.iterdir()] == ["abc-123-u1.mp4"]


def test_a_second_delivery_replaces_the_first(video, volume):
    way = choose_delivery("volume", Settings.from_env({"VOLUME_DIR": str(volume)}))
    way.deliver(video, "same")
    video.write_bytes(b"new")
    way.deliver(video, "same")
    assert (volume / "infinitetalk-output" / "same.mp4").read_bytes() == b"new"


def test_a_full_volume_is_reported_and_leaves_nothing_half_written(video, volume, monkeypatch):
    def copy(_, target):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(delivery.shutil, "copyfile", copy)
    way = choose_delivery("volume", Settings.from_env({"VOLUME_DIR": str(volume)}))
    with pytest.raises(DeliveryFailed, match=r"^output volume: .*No space left on device"):
        way.deliver(video, "job-1")
    assert list((volume / "infinitetalk-output").iterdir()) == []


@pytest.mark.parametrize("job_id", ["../../up", "/etc/x", "a/b", "", ".", "..", ".hidden", "x" * 500, "a\0b", "\ud800"])
def test_no_job_id_leads_out_of_the_output_folder(video, volume, job_id):
    way = choose_delivery("volume", Settings.from_env({"VOLUME_DIR": str(volume)}))
    path = way.deliver(video, job_id).video_path
    assert re.fullmatch(rf"{volume}/infinitetalk-output/[\w-]+\.mp4", path)


def test_different_job_ids_never_share_a_file(video, volume):
    way = choose_delivery("volume", Settings.from_env({"VOLUME_DIR": str(volume)}))
    ids = ["a/b", "a_b", "a:b", "a b"]
    assert len({way.deliver(video, job_id).video_path for job_id in ids}) == len(ids)


# ---- url ----


def test_the_url_gives_the_same_bytes_back(video, bucket, s3_url):
    delivered = choose_delivery("url", bucket).deliver(video, "abc-123-u1")
    assert delivered == Delivered(video_url=delivered.video_url)
    assert delivered.video_url.startswith(f"{s3_url}/videos/infinitetalk-output/abc-123-u1.mp4?")
    answer = requests.get(delivered.video_url, timeout=5)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "video/mp4"
    assert answer.content == video.read_bytes()


def test_the_url_is_signed(video, bucket):
    url = choose_delivery("url", bucket).deliver(video, "job-1").video_url
    assert "X-Amz-Signature=" in url
    assert "X-Amz-Expires=604800" in url
    assert "test-SECRET" not in url


def test_a_missing_bucket_is_named(video, bucket, s3_url, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    settings = bucket.model_copy(update={"bucket_name": "elsewhere"})
    with pytest.raises(DeliveryFailed, match=r"^output url: .*NoSuchBucket") as caught:
        choose_delivery("url", settings).deliver(video, "job-1")
    assert caught.value.retryable
    assert "test-SECRET" not in str(caught.value)
    assert not (tmp_path / "local_upload").exists()


def test_an_endpoint_that_is_no_url_is_a_failed_delivery(video, bucket):
    settings = bucket.model_copy(update={"bucket_endpoint_url": "not a url"})
    with pytest.raises(DeliveryFailed, match=r"^output url: "):
        choose_delivery("url", settings).deliver(video, "job-1")


def test_an_unreachable_endpoint_is_a_failed_delivery(video, bucket, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)  # the SDK's pauses between its tries
    settings = bucket.model_copy(update={"bucket_endpoint_url": "http://127.0.0.1:1"})
    with pytest.raises(DeliveryFailed, match=r"^output url: .*EndpointConnectionError"):
        choose_delivery("url", settings).deliver(video, "job-1")
