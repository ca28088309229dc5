"""The bucket against a real S3 server on loopback: what arrives, what is tried again, and what is not."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests

from infinitetalk.contract.settings import Settings
from infinitetalk.errors import Cancelled, DeliveryFailed, InvalidInput
from infinitetalk.transfer import bucket as bucket_module
from infinitetalk.transfer import s3_line, safe_http
from infinitetalk.transfer.bucket import Bucket
from infinitetalk.transfer.delivery import ToBucket, choose_delivery
from infinitetalk.transfer.s3_config import job_bucket
from tests.support.s3 import KEYS, make_bucket, s3_server

TYPE = "video/mp4"


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def s3(server_url: str) -> Iterator[Any]:
    """A client of the server, on which there is one bucket, empty."""
    requests.post(f"{server_url}/moto-api/reset", timeout=5)
    yield make_bucket(server_url)
    requests.post(f"{server_url}/moto-api/reset-auth", data=b"inf", timeout=5)


@pytest.fixture
def bucket(s3: Any, server_url: str) -> Bucket:
    return Bucket(server_url, "videos", "test-key", "test-SECRET")


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "made.mp4"
    path.write_bytes(bytes(range(256)) * 1000)
    return path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Makes boto3's pauses between tries short; returns them as they should have been."""
    pauses: list[float] = []
    sleep = time.sleep

    def nap(seconds: float) -> None:
        pauses.append(seconds)
        sleep(min(seconds, 0.3))

    monkeypatch.setattr("botocore.endpoint.time.sleep", nap)
    return pauses


def upload(
    bucket: Bucket, video: Path, timeout_s: float = 60.0, should_stop: Callable[[], bool] = lambda: False
) -> str:
    return bucket.upload(video, "folder/job-1.mp4", TYPE, timeout_s, should_stop)


# ---- what arrives ----


def test_the_signed_url_downloads_the_same_bytes_as_a_video(bucket: Bucket, video: Path, server_url: str) -> None:
    url = upload(bucket, video)
    assert url.startswith(f"{server_url}/videos/folder/job-1.mp4?")
    assert "X-Amz-Signature=" in url
    assert "X-Amz-Expires=604800" in url
    assert "test-SECRET" not in url
    answer = requests.get(url, timeout=5)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == TYPE
    assert answer.content == video.read_bytes()


@pytest.mark.parametrize(("parts", "more_bytes"), [(1, -1), (2, 0), (3, 12345)])
def test_large_files_go_in_parts(parts: int, more_bytes: int, bucket: Bucket, s3: Any, tmp_path: Path) -> None:
    size = (bucket_module.PART_BYTES * (1 if parts == 1 else parts - 1)) + more_bytes
    if parts == 2:
        size += 1
    video = tmp_path / "large.mp4"
    with video.open("wb") as file:
        file.write(b"start")
        file.seek(size - 3)
        file.write(b"end")
    url = upload(bucket, video)
    stored = s3.head_object(Bucket="videos", Key="folder/job-1.mp4")
    assert stored["ContentType"] == TYPE
    assert stored["ContentLength"] == size
    assert ("-" in stored["ETag"]) == (parts > 1), "S3 marks files of several parts"
    if parts > 1:
        assert stored["ETag"].strip('"').endswith(f"-{parts}")
    assert requests.get(url, timeout=20).content == video.read_bytes()


# ---- what is tried again ----


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_an_outage_that_passes_delays_the_upload(video: Path, quick: list[float]) -> None:
    port, up, done = free_port(), threading.Event(), threading.Event()

    def come_back() -> None:
        time.sleep(0.5)
        with s3_server(port) as url:
            make_bucket(url)
            up.set()
            done.wait(30)

    server = threading.Thread(target=come_back)
    server.start()
    try:
        url = upload(Bucket(f"http://127.0.0.1:{port}", "videos", "test-key", "test-SECRET"), video)
        assert up.wait(10)  # it is there a moment before this is said
        assert requests.get(url, timeout=5).content == video.read_bytes()
        assert quick, "there was no second try"
    finally:
        done.set()
        server.join()


def test_an_outage_that_stays_is_a_failed_delivery_after_eight_tries(video: Path, quick: list[float]) -> None:
    bucket = Bucket(f"http://127.0.0.1:{free_port()}", "videos", "test-key", "test-SECRET")
    with pytest.raises(DeliveryFailed, match=r"^output url: .*EndpointConnectionError"):
        upload(bucket, video)
    assert len(quick) == bucket_module.TRIES - 1
    limits = (1, 2, 4, 8, 16, 20, 20)
    assert all(pause <= limit for pause, limit in zip(quick, limits, strict=True))


