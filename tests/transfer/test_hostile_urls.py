"""URLs that strangers send: what may be fetched, what is refused, and how soon a server that plays games is left.

Every case goes through the contract and the downloads, over real sockets: the "public" internet is 127.0.0.2, which
the guard is told to take for public, and the same server listens inside, on 127.0.0.1, where nobody may come. Names
come from a table in place of DNS.
"""

import base64
import ipaddress
import itertools
import resource
import socket
import ssl
import subprocess
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from runpod.serverless.utils import rp_ssrf

from infinitetalk.contract.request import Request
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import JobError
from infinitetalk.job.folder import job_folder
from infinitetalk.transfer import downloads
from infinitetalk.transfer.exchange import network_exchange
from tests.support.hostile_server import CONTENT, INSIDE, NAMES, PAGES, PUBLIC, SECRET, Pages, World, answer

PICTURE = "data:image/png;base64,iVBORw0KGgo="
LIMIT_MB = 1
TIME_LIMIT_S = 0.8


@pytest.fixture(scope="module")
def server():
    world = World()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            world.hits[self.server.server_address[0]] += 1
            world.requests.append((self.path, self.headers))
            with suppress(OSError):  # the client left
                PAGES.get(self.path.split("?")[0].strip("/"), Pages.file)(self, world)

        def log_message(self, *_):
            pass

    servers = [ThreadingHTTPServer((PUBLIC, 0), Answer)]
    world.port = servers[0].server_port
    servers.append(ThreadingHTTPServer((INSIDE, world.port), Answer))
    for one in servers:
        one.daemon_threads = True
        threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield world
    world.closing.set()
    for one in servers:
        one.shutdown()
        one.server_close()


@pytest.fixture
def world(server, monkeypatch):
    server.hits.clear(), server.requests.clear(), server.lookups.clear()
    server.names = dict(NAMES)
    server.system = socket.getaddrinfo
    guard = rp_ssrf.is_safe_address
    monkeypatch.setattr(rp_ssrf, "is_safe_address", lambda address: address == PUBLIC or guard(address))
    monkeypatch.setattr(socket, "getaddrinfo", server.look_up)
    monkeypatch.setattr(downloads, "RETRY_PAUSES_S", (0.01, 0.01))
    monkeypatch.setattr(downloads, "IDLE_LIMIT_S", 0.2)
    return server


# ---- asking ----


def ask(world, url, tmp_path, **settings):
    """What a job with that wav_url comes to: "ok" and the file, or the error; and the seconds that took."""
    url = url.replace(":PORT", f":{world.port}")
    settings = Settings(
        work_dir=tmp_path / "work", max_audio_mb=LIMIT_MB, **{"download_timeout_s": TIME_LIMIT_S} | settings
    )
    start_s = time.monotonic()
    try:
        request = Request.parse({"image_url": PICTURE, "wav_url": url, "output": "base64"})
        with job_folder(settings.work_dir, "job") as folder:
            files = network_exchange(request, settings, "job", lambda: False).fetch(request, folder)
            return files["wav_url"].read_bytes(), time.monotonic() - start_s
    except JobError as error:
        return error, time.monotonic() - start_s


def check(world, url, code, tmp_path, caplog, longest_s=2.0, **settings):
    """Ask; compare code or content; then see that nothing was told, left behind or asked inside."""
    result, took_s = ask(world, url, tmp_path, **settings)
    if isinstance(result, bytes):
        assert code == "ok"
    else:
        assert result.code == code, result
        message = str(result)
        assert message.startswith("wav_url")
        assert message.endswith(".")
        assert SECRET not in message + caplog.text
        assert not any(part in message for part in (str(world.port), "/f", str(tmp_path)))
        assert result.__cause__ is None  # the libraries' own messages quote the URL
        assert result.__suppress_context__ or SECRET not in str(result.__context__)
    assert took_s < longest_s
    assert world.hits[INSIDE] == 0
    work_dir = tmp_path / "work"
    assert not work_dir.exists() or list(work_dir.iterdir()) == []
    wait_until(lambda: not any(thread.name.startswith("fetch") for thread in threading.enumerate()))
    return result


def wait_until(condition, limit_s=3.0):
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


# ---- where nobody may go ----

