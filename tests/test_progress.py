import pytest

from infinitetalk.progress import StepCounter, Stopwatch


@pytest.fixture
def seen():
    return []


@pytest.fixture
def counter(seen, monkeypatch):
    """Two windows of three steps; the clock moves only when `seen` grows, a second each."""
    monkeypatch.setattr("infinitetalk.progress.time.monotonic", lambda: float(len(seen)))
    counter = StepCounter(seen.append)
    counter.planned(windows=2, steps=3, warnings=())
    return counter


def run_window(counter, window):
    counter.stage("condition")
    for step in range(3):
        counter.before_step(window, step)
    counter.stage("decode")
    counter.stage("encode")


def test_a_window_counts_as_its_steps_and_one_more(counter, seen):
    run_window(counter, 0)
    run_window(counter, 1)
    counter.stage("deliver")
    assert [progress.percent for progress in seen] == [0, 0, 12.5, 25, 37.5, 37.5, 37.5, 50, 62.5, 75, 87.5, 87.5, 100]
    assert [(p.window, p.step) for p in seen][-2:] == [(2, 3), (2, 3)]


def test_the_time_left_follows_the_pace_so_far(counter, seen):
    for step in range(3):
        counter.before_step(0, step)
    assert [progress.seconds_left for progress in seen] == [None, 7.0, 6.0]


def test_the_pace_of_a_resumed_job_is_that_of_its_own_steps(counter, seen):
    counter.before_step(1, 0)
    counter.before_step(1, 1)
    assert [progress.seconds_left for progress in seen] == [None, 3.0]
    assert seen[-1].percent == 62.5


def test_before_the_plan_is_known_nothing_is_done(seen):
    StepCounter(seen.append).stage("download")
    assert (seen[0].stage, seen[0].percent, seen[0].windows, seen[0].seconds_left) == ("download", 0, 0, None)


def test_a_stopwatch_tells_when_a_stage_begins_and_sums_its_times():
    begun = []
    watch = Stopwatch(on_stage=begun.append)
    for name in ("encode", "decode", "encode"):
        with watch.stage(name):
            pass
    assert begun == ["encode", "decode", "encode"]
    assert set(watch.seconds) == {"encode", "decode"}


def test_a_stage_that_may_not_begin_does_not():
    def refuse(_):
        raise RuntimeError("no")

    watch = Stopwatch(on_stage=refuse)
    with pytest.raises(RuntimeError, match="no"), watch.stage("decode"):
        pytest.fail("it began")
    assert watch.seconds == {}


def test_what_was_spent_follows_the_clock(counter, seen):
    counter.stage("text")
    counter.planned(2, 3, (), usd_per_s=0.5, estimated_cost_usd=9.0)
    counter.stage("image")
    counter.stage("condition")
    assert [(p.cost_usd, p.estimated_cost_usd) for p in seen] == [(None, None), (0.5, 9.0), (1.0, 9.0)]
