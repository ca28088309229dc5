"""The page's jobs at an endpoint: a worker's real local API, and the stand-in platform."""

import time
from typing import get_args

import pytest

from infinitetalk.client.endpoint import RemoteEndpoint
from infinitetalk.client.following import JobFailed, JobView
from infinitetalk.contract.request import Request, SpeedModeName
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import Cancelled, MediaUnreadable
from infinitetalk.media.probe import probe
from infinitetalk.page import words
from infinitetalk.page.preview import GrowingPreview
from infinitetalk.page.there import RemoteRunner
from tests.support.media_samples import write_tone


@pytest.fixture
def request_(face, voice):
    return Request.of_files(image=face, audio=voice, speed_mode="turbo")


@pytest.fixture
def runner(api):
    return RemoteRunner(RemoteEndpoint.at(api), None, Settings())


def test_a_job_is_sent_shown_and_brought_here(runner, face, tmp_path):
    voice = write_tone(tmp_path / "three_windows.wav", seconds=5, frequency_hz=180)
    request = Request.of_files(image=face, audio=voice, speed_mode="turbo")
    views = []
    made = runner.make(request, tmp_path / "out.mp4", views.append, lambda: False)
    assert made.file == tmp_path / "out.mp4"
    assert probe(made.file, "video").has_audio
    assert "video" not in made.result
    assert any("it-bar" in words.progress(view) and "window 3/3" in words.progress(view) for view in views)
    assert str(made.file) in words.result(made.result, str(made.file), made.notes)
    assert [view for view in views if words.sheet(view)]  # the contact sheet: this worker has no bucket
    assert GrowingPreview(tmp_path, is_here=False).update(views[-1]) is None


def test_plans_come_from_the_worker(runner, request_):
    runs = runner.plans(request_, lambda view: None, lambda: False)
    assert tuple(runs) == get_args(SpeedModeName)
    assert len({run.settings.steps for run in runs.values()}) == 4
    shown = words.plans(runs, "turbo")
    assert all(f"{run.estimate.cost_usd:.4f}" in shown for run in runs.values())


def test_what_is_wrong_is_told_before_a_job_is_sent(runner, voice, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    broken = Request.of_files(image=tmp_path / "broken.png", audio=voice)
    for ask in (runner.plans, lambda *rest: runner.make(rest[0], tmp_path / "out.mp4", *rest[1:])):
        with pytest.raises(MediaUnreadable, match="image_url: this is an unknown or damaged file"):
            ask(broken, lambda view: None, lambda: False)


def test_the_workers_sentence_is_told(runner, face, voice, tmp_path):
    request = Request.of_files(image=face, audio=voice, lane="sparse_20")
    with pytest.raises(JobFailed, match="lane"):
        runner.make(request, tmp_path / "out.mp4", lambda view: None, lambda: False)


def test_a_job_that_is_to_stop_is_cancelled_on_the_worker(api, samples_request, tmp_path):
    endpoint = RemoteEndpoint.at(api)
    jobs = []

    def show(view):
        jobs.append(view.job_id)

    with pytest.raises(Cancelled):
        RemoteRunner(endpoint, None, Settings()).make(samples_request, tmp_path / "out.mp4", show, lambda: bool(jobs))
    until_s = time.monotonic() + 10
    while endpoint.status(jobs[0])["status"] != "CANCELLED":
        assert time.monotonic() < until_s
        time.sleep(0.05)
    assert not (tmp_path / "out.mp4").exists()


@pytest.fixture
def samples_request(face, tmp_path):
    """A job of some seconds."""
    return Request.of_files(image=face, audio=write_tone(tmp_path / "long.wav", 6.0), speed_mode="turbo")


def test_a_path_of_another_machine_is_not_read_here(tmp_path):
    (tmp_path / "preview.m3u8").write_text('#EXT-X-MAP:URI="secret"\nsecret\n')
    (tmp_path / "secret").write_text("secret")
    view = JobView("job", "IN_PROGRESS", {"preview_path": str(tmp_path / "preview.m3u8")})
    (tmp_path / "mine").mkdir()
    assert GrowingPreview(tmp_path / "mine", is_here=False).update(view) is None
    assert GrowingPreview(tmp_path / "mine", is_here=True).update(view) is not None


def test_a_preview_grows_by_what_is_new(site, tmp_path):
    parts = '#EXTM3U\n#EXT-X-MAP:URI="init.mp4"\n#EXTINF:1,\n0.m4s\n'
    site.pages |= {"/p/list.m3u8": parts.encode(), "/p/init.mp4": b"head ", "/p/0.m4s": b"one "}
    view = JobView("job", "IN_PROGRESS", {"preview_url": f"{site.url}/p/list.m3u8?signed"})
    preview = GrowingPreview(tmp_path, is_here=False)
    assert preview.update(view).read_bytes() == b"head one "
    assert preview.update(view) is None
    site.pages["/p/list.m3u8"] = f"{parts}#EXTINF:1,\n1.m4s\n".encode()
    assert preview.update(view) is None  # the part is not there yet
    site.pages["/p/1.m4s"] = b"two "
    assert preview.update(view).read_bytes() == b"head one two "
    assert site.hits["/p/0.m4s"] == 1
