import base64
import json
import re

import pytest

from infinitetalk.contract.settings import Settings
from infinitetalk.errors import Cancelled, DeliveryFailed, InvalidInput, TooLarge
from infinitetalk.transfer import delivery
from infinitetalk.transfer import volume as volume_module
from infinitetalk.transfer.bucket import Bucket
from infinitetalk.transfer.delivery import (
    ANSWER_LIMIT_BYTES,
    MAX_BASE64_VIDEO_BYTES,
    Delivered,
    InAnswer,
    ToBucket,
    ToVolume,
    choose_delivery,
    estimate_video_bytes,
)
from infinitetalk.transfer.volume import Volume

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


# ---- choosing ----


def kind_of(way):
    return {InAnswer: "base64", ToBucket: "url", ToVolume: "volume"}[type(way)]


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
    assert kind_of(choose_delivery(asked, Settings.from_env(env), "job-1")) == chosen


def test_a_mounted_volume_can_be_chosen(volume):
    settings = Settings.from_env({"VOLUME_DIR": str(volume)})
    assert kind_of(choose_delivery("volume", settings, "job-1")) == "volume"


def test_url_without_a_bucket_names_what_to_set():
    with pytest.raises(InvalidInput, match=r"output is url, .*BUCKET_ENDPOINT_URL.*base64, volume"):
        choose_delivery("url", Settings.from_env({}), "job-1")


def test_a_missing_volume_is_the_callers_error_only_if_the_caller_chose_it(tmp_path):
    env = {"VOLUME_DIR": str(tmp_path / "none")}
    with pytest.raises(InvalidInput, match=r"output is volume, .*VOLUME_DIR.*url, base64"):
        choose_delivery("volume", Settings.from_env(env), "job-1")
    with pytest.raises(DeliveryFailed, match=r"output is volume, .*VOLUME_DIR"):
        choose_delivery(None, Settings.from_env(env | {"OUTPUT": "volume"}), "job-1")


def test_a_read_only_volume_is_refused(volume, monkeypatch):
    monkeypatch.setattr(delivery.os, "access", lambda *_: False)
    with pytest.raises(InvalidInput, match="read-only"):
        choose_delivery("volume", Settings.from_env({"VOLUME_DIR": str(volume)}), "job-1")


# ---- base64 ----


def test_base64_holds_the_videos_bytes(video):
    delivered = choose_delivery("base64", Settings.from_env({}), "job-1").deliver(video)
    head, content = delivered.video.split(",")
    assert head == "data:video/mp4;base64"
    assert base64.b64decode(content) == video.read_bytes()
    assert delivered == Delivered(video=delivered.video)


def test_the_largest_base64_video_fits_into_an_answer_with_room_for_the_rest(tmp_path):
    video = tmp_path / "large.mp4"
    video.write_bytes(bytes(MAX_BASE64_VIDEO_BYTES))
    delivered = choose_delivery("base64", Settings.from_env({}), "job-1").deliver(video)
    answer = json.dumps({"output": {"video": delivered.video}})
    assert 0 < ANSWER_LIMIT_BYTES - len(answer) < 150_000


def test_a_video_too_large_for_base64_is_refused_before_and_after_it_is_made(tmp_path):
    way = choose_delivery("base64", Settings.from_env({}), "job-1")
    way.check_fits(MAX_BASE64_VIDEO_BYTES)
    with pytest.raises(TooLarge, match=r"^output base64: .* 7.4 MB .*BUCKET_ENDPOINT_URL.*volume"):
        way.check_fits(MAX_BASE64_VIDEO_BYTES + 1)
    with pytest.raises(TooLarge, match="choose output url or volume"):
        choose_delivery("base64", Settings.from_env(BUCKET), "job-1").check_fits(MAX_BASE64_VIDEO_BYTES + 1)
    video = tmp_path / "large.mp4"
    video.write_bytes(bytes(MAX_BASE64_VIDEO_BYTES + 1))
    with pytest.raises(TooLarge):
        way.deliver(video)


def test_other_ways_have_no_size_limit(volume, monkeypatch):
    monkeypatch.setattr(Bucket, "check", lambda *_: None)
    monkeypatch.setattr(Volume, "free_bytes", lambda _: 10**13)
    for way in ("url", "volume"):
        choose_delivery(way, Settings.from_env(BUCKET | {"VOLUME_DIR": str(volume)}), "job-1").check_fits(10**12)


