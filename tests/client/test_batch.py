"""`infinitetalk batch` against a worker's real local API, the stand-in platform, and this machine."""

import json
import threading

import pytest

from infinitetalk import cli_machine
from infinitetalk.cli import main
from infinitetalk.client import batch as batch_module
from infinitetalk.client.batch import TRIES, Batch
from infinitetalk.client.batch_endpoint import OnEndpoint
from infinitetalk.client.journal import Journal
from infinitetalk.client.lines import BadLines, read_lines
from infinitetalk.contract.settings import Settings
from infinitetalk.media.probe import probe
from tests.support.s3 import keys_in


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def jobs(tmp_path, face, voice):
    """Writes the list: a turbo job of each of some objects."""

    def jobs(*changes):
        common = {"image_url": face.name, "wav_url": voice.name, "speed_mode": "turbo"}
        path = tmp_path / "jobs.jsonl"
        path.write_text("\n".join(json.dumps(common | change) for change in changes))
        return path

    return jobs


@pytest.fixture
def batch(out, capsys):
    """Runs the command; what it printed, and what it ended with."""

    def batch(source, *options):
        try:
            main(["batch", str(source), "-o", str(out), *map(str, options)])
            ended = None
        except SystemExit as error:
            ended = str(error.code)
        return capsys.readouterr(), ended

    return batch


def events(out):
    lines = map(json.loads, (out / "batch.jsonl").read_text().splitlines())
    return [(line["name"], line["event"]) for line in lines]


def test_a_second_run_makes_only_what_is_missing(api, jobs, batch, out):
    source = jobs({"name": "anna"}, {"name": "ben", "speed_mode": "fast"}, {"name": "carl", "output": "url"})
    printed, ended = batch(source, "--url", api)
    assert "1 of 3 jobs failed" in ended
    assert "has no bucket" in " ".join(printed.out.split())
    assert {path.name for path in out.iterdir()} == {"anna.mp4", "ben.mp4", "batch.jsonl"}
    assert probe(out / "ben.mp4", "video").has_audio
    first = events(out)
    (out / "ben.mp4").unlink()
    printed, ended = batch(jobs({"name": "anna"}, {"name": "ben", "speed_mode": "fast"}), "--url", api)
    assert ended is None
    assert events(out)[len(first) :] == [("ben", event) for event in ("begun", "sent", "sent", "done")]
    assert "anna: kept" in printed.err
    assert "made now: 1 " in printed.out


