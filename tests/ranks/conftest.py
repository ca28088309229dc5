"""Ranks on the CPU, started as a worker starts them: the tests are rank 0."""

from collections.abc import Callable, Iterator

import pytest
import torch

from infinitetalk.ranks.group import Ranks


@pytest.fixture
def start_ranks() -> Iterator[Callable[[int], Ranks]]:
    """Starts so many ranks, this process included, and ends them after the test."""
    started: list[Ranks] = []

    def start(count: int) -> Ranks:
        ranks = Ranks(count, torch.device("cpu"))
        started.append(ranks)
        ranks.join()
        return ranks

    yield start
    for ranks in started:
        ranks.close()