def test_a_full_volume_is_told_before_the_work(volume, monkeypatch):
    way = choose_delivery("volume", Settings.from_env({"VOLUME_DIR": str(volume)}), "job-1")
    monkeypatch.setattr(Volume, "free_bytes", lambda _: 2_000_000)
    way.check_fits(2_000_000)
    with pytest.raises(DeliveryFailed, match=r"^output volume: .* 3.0 MB or more .* 2.0 MB left"):
        way.check_fits(3_000_000)


def test_the_estimate_lets_short_videos_pass_and_stops_hopeless_ones():
    way = choose_delivery("base64", Settings.from_env({}), "job-1")
    way.check_fits(estimate_video_bytes((720, 1280), n_frames=60 * 25))
    with pytest.raises(TooLarge):
        way.check_fits(estimate_video_bytes((720, 1280), n_frames=180 * 25))
    with pytest.raises(TooLarge):
        way.check_fits(estimate_video_bytes((480, 848), n_frames=600 * 25))


# ---- volume ----


def test_volume_keeps_the_video_under_the_jobs_id(video, volume):
    settings = Settings.from_env({"VOLUME_DIR": str(volume)})
    delivered = choose_delivery("volume", settings, "abc-123-u1").deliver(video)
    path = volume / "infinitetalk-output" / "abc-123-u1.mp4"
    assert delivered == Delivered(video_path=str(path))
    assert path.read_bytes() == video.read_bytes()
    assert [entry.name for entry in path.parent.iterdir()] == ["abc-123-u1.mp4"]


def test_a_delivered_video_survives_the_machine(video, volume, monkeypatch):
    done = []
    fsync, replace = volume_module.os.fsync, volume_module.os.replace
    monkeypatch.setattr(volume_module.os, "fsync", lambda handle: (done.append("fsync"), fsync(handle)))
    monkeypatch.setattr(volume_module.os, "replace", lambda *a, **k: (done.append("named"), replace(*a, **k))[1])
    choose_delivery("volume", Settings.from_env({"VOLUME_DIR": str(volume)}), "job-1").deliver(video)
    assert done == ["fsync", "named", "fsync"]


def test_a_second_delivery_replaces_the_first(video, volume):
    way = choose_delivery("volume", Settings.from_env({"VOLUME_DIR": str(volume)}), "same")
    way.deliver(video)
    video.write_bytes(b"new")
    way.deliver(video)
    assert (volume / "infinitetalk-output" / "same.mp4").read_bytes() == b"new"


def test_a_full_volume_is_reported_and_leaves_nothing_half_written(video, volume, monkeypatch):
    def copy(_, target, __):
        target.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(volume_module.shutil, "copyfileobj", copy)
    way = choose_delivery("volume", Settings.from_env({"VOLUME_DIR": str(volume)}), "job-1")
    with pytest.raises(DeliveryFailed, match=r"^output volume: .*No space left on device"):
        way.deliver(video)
    assert list((volume / "infinitetalk-output").iterdir()) == []


@pytest.mark.parametrize("job_id", ["../../up", "/etc/x", "a/b", "", ".", "..", ".hidden", "x" * 500, "a\0b", "\ud800"])
def test_no_job_id_leads_out_of_the_output_folder(video, volume, job_id):
    way = choose_delivery("volume", Settings.from_env({"VOLUME_DIR": str(volume)}), job_id)
    path = way.deliver(video).video_path
    assert re.fullmatch(rf"{volume}/infinitetalk-output/[\w-]+\.mp4", path)


def test_different_job_ids_never_share_a_file(video, volume):
    settings = Settings.from_env({"VOLUME_DIR": str(volume)})
    ids = ["a/b", "a_b", "a:b", "a b"]
    ways = [choose_delivery("volume", settings, job_id) for job_id in ids]
    assert len({way.deliver(video).video_path for way in ways}) == len(ids)


# ---- url: what arrives, and what is tried again, is in test_bucket ----


def failing_upload(self, *_):
    raise DeliveryFailed("output url: the upload to the bucket failed (SlowDown).")


