"""What handler.py's main() sets up before the first job, and how it ends where it cannot."""

import asyncio
import json
import logging
import signal
import sys
import threading
from datetime import timedelta

import pytest
import torch
from runpod.serverless.modules import rp_fitness
from runpod.serverless.modules.rp_logger import RunPodLogger

import handler as worker
from infinitetalk.serving import jobs
from tests.support.certificates import make_chain

CHAIN = make_chain()
EXPIRED = make_chain(starts=timedelta(days=-9), ends=timedelta(days=-2))


@pytest.fixture
def keep_process(monkeypatch):
    """main() sets up logging and signals for the whole process."""
    root = logging.getLogger()
    handlers, level, hook = root.handlers[:], root.level, threading.excepthook
    levels = {name: logging.getLogger(name).level for name in ("infinitetalk", "runpod.sdk")}
    on_signal, sdk = signal.getsignal(signal.SIGTERM), RunPodLogger()
    sdk_level = sdk.level
    monkeypatch.setattr(rp_fitness, "_fitness_checks", [])
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)
    logging.captureWarnings(False)
    threading.excepthook = hook
    signal.signal(signal.SIGTERM, on_signal)
    vars(sdk).pop("log", None)
    sdk.level = sdk_level


@pytest.fixture
def started(monkeypatch, keep_process):
    """What main() hands to the SDK."""
    configs = []
    monkeypatch.setattr(sys, "argv", ["handler.py"])
    monkeypatch.setattr(worker, "worker_checks", lambda _: ())
    monkeypatch.setattr(worker, "open_models", lambda _: "the models")
    monkeypatch.setattr(worker.runpod.serverless, "start", configs.append)
    return configs


@pytest.mark.usefixtures("keep_process")
@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({"OUTPUT": "fax"}, "OUTPUT"),
        ({"MODEL_PROFILE": "no-such-model"}, "no-such-model"),
        ({"MODEL_PROFILE": "infinitetalk-14b", "MIN_VRAM_GIB": "0"}, "MODELS_DIR"),
        ({"OUTPUT": "volume", "VOLUME_DIR": "/nowhere"}, "no volume at /nowhere"),
        ({"VOLUME_DIR": "/dev/null"}, "not a folder"),
        ({"MAX_AUDIO_S": "1e300"}, "MAX_AUDIO_S"),
        ({"SIGN_CERT": "/nowhere.pem", "SIGN_KEY": "/nowhere.pem"}, "SIGN_KEY is neither PEM text"),
        ({"SIGN_CERT": EXPIRED.certificates, "SIGN_KEY": EXPIRED.key}, "the certificate of Example Films expired on"),
        ({"SIGN_CERT": CHAIN.certificates, "SIGN_KEY": EXPIRED.key}, "SIGN_KEY does not fit"),
        ({"SIGN_TSA": "http://127.0.0.1:9"}, "no time stamp comes from SIGN_TSA"),
    ],
)
def test_a_worker_that_cannot_start_says_why_in_one_line(monkeypatch, env, named):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as caught:
        worker.main()
    message = str(caught.value.code)
    assert named in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("ours", "sdks"), [("DEBUG", "INFO"), ("INFO", "INFO"), ("WARNING", "WARN"), ("ERROR", "ERROR")]
)
def test_the_sdk_logs_no_answers(monkeypatch, started, ours, sdks):
    """Its DEBUG level would: the video or its URL."""
    monkeypatch.setenv("LOG_LEVEL", ours)
    worker.main()
    assert len(started) == 1
    assert RunPodLogger().level == sdks


def test_on_runpod_the_checks_are_the_sdks_to_run_and_its_lines_are_ours(monkeypatch, started, capsys):
    monkeypatch.setenv("RUNPOD_WEBHOOK_GET_JOB", "https://api.example/job-take/1?token=SECRET")

    def gpu():
        raise AssertionError("not before start")

    monkeypatch.setattr(worker, "worker_checks", lambda _: (gpu,))
    worker.main()
    assert [check.__name__ for check in rp_fitness._fitness_checks] == ["gpu", "load_models", "load_faces"]
    RunPodLogger().error("no job from https://api.example/job-take/1?token=SECRET", "job-1")
    RunPodLogger().debug("whole jobs")
    line = json.loads(capsys.readouterr().out)
    assert (line["requestId"], line["level"]) == ("job-1", "ERROR")
    assert line["message"] == "no job from https://api.example/..."


def test_a_worker_that_retires_sets_the_sdks_own_flag(monkeypatch, started):
    def lose_gpu(*_, **__):
        raise torch.AcceleratorError("CUDA error")

    worker.main()
    (config,) = started
    monkeypatch.setattr(jobs, "run_job", lose_gpu)
    assert "refresh_worker" not in config
    job = {"image_url": "https://example.com/face.png", "wav_url": "https://example.com/voice.wav"}
    asyncio.run(config["handler"]({"id": "job-1", "input": job}))
    assert config["refresh_worker"] is True


@pytest.mark.usefixtures("started")
def test_a_worker_told_to_end_while_it_loads_ends_at_once(monkeypatch):
    def load(_):
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("it goes on")

    monkeypatch.setattr(worker, "open_models", load)
    with pytest.raises(SystemExit) as caught:
        worker.main()
    assert caught.value.code == 143
