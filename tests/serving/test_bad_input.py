"""What callers send by mistake or malice: each gets an answer that names the field, and the model never runs.

Jobs go the whole way: handler, contract, a real web server or data: URIs, ffmpeg and Pillow, on the miniature.
"""

import asyncio
import base64
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile

import handler as worker
from infinitetalk.contract.presets import load_profile
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import Internal
from infinitetalk.serving.jobs import make_handler
from infinitetalk.transfer import delivery, downloads
from tests.support.golden import GOLDEN, wan_folder
from tests.support.media_samples import cut_off, ffmpeg, write_picture, write_talking_video, write_tone

SECRET = "hunter2"  # what no answer and no log line may hold
VIDEO = {"input_type": "video", "image_url": None, "video_url": "head.mp4"}
MULTI = {"person_count": "multi", "wav_url_2": "voice.wav"}


# ---- files ----


def wav(samples: np.ndarray, rate_hz: int = 16_000) -> bytes:
    """A wav file of 32-bit floats."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format="WAV", subtype="FLOAT")
    return file.getvalue()


def black_png(width: int, height: int) -> bytes:
    """A complete black-and-white picture that is black, of any size: a hundred kilobytes for 900 million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, row = zlib.compressobj(1), bytes(1 + (width + 7) // 8)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Good and bad media by name."""
    folder = tmp_path_factory.mktemp("media")
    face = write_picture(folder / "face.png")
    voice = write_tone(folder / "voice.wav", 0.4)
    head = write_talking_video(folder / "head.mp4", 0.4)
    ffmpeg("-i", head, "-c", "copy", "-movflags", "+faststart", folder / "fast.mp4")
    no_frames = ["-i", head, "-c", "copy", "-bsf:v", "noise=drop=1"]
    ffmpeg(*no_frames, folder / "no_frames.mkv")
    ffmpeg(*no_frames, "-movflags", "+empty_moov", folder / "no_frames.mp4")
    ffmpeg("-i", head, "-an", "-c", "copy", folder / "silent.mp4")
    silence = ["-f", "lavfi", "-i", "anullsrc=r=8000:cl=mono:n=16384", "-t", "10800"]
    ffmpeg(*silence, "-frame_size", "65535", folder / "three_hours.flac")  # large frames: written in half a second
    paths = [face, voice, head, *(cut_off(path) for path in (face, voice, head, folder / "fast.mp4"))]
    paths += [folder / name for name in ("no_frames.mkv", "no_frames.mp4", "silent.mp4", "three_hours.flac")]
    return {path.name: path.read_bytes() for path in paths} | {
        "empty": b"",
        "page.html": b"<!DOCTYPE html>\n<html><body>Please log in</body></html>",
        "words.txt": b"Thank you for your order. " * 50,
        "no_samples.wav": wav(np.zeros(0, np.float32)),
        "nan.wav": wav(np.full(16_000, np.nan, np.float32)),
        "short.wav": wav(np.full(320, 0.1, np.float32)),
        "1x1.png": black_png(1, 1),
        "30000x30000.png": black_png(30_000, 30_000),
    }


# ---- asking ----


class Caller:
    """Sends jobs to a handler on the miniature, whose every beginning of work is remembered and stopped."""

    def __init__(self, site, files, work_dir, models, monkeypatch, caplog):
        self.site, self.files, self.work_dir, self.models, self.caplog = site, files, work_dir, models, caplog
        self.ran = []
        site.pages = {f"/{name}": content for name, content in files.items()}
        for work in ("write_soundtrack", "embed_voice", "generate"):
            monkeypatch.setattr(f"infinitetalk.job.render.{work}", lambda *_, work=work: self.begin(work))

    def begin(self, work):
        self.ran.append(work)
        raise Internal("stopped by the test")

    def address(self, name):
        return f"{self.site.url}/{name}?token={SECRET}"

    def ask(self, job):
        settings = Settings.from_env({"WORK_DIR": str(self.work_dir)})
        handler = make_handler(lambda: self.models, settings, lambda *_: None, retire=lambda: None)
        return asyncio.run(handler({"id": "job-1"} | job))

    def send(self, **fields):
        """The answer to a good job with `fields` changed (None: left out); names of files become addresses."""
        job = {"image_url": "face.png", "wav_url": "voice.wav", "seed": 1, "speed_mode": "turbo"} | fields
        for name, value in job.items():
            if name.endswith(("_url", "_url_2")) and value in self.files:
                job[name] = self.address(value)
        return self.ask({"input": {name: value for name, value in job.items() if value is not None}})

    def refused(self, answer, code, *words, retryable=False):
        """Check a failure: its code, that it holds the words, tells nothing it should not, and left nothing."""
        assert set(answer) == {"error", "error_code", "retryable"}
        error = answer["error"]
        assert (answer["error_code"], answer["retryable"]) == (code, retryable), error
        for word in words:
            assert word in error
        assert "\n" not in error
        assert len(error) < 1000
        assert error.endswith(".")
        for told in (error, self.caplog.text):
            for inside in (SECRET, base64.b64encode(SECRET.encode()).decode(), str(self.work_dir), "Traceback"):
                assert inside not in told
        assert "127.0.0.1" not in error
        assert self.ran == []
        assert not self.work_dir.exists() or list(self.work_dir.iterdir()) == []


@pytest.fixture
def caller(site, files, tmp_path, models, monkeypatch, caplog):
    caplog.set_level("DEBUG", "infinitetalk")
    return Caller(site, files, tmp_path / "work", models, monkeypatch, caplog)


@pytest.mark.parametrize("fields", [{}, VIDEO, MULTI], ids=["picture", "video", "two people"])
def test_the_good_jobs_that_are_spoilt_below_do_begin(caller, fields):
    assert caller.send(**fields)["error"] == "stopped by the test"
    assert caller.ran == ["write_soundtrack"]


# ---- fields ----


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"speed_mode": "warp"}, ("speed_mode", "warp", "maximum_quality, balanced, fast or turbo")),
        ({"input_type": "gif"}, ("input_type", "gif", "image or video")),
        ({"person_count": "crowd"}, ("person_count", "crowd", "single or multi")),
        ({"person_count": 2}, ("person_count", "2", "single or multi")),
        ({"aspect_ratio": "5:4"}, ("aspect_ratio", "5:4", "16:9, 9:16, 1:1, 4:3, 3:4 or source")),
        ({"fit": "stretch"}, ("fit", "stretch", "crop, pad or whole")),
        ({"resolution": "1080p"}, ("resolution", "1080p", "480p or 720p")),
        ({"speaker_order": "at_once"} | MULTI, ("speaker_order", "at_once", "first_then_second")),
        ({"output": "fax"}, ("output", "fax", "url, base64 or volume")),
        ({"promt": "A man."}, ("promt", "did you mean prompt?")),
        ({"width": 1280, "height": 720}, ("width", "height", "aspect_ratio and resolution")),
        ({"zzzzzz": 1}, ("zzzzzz", "the fields are", "wav_url")),
        ({"prompt": 7}, ("prompt", "7", "text")),
        ({"dry_run": "yes"}, ("dry_run", "yes", "true or false")),
        ({"image_url": None}, ("image_url is missing", "input_type image")),
        ({"wav_url": None}, ("wav_url is missing",)),
        ({"input_type": "video", "image_url": None}, ("video_url is missing",)),
        ({"video_url": "head.mp4"}, ("video_url is only for input_type video",)),
        (VIDEO | {"image_url": "face.png"}, ("image_url is only for input_type image",)),
        ({"wav_url_2": "voice.wav"}, ("wav_url_2 is only for person_count multi",)),
        ({"person_count": "multi"}, ("wav_url_2 is missing", "person_count multi")),
        (MULTI | {"speaker_boxes": [[0, 0, 0.5, 1], [0.5, 0, 1.2, 1]]}, ("speaker_boxes[1][2]", "1.2", "<= 1")),
        (MULTI | {"speaker_boxes": [[-0.1, 0, 0.5, 1], [0.5, 0, 1, 1]]}, ("speaker_boxes[0][0]", "-0.1", "0 <=")),
        (MULTI | {"speaker_boxes": [[0, 0, 0.6, 1], [0.5, 0, 1, 1]]}, ("speaker_boxes overlap",)),
        (MULTI | {"speaker_boxes": [[0.6, 0, 0.2, 1], [0.7, 0, 1, 1]]}, ("speaker_boxes[0]", "x0 < x1")),
        (MULTI | {"speaker_boxes": [[0.2, 0, 0.2, 1], [0.5, 0, 1, 1]]}, ("speaker_boxes[0]", "x0 < x1")),
        (MULTI | {"speaker_boxes": []}, ("speaker_boxes", "two boxes")),
        (MULTI | {"speaker_boxes": [[], []]}, ("speaker_boxes", "two boxes")),
        ({"seed": 1.5}, ("seed", "1.5", "whole number")),
        ({"seed": "seven"}, ("seed", "seven", "whole number")),
        ({"seed": True}, ("seed", "true", "whole number")),
        ({"seed": -1}, ("seed", "-1", "from 0")),
        ({"seed": 2**63}, ("seed", str(2**63))),
        ({"max_duration_s": 0}, ("max_duration_s", "0", "number from 0.04")),
        ({"max_duration_s": 1e308}, ("max_duration_s", "to 86400")),
        ({"max_duration_s": float("nan")}, ("max_duration_s", "number from 0.04")),
        ({"output": "url"}, ("output", "no bucket", "BUCKET_ENDPOINT_URL", "base64")),
        ({"output": "volume"}, ("output", "no volume", "VOLUME_DIR", "base64")),
    ],
    ids=str,
)
def test_wrong_fields_are_refused_before_anything_is_fetched(caller, fields, words):
    caller.refused(caller.send(**fields), "invalid_input", *words)
    assert not caller.site.hits


