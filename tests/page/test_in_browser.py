"""The page as its command serves it: in a real browser, and asked for what it must not give.

In the browser the samples are dropped, the miniature makes the video, and the browser plays it.
"""

import json
import subprocess
from importlib.util import find_spec

import pytest
import requests

from infinitetalk.media.probe import probe
from tests.support.media_samples import write_picture, write_tone
from tests.support.page import ROOT, browser, missing, page_command

SAMPLES = ROOT / "samples"
JOB_LIMIT_MS = 60_000
KEY = "rpa_KEY_OF_THE_TESTS"

pytestmark = [pytest.mark.long, pytest.mark.skipif(find_spec("gradio") is None, reason="gradio is not installed")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def address(folder):
    secret = {"RUNPOD_API_KEY": KEY, "GRADIO_SHARE": "True", "GRADIO_ALLOWED_PATHS": "/"}
    with page_command(folder, **secret) as address:
        yield address
    assert not list(folder.glob("infinitetalk-job-*"))


@pytest.fixture(scope="module")
def chromium():
    if missing() is not None:
        pytest.skip(f"the page cannot be looked at: {missing()}")
    with browser() as opened:
        yield opened


class Tab:
    """A tab of the browser with the page in it."""

    def __init__(self, chromium, address):
        self.page = chromium.new_page(viewport={"width": 1280, "height": 1000})
        self.faults, self.refused, self.elsewhere = [], [], []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("response", lambda answer: self.refused.append(answer.url) if answer.status >= 400 else None)
        self.page.on(
            "request",
            lambda asked: (
                None if asked.url.startswith((address, "data:", "blob:")) else self.elsewhere.append(asked.url)
            ),
        )
        self.page.goto(address)
        self.page.wait_for_selector("#it-start")

    def drop(self, part, file):
        """Drop a file, and wait until the page has looked at it."""
        with self.page.expect_response(lambda answer: "/queue/join" in answer.url):
            self.page.locator(f"#{part} input[type=file]").set_input_files(file)
        self.page.wait_for_function(f"() => !document.querySelector('#{part} input[type=file]')")

    def point(self, x, y):
        """Click at a place of the picture, in fractions of it."""
        picture = self.page.locator("#it-picture img")
        box = picture.bounding_box()
        with self.page.expect_response(lambda answer: "/queue/join" in answer.url):
            picture.click(position={"x": x * box["width"], "y": y * box["height"]})

    def choose(self, mode):
        self.page.locator("#it-mode label", has_text=mode).click()

    def make(self, source, voice):
        """Start a job of two files."""
        self.drop("it-source", source)
        self.drop("it-voice-1", voice)
        self.press("it-start")

    def press(self, part):
        self.page.locator(f"#{part}").click()

    def wait(self, what, limit_ms=JOB_LIMIT_MS):
        try:
            self.page.wait_for_selector(what, timeout=limit_ms)
        except Exception as error:
            raise AssertionError(
                f"no {what}; the page says: {self.text('it-status')} {self.text('it-result')}"
            ) from error

    def text(self, part):
        return self.page.locator(f"#{part}").inner_text()

    def close(self):
        self.page.close()


@pytest.fixture
def tab(chromium, address):
    tabs = []

    def open_tab():
        tabs.append(Tab(chromium, address))
        return tabs[-1]

    yield open_tab
    for opened in tabs:
        opened.close()


@pytest.fixture
def small(tmp_path):
    """A job that takes a moment."""
    return write_picture(tmp_path / "face.png"), write_tone(tmp_path / "voice.wav", 0.4)


def test_the_samples_become_a_video_that_plays(tab, folder):
    here = tab()
    here.drop("it-source", SAMPLES / "two_people.png")
    here.drop("it-voice-1", SAMPLES / "voice.wav")
    here.wait("#it-picture img")
    here.point(0.71, 0.45)  # the right one of the two
    here.choose("Turbo")
    here.press("it-plan")
    here.wait("#it-plans table")
    plan = here.text("it-plans")
    assert all(mode in plan for mode in ("Maximum quality", "Balanced", "Fast", "Turbo", "estimated price", "$"))
    here.press("it-start")
    here.wait("#it-status .it-bar")
    here.wait("text=Finished so far")
    part = here.page.wait_for_selector("#it-video video")
    here.page.wait_for_function("video => video.readyState >= 2 && video.duration > 1", arg=part, timeout=20_000)
    here.wait("#it-result .it-facts")
    shown = here.page.evaluate_handle("() => document.querySelector('#it-video video')")
    here.page.wait_for_function("video => video.readyState >= 3 && Math.abs(video.duration - 5) < 0.1", arg=shown)
    here.page.evaluate("video => { video.muted = true; return video.play(); }", shown)
    here.page.wait_for_function("video => video.currentTime > 0.3", arg=shown)
    assert "Checked:" in here.text("it-result")
    [video] = (folder / "out").glob("*_turbo_*.mp4")
    assert f"out/{video.name}" in here.text("it-result")
    assert probe(video, "video").has_audio
    here.page.locator("#it-elsewhere").get_by_text("This job as JSON").click()
    here.page.wait_for_selector("#it-elsewhere .cm-content")
    told = here.text("it-elsewhere")
    assert '"face": 1' in told
    assert "https://example.com/two_people.png" in told
    assert "$(base64 < two_people.png" in told
    assert (here.faults, here.refused, here.elsewhere) == ([], [], [])


def test_a_bad_file_shows_the_workers_sentence(tab, tmp_path, small):
    here = tab()
    (tmp_path / "broken.png").write_bytes(b"no picture")
    here.drop("it-source", tmp_path / "broken.png")
    here.wait("#it-source-trouble .it-problem")
    assert "The picture or video: this is an unknown or damaged file" in here.text("it-source-trouble")
    here.press("it-start")
    here.wait("text=There is no voice yet")
    here.drop("it-voice-1", small[1])
    here.press("it-start")
    here.wait("text=image_url: this is an unknown or damaged file")
    assert "Traceback" not in here.page.content()


def test_two_tabs_take_turns_and_cancelling_ends_only_ones_own(tab, small, folder):
    first, second = tab(), tab()
    first.make(SAMPLES / "portrait.png", SAMPLES / "voice.wav")
    first.wait("#it-status .it-bar")
    second.make(small[0], small[1])
    second.wait("text=jobs of this page before it: 1")
    first.press("it-cancel")
    first.wait("text=The job was cancelled.")
    second.wait("#it-result .it-facts")
    assert first.page.locator("#it-result .it-facts").count() == 0
    assert not list((folder / "out").glob("*-preview"))
    second.page.wait_for_function(
        "() => { const video = document.querySelector('#it-video video'); return video && video.duration < 0.5; }"
    )


def test_closing_a_tab_ends_its_job(tab, small, folder):
    first, second = tab(), tab()
    first.drop("it-source", SAMPLES / "portrait.png")
    first.drop("it-voice-1", SAMPLES / "voice.wav")
    first.page.locator("#it-mode label", has_text="Maximum quality").click()
    first.press("it-start")
    first.wait("#it-status .it-bar")
    second.make(small[0], small[1])
    second.wait("text=jobs of this page before it: 1")
    first.close()
    second.wait("#it-result .it-facts")
    assert not list((folder / "out").glob("*_maximum_quality_*"))


def test_the_copied_command_sends_the_job(tab, small, tmp_path):
    """Run as a shell would, with a curl that prints what it would send."""
    here = tab()
    here.drop("it-source", small[0])
    here.drop("it-voice-1", small[1])
    here.page.get_by_text("More: size, guidance").click()
    here.page.locator("#it-prompt textarea").fill('A man who says `hello` for $5 \\ "twice"')
    here.page.get_by_text("This job as JSON").click()
    here.page.wait_for_function("() => document.querySelector('#it-elsewhere').innerText.includes('JOB')")
    command = "\n".join(here.page.locator("#it-elsewhere .cm-content").first.locator(".cm-line").all_inner_texts())
    curl = tmp_path / "curl"
    curl.write_text("#!/bin/sh\nexec cat\n")
    curl.chmod(0o755)
    sent = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        check=True,
    )
    job = json.loads(sent.stdout)["input"]
    assert job["prompt"] == 'A man who says `hello` for $5 \\ "twice"'
    assert job["image_url"].startswith("data:image/png;base64,iVBOR")
    assert job["wav_url"].startswith("data:audio/")