PRIVATE_HOSTS = [
    *("127.0.0.1", "127.1", "127.0.1", "127.0.0.1.", "127.127.127.127", "2130706433", "0x7f000001", "0x7f.0.0.1"),
    *("0x7F.1", "0177.0.0.1", "017700000001", "0", "0.0.0.0", "localhost", "LOCALHOST", "localhost."),
    *("[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[::1%25lo]"),
    *("[64:ff9b::7f00:1]", "[64:ff9b::127.0.0.1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[2002:a9fe:a9fe::1]"),
    *("[2001:0:4136:e378:8000:63bf:3fff:fdd2]", "[fe80::1]", "[fe80::1%25eth0]", "[fec0::1]", "[fd00:ec2::254]"),
    *("[fc00::1]", "[ff02::1]", "[2001:db8::1]", "[100::1]", "169.254.169.254", "0xa9fea9fe", "2852039166"),
    *("0251.0376.0251.0376", "169.254.43518", "169.16689662", "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]"),
    *("169.254.170.2", "168.63.129.16", "192.0.0.192", "100.100.100.200", "100.64.0.1", "10.0.0.1", "172.16.0.1"),
    *("172.31.255.255", "192.168.1.1", "198.18.0.1", "192.88.99.1", "203.0.113.1", "224.0.0.1", "240.0.0.1"),
    *("255.255.255.255", "１２７.０.０.１", "①②⑦.⓪.⓪.①", "127。0。0。1"),  # noqa: RUF001
    *("inside.test", "127.0.0.1.nip.test", "7f000001.hex.test", "metadata.google.internal", "router.test"),
    *("carrier.test", "both.test", "mapped.test", "nat64.test", "6to4.test", "unique-local.test", "site-local.test"),
]


@pytest.mark.parametrize("host", PRIVATE_HOSTS)
def test_a_private_address_is_refused_in_every_spelling(host, world, tmp_path, caplog):
    for url in (f"http://{host}:PORT/f?{SECRET}", f"http://public.test:PORT/redirect?302=http://{host}:{world.port}/f"):
        error = check(world, url, "invalid_input", tmp_path, caplog)
        assert "refused" in str(error) or "no server of this name" in str(error)
    assert world.hits[PUBLIC] == 1  # the redirect


