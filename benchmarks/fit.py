"""A file of presets/hardware from jobs that benchmarks/job.py measured; needs no GPU.

    python benchmarks/fit.py out/job.json -o presets/hardware/nvidia-h100.toml --gpu H100 [--passes FILE]

Prints how far the file is off each job, and how far it would be, fitted without the jobs of that mode. (A worker with
weights of its own makes its file in one go: infinitetalk calibrate -o FILE.toml.) With --passes the file also gets the
lanes in 8 bits, or sparse, that benchmarks/transformer.py measured.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from infinitetalk.calibration import Sample, calibrated, fit_lane, to_toml
from infinitetalk.estimate import Hardware, Lane, Work
from infinitetalk.presets import load_profile

Json = dict[str, Any]


def fitted(name: str, report: Json, jobs: list[Json], gpu: str | None) -> Hardware:
    """The coefficients by these jobs of the report. gpu: part of the names of the devices they hold for."""
    samples = [Sample(Work(**job["work"]), report["lane"], report["attention"], job["seconds"]) for job in jobs]
    when = f"{report['date']}, torch {report['torch']}"
    hardware = calibrated(name, samples, load_profile(report["profile"]), report["device"], when, "benchmarks/job.py")
    return hardware.model_copy(update={"gpus": (gpu,)}) if gpu else hardware


def lanes_of(report: Json) -> dict[str, Lane]:
    """The lanes in 8 bits, or sparse, of a report of benchmarks/transformer.py."""
    samples: dict[str, list[Sample]] = {}
    for row in report["passes"]:
        if row["lane"].startswith(("fp8", "sparse")):
            tokens = row["tokens"]
            work = Work(tokens, tokens**2, (row["people"] - 1) * tokens, decoded=0.0, encoded=0.0, frames=0)
            seconds = {"denoise": row["milliseconds"] / 1000}
            samples.setdefault(row["lane"], []).append(Sample(work, row["lane"], row["attention"], seconds))
    return {name: fit_lane(passes) for name, passes in samples.items()}


def main(arguments: list[str] | None = None) -> None:
    """Fit, print how well, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, metavar="FILE.json")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.toml")
    parser.add_argument("--gpu", help="part of the device names that the file holds for; the report's if not given")
    parser.add_argument("--passes", type=Path, metavar="FILE.json", help="what benchmarks/transformer.py wrote")
    options = parser.parse_args(arguments)
    report = json.loads(options.report.read_text("utf-8"))
    jobs: list[Json] = report["jobs"]
    whole = fitted(options.output.stem, report, jobs, options.gpu)
    print("| job | measured s | by the file | off | off, fitted without this mode |")
    print("| --- | --- | --- | --- | --- |")
    for job in jobs:
        others = [other for other in jobs if other["speed_mode"] != job["speed_mode"]]
        work, measured = Work(**job["work"]), sum(job["seconds"].values())
        by_file = whole.seconds(work, report["lane"])
        without = fitted("", report, others, None).seconds(work, report["lane"]) if others else by_file
        cells = [f"{job['speed_mode']}, {job['size']}", f"{measured:.1f}", f"{by_file:.1f}"]
        cells += [f"{100 * (seconds / measured - 1):+.1f} %" for seconds in (by_file, without)]
        print(f"| {' | '.join(cells)} |")
    if options.passes:
        more = lanes_of(json.loads(options.passes.read_text("utf-8")))
        whole = whole.model_copy(update={"lanes": whole.lanes | more})
    options.output.write_text(to_toml(whole), "utf-8")


if __name__ == "__main__":
    main()