def answering(proxy: "Proxy", status: int) -> str:
    proxy.say = f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
    return proxy.url


class Proxy:
    """Stands between client and server, and may answer by itself, hold back, or let through little by little."""

    def __init__(self, target_url: str) -> None:
        self.target = ("127.0.0.1", int(target_url.rsplit(":", 1)[1]))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.connections = 0
        self.say = b""  # the answer to the next connections, as many as `times`
        self.times = 0
        self.mute = False
        self.pause_s = 0.0  # between 64 KiB
        self.ended = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            if self.mute:
                self.ended.wait(60)
                return
            if self.say and self.connections <= self.times:
                client.recv(1 << 16)
                client.sendall(self.say)
                return
            with socket.create_connection(self.target) as server:
                back = threading.Thread(target=self._pump, args=(server, client, 0.0), daemon=True)
                back.start()
                self._pump(client, server, self.pause_s)
                back.join(5)

    def _pump(self, source: socket.socket, target: socket.socket, pause_s: float) -> None:
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
                self.ended.wait(pause_s)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass


@pytest.fixture
def proxy(s3: Any, server_url: str) -> Iterator[Proxy]:
    proxy = Proxy(server_url)
    yield proxy
    proxy.ended.set()
    proxy.listener.close()
    for thread in threading.enumerate():
        if thread.name == "upload":
            thread.join(10)
            assert not thread.is_alive(), "a given-up upload goes on"


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_server_in_trouble_is_tried_again(status: int, proxy: Proxy, video: Path, quick: list[float]) -> None:
    proxy.times = 2
    url = upload(Bucket(answering(proxy, status), "videos", "test-key", "test-SECRET"), video)
    assert len(quick) == 2
    assert requests.get(url, timeout=5).content == video.read_bytes()


def test_a_slow_server_gets_its_time(proxy: Proxy, tmp_path: Path) -> None:
    video = tmp_path / "made.mp4"
    video.write_bytes(bytes(1 << 20))
    proxy.pause_s = 0.05  # 16 times
    url = upload(Bucket(proxy.url, "videos", "test-key", "test-SECRET"), video)
    proxy.pause_s = 0.0
    assert requests.get(url, timeout=5).content == video.read_bytes()


@pytest.mark.parametrize("behaviour", ["mute", "drip"])
def test_a_server_that_never_ends_is_given_up(behaviour: str, proxy: Proxy, tmp_path: Path) -> None:
    video = tmp_path / "made.mp4"
    video.write_bytes(bytes(40 << 20))  # more than the system's buffers hold
    proxy.mute = behaviour == "mute"
    proxy.pause_s = 1.0
    started = time.monotonic()
    with pytest.raises(DeliveryFailed, match=r"not done within 0\.5 s"):
        upload(Bucket(proxy.url, "videos", "test-key", "test-SECRET"), video, timeout_s=0.5)
    assert time.monotonic() - started < 3


def test_a_stopped_job_stops_its_upload(proxy: Proxy, video: Path) -> None:
    proxy.mute = True
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    started = time.monotonic()
    with pytest.raises(Cancelled):
        upload(Bucket(proxy.url, "videos", "test-key", "test-SECRET"), video, should_stop=stop.is_set)
    assert time.monotonic() - started < 3


# ---- what is not ----


