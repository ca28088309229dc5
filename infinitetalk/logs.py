"""What is logged: one line for each event, with the job's id, without anything that is the caller's own.

On RunPod a line is JSON with the keys that RunPod's own lines have, and the event's fields beside them:

    {"requestId": "…", "message": "job finished", "level": "INFO", "time": "…", "gpu_seconds": 41.2, …}

Of an exception a line holds the type and the place. Its text may quote a URL; its stack says nothing to an operator.
"""

import json
import logging
import re
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

LOGGED_BELOW_ERROR = ("infinitetalk", "runpod.sdk")  # loggers; all others are logged from ERROR on
MAX_TEXT_CHARS = 2000
MAX_CAUSES = 4

_PRIVATE = re.compile(r"data:[^\s,]{0,200},\S*|[a-z][a-z0-9+.-]{0,19}://[^\s\"'<>]+", re.IGNORECASE)
_SERVER = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9.-]+(:\d+)?(?=[/?#]|$)", re.IGNORECASE)
_QUOTE = re.compile(r'"(?:[^"\\]|\\.)*"')
_STACK = re.compile(r"Traceback \(most recent call last\).*", re.DOTALL)

_job_id: ContextVar[str | None] = ContextVar("job_id", default=None)


def configure_logging(level: str, stream: TextIO, *, as_json: bool = False) -> None:
    """Log this package from `level` on and everything else from ERROR on, and show no progress bars of libraries.

    Libraries quote whole URLs, with the keys in them, in warnings and at DEBUG.

    Args:
        stream: where lines go.
        as_json: each line is a JSON object, as RunPod's own are.
    """
    import diffusers.utils.logging  # brings gigabytes, which a log line does not need
    import transformers.utils.logging

    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if as_json else TextLines())
    # Some libraries have a level of their own, which the root's does not reach.
    handler.addFilter(lambda record: record.name.startswith(LOGGED_BELOW_ERROR) or record.levelno >= logging.ERROR)
    logging.basicConfig(level="ERROR", handlers=[handler], force=True)
    logging.captureWarnings(True)
    logging.getLogger("infinitetalk").setLevel(level)
    threading.excepthook = _log_failed_thread
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.set_verbosity_error()


@contextmanager
def job_logs(job_id: str) -> Iterator[None]:
    """Lines that this thread logs in the `with` block carry the job's id."""
    token = _job_id.set(job_id)
    try:
        yield
    finally:
        _job_id.reset(token)


def log_event(logger: logging.Logger, level: int, message: str, **fields: object) -> None:
    """Log an event with its figures as fields of the line."""
    logger.log(level, message, extra={"fields": fields})


def without_quotes(text: str) -> str:
    """A message to a caller without what it quotes of their job: texts, as JSON."""
    return _QUOTE.sub('"..."', text)


def redact(text: str) -> str:
    """The text without data: URIs and stacks, with only the server of each URL, cut to MAX_TEXT_CHARS."""
    return _PRIVATE.sub(_shorten, _STACK.sub("(stack left out)", text[:MAX_TEXT_CHARS]))


def places(error: BaseException | None) -> list[str]:
    """An exception and its causes: the type of each and where it was raised, without texts and paths."""
    found: list[str] = []
    while error is not None and len(found) < MAX_CAUSES:
        stack = [
            f"{frame.f_globals.get('__name__', '?')}:{line}" for frame, line in traceback.walk_tb(error.__traceback__)
        ]
        ours = [place for place in stack if place.startswith("infinitetalk")]  # says more than a library's depths
        found.append(" at ".join([type(error).__name__, *(ours or stack)[-1:]]))
        error = error.__cause__ or error.__context__
    return found


class JsonLines(logging.Formatter):
    """Each line is a JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "requestId": getattr(record, "job_id", None) or _job_id.get(),
            "message": redact(record.getMessage()),
            "level": record.levelname,
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        }
        return json.dumps(line | _fields(record), ensure_ascii=False)


class TextLines(logging.Formatter):
    """Lines for people: level, message, fields."""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f", {name} {value}" for name, value in _fields(record).items())
        return f"{record.levelname:7}| {redact(record.getMessage())}{fields}".replace("\n", " ")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = {name: _plain(value) for name, value in getattr(record, "fields", {}).items() if value is not None}
    if record.exc_info and record.exc_info[1]:
        fields["cause"] = places(record.exc_info[1])
    return fields


def _plain(value: object) -> Any:  # noqa: ANN401
    """A value as JSON may hold it."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float) else redact(str(value))


def _shorten(match: re.Match[str]) -> str:
    text = match[0]
    if text[:5].lower() == "data:":
        return "data:..."
    server = _SERVER.match(text)
    return f"{server[0]}/..." if server and "@" not in text else "(address)"


def _log_failed_thread(failed: threading.ExceptHookArgs) -> None:
    name = failed.thread.name if failed.thread else "?"
    log_event(
        logging.getLogger("infinitetalk"), logging.ERROR, "thread failed", thread=name, cause=places(failed.exc_value)
    )