@pytest.mark.parametrize("field", ["image_url", "video_url", "wav_url", "wav_url_2"])
@pytest.mark.parametrize(
    "url",
    [
        "",
        "my voice",
        "/etc/passwd",
        "file:///etc/passwd",
        "ftp://example.com/voice.wav",
        "s3://bucket/voice.wav",
        f"http://user:{SECRET}@",
        f"htp://example.com/voice.wav?token={SECRET}",
        "http://",
        "http://example.com:port/voice.wav",
        "http://[::1/voice.wav",
        f"http://example.com/a b.wav?token={SECRET}",
        "data:",
        f"data:audio/wav,{SECRET}",
        "data:audio/wav;base64,",
    ],
)
def test_what_is_no_url_is_refused(caller, field, url):
    kind = VIDEO if field == "video_url" else MULTI
    caller.refused(caller.send(**kind | {field: url}), "invalid_input", field, "must")
    assert not caller.site.hits


def test_every_problem_is_named_at_once(caller):
    answer = caller.send(speed_mode="warp", seed="x", image_url=None, promt="A man.")
    caller.refused(answer, "invalid_input", "speed_mode", "seed", "image_url is missing", "promt")


@pytest.mark.parametrize("job", [{}, *({"input": value} for value in (None, [], "text", 3, True))], ids=str)
def test_a_job_without_an_object_as_input_is_refused(caller, job):
    caller.refused(caller.ask(job), "invalid_input", "input", "object")


