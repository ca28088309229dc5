"""What a killed worker leaves for the next one: a job's finished windows, on the network volume.

    infinitetalk-unfinished/<job id>/seed           the seed drawn for a job that names none
                                     00000.window   a window's frames without loss, and what the next needs to know
                                     answer         see serving/answers.py

A window counts only for a job that would make the same bytes: the same plan, media, weights, code and device. Writing
happens beside the making of the next window. Whatever goes wrong here costs time, never the job.
"""

import hashlib
import importlib.metadata
import logging
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

import infinitetalk
from infinitetalk.contract.presets import load_profile
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import Cancelled, JobError
from infinitetalk.generation.joins import Handover
from infinitetalk.job.sinks import FinishedWindow
from infinitetalk.models.opening import Models
from infinitetalk.planning.plan import Plan, draw_seed
from infinitetalk.transfer.delivery import FOLDER as OUTPUT_FOLDER
from infinitetalk.transfer.volume import plain_name, sweep_parts, write_whole

FOLDER = "infinitetalk-unfinished"  # on the volume
# Room that stays for finished videos: windows are kept only while the volume has more.
RESERVE_BYTES = 1_000_000_000

_LIBRARIES = ("torch", "diffusers", "transformers", "imageio-ffmpeg", "numpy")
_DIGEST_BYTES = hashlib.sha256().digest_size
_SAMPLE = 16  # values of each tensor: weights that were exchanged or merged otherwise differ in them

logger = logging.getLogger(__name__)


