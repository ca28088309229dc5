"""Videos on their way home: whole, as long as promised, or not there at all."""

import base64

import pytest

from infinitetalk.client.endpoint import EndpointFailed
from infinitetalk.client.receiving import receive
from tests.support.media_samples import write_talking_video


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_talking_video(tmp_path_factory.mktemp("made") / "made.mp4", seconds=0.4).read_bytes()


def result(**fields):
    return {"settings": {"duration_s": 0.4}} | fields


def uri(content):
    return f"data:video/mp4;base64,{base64.b64encode(content).decode()}"


def test_a_video_at_an_address_is_fetched_also_from_the_callers_own_network(site, video, tmp_path, monkeypatch):
    monkeypatch.delenv("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS")
    site.pages["/v.mp4"] = video
    assert receive(result(video_url=f"{site.url}/v.mp4?key"), tmp_path / "out.mp4").file == tmp_path / "out.mp4"
    assert (tmp_path / "out.mp4").read_bytes() == video
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_a_video_in_the_answer_is_written(video, tmp_path):
    receive(result(video=uri(video)), tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == video


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda video: video[: len(video) // 2], "no whole video"),
        (lambda video: b"<html>sorry</html>", "no whole video"),
        (lambda video: b"", "no whole video"),
    ],
)
def test_what_is_not_whole_does_not_appear(change, sentence, video, tmp_path):
    (tmp_path / "out.mp4").write_bytes(b"before")
    with pytest.raises(EndpointFailed, match=sentence):
        receive(result(video=uri(change(video))), tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_a_video_of_another_length_is_refused(video, tmp_path):
    with pytest.raises(EndpointFailed, match=r"lasts 0\.4\d? s, and the job's video 2\.00 s"):
        receive({"settings": {"duration_s": 2.0}, "video": uri(video)}, tmp_path / "out.mp4")


def test_an_answer_cut_off_is_told(video, tmp_path):
    with pytest.raises(EndpointFailed, match="cut off"):
        receive(result(video=uri(video)[:-3]), tmp_path / "out.mp4")


@pytest.mark.usefixtures("short_pauses")
def test_an_address_that_serves_nothing_is_told(site, tmp_path):
    with pytest.raises(
        EndpointFailed, match=r"cannot be fetched \(video_url: the server answered HTTP 404 Not Found\)"
    ):
        receive(result(video_url=f"{site.url}/gone.mp4"), tmp_path / "out.mp4")


def test_a_download_that_breaks_off_goes_on(site, video, tmp_path, short_pauses):
    def broken(request):
        part = video[: len(video) // 2] if site.hits["/v.mp4"] == 1 else video
        request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(video) + part)
        request.close_connection = True

    site.pages["/v.mp4"] = broken
    receive(result(video_url=f"{site.url}/v.mp4"), tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == video
    assert site.hits["/v.mp4"] == 2


def test_a_volumes_path_is_only_told(tmp_path):
    assert (
        receive(result(video_path="/runpod-volume/a.mp4"), tmp_path / "out.mp4").volume_path == "/runpod-volume/a.mp4"
    )
    with pytest.raises(EndpointFailed, match="names no video"):
        receive(result(), tmp_path / "out.mp4")
