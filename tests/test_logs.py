import io
import json
import logging
import threading
import warnings

import pytest

from infinitetalk.logs import MAX_TEXT_CHARS, configure_logging, job_logs, log_event, places, redact, without_quotes

LOGGER = logging.getLogger("infinitetalk.test")


@pytest.fixture
def stream():
    """Where the log goes."""
    return io.StringIO()


def lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_json_line_with_the_jobs_id(stream):
    configure_logging("INFO", stream, as_json=True)
    with job_logs("job-1"):
        log_event(LOGGER, logging.INFO, "job\nfinished", gpu_seconds=4.2, timings_s={"decode": 1.5}, unknown=None)
    LOGGER.info("idle")
    first, second = lines(stream)
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "requestId": "job-1",
        "message": "job\nfinished",
        "level": "INFO",
        "gpu_seconds": 4.2,
        "timings_s": {"decode": 1.5},
    }
    assert second["requestId"] is None


@pytest.mark.parametrize(
    ("told", "logged"),
    [
        ('seed is "my secret": must be a whole number.', 'seed is "...": must be a whole number.'),
        ('"a \\" b" and "" are no fields', '"..." and "..." are no fields'),
        ("speed_mode is 5: must be turbo.", "speed_mode is 5: must be turbo."),
    ],
)
def test_what_a_message_quotes_of_a_job_is_not_logged(told, logged):
    assert without_quotes(told) == logged


def test_as_text_an_event_is_one_line_too(stream):
    configure_logging("INFO", stream)
    log_event(LOGGER, logging.WARNING, "job\nfailed", code="internal")
    assert stream.getvalue() == "WARNING| job failed, code internal\n"


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "WARNING", "ERROR"])
def test_the_level_is_the_packages_and_libraries_are_quiet(stream, level):
    configure_logging(level, stream, as_json=True)
    for name in ("infinitetalk.job.run", "urllib3.connectionpool"):
        for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            logging.getLogger(name).log(number, name)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("of a library", UserWarning, stacklevel=1)
    shown = [(line["message"], line["level"]) for line in lines(stream)]
    ours = ["DEBUG", "INFO", "WARNING", "ERROR"]
    assert shown == [("infinitetalk.job.run", name) for name in ours[ours.index(level) :]] + [
        ("urllib3.connectionpool", "ERROR")
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("from https://host.example/a/b?token=SECRET#SECRET: no", "from https://host.example/... no"),
        ("at http://127.0.0.1:8000/x", "at http://127.0.0.1:8000/..."),
        ("https://user:SECRET@host.example/a", "(address)"),
        ("https://user:SEC/RET@host.example/a", "(address)"),
        ("s3://SECRET_bucket/key", "(address)"),
        ("HTTPS://HOST.example?SECRET", "HTTPS://HOST.example/..."),
        ("got data:image/png;base64,SECRET== here", "got data:... here"),
        ("DATA:text/plain,SECRET", "data:..."),
        (
            "failed | ['Traceback (most recent call last):\\n', '  File \"/app/x.py\", SECRET",
            "failed | ['(stack left out)",
        ),
        ("a plain sentence: 50 % of /runpod-volume", "a plain sentence: 50 % of /runpod-volume"),
    ],
)
def test_what_is_private_is_left_out(text, shown):
    assert redact(text) == shown


def test_long_texts_are_cut_and_cost_little(stream):
    assert redact("x" * 10_000_000) == "x" * MAX_TEXT_CHARS


def test_an_exception_is_logged_by_type_and_place_only(stream):
    configure_logging("INFO", stream, as_json=True)
    try:
        try:
            raise KeyError("SECRET")
        except KeyError as error:
            raise RuntimeError("https://host.example/SECRET") from error
    except RuntimeError as error:
        found = places(error)
        LOGGER.exception("failed")
    assert [place.split(":")[0] for place in found] == ["RuntimeError at test_logs", "KeyError at test_logs"]
    assert lines(stream)[0]["cause"] == found
    assert "SECRET" not in stream.getvalue()
    assert places(None) == []
    assert places(ValueError("never raised")) == ["ValueError"]


def test_an_endless_chain_of_causes_is_cut():
    first, second = ValueError(), TypeError()
    first.__cause__, second.__cause__ = second, first
    assert len(places(first)) == 4


def test_a_thread_that_fails_leaves_one_line_and_no_stack(stream, capsys):
    configure_logging("INFO", stream, as_json=True)

    def fail():
        raise OSError("SECRET")

    thread = threading.Thread(target=fail, name="post")
    thread.start()
    thread.join()
    (line,) = lines(stream)
    assert (line["message"], line["thread"], line["cause"][0].split()[0]) == ("thread failed", "post", "OSError")
    assert "SECRET" not in stream.getvalue() + "".join(capsys.readouterr())