def test_wrong_lines_are_told_before_anything_is_sent(platform, jobs, batch, out, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    address = f"{platform.base}/endpoint"
    printed, ended = batch(jobs({}, {"image_url": "broken.png"}, {"image_url": "none.png"}), "--url", address)
    assert "Wrong lines in the batch: 1; nothing was begun" in ended
    assert "line 3: image_url: there is no file" in printed.err
    printed, ended = batch(jobs({}, {"image_url": "broken.png"}), "--url", address)
    assert "line 2: image_url: this is an unknown or damaged file" in printed.err
    assert platform.calls == []


def test_a_changed_line_never_gets_the_old_video(api, jobs, batch, out):
    assert batch(jobs({"name": "anna", "seed": 1}), "--url", api)[1] is None
    printed, _ = batch(jobs({"name": "anna", "seed": 2}), "--url", api)
    assert "anna.mp4 was made from another job" in printed.err
    (out / "anna.mp4").rename(out / "old.mp4")
    assert batch(jobs({"name": "anna", "seed": 2}), "--url", api)[1] is None
    (out / "ben.mp4").write_bytes(b"somebody's")
    printed, _ = batch(jobs({"name": "ben"}), "--url", api)
    assert "this batch did not make it" in printed.err
    assert (out / "ben.mp4").read_bytes() == b"somebody's"


@pytest.fixture
def journal(out):
    out.mkdir()
    journal = Journal(out)
    yield journal
    journal.close()


@pytest.fixture
def run(endpoint, journal, jobs, out, tmp_path, monkeypatch):
    """Runs a batch on the platform from Python; how it ended. `run.notes` has what was told."""
    monkeypatch.setattr(batch_module, "RETRY_PAUSE_S", 0.01)

    def run(*changes, stop=None, show=lambda *_: None, bucket=None, **options):
        stop = stop or threading.Event()
        settings = Settings(work_dir=tmp_path)
        way = OnEndpoint(endpoint, journal, settings, bucket, run.notes.append, stop, **options)
        batch, lines = Batch(out, journal, way, stop), read_lines(jobs(*changes), {})
        return batch.run(lines, batch.unmade(lines), 2, show)

    run.notes = []
    return run


@pytest.fixture
def left(run, journal):
    """Runs a batch of one line, "anna", that is stopped while its job runs; the job."""

    def left(**options):
        stop = threading.Event()
        seen = []

        def watch(name, state, view):
            seen.append(state)
            if view is not None:
                stop.set()

        (ended,) = run({"name": "anna"}, stop=stop, show=watch, **options)
        assert (ended.state, ended.problem) == ("left", "It runs on at the endpoint.")
        assert journal.latest("anna").event == "sent"
        return journal.latest("anna").job

    return left


def test_a_break_pays_no_job_twice(left, run, platform):
    left()
    (ended,) = run({"name": "anna"})
    assert ended.state == "done"
    assert ended.result["video_path"].endswith(".mp4")
    assert run({"name": "anna"})[0].state == "kept"  # it is on the volume
    assert len(platform.asked) == 1


def test_files_in_the_bucket_stay_for_a_job_that_is_left_and_go_with_it(left, run, s3, bucket, monkeypatch):
    monkeypatch.setattr("infinitetalk.client.files.REQUEST_LIMIT_BYTES", 2000)
    monkeypatch.setenv("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS", "1")
    job = left(bucket=bucket)
    assert set(keys_in(s3)) == set(job.uploads) != set()
    assert run({"name": "anna"}, bucket=bucket)[0].state == "done"
    assert keys_in(s3) == []


def test_a_job_that_is_not_known_any_more_is_sent_again_only_if_the_user_says_so(left, run, platform):
    platform.gone.add(left().job_id)
    (ended,) = run({"name": "anna"})
    assert (ended.state, "does not know job" in ended.problem, len(platform.asked)) == ("failed", True, 1)
    (ended,) = run({"name": "anna"}, resend=True)
    assert (ended.state, len(platform.asked)) == ("done", 2)
    assert "It is sent again." in run.notes[0]


@pytest.mark.parametrize("odd", ["cut", 500])
def test_a_job_that_may_have_been_taken_is_not_sent_again(run, platform, journal, odd):
    platform.odd_calls.append(odd)
    (ended,) = run({"name": "anna"})
    assert "It is not known whether the endpoint took the job" in ended.problem
    (ended,) = run({"name": "anna"})
    assert "It is not known whether the endpoint took the job when the batch broke off" in ended.problem
    assert platform.calls == [("POST", "run")]
    assert run({"name": "anna"}, resend=True)[0].state == "done"


def test_a_job_that_was_certainly_not_taken_is_sent_again(run, platform, monkeypatch):
    monkeypatch.setattr("infinitetalk.client.endpoint.SEND_PAUSES_S", ())
    platform.odd_calls.extend([429, 429])
    assert run({"name": "anna"})[0].state == "done"
    platform.odd_calls.append(400)
    (ended,) = run({"name": "ben"})
    assert (ended.state, ended.problem) == ("failed", "The endpoint refuses this (HTTP 400: {}) (refused)")


def test_an_earlier_job_that_still_runs_is_cancelled_first(left, run, platform):
    job = left()
    platform.endless.add(job.job_id)
    with pytest.raises(BadLines) as wrong:
        run({"name": "anna", "seed": 3})
    assert f"infinitetalk submit --cancel {job.job_id} --endpoint endpoint" in wrong.value.problems[0]
    platform.cancelled.add(job.job_id)
    assert run({"name": "anna", "seed": 3})[0].state == "done"


def test_a_job_of_another_endpoint_is_not_looked_for_here(left, run, journal, out):
    job = left()
    there = job.model_copy(update={"place": ("--url", "http://localhost:1")})
    journal.add(journal.latest("anna").model_copy(update={"job": there}))
    with pytest.raises(BadLines) as wrong:
        run({"name": "anna"})
    assert "was sent to --url http://localhost:1" in wrong.value.problems[0]


def test_what_may_succeed_later_is_tried_again_and_not_for_ever(run, platform, monkeypatch):
    voice = {"wav_url": f"{platform.base}/nothing.wav"}  # refused as a private address, unless it is allowed
    monkeypatch.setenv("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS", "1")
    monkeypatch.setattr("infinitetalk.transfer.downloads.RETRY_PAUSES_S", ())
    platform.odd_takes.extend([503] * 9)
    (ended,) = run(voice | {"name": "anna"})
    assert (ended.state, "download_failed" in ended.problem) == ("failed", True)
    assert len(platform.asked) == TRIES
    (ended,) = run({"name": "ben", "output": "url"})  # not worth another try
    assert len(platform.asked) == TRIES + 1


def test_without_an_endpoint_this_machine_makes_them_with_models_opened_once(models, jobs, batch, out, monkeypatch):
    opened = []
    monkeypatch.setattr(cli_machine, "open_models", lambda settings: opened.append(settings) or models)
    monkeypatch.setattr(cli_machine, "worker_checks", lambda _: ())
    printed, ended = batch(jobs({"name": "anna"}, {"name": "ben", "speed_mode": "fast"}))
    assert ended is None
    assert (len(opened), events(out)) == (1, [(name, event) for name in ("anna", "ben") for event in ("begun", "done")])
    assert probe(out / "ben.mp4", "video").has_video
    printed, ended = batch(jobs({"name": "anna"}, {"name": "ben", "speed_mode": "fast"}))
    assert (ended, len(opened)) == (None, 1)
    printed, ended = batch(jobs({"name": "carl", "output": "url"}))
    assert "leave it out on this machine" in printed.err


def test_pairs_do_not_take_their_own_videos_for_inputs(batch, tmp_path, out, face, voice):
    out.mkdir()
    with pytest.raises(SystemExit, match=r"is read, and -o .* would write there"):
        main(["batch", "--pairs", str(out), "-o", str(out)])
