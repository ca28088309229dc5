"""Jobs of tabs: one each, in turn on this machine, ended with the tab."""

import threading
import time

import pytest

from infinitetalk.client.following import JobView
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import Cancelled, InvalidInput
from infinitetalk.page.here import LocalRunner
from infinitetalk.page.tabs import Tabs


def until(done, limit_s=5.0):
    end_s = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def waiting(show, should_stop):
    """A job that runs until it is ended."""
    show(JobView("job", "IN_PROGRESS"))
    until(should_stop)
    raise Cancelled("The job was cancelled.")


def test_a_job_shows_where_it_is_and_gives_what_it_makes():
    def work(show, should_stop):
        show(JobView("job", "STARTING"))
        time.sleep(0.5)
        return "made"

    seen = list(Tabs().run("a", work))
    assert [seen[0].status, seen[-1]] == ["STARTING", "made"]


def test_ending_one_tabs_job_leaves_the_others():
    tabs = Tabs()
    first, second = tabs.run("a", waiting), tabs.run("b", waiting)
    next(first), next(second)
    with pytest.raises(InvalidInput, match="still running"):
        next(tabs.run("a", waiting))
    tabs.end("a")
    tabs.end("nobody")
    with pytest.raises(Cancelled):
        next(first)
    assert threading.active_count() > 1
    second.close()  # as when Gradio drops it
    until(lambda: not tabs._jobs)


def test_the_end_of_the_page_ends_all():
    tabs = Tabs()
    jobs = [tabs.run(name, waiting) for name in "abc"]
    for job in jobs:
        next(job)
    tabs.end_all(5.0)
    assert not tabs._jobs


def test_jobs_on_this_machine_take_turns_in_order(tmp_path):
    runner, seen, made = LocalRunner(Settings(work_dir=tmp_path), None), [], []
    leave = [threading.Event() for _ in range(3)]

    def job(number, should_stop=lambda: False):
        with runner._turn(lambda view: seen.append((number, view.queue)), should_stop):
            made.append(number)
            leave[number].wait(5)

    threads = []
    for number in range(3):
        threads.append(threading.Thread(target=job, args=(number,)))
        threads[-1].start()
        until(lambda n=number: len(runner._waiting) == n + 1)
    until(lambda: (2, "jobs of this page before it: 2") in seen)
    with pytest.raises(Cancelled), runner._turn(lambda view: None, lambda: True):
        pass
    for number in range(3):
        until(lambda n=number: made == list(range(n + 1)))
        leave[number].set()
    for thread in threads:
        thread.join()
    assert seen[0][0] != 0
    assert runner._waiting == []