class KeptWindows:
    """The finished windows of one job: a `WindowSink`. Without a folder nothing is kept and nothing found."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._fingerprint = b""
        self._n_windows = 0
        self._is_writable = True

    def seed(self, given: int | None) -> int:
        """The job's seed: the given one, or that of the broken-off run of this job, or else a new one."""
        if given is not None:
            return given
        seed = draw_seed()
        if self._folder is not None:
            path = self._folder / "seed"
            with suppress(OSError, ValueError):  # the first run, or not a number: then a new one
                kept = int(path.read_bytes())
                if 0 <= kept < 1 << 32:
                    return kept
            self._write(path, str(seed).encode("ascii"))
        return seed

    def identify(self, plan: Plan, files: Iterable[Path], models: Models, settings: Settings) -> None:
        """Say what job this is: only windows that would have the same bytes count. files: the job's media."""
        if self._folder is not None:
            self._fingerprint = fingerprint(plan, files, models, settings)
            self._n_windows = len(plan.windows)

    def finished(self) -> Iterator[FinishedWindow]:
        """The windows that an earlier run of this job has finished, from the first on, each read and checked.

        They end before the first one that is missing, damaged or of another job: it and all that follow it are to be
        made anew.
        """
        for index in range(self._n_windows):
            path = self._path(index)
            try:
                tensors = self._unpack(index, path.read_bytes())
            except FileNotFoundError:
                return
            except (OSError, ValueError, SafetensorError) as error:
                logger.warning("%s of job %r is not used: %s", path.name, path.parent.name, _reason(error))
                return
            handover = Handover(tensors["motion"], tensors["last_frame"]) if "motion" in tensors else None
            yield FinishedWindow(index, tensors["piece"].numpy().tobytes(), handover)

    def take(self, window: FinishedWindow) -> None:
        """Keep a window (`WindowSink.take`). A failure is logged, and no further window is kept."""
        if self._folder is None:
            return
        tensors = {"piece": torch.frombuffer(bytearray(window.piece), dtype=torch.uint8)}
        if (handover := window.handover) is not None:
            tensors |= {"motion": handover.motion.contiguous(), "last_frame": handover.last_frame.contiguous()}
        body = safetensors.torch.save(tensors)
        self._write(self._path(window.index), self._digest(window.index, body) + body)

    def remove(self) -> None:
        """Remove everything of this job."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, index: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{index:05}.window"

    def _digest(self, index: int, body: bytes) -> bytes:
        """Checks a window's bytes, and that they are this job's and at their place."""
        return hashlib.sha256(self._fingerprint + index.to_bytes(8, "big") + body).digest()

    def _unpack(self, index: int, content: bytes) -> dict[str, Tensor]:
        digest, body = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if digest != self._digest(index, body):
            raise ValueError("it is damaged, or of another job, version, device or model")
        tensors: dict[str, Tensor] = safetensors.torch.load(body)
        return tensors

    def _write(self, path: Path, content: bytes) -> None:
        assert self._folder is not None
        if not self._is_writable:
            return
        try:
            free_bytes = shutil.disk_usage(self._folder.parent.parent).free
            if free_bytes > RESERVE_BYTES + len(content):
                write_whole(path, content)
                return
            reason = f"the volume has {free_bytes / 1e9:.1f} GB left"
        except OSError as error:
            reason = _reason(error)
        self._is_writable = False
        logger.warning("Job %r: no further window is kept: %s", self._folder.name, reason)


def job_folder_on_volume(settings: Settings, job_id: str) -> Path | None:
    """Where things of a job lie that is not done; None where nothing is kept."""
    if settings.resume_hours == 0 or not settings.volume_dir.is_dir():
        return None
    return settings.volume_dir / FOLDER / plain_name(job_id)


def forget_job(settings: Settings, job_id: str) -> None:
    """Remove everything of a job that is done."""
    KeptWindows(job_folder_on_volume(settings, job_id)).remove()


@contextmanager
def kept_windows(settings: Settings, job_id: str, *, stay: bool = False) -> Iterator[KeptWindows]:
    """The job's finished windows, on the volume if there is one.

    They go when the `with` block ends, or with `forget_job` where they are to stay until the answer has arrived. They
    stay if the process is killed, and if the job is stopped or fails in a way that may pass. Those of other jobs are
    removed when they are older than settings.resume_hours.
    """
    folder = job_folder_on_volume(settings, job_id)
    if folder is None:
        yield KeptWindows()
        return
    sweep(settings)
    kept = KeptWindows(folder)
    try:
        yield kept
    except JobError as error:
        # The platform stops a job that ran out of time, too, and the caller can have it retried.
        if not error.retryable and not isinstance(error, Cancelled):
            kept.remove()
        raise
    if not stay:
        kept.remove()


def sweep(settings: Settings) -> None:
    """Remove what jobs have left on the volume that did not come back within settings.resume_hours."""
    max_age_s = settings.resume_hours * 3600
    sweep_parts(settings.volume_dir / OUTPUT_FOLDER, max_age_s)
    for folder in (settings.volume_dir / FOLDER).glob("*"):
        with suppress(OSError):  # another worker was quicker
            if time.time() - folder.stat().st_mtime > max_age_s:  # of the last window added
                shutil.rmtree(folder, ignore_errors=True)


def fingerprint(plan: Plan, files: Iterable[Path], models: Models, settings: Settings) -> bytes:
    """A hash of all that decides a job's bytes: plan, media, weights, code, libraries, device."""
    digest = hashlib.sha256()

    def add(*parts: object) -> None:
        digest.update(repr(parts).encode())

    add(plan, load_profile(settings.model_profile), models.arithmetic, settings.compile)
    for file in files:
        with file.open("rb") as content:
            add(hashlib.file_digest(content, "sha256").digest())
    for model in (models.transformer, models.vae, models.text_encoder, models.image_encoder, models.audio_encoder):
        for name, tensor in model.state_dict().items():
            add(name, tensor.shape, tensor.dtype)
        samples = [tensor.flatten()[:_SAMPLE].float() for tensor in model.state_dict().values()]
        add(hashlib.sha256(torch.cat(samples).cpu().numpy().tobytes()).digest())
    add(_code_digest(), *(importlib.metadata.version(name) for name in _LIBRARIES))
    if models.device.type == "cuda":
        add(torch.cuda.get_device_name(models.device), torch.version.cuda, torch.backends.cudnn.version())
    else:
        add(torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())
    return digest.digest()


@cache
def _code_digest() -> bytes:
    """Of this package as it was when first asked: versions do not change with every change of the code."""
    sources = sorted(Path(infinitetalk.__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).digest()


def _reason(error: Exception) -> str:
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)
