"""The journal of a batch: nothing that was written is lost, whatever breaks off."""

import threading
from pathlib import Path

import pytest

from infinitetalk.client.journal import Entry, Journal
from infinitetalk.client.sending import SentJob
from infinitetalk.errors import InvalidInput

SENT = Entry(event="sent", name="anna", digest="d", job=SentJob(job_id="j", place=("--url", "u"), uploads=("k",)))


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path)
    yield journal
    journal.close()


def again(tmp_path, journal):
    journal.close()
    return Journal(tmp_path)


def test_the_last_thing_that_happened_counts(tmp_path):
    journal = Journal(tmp_path)
    journal.add(SENT)
    journal.add(Entry(event="done", name="ben", digest="e", result={"seed": 1}))
    journal = again(tmp_path, journal)
    assert journal.latest("anna") == SENT
    assert journal.latest("ben").result == {"seed": 1}
    assert journal.latest("carl") is None
    journal.close()


@pytest.mark.parametrize("kept", [1, 30, -1])
def test_a_half_written_last_line_costs_that_line_only(tmp_path, kept):
    journal = Journal(tmp_path)
    journal.add(SENT)
    first = journal.path.read_bytes()
    journal.add(Entry(event="done", name="anna", digest="d"))
    whole = journal.path.read_bytes()
    journal.close()
    journal.path.write_bytes(first + whole[len(first) :][:kept])
    journal = Journal(tmp_path)
    is_whole = kept == -1  # only its line break is missing
    assert (journal.latest("anna").event, journal.unreadable) == (("done", 0) if is_whole else ("sent", 1))
    journal.add(Entry(event="failed", name="ben", digest="e"))
    journal = again(tmp_path, journal)
    assert journal.latest("ben").event == "failed"
    assert journal.latest("anna").event == ("done" if is_whole else "sent")
    journal.close()


def test_two_runs_do_not_share_it(tmp_path, journal):
    with pytest.raises(InvalidInput, match="another run works on this batch"):
        Journal(tmp_path)


def test_threads_do_not_mix_their_lines(tmp_path, journal):
    entries = [Entry(event="done", name=f"job-{i}", digest="x" * 5000) for i in range(40)]
    threads = [threading.Thread(target=journal.add, args=(entry,)) for entry in entries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(journal.path.read_text().splitlines()) == 40
    journal.close()
    journal.__init__(tmp_path)
    assert journal.unreadable == 0


def test_a_folder_that_cannot_be_written_to_is_told():
    with pytest.raises(InvalidInput, match=r"/proc/batch.jsonl cannot be written"):
        Journal(Path("/proc"))