@pytest.fixture(scope="module")
def config(address):
    return requests.get(f"{address}/config", timeout=10).json()


def upload(address, content=b"content", name="face.png"):
    """The path of an uploaded file."""
    sent = requests.post(f"{address}/gradio_api/upload", files={"files": (name, content)}, timeout=10)
    return sent.json()[0]


def look_at(address, config, path, session):
    """Let the page look at a picture as its script does, naming any path; what it answers."""
    source = next(part["id"] for part in config["components"] if part["props"].get("elem_id") == "it-source")
    index = next(entry["id"] for entry in config["dependencies"] if [source, "upload"] in entry["targets"])
    file = {"path": path, "orig_name": "x.png", "meta": {"_type": "gradio.FileData"}}
    form = {"data": [file], "fn_index": index, "session_hash": session, "event_data": None, "trigger_id": None}
    sent = requests.post(f"{address}/gradio_api/queue/join", json=form, timeout=10)
    if sent.status_code != 200:
        return str(sent.status_code)
    with requests.get(f"{address}/gradio_api/queue/data?session_hash={session}", stream=True, timeout=20) as events:
        for line in events.iter_lines(decode_unicode=True):
            if "process_completed" in line:
                return line
    return ""


def test_no_file_of_this_machine_can_be_fetched(address, config, folder):
    secret = folder / "secret.png"
    secret.write_bytes(b"not for others")
    own = upload(address)
    assert requests.get(f"{address}/gradio_api/file={own}", timeout=10).content == b"content"
    beside = f"{own}/../../../secret.png"
    for path in (str(secret), "/etc/passwd", beside, f"/{secret}", str(folder / "page.log"), "pyproject.toml"):
        for address_of in (
            f"/gradio_api/file={path}",
            f"/gradio_api/file/{path}",
            f"/static/{path}",
            f"/assets/../..{path}",
        ):
            asked = requests.Request("GET", address).prepare()
            asked.url = f"{address}{address_of}"
            with requests.Session() as session:
                answer = session.send(asked, timeout=10)
            assert answer.status_code in (403, 404), address_of
            assert b"not for others" not in answer.content
    for number, path in enumerate((str(secret), "/etc/passwd", beside)):
        answer = look_at(address, config, path, f"attack{number}")
        assert '"success":false' in answer, answer
        assert "Traceback" not in answer
    assert look_at(address, config, f"{address}/config", "attack9") == "403"