def test_boxes_outside_the_visible_part_are_refused(caller):
    """A 96x64 picture cropped to 9:16 shows its middle third."""
    boxes = [[0, 0, 0.1, 1], [0.5, 0, 0.6, 1]]
    caller.refused(
        caller.send(**MULTI, speaker_boxes=boxes), "invalid_input", "speaker_boxes", "speaker_boxes[0]", "aspect_ratio"
    )


def test_20_mb_of_base64_are_refused(caller):
    content = base64.b64encode(SECRET.encode() * (15_000_000 // len(SECRET))).decode()
    assert len(content) == pytest.approx(20_000_000, abs=100)
    answer = caller.send(wav_url=f"data:audio/wav;base64,{content}")
    caller.refused(answer, "too_large", "wav_url", "14000000 characters", "http(s) URL")


def test_base64_that_is_cut_off_or_is_none_is_refused(caller):
    content = base64.b64encode(b"RIFF" + SECRET.encode() * 9).decode()
    for text in (content[:-3], content + "!", "%%%%"):
        caller.refused(caller.send(wav_url=f"data:audio/wav;base64,{text}"), "invalid_input", "wav_url", "base64")


def test_a_video_that_cannot_fit_the_answer_is_refused(caller, monkeypatch):
    monkeypatch.setattr(delivery, "MAX_BASE64_VIDEO_BYTES", 1000)
    caller.refused(caller.send(), "too_large", "output", "a bucket", "a volume")


# ---- downloads ----


@pytest.mark.parametrize("field", ["image_url", "video_url", "wav_url", "wav_url_2"])
def test_an_address_without_a_file_is_refused(caller, field):
    kind = VIDEO | MULTI if field == "video_url" else MULTI
    answer = caller.send(**kind | {field: caller.address("nothing")})
    caller.refused(answer, "invalid_input", field, "HTTP 404 Not Found", "anyone can download")


def test_a_server_in_trouble_may_be_asked_again(caller, monkeypatch):
    monkeypatch.setattr(downloads, "RETRY_PAUSES_S", (0.01, 0.01))
    caller.site.pages["/busy"] = lambda request: request.send_error(503)
    answer = caller.send(wav_url=caller.address("busy"))
    caller.refused(answer, "download_failed", "wav_url", "HTTP 503", "try again", retryable=True)
    assert caller.site.hits["/busy"] == 3


def test_a_server_that_is_not_there_may_be_asked_again(caller, monkeypatch):
    monkeypatch.setattr(downloads, "RETRY_PAUSES_S", (0.01, 0.01))
    answer = caller.send(image_url=f"http://127.0.0.1:9/face.png?token={SECRET}")
    caller.refused(answer, "download_failed", "image_url", "connection", "try again", retryable=True)


@pytest.mark.parametrize("address", ["http://127.0.0.1:{port}", "http://169.254.169.254", "http://localhost:{port}"])
def test_addresses_of_the_worker_itself_are_refused(caller, monkeypatch, address):
    monkeypatch.delenv("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS")
    port = caller.site.url.rpartition(":")[2]
    voice = f"data:audio/wav;base64,{base64.b64encode(caller.files['voice.wav']).decode()}"
    answer = caller.send(image_url=f"{address.format(port=port)}/face.png?token={SECRET}", wav_url=voice)
    caller.refused(answer, "invalid_input", "image_url", "public http(s) address")
    assert caller.site.hits["/face.png"] == 0


# ---- media ----


@pytest.mark.parametrize(
    ("field", "file", "code", "words"),
    [
        *((field, "empty", "media_unreadable", ("empty",)) for field in ("image_url", "video_url", "wav_url")),
        *((field, "page.html", "media_unreadable", ("web page",)) for field in ("image_url", "video_url", "wav_url")),
        *((field, "words.txt", "media_unreadable", ("send",)) for field in ("image_url", "video_url", "wav_url")),
        ("wav_url_2", "page.html", "media_unreadable", ("web page",)),
        ("wav_url", "cut_voice.wav", "media_unreadable", ("truncated", "again")),
        ("wav_url", "cut_head.mp4", "media_unreadable", ("truncated", "again")),
        ("wav_url", "cut_fast.mp4", "media_unreadable", ("truncated", "again")),
        ("wav_url", "face.png", "media_unreadable", ("a picture", "send")),
        ("wav_url", "silent.mp4", "media_unreadable", ("no sound", "send")),
        ("wav_url", "no_samples.wav", "media_unreadable", ("0 s", "0.04 s")),
        ("wav_url", "nan.wav", "media_unreadable", ("not numbers", "again")),
        ("wav_url", "short.wav", "media_unreadable", ("0.02 s", "0.04 s")),
        ("wav_url_2", "short.wav", "media_unreadable", ("0.02 s", "0.04 s")),
        ("wav_url", "three_hours.flac", "too_large", ("600 s", "max_duration_s")),
        ("wav_url_2", "three_hours.flac", "too_large", ("600 s", "max_duration_s")),
        ("image_url", "cut_face.png", "media_unreadable", ("truncated", "again")),
        ("image_url", "voice.wav", "media_unreadable", ("a sound or video", "PNG")),
        ("image_url", "head.mp4", "media_unreadable", ("a sound or video", "PNG")),
        ("image_url", "1x1.png", "media_unreadable", ("1x1", "16x16")),
        ("image_url", "30000x30000.png", "too_large", ("100 million pixels", "smaller")),
        ("video_url", "cut_head.mp4", "media_unreadable", ("truncated", "again")),
        ("video_url", "cut_fast.mp4", "media_unreadable", ("truncated", "again")),
        ("video_url", "voice.wav", "media_unreadable", ("no video", "send")),
        ("video_url", "face.png", "media_unreadable", ("a picture", "send")),
        ("video_url", "no_frames.mkv", "media_unreadable", ("no frames", "again")),
        ("video_url", "no_frames.mp4", "media_unreadable", ("no frames", "again")),
    ],
)
def test_unusable_media_are_refused(caller, field, file, code, words):
    kind = VIDEO if field == "video_url" else MULTI if field == "wav_url_2" else {}
    caller.refused(caller.send(**kind | {field: file}), code, field, *words)


@pytest.mark.parametrize(
    ("field", "file", "word"),
    [
        ("wav_url", "page.html", "web page"),
        ("wav_url", "cut_voice.wav", "truncated"),
        ("image_url", "cut_face.png", "truncated"),
        ("video_url", "cut_fast.mp4", "truncated"),
    ],
)
def test_unusable_media_in_data_uris_are_refused(caller, field, file, word):
    kind = VIDEO if field == "video_url" else {}
    content = base64.b64encode(caller.files[file]).decode()
    answer = caller.send(**kind | {field: f"data:application/octet-stream;base64,{content}"})
    caller.refused(answer, "media_unreadable", field, word)
    assert content[:20] not in answer["error"]


def test_a_dry_run_reads_the_media_too(caller):
    caller.refused(caller.send(dry_run=True, wav_url="nan.wav"), "media_unreadable", "wav_url")


# ---- weights ----


@pytest.mark.long  # in a process of its own
def test_a_worker_with_broken_weights_ends_in_one_line(tmp_path):
    """`python handler.py` on a folder whose transformer is cut off; what else can be wrong is in test_loading."""
    base = tmp_path / "Wan2.1-I2V-14B-480P"
    base.mkdir()
    wan_folder(base)
    (tmp_path / "InfiniteTalk").mkdir()
    for name in ("single", "multi"):
        (tmp_path / "InfiniteTalk" / name).mkdir()
        shutil.copy(base / "infinitetalk.safetensors", tmp_path / "InfiniteTalk" / name)
    shutil.copytree(GOLDEN / "audio_encoder", tmp_path / "chinese-wav2vec2-base")
    file = base / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    for source in load_profile("infinitetalk-14b").sources:  # whatever is missing would be named first
        for name in source.files:
            other = tmp_path / source.name / name
            other.parent.mkdir(parents=True, exist_ok=True)
            other.touch()
    settings = {"MODEL_PROFILE": "infinitetalk-14b", "MODELS_DIR": str(tmp_path), "DEVICE": "cpu", "MIN_VRAM_GIB": "0"}
    command = [sys.executable, str(Path(worker.__file__)), "--test_input", json.dumps({"input": {}})]
    done = subprocess.run(command, env=os.environ | settings, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("The worker cannot start: ")
    assert "diffusion_pytorch_model" in done.stderr
    assert "fetch it again" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stdout
