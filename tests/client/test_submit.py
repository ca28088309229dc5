"""`infinitetalk submit` against a worker's real local API, and against the stand-in platform."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from infinitetalk import cli_submit
from infinitetalk.cli import main
from infinitetalk.client import following
from infinitetalk.client.endpoint import RemoteEndpoint
from infinitetalk.client.notes import note_path, read_note, write_note
from infinitetalk.client.sending import SentJob
from infinitetalk.media.probe import probe
from tests.support.caller_platform import CALLER_KEY

ROOT = Path(__file__).parents[2]


def told(error):
    return str(error.value)


@pytest.fixture
def submit(face, voice, tmp_path, capsys):
    """Runs the command on a small job; what it printed."""

    def submit(*options, output=tmp_path / "out.mp4"):
        job = ["--image", face, "--audio", voice, "--speed-mode", "turbo", "-o", output]
        main(["submit", *map(str, job), *map(str, options)])
        return capsys.readouterr()

    return submit


def test_a_job_of_files_becomes_a_video(api, submit, tmp_path):
    printed = submit("--url", api, "--seed", "5")
    result = json.loads(printed.out)
    assert result["file"] == str(tmp_path / "out.mp4")
    assert (result["seed"], result["speed_mode"], result["settings"]["frames"]) == (5, "turbo", 5)
    assert "video" not in result
    assert probe(tmp_path / "out.mp4", "video").has_audio
    assert "Job test-" in printed.err
    assert "window 1/1" in printed.err  # the worker's word
    assert " of about $" in printed.err
    assert not note_path(tmp_path / "out.mp4").exists()


def test_the_workers_plan_and_price(api, submit, tmp_path):
    printed = submit("--url", api, "--dry-run")
    assert "estimated price" in printed.out
    assert "$" in printed.out
    assert not (tmp_path / "out.mp4").exists()


def test_a_typo_costs_no_job(submit, tmp_path, platform, monkeypatch):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(SystemExit, match="image_url: this is an unknown or damaged file") as failed:
        submit("--url", platform.base + "/endpoint", "--image", tmp_path / "broken.png")
    assert failed.value.code != 0
    with pytest.raises(SystemExit, match="there is no file"):
        submit("--url", platform.base + "/endpoint", "--audio", tmp_path / "nowhere.wav")
    with pytest.raises(SystemExit, match="does not end in"):
        submit("--url", platform.base + "/endpoint", output=tmp_path / "out.avi")
    assert platform.calls == []


def test_the_workers_sentence_is_shown(api, submit, tmp_path):
    with pytest.raises(SystemExit) as failed:
        submit("--url", api, "--deliver", "url")
    assert "this worker has no bucket" in str(failed.value)
    assert "(invalid_input)" in str(failed.value)
    assert not note_path(tmp_path / "out.mp4").exists()


def test_a_volumes_path_and_what_is_to_be_looked_at_are_told(platform, submit, tmp_path, monkeypatch):
    found = {"checks": {"verdict": "look at it", "look_at": ["Second 1.00 to 2.00 is black."]}}
    monkeypatch.setattr(cli_submit, "outcome", lambda view: following.outcome(view) | found)
    monkeypatch.setattr("runpod.endpoint_url_base", platform.base)
    monkeypatch.setenv("RUNPOD_API_KEY", CALLER_KEY)
    printed = submit("--endpoint", "endpoint")
    assert Path(json.loads(printed.out)["video_path"]).is_file()
    assert "on the worker's volume" in printed.err
    assert "Look at it: Second 1.00 to 2.00 is black." in printed.err
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "No endpoint is named"),
        (["--endpoint", "a/b"], "give the endpoint's id"),
        (["--url", "localhost:8000"], "give an http"),
        (["--url", "http://"], "give an http"),
        (["--endpoint", "endpoint"], "There is no key for RunPod"),
    ],
)
def test_a_wrong_endpoint_is_told(options, sentence, submit, monkeypatch):
    monkeypatch.setattr("runpod.api_key", None)
    with pytest.raises(SystemExit, match=sentence):
        submit(*options)


def test_a_wrong_key_is_told(platform, submit, monkeypatch):
    monkeypatch.setattr("runpod.endpoint_url_base", platform.base)
    monkeypatch.setenv("RUNPOD_API_KEY", "wrong")
    with pytest.raises(SystemExit, match="refuses the key"):
        submit("--endpoint", "endpoint")


def test_the_key_for_runpod_goes_to_no_other_address(platform, submit, monkeypatch):
    monkeypatch.setenv("RUNPOD_API_KEY", CALLER_KEY)
    with pytest.raises(SystemExit, match="refuses the key"):
        submit("--url", f"{platform.base}/endpoint")


def test_nobody_there_is_told_without_a_long_wait(submit, monkeypatch):
    monkeypatch.setattr("infinitetalk.client.endpoint.SEND_PAUSES_S", (0.01,))
    with pytest.raises(SystemExit, match="The job was not sent: the endpoint cannot be reached"):
        submit("--url", "http://127.0.0.1:9")


def test_a_job_left_behind_is_found_again(api, submit, tmp_path, monkeypatch):
    """Ctrl-C where nobody can be asked: the job runs on, its note stays, and it is not sent twice."""
    output = tmp_path / "out.mp4"

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("infinitetalk.cli_submit.follow", interrupt)
        with pytest.raises(SystemExit) as left:
            submit("--url", api)
    assert left.value.code == 130
    job = read_note(output)
    with pytest.raises(SystemExit, match=f"The job {job.job_id} was sent for"):
        submit("--url", api)
    with pytest.raises(SystemExit, match="is of another job"):
        main(["submit", "--resume", "other", "-o", str(output)])
    main(["submit", "--resume", job.job_id, "-o", str(output)])  # the note knows where
    assert probe(output, "video").has_video
    assert not note_path(output).exists()
    output.unlink()
    main(["submit", "--resume", job.job_id, "--url", api, "-o", str(output)])  # results are kept
    assert output.is_file()


def test_a_wrong_place_does_not_cost_the_note_of_a_running_job(api, tmp_path):
    output, job = tmp_path / "out.mp4", SentJob(job_id="test-runs", place=("--url", "http://localhost:1"))
    write_note(output, job)
    with pytest.raises(SystemExit, match="was sent to --url http://localhost:1"):
        main(["submit", "--resume", "test-runs", "--url", api, "-o", str(output)])
    assert read_note(output) == job


def test_a_kill_while_a_job_is_sent_leaves_a_note(api, submit, tmp_path, monkeypatch):
    """The endpoint has the job, and its id never came: the same command must not pay again."""

    class Killed(BaseException):
        pass

    def sent(endpoint, job):
        send(endpoint, job)
        raise Killed

    send, output = RemoteEndpoint.send, tmp_path / "out.mp4"
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(RemoteEndpoint, "send", sent)
        submit("--url", api)
    with pytest.raises(SystemExit, match="It is not known whether"):
        submit("--url", api)
    with pytest.raises(SystemExit, match="knows no such job"):
        main(["submit", "--resume", "test-1", "-o", str(output)])


def test_a_job_that_was_not_sent_leaves_no_note(platform, submit, tmp_path, monkeypatch):
    monkeypatch.setenv("RUNPOD_API_KEY", "wrong")
    monkeypatch.setattr("runpod.endpoint_url_base", platform.base)
    with pytest.raises(SystemExit, match="refuses the key"):
        submit("--endpoint", "endpoint")
    assert not note_path(tmp_path / "out.mp4").exists()


def test_a_result_that_is_no_longer_kept_is_told(api, tmp_path):
    with pytest.raises(SystemExit, match="knows no such job"):
        main(["submit", "--resume", "test-1", "--url", api, "-o", str(tmp_path / "out.mp4")])


def test_a_job_is_cancelled_by_its_id(api, submit, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("infinitetalk.cli_submit.follow", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(SystemExit):
        submit("--url", api, "--speed-mode", "maximum_quality")
    job = read_note(tmp_path / "out.mp4")
    main(["submit", "--cancel", job.job_id, "--url", api])
    assert "its status is CANCELLED" in capsys.readouterr().out
    monkeypatch.undo()
    with pytest.raises(SystemExit, match="The job was cancelled"):
        main(["submit", "--resume", job.job_id, "-o", str(tmp_path / "out.mp4")])


def test_it_needs_no_torch(tmp_path):
    script = (
        "import sys, pkgutil; from infinitetalk.cli import COMMANDS; from infinitetalk.cli_options import make_parser;"
        "[pkgutil.resolve_name(COMMANDS[name]) for name in ('submit', 'batch')]; make_parser(COMMANDS);"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"