def test_uploads_stay_in_the_pages_folder(address, folder):
    for name in ("../../escaped.png", "/tmp/escaped.png", "..\\escaped.png", ".."):
        sent = requests.post(f"{address}/gradio_api/upload", files={"files": (name, b"x")}, timeout=10)
        if sent.status_code == 200:
            assert f"{folder}/infinitetalk-job-page-" in sent.json()[0]
            assert ".." not in sent.json()[0].split("/")
    assert not list(folder.glob("escaped*"))


def test_the_page_holds_no_key_and_is_on_this_machine_alone(address, config):
    assert address.startswith("http://127.0.0.1:")
    everything = requests.get(address, timeout=10).text + json.dumps(config)
    assert KEY not in everything
    assert 'analytics_enabled": true' not in everything
    assert not [entry["api_name"] for entry in config["dependencies"] if entry["api_visibility"] != "private"]
    for path in (
        "/gradio_api/info",
        "/gradio_api/openapi.json",
        "/docs",
        "/monitoring",
        "/gradio_api/runs",
        "/pwa_icon",
    ):
        assert requests.get(f"{address}{path}", timeout=10).status_code == 403
    for host in ("attacker.example", "127.0.0.1.attacker.example"):
        assert requests.get(address, headers={"Host": host}, timeout=10).status_code == 403
    assert requests.get(address, headers={"Origin": "https://attacker.example"}, timeout=10).status_code == 403
