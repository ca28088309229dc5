"""How predictions with and without text and voice are combined into one velocity."""

from collections.abc import Callable
from enum import Enum
from itertools import pairwise

import torch
from torch import Tensor

from infinitetalk.contract.presets import Apg


class Drop(Enum):
    """What a forward pass is made without. NOTHING is the fully conditioned pass."""

    NOTHING = "nothing"
    TEXT = "text"
    AUDIO = "audio"
    BOTH = "both"


def drops(text: float, audio: float) -> tuple[Drop, ...]:
    """The forward passes that guidance of these scales needs, each with less than the one before.

    With text guidance, audio guidance compares two passes without text. If audio guidance is 1, the pass without both
    cancels out and is not made (the authors' code makes it).
    """
    if text == 1:
        return (Drop.NOTHING,) if audio == 1 else (Drop.NOTHING, Drop.AUDIO)
    return (Drop.NOTHING, Drop.TEXT) if audio == 1 else (Drop.NOTHING, Drop.TEXT, Drop.BOTH)


class ProjectedDifference:
    """A guidance difference damped by adaptive projected guidance (APG, arXiv 2410.02416).

    It keeps a momentum sum over the steps of one window, limits its norm, and removes the part that is parallel to the
    conditional prediction.
    """

    def __init__(self, apg: Apg) -> None:
        self.apg = apg
        self.average: Tensor | None = None

    def __call__(self, difference: Tensor, conditional: Tensor) -> Tensor:
        if self.average is not None:
            difference = difference + self.apg.momentum * self.average
        self.average = difference
        difference = difference * torch.clamp(self.apg.norm_threshold / difference.norm(), max=1.0)
        direction = torch.nn.functional.normalize(conditional.double().flatten(), dim=0)
        parallel = (difference.double().flatten() @ direction) * direction
        return (difference.double() - parallel.view_as(difference)).type_as(difference)


class Guide:
    """Combines the predictions of one window's steps.

    Args:
        text, audio: guidance scales; 1 means none.
        apg: adaptive projected guidance, or None for the plain combination.
    """

    def __init__(self, text: float, audio: float, apg: Apg | None = None) -> None:
        self.drops = drops(text, audio)
        self.apg = apg
        self.scales = [(scale, ProjectedDifference(apg) if apg else None) for scale in (text, audio) if scale != 1]

    def __call__(self, predict: Callable[[Drop], Tensor]) -> Tensor:
        """The guided velocity; `predict` makes one forward pass."""
        predictions = [predict(drop) for drop in self.drops]
        full = predictions[0]
        guided = full if self.apg else predictions[-1]
        for (scale, project), (more, less) in zip(self.scales, pairwise(predictions), strict=True):
            difference = more - less
            guided = guided + ((scale - 1) * project(difference, full) if project else scale * difference)
        return guided