def test_the_key_is_the_jobs_id(video, monkeypatch):
    seen = []
    monkeypatch.setattr(Bucket, "upload", lambda self, *args: seen.append((self, *args)) or "https://signed")
    settings = Settings.from_env(BUCKET | {"BUCKET_NAME": "videos", "UPLOAD_TIMEOUT_S": "7"})
    stop = lambda: False  # noqa: E731
    delivered = choose_delivery("url", settings, "abc-123-u1", stop).deliver(video)
    assert delivered == Delivered(video_url="https://signed")
    bucket = Bucket("https://s3.example.com", "videos", "test-key", "test-SECRET")
    assert seen == [(bucket, video, "infinitetalk-output/abc-123-u1.mp4", "video/mp4", 7.0, stop)]


def test_the_bucket_is_asked_before_the_work(monkeypatch):
    def refuse(*_):
        raise DeliveryFailed("NoSuchBucket")

    monkeypatch.setattr(Bucket, "check", refuse)
    with pytest.raises(DeliveryFailed, match="NoSuchBucket"):
        choose_delivery("url", Settings.from_env(BUCKET), "job-1").check_fits(1)


@pytest.mark.parametrize("endpoint_url", ["not a url", "http://"])
def test_an_endpoint_that_is_no_url_is_a_failed_delivery(endpoint_url, video):
    bucket = Bucket(endpoint_url, "videos", "test-key", "test-SECRET")
    with pytest.raises(DeliveryFailed, match=r"^output url: .*not an endpoint"):
        bucket.check("key")
    with pytest.raises(DeliveryFailed, match=r"^output url: .*not an endpoint"):
        bucket.upload(video, "key", "video/mp4", 5.0, lambda: False)


# ---- what has been made is not thrown away ----


def test_a_video_that_cannot_be_uploaded_is_left_on_the_volume(video, volume, monkeypatch):
    monkeypatch.setattr(Bucket, "upload", failing_upload)
    settings = Settings.from_env(BUCKET | {"VOLUME_DIR": str(volume)})
    delivered = choose_delivery("url", settings, "job-1").deliver(video)
    path = volume / "infinitetalk-output" / "job-1.mp4"
    assert path.read_bytes() == video.read_bytes()
    (warning,) = delivered.warnings
    assert delivered == Delivered(video_path=str(path), warnings=(warning,))
    assert "SlowDown" in warning
    assert "left on the volume" in warning


def test_a_video_too_large_for_an_answer_is_left_on_the_volume(volume, tmp_path):
    video = tmp_path / "large.mp4"
    video.write_bytes(bytes(MAX_BASE64_VIDEO_BYTES + 1))
    delivered = choose_delivery("base64", Settings.from_env({"VOLUME_DIR": str(volume)}), "job-1").deliver(video)
    assert delivered.video is None
    assert (volume / "infinitetalk-output" / "job-1.mp4").stat().st_size == MAX_BASE64_VIDEO_BYTES + 1
    assert "7.4 MB" in delivered.warnings[0]


def test_without_a_volume_the_failure_is_told(video, monkeypatch):
    monkeypatch.setattr(Bucket, "upload", failing_upload)
    with pytest.raises(DeliveryFailed, match="SlowDown"):
        choose_delivery("url", Settings.from_env(BUCKET), "job-1").deliver(video)


def test_a_volume_that_fails_too_leaves_the_first_failure_standing(video, volume, monkeypatch):
    monkeypatch.setattr(Bucket, "upload", failing_upload)
    (volume / "infinitetalk-output").write_text("in the way")
    with pytest.raises(DeliveryFailed, match="SlowDown"):
        choose_delivery("url", Settings.from_env(BUCKET | {"VOLUME_DIR": str(volume)}), "job-1").deliver(video)


def test_a_cancelled_upload_leaves_nothing(video, volume, monkeypatch):
    def cancelled(self, *_):
        raise Cancelled("The job was cancelled.")

    monkeypatch.setattr(Bucket, "upload", cancelled)
    with pytest.raises(Cancelled):
        choose_delivery("url", Settings.from_env(BUCKET | {"VOLUME_DIR": str(volume)}), "job-1").deliver(video)
    assert list(volume.iterdir()) == []