def test_the_cases_above_would_reach_something_without_the_guard(world, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(rp_ssrf, "is_safe_address", lambda _: True)
    for host in ("127.0.0.1", "2130706433", "0x7f.0.0.1", "017700000001", "localhost", "inside.test"):
        assert ask(world, f"http://{host}:PORT/f", tmp_path)[0] == CONTENT
    assert world.hits[INSIDE] == 6


TRICKS = [
    f"http://public.test@127.0.0.1:PORT/f?{SECRET}",
    f"http://public.test:{SECRET}@127.0.0.1:PORT/f",
    "http://public.test%2f@127.0.0.1:PORT/f",
    "http://127.0.0.1:PORT\\@public.test/f",
    "http://127.0.0.1:PORT#@public.test/f",
    "http://127.0.0.1%23.public.test:PORT/f",
    "http://127%2e0%2e0%2e1:PORT/f",
    "http://127.0.0.1%00.public.test:PORT/f",
    "http://[::ffff:127.0.0.1]@public.test@127.0.0.1:PORT/f",
    "http://public..test:PORT/f",
    f"http://{'a' * 64}.test:PORT/f",
    f"http://{'a.' * 140}test:PORT/f",
    "http://no-such-name.test/f",
    "http:127.0.0.1:PORT/f",
    "http:///127.0.0.1/f",
    "//127.0.0.1/f",
    "\\\\127.0.0.1\\share\\f",
    "http://127.0.0.1:PORT:80/f",
    "http://127.0.0.1:99999/f",
    "http://127.0.0.1:0/f",
    "http://127.0.0.1:-1/f",
    "http://127.0.0.1\t:80/f",
    " http://127.0.0.1/f",
    "http://127.0.0.1/\r\nHost: public.test",
    f"http://public.test:PORT/redirect?302=file:///etc/passwd?{SECRET}",
    *(
        f"http://public.test:PORT/redirect?302={target}"
        for target in ("ftp://public.test/f", "gopher://public.test/_x", "data:audio/wav;base64,AAAA", "//127.0.0.1/f")
    ),
    *(f"http://public.test:PORT/redirect?{status}=http://inside.test/f" for status in (301, 302, 303, 307, 308)),
    "http://public.test:PORT/redirect?302=http://[::1",
    "http://public.test:PORT/redirect?302=http://public.test:99999/f",
    f"http://public.test:PORT/redirect?302=/redirect?302=http://127.0.0.1/{SECRET}",
    f"http://public.test:PORT/loop?{SECRET}",
    "http://public.test:PORT/nowhere",
    *(
        f"{scheme}://public.test/f?{SECRET}"
        for scheme in (
            *("file", "ftp", "ftps", "sftp", "gopher", "dict", "ldap", "smb", "s3", "gs", "ws", "unix", "tftp"),
            *("http+unix", "httpx", "view-source", "jar", "concat", "subfile", "crypto", "pipe"),
        )
    ),
    f"file:/etc/{SECRET}",
    f"/etc/{SECRET}",
    f"concat:http://public.test/a|file:///etc/{SECRET}",
    f"javascript:alert('{SECRET}')",
    f"data:audio/wav,{SECRET}",
    f"data:audio/wav;base64,{SECRET}!",
    "data:;base64,",
    f"blob:http://public.test/{SECRET}",
    "about:blank",
    f"UklGRiQ{SECRET}AABXQVZFZm10IBAAAAABAAEA",
]


@pytest.mark.parametrize("url", TRICKS)
def test_tricks_with_addresses_are_refused(url, world, tmp_path, caplog):
    check(world, url, "invalid_input", tmp_path, caplog)


def test_a_name_that_changes_its_address_is_looked_up_once(world, tmp_path, caplog):
    """DNS rebinding: public when it is checked, inside when it is dialled."""
    answers = itertools.chain([[PUBLIC]], itertools.repeat([INSIDE]))
    world.names["rebinding.test"] = lambda: next(answers)
    assert check(world, f"http://rebinding.test:PORT/f?{SECRET}", "ok", tmp_path, caplog) == CONTENT
    assert world.lookups["rebinding.test"] == 1


def test_a_name_that_changes_its_address_is_refused_at_the_next_try_or_hop(world, tmp_path, caplog):
    for path in ("status-503", "redirect?302=/f"):
        answers = itertools.chain([[PUBLIC]], itertools.repeat([INSIDE]))
        world.names["rebinding.test"] = lambda answers=answers: next(answers)
        world.lookups.clear()
        PAGES["status-503"] = answer(503)
        check(world, f"http://rebinding.test:PORT/{path}", "invalid_input", tmp_path, caplog)
        assert world.lookups["rebinding.test"] == 2


def test_a_name_of_many_dead_addresses_is_given_up(world, tmp_path, caplog, monkeypatch):
    world.names["many.test"] = [f"127.1.0.{i}" for i in range(100)]
    monkeypatch.setattr(rp_ssrf, "is_safe_address", lambda _: True)
    check(world, "http://many.test:PORT/f", "download_failed", tmp_path, caplog)


def test_the_second_address_is_tried_where_the_first_is_dead(world, tmp_path, caplog, monkeypatch):
    world.names["two.test"] = ["127.1.0.1", PUBLIC]
    monkeypatch.setattr(rp_ssrf, "is_safe_address", lambda address: address in ("127.1.0.1", PUBLIC))
    assert check(world, "http://two.test:PORT/f", "ok", tmp_path, caplog) == CONTENT


@pytest.mark.parametrize("network", ["2002::/16", "fec0::/10", "3fff::/20", "192.0.0.0/24", "168.63.129.16/32"])
def test_what_the_guard_may_let_through_is_refused_all_the_same(network, world, tmp_path, caplog, monkeypatch):
    """It asks Python's ipaddress, whose tables differ from version to version."""
    monkeypatch.setattr(rp_ssrf, "is_safe_address", lambda _: True)
    first, last = ipaddress.ip_network(network)[0], ipaddress.ip_network(network)[-1]
    for address in (first, last):
        world.names["odd.test"] = [str(address)]
        assert "refused" in str(check(world, "http://odd.test:PORT/f", "invalid_input", tmp_path, caplog))


# ---- credentials and proxies ----


def test_credentials_go_to_their_own_host_alone_and_into_no_message(world, tmp_path, caplog):
    assert check(world, f"http://me:{SECRET}@public.test:PORT/f", "ok", tmp_path, caplog) == CONTENT
    assert base64.b64decode(world.requests[0][1]["Authorization"].split()[1]).decode() == f"me:{SECRET}"
    target = f"http://other.test:{world.port}/f"
    url = f"http://me:{SECRET}@public.test:PORT/redirect?302={target}"
    assert check(world, url, "ok", tmp_path, caplog) == CONTENT
    assert "Authorization" in world.requests[1][1]
    assert "Authorization" not in world.requests[2][1]
    check(world, f"http://me:{SECRET}@public.test:PORT/status-403", "invalid_input", tmp_path, caplog)


def test_the_workers_own_proxy_and_netrc_are_not_used(world, tmp_path, caplog, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text(f"default login worker password {SECRET}\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{world.port}")
    assert check(world, "http://public.test:PORT/f", "ok", tmp_path, caplog) == CONTENT
    assert "Authorization" not in world.requests[0][1]


# ---- servers that play games ----


@pytest.mark.parametrize(
    ("page", "code"),
    [
        ("declared-huge", "too_large"),
        ("declared-more-digits-than-int", "too_large"),
        ("endless", "too_large"),
        ("endless-chunks", "too_large"),
        ("endless-gzip", "too_large"),
        ("gzip-bomb", "too_large"),
        ("gzip-gzip-bomb", "too_large"),
        ("deflate-bomb", "too_large"),
        ("endless-chunk-line", "download_failed"),
        ("endless-trailer", "download_failed"),
        ("endless-headers", "download_failed"),
        ("endless-header", "download_failed"),
        ("endless-continue", "download_failed"),
        ("drip", "download_failed"),
        ("drip-declared", "download_failed"),
        ("drip-headers", "download_failed"),
        ("drip-chunk-line", "download_failed"),
        ("drip-status", "download_failed"),
        ("silent", "download_failed"),
        ("silent-body", "download_failed"),
        ("short-body", "download_failed"),
        ("short-chunk", "download_failed"),
        ("bad-chunk", "download_failed"),
        ("no-http", "download_failed"),
        ("nothing", "download_failed"),
        ("reset", "download_failed"),
        ("later", "download_failed"),
        ("later-date", "download_failed"),
        ("later-nonsense", "download_failed"),
        *((f"status-{status}", "download_failed") for status in (429, 500, 599)),
        *((f"status-{status}", "invalid_input") for status in (400, 401, 402, 403, 404, 408, 410, 425, 451)),
        ("not-modified", "invalid_input"),
        ("partial", "invalid_input"),
        ("two-lengths", "invalid_input"),
        ("gzip-chain", "media_unreadable"),
        ("gzip-damaged", "media_unreadable"),
        ("empty", "media_unreadable"),
        ("no-content", "media_unreadable"),
        ("page", "media_unreadable"),
        # What is odd, and still a file.
        ("gzip", "ok"),
        ("long-body", "ok"),
        ("negative-length", "ok"),
        ("word-length", "ok"),
        ("bad-header", "ok"),
    ],
)
def test_a_server_that_plays_games_is_left(page, code, world, tmp_path, caplog):
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = check(world, f"http://public.test:PORT/{page}?token={SECRET}", code, tmp_path, caplog)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 50_000
    if code == "ok":
        assert result in (CONTENT, CONTENT[:256], b"abc")
    tries = 3 if code == "download_failed" and not page.startswith(("later-d", "drip", "endless")) else 1
    if page == "later":
        tries = 1  # to wait an hour is not to be tried
    if page not in ("silent", "endless-header", "endless-headers", "endless-chunk-line"):
        assert world.hits[PUBLIC] == tries


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory):
    """A server with a certificate that nobody vouches for."""
    folder = tmp_path_factory.mktemp("tls")
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=public.test"]
    subprocess.run([*make, "-keyout", folder / "key", "-out", folder / "crt"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "crt", folder / "key")
    with socket.create_server((PUBLIC, 0)) as listener, context.wrap_socket(listener, server_side=True) as secure:
        threading.Thread(target=_accept, args=(secure,), daemon=True).start()
        yield listener.getsockname()[1] if listener.fileno() >= 0 else secure.getsockname()[1]


def _accept(secure):
    while True:
        try:
            secure.accept()
        except ssl.SSLError:
            continue
        except OSError:
            return


def test_a_certificate_that_nobody_vouches_for_is_the_callers_error(world, tls_server, tmp_path, caplog):
    error = check(world, f"https://public.test:{tls_server}/f?{SECRET}", "invalid_input", tmp_path, caplog)
    assert "certificate" in str(error)


def test_a_server_without_tls_is_no_https_server(world, tmp_path, caplog):
    check(world, f"https://public.test:PORT/f?{SECRET}", "download_failed", tmp_path, caplog)
