"""The table of docs/costs.md: what the guide's job takes and costs on GPUs side by side. Needs no GPU and no media.

    python -m benchmarks.costs                                     80 s, 720p, two people
    python -m benchmarks.costs --seconds 10 --resolution 480p --people 1

For a job of your own: infinitetalk plan --compare.
"""

import argparse
from typing import Any, get_args

from infinitetalk.contract.presets import load_mode, load_profile
from infinitetalk.contract.request import Request, Resolution, SpeedModeName
from infinitetalk.planning.comparison import comparison
from infinitetalk.planning.plan import Plan, make_plan
from infinitetalk.shapes import FPS


def plans_of(seconds: float, resolution: str, people: int) -> dict[str, Plan]:
    """A picture and as many voices as people, by mode."""
    job: dict[str, Any] = {
        "image_url": "https://example.com/face.png",
        "wav_url": "https://example.com/voice.wav",
        "resolution": resolution,
    }
    if people == 2:
        job |= {"person_count": "multi", "wav_url_2": "https://example.com/voice_2.wav"}
    profile = load_profile("infinitetalk-14b")
    return {
        mode: make_plan(Request.parse(job | {"speed_mode": mode}), profile, load_mode(mode), round(seconds * FPS), 1)
        for mode in get_args(SpeedModeName)
    }


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=80.0)
    parser.add_argument("--resolution", choices=get_args(Resolution), default="720p")
    parser.add_argument("--people", type=int, choices=(1, 2), default=2)
    options = parser.parse_args(arguments)
    print(comparison(plans_of(options.seconds, options.resolution, options.people), "infinitetalk-14b"))


if __name__ == "__main__":
    main()
