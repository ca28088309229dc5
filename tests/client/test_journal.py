"""The journal of a batch: nothing that was written is lost, whatever breaks off."""

import os
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


@pytest.mark.parametrize("kept", [1, 30, -1])  # bytes; at -1 only its line break is missing
def test_a_half_written_last_line_costs_that_line_only(tmp_path, kept):
    journal = Journal(tmp_path)
    journal.add(SENT)
    first = journal.path.read_bytes()
    journal.add(Entry(event="done", name="anna", digest="d"))
    whole = journal.path.read_bytes()
    journal.close()
    journal.path.write_bytes(first + whole[len(first) :][:kept])
    journal = Journal(tmp_path)
    assert journal.latest("anna").event == "sent"
    journal.add(Entry(event="failed", name="ben", digest="e"))
    journal = again(tmp_path, journal)
    assert journal.latest("ben").event == "failed"
    assert journal.latest("anna").event == "sent"
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
    assert len(journal.names()) == 40


def test_another_file_of_its_name_is_not_written_to(tmp_path):
    path = tmp_path / "batch.jsonl"
    path.write_text('{"image_url": "face.png"}\n')
    with pytest.raises(InvalidInput, match="line 1 is none of a batch's journal"):
        Journal(tmp_path)
    assert path.read_text() == '{"image_url": "face.png"}\n'


def test_a_full_disk_leaves_whole_lines(tmp_path, journal, monkeypatch):
    journal.add(SENT)
    before = journal.path.read_bytes()
    write = os.write
    with monkeypatch.context() as full, pytest.raises(OSError, match=r"cannot be written \(No space left on device\)"):
        full.setattr("os.write", lambda file, line: write(file, line[:10]))
        journal.add(SENT.model_copy(update={"event": "done"}))
    assert (journal.path.read_bytes(), journal.latest("anna").event) == (before, "sent")


def test_a_folder_that_cannot_be_written_to_is_told():
    with pytest.raises(InvalidInput, match=r"/proc/batch.jsonl cannot be written"):
        Journal(Path("/proc"))
