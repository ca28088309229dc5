"""How predictions are combined."""

import pytest
import torch
from torch import Tensor

from infinitetalk.contract.presets import Apg
from infinitetalk.generation.guidance import Drop, Guide, ProjectedDifference, drops


def predictions() -> dict[Drop, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {drop: torch.randn(1, 4, 2, 3, 3, generator=generator) for drop in Drop}


def test_passes_made() -> None:
    assert drops(1, 1) == (Drop.NOTHING,)
    assert drops(1, 2) == (Drop.NOTHING, Drop.AUDIO)
    assert drops(5, 1) == (Drop.NOTHING, Drop.TEXT)
    assert drops(5, 4) == (Drop.NOTHING, Drop.TEXT, Drop.BOTH)


def test_combinations() -> None:
    p = predictions()
    assert Guide(1, 1)(p.__getitem__) is p[Drop.NOTHING]
    torch.testing.assert_close(Guide(1, 3)(p.__getitem__), p[Drop.AUDIO] + 3 * (p[Drop.NOTHING] - p[Drop.AUDIO]))
    text = p[Drop.BOTH] + 5 * (p[Drop.NOTHING] - p[Drop.TEXT]) + 1 * (p[Drop.TEXT] - p[Drop.BOTH])
    torch.testing.assert_close(Guide(5, 1)(p.__getitem__), text)
    both = p[Drop.BOTH] + 5 * (p[Drop.NOTHING] - p[Drop.TEXT]) + 4 * (p[Drop.TEXT] - p[Drop.BOTH])
    torch.testing.assert_close(Guide(5, 4)(p.__getitem__), both)


def test_projected_difference_is_orthogonal_and_bounded() -> None:
    p = predictions()
    project = ProjectedDifference(Apg(momentum=-0.75, norm_threshold=2.0))
    result = project(p[Drop.AUDIO], p[Drop.NOTHING])
    assert (result * p[Drop.NOTHING]).sum().item() == pytest.approx(0, abs=1e-4)
    assert result.norm() <= 2.0 + 1e-4


def test_momentum_remembers_the_step_before() -> None:
    p = predictions()
    still = ProjectedDifference(Apg(momentum=0.0, norm_threshold=1e9))
    moving = ProjectedDifference(Apg(momentum=-0.75, norm_threshold=1e9))
    first = [project(p[Drop.AUDIO], p[Drop.NOTHING]) for project in (still, moving)]
    second = [project(p[Drop.TEXT], p[Drop.NOTHING]) for project in (still, moving)]
    torch.testing.assert_close(*first)
    torch.testing.assert_close(second[1], second[0] - 0.75 * first[0])


def test_apg_changes_a_guided_prediction_and_only_that() -> None:
    p = predictions()
    assert torch.equal(Guide(1, 1, Apg())(p.__getitem__), p[Drop.NOTHING])
    assert not torch.allclose(Guide(1, 2, Apg())(p.__getitem__), Guide(1, 2)(p.__getitem__))
