"""A bucket that answers oddly, without end or not at all: how much of it is read, how long it takes, what is said."""

import dataclasses
import itertools
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infinitetalk.contract.settings import Settings
from infinitetalk.errors import Cancelled, DeliveryFailed, InvalidInput, JobError, TimedOut
from infinitetalk.transfer import bucket as bucket_module
from infinitetalk.transfer.bucket import Bucket
from infinitetalk.transfer.delivery import choose_delivery
from infinitetalk.transfer.s3_line import MAX_ANSWER_BYTES

BLOCK = b" " * (1 << 16)
STORED = b'HTTP/1.1 200 OK\r\nETag: "a"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\n\r\n"

Play = Callable[[socket.socket], None]
pause = threading.Event().wait  # boto3's own time.sleep is patched


class Server:
    """Answers every request with `says`, or as `plays` does. Counts requests and the bytes that it could send."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.says = STORED
        self.plays: Play | None = None
        self.requests: list[str] = []
        self.sent_bytes = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        if tls is not None:
            self._listener = tls.wrap_socket(self._listener, server_side=True)
            address = address.replace("127.0.0.1", "localhost")
        self.bucket = Bucket(f"http{'s' if tls else ''}://{address}", "videos", "key", "SECRET")
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def send(self, client: socket.socket, content: bytes) -> None:
        client.sendall(content)
        self.sent_bytes += len(content)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except ssl.SSLError:  # the other side does not like the certificate
                continue
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                head = client.recv(1 << 16)
                self.requests.append(head.split(b"?")[0].split(b" HTTP")[0].decode())
                if self.plays is None:
                    client.sendall(self.says)
                    client.settimeout(1)
                    while client.recv(1 << 16):  # closed with bytes unread, a connection is reset
                        pass
                else:
                    self.plays(client)
            except OSError:
                pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(bucket_module, "TRIES", 2)
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: None)
    server = Server()
    yield server
    server.close()
    for thread in threading.enumerate():
        if thread.name == "upload":
            thread.join(3)
            assert not thread.is_alive(), "it goes on after the answer"


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "made.mp4"
    path.write_bytes(b"v" * 1000)
    return path


def check(server: Server, check_job: Callable[[], object] = lambda: None) -> None:
    server.bucket.check("infinitetalk-output/.write-check", check_job)


def upload(server: Server, video: Path, timeout_s: float = 5.0, should_stop: Callable[[], bool] = lambda: False) -> str:
    return server.bucket.upload(video, "infinitetalk-output/job-1.mp4", "video/mp4", timeout_s, should_stop)


def answer(status: int, body: bytes = b"", *headers: str) -> bytes:
    lines = (f"HTTP/1.1 {status} X", *headers, f"Content-Length: {len(body)}", "Connection: close", "", "")
    return "\r\n".join(lines).encode() + body


def error(code: str | bytes, status: int = 403) -> bytes:
    code = code if isinstance(code, bytes) else code.encode()
    return answer(status, b"<?xml version='1.0'?><Error><Code>%s</Code><Message>m</Message></Error>" % code)


# ---- what would fail after the work fails before it ----


@pytest.mark.parametrize(
    "code",
    [
        *("NoSuchBucket", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied"),
        *("RequestTimeTooSkewed", "ExpiredToken", "InvalidToken", "AllAccessDisabled", "AccountProblem"),
    ],
)
def test_whatever_keeps_a_bucket_from_taking_files_is_told_by_the_check(code: str, server: Server) -> None:
    server.says = error(code)
    with pytest.raises(DeliveryFailed, match=rf"^output url: .*\({code}\).*BUCKET_"):
        check(server)
    assert server.requests == ["PUT /videos/infinitetalk-output/.write-check"]


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_bucket_in_trouble_may_be_out_of_it_after_the_work(status: int, server: Server) -> None:
    server.says = error("SlowDown", status)
    check(server)


@pytest.mark.parametrize("broken", [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc", b""])
def test_a_connection_that_breaks_may_hold_after_the_work(broken: bytes, server: Server) -> None:
    server.plays = lambda client: client.sendall(broken)
    check(server)


def test_keys_that_may_write_and_not_remove_are_good_ones(server: Server) -> None:
    def play(client: socket.socket) -> None:
        client.sendall(error("AccessDenied") if server.requests[-1].startswith("DELETE") else STORED)

    server.plays = play
    check(server)
    assert [request.split()[0] for request in server.requests] == ["PUT", "DELETE"]


# ---- answers that are none of S3's ----

ODD = {
    "no code": answer(403, b"<Error><Message>x</Message></Error>"),
    "empty": answer(403),
    "a web page": answer(403, b"<html>no</html>"),
    "two codes": answer(403, b"<Error><Code>A</Code><Code>B</Code></Error>"),
    "nested code": answer(403, b"<Error><Code><x>y</x></Code></Error>"),
    "nested deep": answer(403, b"<a>" * 70_000 + b"</a>" * 70_000),
    "nested deeper": answer(403, b"<a>" * 200_000 + b"</a>" * 200_000),
    "entities": answer(403, b'<!DOCTYPE l [<!ENTITY a "SECRET">]><Error><Code>&a; &a;</Code></Error>'),
    "a file's": answer(403, b'<!DOCTYPE l [<!ENTITY a SYSTEM "file:///etc/passwd">]><Error><Code>&a;</Code></Error>'),
    "a code of 1 MB": error("A" * 1_000_000),
    "a code that is none": error("data:image/png;base64,AAAA http://u:p@h/?t=SECRET"),
    "not text": error(b"\xed\xa0\x80"),
    "another region": answer(301, b"<Error><Code>PermanentRedirect</Code></Error>", "x-amz-bucket-region: 10.0.0.1/x#"),
    "another place": answer(307, b"", "Location: http://127.0.0.1:9/latest/meta-data"),
    "ok without a sign of storing": answer(200),
    "ok with a page": answer(200, b"hello"),
    "ok with an error": answer(200, b"<Error><Code>NoSuchBucket</Code></Error>"),
    "no content": answer(204),
    "no status": answer(999),
    "not HTTP": b"SSH-2.0-x\r\nConnection: close\r\n\r\n",
    "a long header": answer(200, b"", "X-A: " + "x" * 100_000),
    "1000 headers": answer(200, b"", *(f"X{i}: 1" for i in range(1000))),
    "broken gzip": answer(200, b"\x1f\x8b\x08 no", "Content-Encoding: gzip"),
}


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_answer_is_one_sentence_before_and_after_the_work(odd: str, server: Server, video: Path) -> None:
    server.says = ODD[odd]
    with pytest.raises(DeliveryFailed, match=r"^output url: ") as before:
        check(server)
    assert len(server.requests) <= 5
    with pytest.raises(DeliveryFailed, match=r"^output url: ") as after:
        upload(server, video)
    for failure in (before, after):
        assert "SECRET" not in str(failure.value)
        assert "()" not in str(failure.value)
        assert len(str(failure.value)) < 250


@pytest.mark.parametrize("odd", ["no code", "two codes", "nested deep", "ok without a sign of storing", "not HTTP"])
def test_whatever_an_upload_dies_of_the_video_is_left_on_the_volume(
    odd: str, server: Server, video: Path, tmp_path: Path
) -> None:
    server.says = ODD[odd]
    env = {
        "BUCKET_ENDPOINT_URL": server.bucket.endpoint_url,
        "BUCKET_ACCESS_KEY_ID": "key",
        "BUCKET_SECRET_ACCESS_KEY": "SECRET",
        "VOLUME_DIR": str(tmp_path),
    }
    delivered = choose_delivery("url", Settings.from_env(env), "job-1").deliver(video)
    assert delivered.video_path is not None
    assert Path(delivered.video_path).read_bytes() == video.read_bytes()
    assert "left on the volume" in delivered.warnings[0]


def test_a_jobs_own_bucket_that_takes_no_file_is_the_jobs_error(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.says = error("ExpiredToken", 400)
    theirs = Bucket(server.bucket.endpoint_url, "videos", "key", "SECRET", owner="job")
    monkeypatch.setattr("infinitetalk.transfer.s3_line.public_addresses", lambda *_: ["127.0.0.1"])
    with pytest.raises(InvalidInput, match=r"^s3Config: .*ExpiredToken"):
        theirs.check("key")


# ---- answers without end ----


def endless_body(server: Server) -> Play:
    def play(client: socket.socket) -> None:
        server.send(client, HEAD)
        while True:
            server.send(client, BLOCK)

    return play


def drip(start: bytes, drop: bytes) -> Callable[[Server], Play]:
    def make(server: Server) -> Play:
        def play(client: socket.socket) -> None:
            server.send(client, start)
            for _ in range(200):
                server.send(client, drop)
                pause(0.1)

        return play

    return make


SLOW = {
    "a body in drops": drip(HEAD, b" "),
    "a header in drops": drip(b"HTTP/1.1 200 OK\r\nX-A: ", b"x"),
    "continue for ever": drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
}


def test_of_an_endless_answer_one_mebibyte_is_read(server: Server, video: Path) -> None:
    server.plays = endless_body(server)
    for ask in (lambda: check(server), lambda: upload(server, video)):
        server.sent_bytes, started_s = 0, time.monotonic()
        with pytest.raises(DeliveryFailed, match="more than 1 MiB"):
            ask()
        assert time.monotonic() - started_s < 2
        pause(0.3)
        sent_bytes = server.sent_bytes
        assert sent_bytes < MAX_ANSWER_BYTES + (16 << 20), "beside what the system's buffers hold"
        pause(0.3)
        assert server.sent_bytes == sent_bytes


@pytest.mark.parametrize("slow", SLOW)
def test_a_slow_answer_holds_no_check_longer_than_its_limit(
    slow: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_module, "CHECK_LIMIT_S", 0.6)
    server.plays = SLOW[slow](server)
    started_s = time.monotonic()
    check(server)  # it may be quicker by then
    assert 0.5 < time.monotonic() - started_s < 3


@pytest.mark.parametrize("slow", SLOW)
@pytest.mark.parametrize("end", [Cancelled("The job was cancelled."), TimedOut("The job has used up its time.")])
def test_a_job_that_has_to_end_ends_the_check(end: JobError, slow: str, server: Server) -> None:
    server.plays = SLOW[slow](server)
    started_s = time.monotonic()

    def check_job() -> None:
        if time.monotonic() - started_s > 0.4:
            raise end

    with pytest.raises(type(end)):
        check(server, check_job)
    assert time.monotonic() - started_s < 3


@pytest.mark.parametrize("slow", SLOW)
def test_a_slow_answer_holds_no_upload_longer_than_its_limit(slow: str, server: Server, video: Path) -> None:
    server.plays = SLOW[slow](server)
    started_s = time.monotonic()
    with pytest.raises(DeliveryFailed, match=r"not done within 0\.6 s"):
        upload(server, video, timeout_s=0.6)
    assert time.monotonic() - started_s < 3


# ---- a large file that is given up ----


class Parts:
    """A bucket that takes the first part of a file, and plays at the second."""

    def __init__(self, server: Server, second: Play) -> None:
        self.removed: list[str] = []
        self._server = server
        self._second = second

    def __call__(self, client: socket.socket) -> None:
        request = self._server.requests[-1]
        self._rest(client)
        if request.startswith("POST"):
            begun = b"<InitiateMultipartUploadResult><UploadId>u-1</UploadId></InitiateMultipartUploadResult>"
            client.sendall(answer(200, begun))
        elif request.startswith("DELETE"):
            self.removed.append(request)
            client.sendall(answer(204))
        elif len([one for one in self._server.requests if one.startswith("PUT")]) == 1:
            client.sendall(STORED)
        else:
            self._second(client)

    def _rest(self, client: socket.socket) -> None:
        """Read what a part still has, until it pauses."""
        client.settimeout(0.3)
        try:
            while client.recv(1 << 20):
                pass
        except TimeoutError:
            client.settimeout(None)


@pytest.mark.parametrize("given_up_by", ["its limit", "the caller", "a refusal"])
def test_nothing_of_a_given_up_file_stays_in_the_bucket(given_up_by: str, server: Server, tmp_path: Path) -> None:
    def second(client: socket.socket) -> None:
        if given_up_by == "a refusal":
            client.sendall(error("AccessDenied"))
        else:
            pause(20)

    video = tmp_path / "large.mp4"
    video.write_bytes(bytes(bucket_module.PART_BYTES + 1000))
    server.plays = parts = Parts(server, second)
    clock = itertools.count()
    stop = lambda: given_up_by == "the caller" and next(clock) > 15  # noqa: E731
    started_s = time.monotonic()
    with pytest.raises(Cancelled if given_up_by == "the caller" else DeliveryFailed):
        upload(server, video, timeout_s=1.5 if given_up_by == "its limit" else 60, should_stop=stop)
    assert time.monotonic() - started_s < 15
    assert parts.removed == ["DELETE /videos/infinitetalk-output/job-1.mp4"]


def test_a_bucket_that_does_not_answer_the_removal_holds_nobody(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bucket_module, "ABORT_LIMIT_S", 0.5)
    video = tmp_path / "large.mp4"
    video.write_bytes(bytes(bucket_module.PART_BYTES + 1000))
    parts = Parts(server, lambda _: pause(5))

    def play(client: socket.socket) -> None:
        if server.requests[-1].startswith("DELETE"):
            pause(5)
        parts(client)

    server.plays = play
    with pytest.raises(DeliveryFailed, match="not done within"):
        upload(server, video, timeout_s=1.5)
    assert "An unfinished upload stays in the bucket" in caplog.text


# ---- over TLS ----


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate that nobody vouches for, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", folder / "key", "-out", folder / "certificate"]
    subprocess.run([*make, *names], check=True, capture_output=True)
    return folder


@pytest.fixture
def secure(certificate: Path) -> Iterator[Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "certificate", certificate / "key")
    server = Server(context)
    yield server
    server.close()


def test_a_certificate_that_nobody_vouches_for_is_told_before_the_work(secure: Server) -> None:
    with pytest.raises(DeliveryFailed, match="its certificate is not valid"):
        check(secure)


@pytest.mark.parametrize("owner", ["worker", "job", "caller"])
def test_a_certificate_that_is_vouched_for_is_good(
    owner: str, secure: Server, certificate: Path, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate / "certificate"))
    monkeypatch.setattr("infinitetalk.transfer.s3_line.public_addresses", lambda *_: ["127.0.0.1"])
    secure.bucket = dataclasses.replace(secure.bucket, owner=owner)
    check(secure)
    assert upload(secure, video).startswith("https://localhost:")
    assert [request.split()[0] for request in secure.requests] == ["PUT", "DELETE", "PUT"]
