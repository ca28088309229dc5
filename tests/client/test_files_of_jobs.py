"""How a job's files travel: inside the request, by the caller's bucket, or not at all."""

import base64
import json

import pytest
import requests

from infinitetalk.client import files as files_module
from infinitetalk.client.files import caller_bucket, check_files, load, request_bytes, unload
from infinitetalk.client.sending import send_job
from infinitetalk.contract.caller import CallerSettings
from infinitetalk.contract.request import Request
from infinitetalk.contract.settings import Settings, SettingsError
from infinitetalk.errors import DeliveryFailed, InvalidInput, MediaUnreadable, TooLarge
from tests.support.media_samples import write_tone
from tests.support.s3 import keys_in


def test_small_files_travel_inside_the_request(face, voice):
    cargo = load(Request.of_files(image=face, audio=voice, seed=3), None, dry_run=True)
    job = cargo.job["input"]
    assert base64.b64decode(job["image_url"].removeprefix("data:image/png;base64,")) == face.read_bytes()
    assert (job["seed"], job["dry_run"], cargo.uploads) == (3, True, ())
    assert "prompt" not in job  # what was not given is the worker's to choose
    Request.parse(job)


def test_the_size_is_the_one_that_the_sdk_posts(face, voice):
    cargo = load(Request.of_files(image=face, audio=voice, prompt="größer"), None)
    posted = requests.Request("POST", "http://a.b/", json=cargo.job).prepare()
    assert request_bytes(cargo.job) == int(posted.headers["Content-Length"])


def test_a_request_over_the_limit_sends_its_largest_files_by_the_bucket(face, voice, s3, bucket, monkeypatch):
    plain = load(Request.of_files(image=face, audio=voice), None)
    monkeypatch.setattr(files_module, "REQUEST_LIMIT_BYTES", request_bytes(plain.job))
    assert load(Request.of_files(image=face, audio=voice), None).uploads == ()
    monkeypatch.setattr(files_module, "REQUEST_LIMIT_BYTES", request_bytes(plain.job) - 1)
    with pytest.raises(TooLarge, match=r"wav_url 0\.0 MB.*set S3_ENDPOINT_URL, S3_BUCKET"):
        load(Request.of_files(image=face, audio=voice), None)
    cargo = load(Request.of_files(image=face, audio=voice), bucket)
    assert cargo.job["input"]["image_url"].startswith("data:")
    assert requests.get(cargo.job["input"]["wav_url"], timeout=5).content == voice.read_bytes()
    assert keys_in(s3) == list(cargo.uploads)
    assert "voice" not in cargo.uploads[0]
    assert unload(bucket, cargo.uploads) == []
    assert keys_in(s3) == []


def test_what_was_uploaded_goes_if_the_job_cannot_be_sent(face, voice, s3, bucket, endpoint, platform, monkeypatch):
    monkeypatch.setattr(files_module, "REQUEST_LIMIT_BYTES", 1000)
    platform.odd_calls.append(400)
    with pytest.raises(ValueError, match="HTTP 400"):
        send_job(Request.of_files(image=face, audio=voice), endpoint, bucket)
    assert keys_in(s3) == []


def test_a_bucket_that_refuses_is_told(face, voice, s3, monkeypatch):
    env = {
        "S3_ENDPOINT_URL": s3.meta.endpoint_url,
        "S3_ACCESS_KEY_ID": "test-key",
        "S3_SECRET_ACCESS_KEY": "test-SECRET",
    }
    bucket = caller_bucket(CallerSettings.from_env(env, "nowhere"))
    monkeypatch.setattr(files_module, "REQUEST_LIMIT_BYTES", 1000)
    with pytest.raises(DeliveryFailed, match=r"upload to your bucket failed \(NoSuchBucket\); check the S3_ variables"):
        load(Request.of_files(image=face, audio=voice), bucket)


def test_what_stays_in_the_bucket_is_told():
    assert unload(None, ["a/b.png"]) == ["a/b.png stays in your bucket, since the S3_ variables are not set now."]


def test_entries_of_speakers_travel_too(face, voice, tmp_path):
    other = write_tone(tmp_path / "other.wav", 0.3)
    speakers = [{"audio": str(voice), "face": 0}, {"audio": str(other), "start_s": 1.5}]
    job = load(Request.of_files(image=face, speakers=speakers), None).job["input"]
    voices = [base64.b64decode(entry["wav_url"].partition(",")[2]) for entry in job["speakers"]]
    assert voices == [voice.read_bytes(), other.read_bytes()]
    assert [entry.get("start_s") for entry in job["speakers"]] == [None, 1.5]
    Request.parse(job)


def test_texts_that_alone_are_too_long_are_told(face, voice, monkeypatch):
    monkeypatch.setattr(files_module, "REQUEST_LIMIT_BYTES", 100)
    with pytest.raises(InvalidInput, match="too long for a request, even without its files"):
        load(Request.of_files(image=face, audio=voice, prompt="x" * 200), None)


def test_files_are_looked_at_as_the_worker_will(face, voice, tmp_path):
    settings = Settings(work_dir=tmp_path)
    check_files(Request.of_files(image=face, audio=voice), settings)
    check_files(Request.of_files(image=face, speakers=[{"audio": str(voice)}]), settings)
    with pytest.raises(MediaUnreadable, match="image_url"):
        check_files(Request.of_files(image=voice, audio=voice), settings)
    with pytest.raises(MediaUnreadable, match="video_url"):
        check_files(Request.of_files(video=face, audio=voice), settings)
    with pytest.raises(TooLarge, match="wav_url"):
        check_files(Request.of_files(image=face, audio=voice), settings.model_copy(update={"max_audio_s": 0.1}))
    with pytest.raises(TooLarge, match=r"image_url: over 0\.001 MB"):
        big = tmp_path / "big.png"
        big.write_bytes(face.read_bytes() + bytes(2000))
        check_files(Request.of_files(image=big, audio=voice), settings.model_copy(update={"max_image_mb": 0.001}))
    assert {path.name for path in tmp_path.iterdir()} == {"face.png", "voice.wav", "big.png"}


def test_half_a_bucket_is_refused():
    with pytest.raises(SettingsError, match="S3_ENDPOINT_URL, S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY missing"):
        CallerSettings.from_env({}, "videos")
    with pytest.raises(SettingsError, match="S3_ENDPOINT_URL is not"):
        CallerSettings.from_env(
            dict.fromkeys(("S3_ENDPOINT_URL", "S3_BUCKET", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY"), "x")
        )
    assert caller_bucket(CallerSettings.from_env({})) is None
    assert "SECRET" not in json.dumps(str(CallerSettings.from_env({"RUNPOD_API_KEY": "SECRET"})))