@pytest.fixture
def guarded(s3: Any, server_url: str, request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """A server that checks keys; returns keys that may use the bucket, or do there what the parameter allows."""
    iam = boto3.client("iam", endpoint_url=server_url, **KEYS)
    iam.create_user(UserName="worker")
    allowed = {"Effect": "Allow", "Action": getattr(request, "param", "s3:*"), "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    iam.put_user_policy(UserName="worker", PolicyName="some", PolicyDocument=policy)
    keys = iam.create_access_key(UserName="worker")["AccessKey"]
    requests.post(f"{server_url}/moto-api/reset-auth", data=b"0", timeout=5)
    yield keys["AccessKeyId"], keys["SecretAccessKey"]


def test_good_keys_pass(guarded: tuple[str, str], server_url: str, video: Path) -> None:
    bucket = Bucket(server_url, "videos", *guarded)
    bucket.check("folder/.write-check")
    upload(bucket, video)


def test_the_check_leaves_nothing(bucket: Bucket, s3: Any) -> None:
    bucket.check("folder/.write-check")
    assert "Contents" not in s3.list_objects_v2(Bucket="videos")


@pytest.mark.parametrize("guarded", [["s3:PutObject"]], indirect=True)
def test_keys_that_may_only_write_pass(guarded: tuple[str, str], server_url: str, video: Path) -> None:
    bucket = Bucket(server_url, "videos", *guarded)
    for _ in range(3):
        bucket.check("folder/.write-check")  # always under one name: it cannot remove what it has written
    upload(bucket, video)


@pytest.mark.parametrize("guarded", [["s3:Get*", "s3:List*"]], indirect=True)
def test_keys_that_may_only_read_are_told_before_the_work(guarded: tuple[str, str], server_url: str) -> None:
    with pytest.raises(DeliveryFailed, match="AccessDenied"):
        Bucket(server_url, "videos", *guarded).check("folder/.write-check")


@pytest.mark.parametrize("wrong", ["access_key_id", "secret_access_key"])
def test_wrong_keys_are_told_before_the_work_and_never_tried_again(
    wrong: str, guarded: tuple[str, str], server_url: str, video: Path, quick: list[float]
) -> None:
    keys = {"access_key_id": guarded[0], "secret_access_key": guarded[1]} | {wrong: "WRONG-KEY"}
    bucket = Bucket(server_url, "videos", **keys)
    code = "InvalidAccessKeyId" if wrong == "access_key_id" else "SignatureDoesNotMatch"
    with pytest.raises(DeliveryFailed, match=code) as before:
        bucket.check("folder/.write-check")
    with pytest.raises(DeliveryFailed, match=code) as after:
        upload(bucket, video)
    assert quick == []
    for message in (str(before.value), str(after.value)):
        assert "BUCKET_" in message
        assert not any(secret in message for secret in (*guarded, "WRONG-KEY"))


def test_a_missing_bucket_is_told_before_the_work_and_never_tried_again(
    s3: Any, server_url: str, video: Path, quick: list[float]
) -> None:
    bucket = Bucket(server_url, "elsewhere", "test-key", "test-SECRET")
    with pytest.raises(DeliveryFailed, match="NoSuchBucket"):
        bucket.check("folder/.write-check")
    with pytest.raises(DeliveryFailed, match="NoSuchBucket"):
        upload(bucket, video)
    assert quick == []


def test_a_server_that_is_down_before_the_work_may_be_up_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_module, "CHECK_LIMIT_S", 0.5)
    Bucket(f"http://127.0.0.1:{free_port()}", "videos", "test-key", "test-SECRET").check("k")


# ---- a bucket that came with a job ----

S3_CONFIG = {
    "endpointUrl": "https://s3.example.com",
    "bucketName": "videos",
    "accessId": "id",
    "accessSecret": "SECRET",
}


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name has a public address."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.215.14", 443))]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: found)


@pytest.mark.usefixtures("public")
def test_a_jobs_bucket_is_read() -> None:
    expected = Bucket("https://s3.example.com", "videos", "id", "SECRET", owner="job")
    assert job_bucket(S3_CONFIG) == expected
    assert "SECRET" not in repr(expected)


@pytest.mark.usefixtures("public")
@pytest.mark.parametrize(
    "wrong",
    [
        "a string",
        ["a list"],
        {},
        {**S3_CONFIG, "region": "eu"},
        {name: value for name, value in S3_CONFIG.items() if name != "accessSecret"},
        {**S3_CONFIG, "accessSecret": 5},
        {**S3_CONFIG, "accessSecret": ""},
        {**S3_CONFIG, "accessId": "two\r\nlines"},
        {**S3_CONFIG, "bucketName": "arn:aws:s3:us-east-1:123456789012:accesspoint/a"},
        {**S3_CONFIG, "bucketName": "../up"},
        {**S3_CONFIG, "endpointUrl": "ftp://s3.example.com"},
        {**S3_CONFIG, "endpointUrl": "https://name:SECRET@s3.example.com"},
        {**S3_CONFIG, "endpointUrl": "https://s3.example.com:port"},
        {**S3_CONFIG, "endpointUrl": "https://s3.example.com/?x=SECRET"},
        {**S3_CONFIG, "endpointUrl": "https://[::1"},
        {**S3_CONFIG, "endpointUrl": "https://"},
        {**S3_CONFIG, "endpointUrl": ""},
    ],
    ids=str,
)
def test_a_wrong_s3_config_is_invalid_input_without_its_content(wrong: object) -> None:
    with pytest.raises(InvalidInput, match=r"^s3Config") as error:
        job_bucket(wrong)
    assert "SECRET" not in str(error.value)
    assert error.value.__cause__ is None


