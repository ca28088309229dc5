"""Malformed jobs through the worker's whole entry: each must be refused with a structured error, and quickly.

    python -m benchmarks.fuzz [--jobs 10000] [--seed 1]

Each job is a valid one that is spoiled in one to four places: types, ranges, names, sizes, text of any kind, URLs of
any kind, and what comes beside the input. Prints how many jobs were refused with which code, and the times.
"""

import argparse
import json
import logging
import math
import random
import statistics
import string
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from infinitetalk.contract.request import Request
from infinitetalk.contract.settings import Settings
from infinitetalk.contract.values import MAX_DATA_URI_CHARS
from infinitetalk.serving import jobs

Json = dict[str, Any]
CODES = {"invalid_input", "too_large"}
ANSWER_FIELDS = {"error", "error_code", "retryable"}
MEDIAN_LIMIT_S = 0.05
MAX_ANSWER_BYTES = 10_000

VALID: tuple[Json, ...] = (
    {"image_url": "https://example.com/a.png", "wav_url": "https://example.com/a.wav"},
    {
        "input_type": "video",
        "video_url": "https://example.com/a.mp4",
        "wav_url": "https://example.com/a.wav",
        "video_strength": 0.5,
        "resolution": "720p",
        "seed": 3,
    },
    {
        "person_count": "multi",
        "image_url": "https://example.com/a.png",
        "wav_url": "https://example.com/a.wav",
        "wav_url_2": "data:audio/wav;base64,UklGRg==",
        "speaker_boxes": [[0, 0, 0.5, 1], [0.5, 0, 1, 1]],
        "speaker_order": "first_then_second",
        "text_guidance": 2.0,
        "negative_prompt": "blur",
    },
)
# No field takes any of these.
NEVER_VALID: tuple[Callable[[random.Random], object], ...] = (
    lambda _: [],
    lambda _: {},
    lambda _: [[[]]] * 50,
    lambda _: {"a": {"b": {"c": [1, 2, {"d": None}]}}},
    lambda _: math.nan,
    lambda _: -math.inf,
    lambda _: -1,
    lambda _: 10**400,
    lambda draw: -draw.random() * 10.0 ** draw.randrange(-300, 300) - 1e-9,
    lambda draw: "\x00" * 5000 + text(draw, 10),
    lambda draw: text(draw, 9000),
    lambda _: "x" * 100_000,
    lambda _: b"bytes",
    lambda _: set(),
    lambda draw: [draw.random() for _ in range(draw.randrange(1, 100))],
)
BAD_URLS: tuple[Callable[[random.Random], object], ...] = (
    lambda _: "",
    lambda draw: text(draw, draw.randrange(1, 60)) + " ",
    lambda draw: f"{draw.choice(['file', 'ftp', 'gopher', 's3', 'javascript', 'about', ''])}://example.com/a.png",
    lambda draw: f"http{draw.choice(['', 's'])}://{draw.choice(['', ':80', '/a', '[::1', 'a:0/', 'a:99999/', 'a b'])}",
    lambda draw: "https://example.com/" + "a" * draw.randrange(8173, 20_000),
    lambda draw: f"data:{draw.choice(['image/png', '', 'text/html', 'x' * 300])},AAAA",
    lambda _: "data:image/png;base64,",
    lambda _: "data:image/png;base64,\N{SNOWMAN}",
    lambda _: "/etc/passwd",
    lambda _: "../../secret",
)


def text(draw: random.Random, length: int) -> str:
    """Text of any kind: letters, controls, other scripts, halves of surrogate pairs."""
    kinds = (
        string.printable,
        "\x00\x1b\u202e\ufeff",
        "\ud800\udfff",
        "\N{SNOWMAN}\N{GRINNING FACE}ß漢",
        "{}[]\"'\\%$<>",
    )
    return "".join(draw.choice(draw.choice(kinds)) for _ in range(length))


