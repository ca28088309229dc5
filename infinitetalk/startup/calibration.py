"""The estimates' coefficients, measured on this machine: it runs short jobs and fits an `estimate.Hardware` to them."""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image

from infinitetalk.arithmetic import Arithmetic
from infinitetalk.contract.presets import Profile, SpeedMode, load_mode, profile_of
from infinitetalk.contract.request import Request, Resolution
from infinitetalk.contract.result import Result
from infinitetalk.contract.settings import Settings
from infinitetalk.contract.values import LOCAL_FILES
from infinitetalk.job.control import Control
from infinitetalk.job.run import run_job
from infinitetalk.models.opening import Models
from infinitetalk.planning.estimate import Hardware, Lane, Work
from infinitetalk.planning.plan import make_plan
from infinitetalk.progress import Stage
from infinitetalk.shapes import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME, SEPARATOR_RATE_HZ, separator_chunk_starts
from infinitetalk.transfer.exchange import local_exchange

# A job's stages by the work that they are proportional to. All others grow with the clip's frames, or with nothing.
_PASSES: tuple[Stage, ...] = ("denoise",)
_TO_VIDEO: tuple[Stage, ...] = ("decode", "color", "bytes")
_TO_LATENTS: tuple[Stage, ...] = ("image", "condition", "overlap")
_SEPARATE: tuple[Stage, ...] = ("separate",)


@dataclass(frozen=True)
class Trial:
    """A job to measure. It has one step per window, to be quick.

    Args:
        windows: how many full windows it has.
    """

    resolution: Resolution
    window_frames: int
    speakers: int
    windows: int = 1


# Windows as long as those of the shortest and the longest mode, so that no mode is far from what was measured.
TRIALS = (
    Trial("480p", 49, 1, windows=3),
    Trial("480p", 81, 2, windows=2),
    Trial("720p", 49, 1, windows=2),
    Trial("720p", 81, 2),
    Trial("720p", 121, 2),
)
# The first pass over a size also tunes and builds kernels, so it is not measured.
WARM_UP = tuple(Trial(resolution, 13, speakers) for resolution in ("480p", "720p") for speakers in (1, 2))


@dataclass(frozen=True)
class Sample:
    """A job that was measured: its work, how the transformer computed, and seconds per stage.

    Args:
        other: seconds between the stages.
    """

    work: Work
    arithmetic: Arithmetic
    seconds: Mapping[Stage, float]
    other: float

    def sum(self, stages: Iterable[Stage]) -> float:
        """Seconds of these stages."""
        return sum(self.seconds.get(stage, 0.0) for stage in stages)

    @property
    def total(self) -> float:
        """Seconds of the whole job."""
        return sum(self.seconds.values()) + self.other

    @property
    def rest(self) -> float:
        """Seconds that are proportional to the work of none of the networks that take long."""
        return self.total - self.sum((*_PASSES, *_TO_VIDEO, *_TO_LATENTS, *_SEPARATE))


def run_sample(
    job: Mapping[str, Any], mode: SpeedMode, models: Models, settings: Settings, output: Path
) -> tuple[Sample, Result]:
    """Run a job whose files are file: URLs, with the windows and steps of `mode`. Leaves the video at `output`.

    Its voices last as long as the clip, each.
    """
    request = Request.parse(dict(job), LOCAL_FILES)
    result = run_job(request, models, settings, local_exchange(output), Control(output.stem), mode)
    assert isinstance(result, Result)
    made = result.settings
    samples = round(made.duration_s * SEPARATOR_RATE_HZ)
    chunks = len(request.all_speakers) * len(separator_chunk_starts(samples)) if made.isolate_vocals else 0
    plan = make_plan(request, profile_of(settings), mode, made.frames, result.seed, chunks)
    seconds = {stage: result.timings_s[stage] for stage in get_args(Stage) if stage in result.timings_s}
    other = result.gpu_seconds - sum(seconds.values())
    return Sample(Work.of(plan), models.in_lane(request.lane).arithmetic, seconds, other), result


def write_voice(samples: NDArray[Any], path: Path) -> None:
    """Write samples in [-1, 1], 16,000 a second, as a WAV file."""
    soundfile.write(path, samples, SAMPLE_RATE_HZ, "PCM_16")


def measure(models: Models, settings: Settings, trials: Sequence[Trial] = TRIALS) -> Iterator[tuple[Trial, Sample]]:
    """Run the trials in each of the worker's lanes, with noise for picture and voices; yield each with its times.

    Raises ValueError if several GPUs share the work: a hardware file has the times of one.
    """
    if models.n_gpus > 1:
        raise ValueError(f"GPUS is {models.n_gpus}, and calibrate measures one GPU: set GPUS=1")
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        picture, voice, output = (Path(name, file) for file in ("picture.png", "voice.wav", "out.mp4"))
        Image.fromarray(generator.integers(0, 256, (480, 848, 3), np.uint8)).save(picture)
        for lane, trial in product(settings.arithmetics, (*WARM_UP, *trials)):
            mode = load_mode("turbo").model_copy(update={"window_frames": trial.window_frames, "steps": 1})
            n_frames = trial.window_frames + (trial.windows - 1) * (trial.window_frames - mode.overlap_frames)
            write_voice(generator.uniform(-0.1, 0.1, n_frames * SAMPLES_PER_FRAME), voice)
            job = {"image_url": picture.as_uri(), "wav_url": voice.as_uri(), "resolution": trial.resolution, "seed": 1}
            job["lane"] = lane
            job["isolate_vocals"] = models.separator is not None
            if trial.speakers == 2:
                job |= {"person_count": "multi", "wav_url_2": voice.as_uri()}
            sample, _ = run_sample(job, mode, models, settings, output)
            if trial in trials:
                yield trial, sample