@pytest.mark.parametrize(
    "host",
    [
        *(
            "127.0.0.1",
            "localhost",
            "10.0.0.1",
            "192.168.1.1",
            "172.16.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
        ),
        *("[::1]", "[fd00::1]", "[fe80::1]", "[::ffff:127.0.0.1]", "[::ffff:169.254.169.254]", "2130706433", "0x7f.1"),
        *("127.1", "017700000001", "168.63.129.16"),
    ],
)
def test_an_endpoint_inside_is_refused(host: str) -> None:
    with pytest.raises(InvalidInput, match=r"^s3Config.endpointUrl is refused"):
        job_bucket({**S3_CONFIG, "endpointUrl": f"http://{host}:9000"})


def test_a_name_that_changes_its_address_leads_nowhere(
    monkeypatch: pytest.MonkeyPatch, s3: Any, server_url: str, video: Path, quick: list[float]
) -> None:
    """Public when it is checked, loopback when it is dialled."""
    port = int(server_url.rsplit(":", 1)[1])
    public = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.215.14", port))]
    loopback = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
    asked: list[str] = []

    def look_up(host: str, *_: Any, **__: Any) -> Any:
        asked.append(host)
        return public if len(asked) == 1 else loopback

    monkeypatch.setattr("socket.getaddrinfo", look_up)
    config = {**S3_CONFIG, "endpointUrl": f"http://rebinding.example.com:{port}"}
    way = choose_delivery(None, Settings(volume_dir=video.parent / "none"), "job-1", s3_config=config)
    with pytest.raises(DeliveryFailed, match=r"the job's s3Config"):
        way.deliver(video)
    assert len(asked) > 1
    monkeypatch.undo()
    assert "Contents" not in s3.list_objects_v2(Bucket="videos")


def test_a_jobs_bucket_is_dialled_at_the_address_that_was_checked(
    monkeypatch: pytest.MonkeyPatch, s3: Any, server_url: str, video: Path
) -> None:
    port = int(server_url.rsplit(":", 1)[1])
    dialled: list[tuple[str, int]] = []
    connect = s3_line.create_connection

    def to_loopback(address: tuple[str, int], *args: Any, **kwargs: Any) -> socket.socket:
        dialled.append(address)
        return connect(("127.0.0.1", port), *args, **kwargs)

    monkeypatch.setattr(s3_line, "create_connection", to_loopback)
    monkeypatch.setattr(safe_http, "resolve_and_validate", lambda *_: ["93.184.215.14"])
    config = {**S3_CONFIG, "endpointUrl": f"http://localhost:{port}"}  # moto takes other names for buckets' names
    way = choose_delivery("url", Settings(), "job-1", s3_config=config)
    with monkeypatch.context() as patch:
        patch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # would do the look-up by itself
        way.check_fits(1)
        delivered = way.deliver(video)
    assert set(dialled) == {("93.184.215.14", port)}
    assert delivered.video_url is not None
    assert delivered.video_url.startswith(f"http://localhost:{port}/videos/infinitetalk-output/job-1.mp4?")
    stored = s3.get_object(Bucket="videos", Key="infinitetalk-output/job-1.mp4")
    assert stored["Body"].read() == video.read_bytes()


@pytest.mark.usefixtures("public")
def test_a_jobs_bucket_comes_before_the_workers_and_only_with_output_url() -> None:
    env = {"BUCKET_ENDPOINT_URL": "https://ours", "BUCKET_ACCESS_KEY_ID": "a", "BUCKET_SECRET_ACCESS_KEY": "b"}
    way = choose_delivery(None, Settings.from_env(env | {"OUTPUT": "base64"}), "job-1", s3_config=S3_CONFIG)
    assert isinstance(way, ToBucket)
    assert way.bucket.endpoint_url == "https://s3.example.com"
    for output in ("base64", "volume"):
        with pytest.raises(InvalidInput, match="s3Config is read with output url only"):
            choose_delivery(output, Settings(), "job-1", s3_config=S3_CONFIG)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("s3.eu-west-1.amazonaws.com", "eu-west-1"),
        ("videos.s3.eu-west-1.amazonaws.com", "eu-west-1"),
        ("s3-us-west-2.amazonaws.com", "us-west-2"),
        ("s3.us-west-004.backblazeb2.com", "us-west-004"),
        ("ams3.digitaloceanspaces.com", "ams3"),
        ("s3.amazonaws.com", None),
        ("s3.example.com", None),
        ("123abc.r2.cloudflarestorage.com", None),
    ],
)
def test_the_region_is_read_off_the_endpoint(host: str, region: str | None) -> None:
    assert bucket_module._region(host) == region
