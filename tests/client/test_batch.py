"""`infinitetalk batch` against a worker's real local API, the stand-in platform, and this machine."""

import base64
import json
import re
import threading
from pathlib import Path

import pytest

from infinitetalk import cli_machine
from infinitetalk.cli import main
from infinitetalk.cli_display import print_summary
from infinitetalk.client import batch as batch_module
from infinitetalk.client.batch import TRIES, Batch, Ended
from infinitetalk.client.batch_endpoint import OnEndpoint
from infinitetalk.client.journal import Entry, Journal
from infinitetalk.client.lines import BadLines, Line, read_lines
from infinitetalk.contract.settings import Settings
from infinitetalk.media.probe import probe
from tests.support.caller_platform import CALLER_KEY
from tests.support.s3 import keys_in

SAMPLES = Path(__file__).parents[2] / "samples"


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


def test_what_cannot_be_sent_is_told_before_anything_is(platform, jobs, batch, out, monkeypatch):
    monkeypatch.setattr("runpod.endpoint_url_base", platform.base)
    monkeypatch.setenv("RUNPOD_API_KEY", "wrong")
    _, ended = batch(jobs({}, {"seed": 1}), "--endpoint", "endpoint")
    assert "The endpoint refuses the key" in ended
    assert [path for _, path in platform.calls] == ["health"]
    monkeypatch.setattr("infinitetalk.client.files.REQUEST_LIMIT_BYTES", 2000)
    printed, _ = batch(jobs({}, {"seed": 1}), "--endpoint", "endpoint")
    assert printed.err.count("The files are too large for a request") == 2
    assert "--at-once has no effect here" in batch(jobs({}), "--at-once", "2")[1]
    assert "--device has no effect here" in batch(jobs({}), "--endpoint", "endpoint", "--device", "cpu")[1]
    assert (len(platform.calls), platform.asked) == (1, [])


@pytest.fixture
def journal(out):
    out.mkdir()
    journal = Journal(out)
    yield journal
    journal.close()


@pytest.fixture
def run(endpoint, journal, jobs, out, tmp_path, monkeypatch):
    """Runs a batch on the platform from Python; how it ended. `run.notes` has what was told; `run.way` makes a way."""
    monkeypatch.setattr(batch_module, "RETRY_PAUSE_S", 0.01)

    def way(stop=None, bucket=None, **options):
        stop = stop or threading.Event()
        return OnEndpoint(endpoint, journal, Settings(work_dir=tmp_path), bucket, run.notes.append, stop, **options)

    def run(*changes, stop=None, show=lambda *_: None, **options):
        stop = stop or threading.Event()
        batch, lines = Batch(out, journal, way(stop, **options), stop), read_lines(jobs(*changes), {})
        return batch.run(lines, batch.unmade(lines), 2, show)

    run.notes, run.way = [], way
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


def test_a_changed_line_never_gets_the_old_video(run, journal, jobs, out, platform):
    (old,) = read_lines(jobs({"name": "anna", "seed": 1}), {})
    journal.add(Entry(event="done", name="anna", digest=old.digest))
    for name in ("anna", "ben"):
        (out / f"{name}.mp4").write_bytes(b"a video")
    with pytest.raises(BadLines) as wrong:
        run({"name": "anna", "seed": 2}, {"name": "ben"})
    assert "anna.mp4 was made from another job" in wrong.value.problems[0]
    assert "ben.mp4 is there, and this batch did not make it" in wrong.value.problems[1]
    assert run({"name": "anna", "seed": 1})[0].state == "kept"
    (out / "anna.mp4").rename(out / "old.mp4")
    assert run({"name": "anna", "seed": 2})[0].state == "done"
    assert len(platform.asked) == 1


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


def test_a_video_that_the_endpoint_has_forgotten_is_still_at_its_address(left, run, platform, journal, out):
    job = left()
    platform.gone.add(job.job_id)
    video = (SAMPLES / "talking_head.mp4").read_bytes()
    result = {"video_url": f"data:video/mp4;base64,{base64.b64encode(video).decode()}"}
    journal.add(journal.latest("anna").model_copy(update={"result": result}))  # as noted before it is fetched
    assert run({"name": "anna"})[0].state == "done"
    assert (out / "anna.mp4").read_bytes() == video
    journal.add(journal.latest("anna").model_copy(update={"event": "sent"}))  # killed before it could be noted
    assert run({"name": "anna"})[0].state == "kept"