def spoil(job: Json, draw: random.Random) -> None:
    """Make one thing about a job wrong."""
    job_input: Json = job["input"]
    field = draw.choice(list(Request.model_fields))
    kind = draw.randrange(9)
    if kind <= 2:
        job_input[field] = draw.choice(NEVER_VALID)(draw)
    elif kind == 3:
        job_input[draw.choice(["image_url", "wav_url"])] = draw.choice(BAD_URLS)(draw)
    elif kind == 4:
        name = draw.choice([text(draw, draw.randrange(1, 80)), field + "s", field.upper(), "width", "tts_text", ""])
        job_input[name] = draw.choice([1, "a", None, []])
    elif kind == 5:
        job_input.pop("wav_url", None)
    elif kind == 6:
        job_input |= dict.fromkeys((f"field_{i}" for i in range(draw.randrange(1, 2000))), 0)
    elif kind == 7:
        x = [draw.uniform(-2, 2) for _ in range(draw.choice([0, 1, 3, 5, 8]))]
        job_input["speaker_boxes"] = draw.choice([[x, x], [x], x, [[0, 0, 0, 0], [0.1, 0.1, 0.2, 0.2]], "left"])
    else:
        job_input[field] = None if Request.model_fields[field].default is not None else draw.choice([True, 1e9, "\x00"])


def malformed_job(number: int, seed: int) -> Json:
    """The job of that number; the same for the same seed."""
    draw = random.Random(f"{seed} {number}")
    base = draw.choice(VALID)
    job: Json = {"id": f"fuzz-{number}", "input": dict(base)}
    whole = draw.randrange(40)
    if whole == 0:
        job["input"] = draw.choice([None, [], text(draw, 30), 3, True, [base], json.dumps(base)])
    elif whole == 1:
        del job["input"]
    elif whole == 2:
        job["policy"] = {"executionTimeout": draw.choice(["1000", -1, [5], {"a": 1}, True, math.inf])}
    elif whole == 3:
        job["s3Config"] = draw.choice([5, "bucket", ["a"], {"endpointUrl": text(draw, 20)}, {text(draw, 5): 1}])
    elif whole == 4 and number % 10 == 0:  # as large as a request can be
        job["input"]["image_url"] = "data:image/png;base64," + "A" * MAX_DATA_URI_CHARS
    else:
        for _ in range(draw.randrange(1, 5)):
            spoil(job, draw)
    return job


def fuzz(n_jobs: int, seed: int = 1) -> tuple[Counter[str], list[float], list[str]]:
    """The codes of the answers, the seconds that each took, and what was wrong with any of them."""
    settings = Settings.from_env({})
    codes: Counter[str] = Counter()
    seconds, faults = [], []

    def no_models() -> Any:  # noqa: ANN401
        raise AssertionError("a malformed job was accepted")

    for number in range(n_jobs):
        job = malformed_job(number, seed)
        started_s = time.perf_counter()
        reply = jobs.answer(job, no_models, settings, lambda *_: None, threading.Event())
        seconds.append(time.perf_counter() - started_s)
        codes[str(reply.get("error_code"))] += 1
        if reply.get("error_code") not in CODES or set(reply) != ANSWER_FIELDS or not reply["error"].endswith("."):
            faults.append(f"job {number} (seed {seed}): {str(reply)[:200]}")
        elif len(as_sent(reply)) > MAX_ANSWER_BYTES:
            faults.append(f"job {number} (seed {seed}): an answer of {len(as_sent(reply))} bytes")
    return codes, seconds, faults


def as_sent(reply: Json) -> bytes:
    """The answer as the SDK sends it. Raises UnicodeEncodeError for text by which the SDK would lose the answer."""
    return json.dumps(reply, ensure_ascii=False).encode()


def main() -> None:
    """Fuzz and print the figures; exit 1 if any answer was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    logging.disable()
    codes, seconds, faults = fuzz(options.jobs, options.seed)
    print(f"{options.jobs} malformed jobs: {', '.join(f'{count} {code}' for code, count in codes.most_common())}")
    quantiles = statistics.quantiles(seconds, n=1000)
    print(
        f"median {statistics.median(seconds) * 1e3:.2f} ms, 99 % under {quantiles[989] * 1e3:.1f} ms, "
        f"longest {max(seconds) * 1e3:.1f} ms"
    )
    for fault in faults[:20]:
        print(f"WRONG: {fault}")
    if faults or statistics.median(seconds) > MEDIAN_LIMIT_S:
        sys.exit(f"{len(faults)} wrong answers")


if __name__ == "__main__":
    main()
