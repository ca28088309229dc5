"""Faults of the machine under a job: memory that ran out, a GPU that is lost."""

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from infinitetalk.errors import DeviceFailed, Internal, JobError, OutOfMemory, RankFailed, RankOutOfMemory
from infinitetalk.logs import log_event
from infinitetalk.planning.plan import Plan

CUDA_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation: the driver ran out, outside torch's own allocator

T = TypeVar("T")

logger = logging.getLogger(__name__)


def within_memory(plan: Plan, work: Callable[[], T]) -> T:
    """What `work` returns. Raises OutOfMemory if the memory ran out; the memory is then free again."""
    kind = OutOfMemory
    try:
        return work()
    except (torch.OutOfMemoryError, torch.AcceleratorError, MemoryError, RankFailed) as error:
        if isinstance(error, torch.AcceleratorError) and _code(error) != CUDA_OUT_OF_MEMORY:
            raise
        if isinstance(error, RankFailed):
            if not error.is_memory:
                raise
            kind = RankOutOfMemory
        log_event(logger, logging.WARNING, "out of memory", cause=str(error))
    # Only now is the exception gone, and with it its traceback, whose frames held the tensors.
    gc.collect()
    torch.cuda.empty_cache()
    width, height = plan.size
    raise kind(
        f"The worker has too little memory for {width}x{height} in windows of {plan.mode.window_frames} frames; "
        "choose a smaller resolution or a quicker speed_mode."
    )


def classify_failure(error: Exception) -> JobError:
    """The JobError that a caller gets for an exception of any other kind: a fault of the worker, or of its GPU.

    After an illegal memory access, a failed assertion on the device and the like, every further CUDA call of the
    process fails. torch gives most of these faults a type of their own. Libraries below it (cuBLAS, cuDNN) do not, so
    the GPU is asked too.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, torch.AcceleratorError | RankFailed):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, RankFailed):
        return DeviceFailed(
            f"The worker has lost one of its GPUs' processes ({cause}) and is being replaced; send the job again."
        )
    if cause is not None or not _gpu_answers():
        return DeviceFailed("The worker's GPU has failed and the worker is being replaced; send the job again.")
    return Internal("The worker failed unexpectedly; the cause is in its log.")


def _code(error: torch.AcceleratorError) -> int | None:
    """The runtime's number for the error, if torch knows it."""
    code: int | None = getattr(error, "error_code", None)
    return code


def _gpu_answers() -> bool:
    """Whether the GPU still works; True if none is in use."""
    if torch.cuda.is_initialized():
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            return False
    return True
