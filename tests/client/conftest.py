"""A worker's local API and the stand-in platform, both with the worker's own code and the miniature behind them."""

import threading
import time

import pytest
import uvicorn
from runpod.serverless.modules.rp_logger import RunPodLogger

from infinitetalk.client import following
from infinitetalk.client.endpoint import RemoteEndpoint
from infinitetalk.client.files import caller_bucket
from infinitetalk.contract.caller import CallerSettings
from infinitetalk.contract.settings import Settings
from infinitetalk.serving import updates
from infinitetalk.serving.jobs import make_handler
from infinitetalk.serving.local_api import LocalApi, LocalProgress
from tests.support.caller_platform import CALLER_KEY, CallerPlatform, answering
from tests.support.media_samples import write_picture, write_tone
from tests.support.runpod_platform import serve
from tests.support.s3 import make_bucket, s3_server


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Questions follow each other quickly, and no key of this machine is used."""
    monkeypatch.setattr(following, "POLL_S", 0.02)
    monkeypatch.setattr(updates, "PROGRESS_INTERVAL_S", 0.02)
    for name in ("RUNPOD_API_KEY", "S3_ENDPOINT_URL", "S3_BUCKET", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def face(tmp_path):
    return write_picture(tmp_path / "face.png")


@pytest.fixture
def voice(tmp_path):
    return write_tone(tmp_path / "voice.wav", 0.2)


@pytest.fixture(scope="module")
def api(models, tmp_path_factory):
    """The address of a worker's local API (`handler.py --rp_serve_api`), whose videos come in the answer."""
    settings = Settings(output="base64", work_dir=tmp_path_factory.mktemp("work"))
    local, sdk = LocalProgress(), RunPodLogger()
    level = sdk.level
    sdk.set_level("ERROR")  # it prints
    handler = make_handler(lambda: models, settings, local.note, retire=lambda: None)
    app = LocalApi(local, {"handler": handler}).rp_app
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()
    sdk.level = level


@pytest.fixture
def platform(models, tmp_path):
    """The stand-in platform, with a worker that puts videos on a volume."""
    platform = CallerPlatform()
    volume = tmp_path / "volume"
    volume.mkdir()
    settings = Settings(output="volume", volume_dir=volume, work_dir=tmp_path)
    with serve(platform) as address, answering(platform, models, settings):
        platform.base = address.removesuffix("/endpoint")
        yield platform


@pytest.fixture(scope="module")
def s3():
    """A client of a real S3 server on which there is the bucket "videos"."""
    with s3_server() as url:
        yield make_bucket(url)


@pytest.fixture
def bucket(s3):
    """The caller's bucket there."""
    env = {"S3_ENDPOINT_URL": s3.meta.endpoint_url, "S3_ACCESS_KEY_ID": "test-key"}
    return caller_bucket(CallerSettings.from_env(env | {"S3_SECRET_ACCESS_KEY": "test-SECRET"}, "videos"))


@pytest.fixture
def endpoint(platform, monkeypatch):
    """The platform's endpoint, as the SDK finds it."""
    monkeypatch.setattr("runpod.endpoint_url_base", platform.base)
    return RemoteEndpoint.on_runpod("endpoint", CALLER_KEY)
