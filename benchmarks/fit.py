"""Makes a file of infinitetalk/presets/hardware from jobs that benchmarks/job.py measured. Needs no GPU.

    python -m benchmarks.fit out/job.json -o infinitetalk/presets/hardware/nvidia-h100.toml --gpu H100 [--passes FILE]

Several reports, one for each attention kernel, make one file. Prints how far the file is off for each job, and how far
it would be off if it were fitted without the jobs of that mode. With --passes the file also gets the lanes in 8 bits,
or sparse, that benchmarks/transformer.py measured. (A worker that has weights makes its own file in one go:
infinitetalk calibrate -o FILE.toml.)
"""

import argparse
import json
from pathlib import Path
from typing import Any

from infinitetalk.arithmetic import Arithmetic
from infinitetalk.contract.presets import load_profile
from infinitetalk.planning.estimate import Hardware, Lane, Work
from infinitetalk.startup.calibration import Sample, calibrated, fit_lanes, to_toml

Json = dict[str, Any]


def sample_of(report: Json, job: Json) -> Sample:
    """A job of a report of benchmarks/job.py."""
    seconds = {**job["seconds"]}
    other = seconds.pop("other", 0.0)
    return Sample(Work(**job["work"]), Arithmetic(**report["arithmetic"]), seconds, other)


def fitted(name: str, reports: list[Json], gpu: str | None, without: str | None = None) -> Hardware:
    """The coefficients that fit the reports' jobs.

    Args:
        gpu: part of the names of the devices that they hold for.
        without: a mode whose jobs are left out.
    """
    samples = [sample_of(report, job) for report in reports for job in report["jobs"] if job["speed_mode"] != without]
    first = reports[0]
    when = f"{first['date']}, torch {first['torch']}"
    hardware = calibrated(name, samples, load_profile(first["profile"]), first["device"], when, "benchmarks/job.py")
    return hardware.model_copy(update={"gpus": (gpu,)}) if gpu else hardware


def lanes_of(report: Json) -> dict[str, tuple[Lane, ...]]:
    """The lanes in 8 bits, or sparse, of a report of benchmarks/transformer.py."""
    samples: dict[str, list[Sample]] = {}
    for row in report["passes"]:
        if row["lane"].startswith(("fp8", "sparse")):
            tokens = row["tokens"]
            shared = tokens if row["people"] > 1 else 0
            work = Work(tokens, tokens**2, shared, to_video=0.0, to_latents=0.0, frames=0)
            sample = Sample(work, Arithmetic(**row["arithmetic"]), {"denoise": row["milliseconds"] / 1000}, other=0.0)
            samples.setdefault(row["lane"], []).append(sample)
    return {name: fit_lanes(passes) for name, passes in samples.items()}


def main(arguments: list[str] | None = None) -> None:
    """Fit, print how well, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", type=Path, nargs="+", metavar="FILE.json")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.toml")
    parser.add_argument("--gpu", help="part of the device names that the file holds for; the report's if not given")
    parser.add_argument("--passes", type=Path, metavar="FILE.json", help="what benchmarks/transformer.py wrote")
    options = parser.parse_args(arguments)
    reports = [json.loads(path.read_text("utf-8")) for path in options.reports]
    whole = fitted(options.output.stem, reports, options.gpu)
    print("| job | attention | measured s | by the file | off | off, fitted without this mode |")
    print("| --- | --- | --- | --- | --- | --- |")
    for report in reports:
        modes = {job["speed_mode"] for job in report["jobs"]}
        for job in report["jobs"]:
            mode, sample = job["speed_mode"], sample_of(report, job)
            other = fitted("", reports, None, without=mode) if len(modes) > 1 else whole
            measured = sample.total
            found = [fit.seconds(sample.work, sample.arithmetic) for fit in (whole, other)]
            cells = [f"{mode}, {job['size']}", sample.arithmetic.attention_text, f"{measured:.1f}", f"{found[0]:.1f}"]
            print(f"| {' | '.join([*cells, *(f'{100 * (seconds / measured - 1):+.1f} %' for seconds in found)])} |")
    if options.passes:
        more = lanes_of(json.loads(options.passes.read_text("utf-8")))
        whole = whole.model_copy(update={"lanes": whole.lanes | more})
    options.output.write_text(to_toml(whole), "utf-8")


if __name__ == "__main__":
    main()
