"""What an endpoint reports that is no worker's progress."""

import pytest

from infinitetalk.cli_display import watch_bar
from infinitetalk.client.following import JobView, read_progress

REPORT = {"stage": "denoise", "window": 1, "windows": 2, "step": 1, "steps": 3, "percent": 10}


@pytest.mark.parametrize("odd", [1e300, float("nan"), float("inf"), -1e300])
def test_numbers_that_cannot_be_shown_are_left_out(odd):
    report = REPORT | {"seconds_left": odd, "cost_usd": 0.5, "estimated_cost_usd": odd}
    with watch_bar() as show:
        show(JobView("job", "IN_PROGRESS", report))
    progress = read_progress(report)
    assert (progress.seconds_left, progress.cost_usd, progress.estimated_cost_usd) == (None, 0.5, None)
    assert read_progress(REPORT | {"percent": odd}) is None
