"""A short run of benchmarks/fuzz.py, whose docstring says what a malformed job is."""

import logging
import statistics

from benchmarks.fuzz import MEDIAN_LIMIT_S, as_sent, fuzz, malformed_job


def test_malformed_jobs_are_refused_quickly_and_with_a_sentence():
    logging.disable()
    try:
        codes, seconds, faults = fuzz(500, seed=2)
    finally:
        logging.disable(logging.NOTSET)
    assert faults == []
    assert sum(codes.values()) == 500
    assert statistics.median(seconds) < MEDIAN_LIMIT_S


def test_the_same_seed_gives_the_same_jobs_and_another_others():
    jobs, same, others = (repr([malformed_job(number, seed) for number in range(30)]) for seed in (3, 3, 4))
    assert jobs == same
    assert jobs != others


def test_answers_are_measured_as_they_are_sent():
    assert as_sent({"error": "ß"}) == b'{"error": "\xc3\x9f"}'