def fit(samples: Sequence[Sample]) -> dict[str, Any]:
    """The coefficients of `Hardware`, none negative, that come nearest to the samples in relative terms.

    A coefficient that the samples do not determine comes out as 0. An example is the second speaker's, unless there are
    jobs of one speaker and of two.
    """

    def one(quantity: Callable[[Work], float], stages: Iterable[Stage]) -> float:
        return _least_squares([(quantity(s.work),) for s in samples], [s.sum(stages) for s in samples])[0]

    per_frame, per_job = _least_squares([(s.work.frames, 1) for s in samples], [s.rest for s in samples])
    lanes = dict.fromkeys(s.arithmetic.lane for s in samples)
    separated = any(s.work.separated_chunks for s in samples)
    return {
        "to_video_s_per_megapixel": one(lambda work: work.to_video, _TO_VIDEO),
        "to_latents_s_per_megapixel": one(lambda work: work.to_latents, _TO_LATENTS),
        "s_per_frame": per_frame,
        "s_per_job": per_job,
        "separate_s_per_chunk": one(lambda work: work.separated_chunks, _SEPARATE) if separated else None,
        "lanes": {name: fit_lanes([s for s in samples if s.arithmetic.lane == name]) for name in lanes},
    }


def fit_lanes(samples: Sequence[Sample]) -> tuple[Lane, ...]:
    """The coefficients of one lane, for each attention kernel that the samples were measured with."""
    kernels = dict.fromkeys(sample.arithmetic.attention for sample in samples)
    return tuple(_fit_lane([sample for sample in samples if sample.arithmetic.attention == name]) for name in kernels)


def _fit_lane(samples: Sequence[Sample]) -> Lane:
    amounts = [(s.work.tokens, s.work.tokens_squared, s.work.shared_tokens) for s in samples]
    found = _least_squares(amounts, [s.sum(_PASSES) for s in samples])
    return Lane(
        attention=samples[0].arithmetic.attention,
        s_per_token=found[0],
        s_per_token_squared=found[1],
        shared_s_per_token=found[2],
    )


def _least_squares(amounts: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """Seconds per amount, each at least 0, with the least sum of squared relative errors."""
    measured = np.asarray(seconds, np.float64)
    weights = 1 / np.maximum(measured, 1e-3)
    table = np.asarray(amounts, np.float64) * weights[:, None]
    scale = np.maximum(np.abs(table).max(0), np.finfo(np.float64).tiny)
    kept = np.array([], int)
    for column in range(table.shape[1]):  # a column that is a sum of those before it adds nothing
        more = np.append(kept, column)
        if np.linalg.matrix_rank(table[:, more] / scale[more]) == len(more):
            kept = more
    found = [0.0] * table.shape[1]
    while kept.size:
        solution = np.linalg.lstsq(table[:, kept] / scale[kept], measured * weights, rcond=None)[0]
        if (solution >= 0).all():
            for column, value in zip(kept, solution / scale[kept], strict=True):
                found[column] = float(value)
            break
        kept = kept[solution > solution.min()]
    return found


def calibrated(name: str, samples: Sequence[Sample], profile: Profile, gpu: str | None, when: str, by: str) -> Hardware:
    """Coefficients fitted to samples.

    Args:
        gpu: where the samples were measured; None for a CPU.
        when, by: what the source says besides, such as the date and the command.
    """
    return Hardware(
        name=name,
        description=f"{gpu or 'CPU'}, {profile.dtype}",
        profile=profile.timing,
        gpus=(gpu,) if gpu else (),
        source=f"Measured on one {gpu or 'CPU'}, {when}, by {by}.",
        **fit(samples),
    )


def to_toml(hardware: Hardware) -> str:
    """The text of a hardware file, as `estimate.find_hardware` reads it."""
    fields = hardware.model_dump(exclude={"name", "lanes", "speedup"}, exclude_none=True)
    blocks = [[f"{key} = {_toml(value)}" for key, value in fields.items()]]
    for name, lanes in hardware.lanes.items():
        for lane in lanes:
            rows = [f"{key} = {_toml(value)}" for key, value in lane.model_dump(exclude={"speedup"}).items()]
            blocks.append([f"[[lanes.{json.dumps(name)}]]", *rows])
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _toml(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)