def test_no_more_jobs_than_asked_for_are_at_the_endpoint(run, journal, platform):
    running, most = set(), []

    def show(name, state, view):
        (running.add if state == "running" else running.discard)(name)
        most.append(len(running))

    ends = run(*({"name": f"{n}", "output": "url"} for n in range(5)), show=show)  # which the worker refuses
    assert [ended.state for ended in ends] == ["failed"] * 5
    assert (max(most), len(platform.asked)) == (2, 5)


def test_a_summary_says_what_is_wrong_and_what_to_look_at(capsys):
    found = {"gpu_seconds": 2.5, "cost_usd": 0.25, "checks": {"look_at": ["Second 1.00 to 2.00 is black."]}}
    anna, ben = (Line("line 1", name, None, "") for name in ("anna", "ben [1]"))
    print_summary([Ended(anna, "done", found), Ended(ben, "failed", problem="No [face]\nis found (invalid_input)")])
    printed = capsys.readouterr().out
    assert re.search(r"made now: 1 +2.5 +0.2500", printed)
    assert "Look at anna: Second 1.00 to 2.00 is black." in printed
    assert "ben [1]: No [face] is found (invalid_input)" in printed


def test_a_job_whose_line_is_gone_is_told(left, platform, batch, jobs, journal, monkeypatch):
    job = left()
    journal.close()
    monkeypatch.setattr("runpod.endpoint_url_base", platform.base)
    monkeypatch.setenv("RUNPOD_API_KEY", CALLER_KEY)
    printed, _ = batch(jobs({"name": "ben", "output": "url"}), "--endpoint", "endpoint")
    assert f"Note: job {job.job_id} (--endpoint endpoint) was sent for anna, which is no line" in printed.err
    journal.__init__(journal.path.parent)


@pytest.mark.parametrize("odd", ["cut", 500])
def test_a_job_that_may_have_been_taken_is_not_sent_again(run, platform, journal, odd):
    platform.odd_calls.append(odd)
    (ended,) = run({"name": "anna"})
    assert "It is not known whether the endpoint took the job" in ended.problem
    (ended,) = run({"name": "anna"})
    assert "It is not known whether the endpoint took the job when the batch broke off" in ended.problem
    assert platform.calls == [("POST", "run")]


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


def test_a_cancelled_job_is_made_by_the_next_run(left, run, platform, journal, jobs):
    job = left()
    (line,) = read_lines(jobs({"name": "anna"}), {})
    assert run.way().cancel(line, job)
    assert job.job_id in platform.cancelled
    assert journal.latest("anna").error_code == "cancelled"
    assert run({"name": "anna"})[0].state == "done"


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


def test_without_an_endpoint_this_machine_makes_them_with_models_opened_once(
    models, jobs, batch, out, face, monkeypatch
):
    opened = []
    inside = f"data:image/png;base64,{base64.b64encode(face.read_bytes()).decode()}"
    lines = {"name": "anna"}, {"name": "ben", "speed_mode": "fast", "image_url": inside}
    monkeypatch.setattr(cli_machine, "open_models", lambda settings: opened.append(settings) or models)
    monkeypatch.setattr(cli_machine, "worker_checks", lambda _: ())
    printed, ended = batch(jobs(*lines))
    assert ended is None
    assert (len(opened), events(out)) == (1, [(name, event) for name in ("anna", "ben") for event in ("begun", "done")])
    assert probe(out / "ben.mp4", "video").has_video
    printed, ended = batch(jobs(*lines))
    assert (ended, len(opened)) == (None, 1)
    printed, ended = batch(jobs({"name": "carl", "output": "url"}))
    assert "leave it out on this machine" in printed.err


def test_pairs_do_not_take_their_own_videos_for_inputs(batch, tmp_path, out, face, voice):
    out.mkdir()
    with pytest.raises(SystemExit, match=r"is read, and -o .* would write there"):
        main(["batch", "--pairs", str(out), "-o", str(out)])
