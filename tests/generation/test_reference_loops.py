"""How a stored run of the authors' loop is read from its settings."""

import pytest

from infinitetalk.contract.presets import Apg
from tests.support.golden import Loop, loop_variants

FOLDER, VARIANT = loop_variants()[0]


@pytest.mark.parametrize(
    ("settings", "apg"),
    [
        ({}, None),
        ({"apg": False, "apg_momentum": -0.5}, None),
        ({"apg": True}, Apg()),
        ({"apg": True, "apg_norm_threshold": 9}, Apg(norm_threshold=9.0)),
        ({"apg": True, "apg_momentum": -0.5}, Apg(momentum=-0.5)),
        ({"apg": True, "apg_momentum": 0, "apg_norm_threshold": 20.5}, Apg(momentum=0.0, norm_threshold=20.5)),
    ],
)
def test_guidance_is_damped_as_the_settings_say(settings: dict[str, object], apg: Apg | None) -> None:
    loop = Loop(FOLDER, VARIANT)
    loop.settings = {name: value for name, value in loop.settings.items() if "apg" not in name} | settings
    assert loop.plan.mode.apg == apg
