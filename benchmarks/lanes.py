"""What 8 bits and sparse attention do to videos: held-out jobs of the trained miniature in every lane, on the CPU.

    python -m benchmarks.lanes --out OUT [--jobs 4] [--seconds 4] [--mode balanced]

The transformer runs in bfloat16 in every lane, with the same weights, seeds and windows. Each lane is compared with the
exact one. The autoencoder runs in float32, which is faster on a CPU. PSNR, similarity and lip sync are those of the
finished videos, compression included. OUT keeps the videos. Prints a Markdown table: mean ± standard deviation
(smallest to largest).
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch
from skimage.metrics import peak_signal_noise_ratio

from benchmarks.quality import make, read, row, tasks
from benchmarks.transformer import LANES_MINIATURE, enter
from infinitetalk.contract.presets import load_profile
from infinitetalk.contract.request import SpeedModeName
from infinitetalk.contract.settings import Settings
from infinitetalk.models.opening import load_models
from infinitetalk.quality.report import Measured
from infinitetalk.quality.similarity import similarity
from infinitetalk.startup.weights import find_weights
from training.speech import load_corpus

ROOT = Path(__file__).parents[1]


def compare(lane: str, made: list[Measured], exact: list[Measured]) -> str:
    """A lane's line of the table.

    Args:
        exact: the same jobs in the exact lane; empty for that lane itself.
    """
    psnrs, likenesses = [], []
    for one, other in zip(made, exact, strict=bool(exact)):
        psnrs += [peak_signal_noise_ratio(a, b) for a, b in zip(other.frames, one.frames, strict=True)]
        likenesses.append(100 * similarity(one.frames, other.frames).overall)
    syncs = [person.lip_sync and person.lip_sync.correlation for one in made for person in one.report.people]
    return f"| {lane} | {row(psnrs, '.1f')} | {row(likenesses, '.1f')} | {row(syncs)} |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the videos")
    parser.add_argument("--jobs", type=int, default=4, help="held-out jobs, half of them of two people")
    parser.add_argument("--seconds", type=float, default=4, help="of each")
    parser.add_argument("--mode", choices=get_args(SpeedModeName), default="balanced")
    options = parser.parse_args(arguments)
    settings, corpus = Settings.from_env({}), load_corpus("held_out")
    files = find_weights(load_profile("miniature"), settings).files
    models = load_models(files, torch.device("cpu"), torch.bfloat16)
    models.vae.float()
    todo = [task for task in tasks(options.jobs, options.seconds, 0) if task.mode == options.mode and not task.silent]
    jobs = [(task, task.job(corpus)) for task in todo]
    print("| lane | PSNR of frames against the exact one, dB | similarity, % | lip sync |")
    print("| --- | --- | --- | --- |")
    exact: list[Measured] = []
    for lane, arithmetic in LANES_MINIATURE.items():
        models = replace(models, arithmetic=enter(models.transformer, arithmetic))
        folder = options.out / lane
        made = [read(make(task, job, models, settings, folder / task.name), job) for task, job in jobs]
        print(compare(lane, made, exact), flush=True)
        exact = exact or made


if __name__ == "__main__":
    main()
