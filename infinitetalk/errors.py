"""Everything a job can fail with. The class, never the message, decides the code and whether to retry.

JobError              code               retryable
├── InvalidInput      invalid_input      no         a field of the job is wrong
├── DownloadFailed    download_failed    yes        a URL could not be fetched
├── MediaUnreadable   media_unreadable   no         the bytes are not what the field asks for
├── TooLarge          too_large          no         something is over a limit of size, length or pixels
├── DeliveryFailed    delivery_failed    yes        the finished video could not be handed over
├── MarkingFailed     marking_failed    yes        the finished video could not be signed, so it was not delivered
├── OutOfMemory       out_of_memory      no         the worker has too little memory for this job
│   └── RankOutOfMemory  out_of_memory   no         so has one of its GPUs, in the middle of a pass that all make
├── Cancelled         cancelled          no         the caller stopped the job
├── TimedOut          timeout            yes        the job took its whole execution timeout; if the worker has a
│                                                   volume, a retry goes on after the last finished window
├── ModelMissing      model_missing      no         weights are missing, incomplete or of another shape
└── Internal          internal           yes        a fault of the worker itself
    └── DeviceFailed  internal           yes        the GPU is lost to this process, which must be replaced
"""

from typing import ClassVar


class JobError(Exception):
    """A failure that is reported to the caller.

    The message is one sentence for the caller: it names the field and says what to do.
    """

    code: ClassVar[str]
    retryable: ClassVar[bool] = False
    refresh_worker: ClassVar[bool] = False  # this process can run no further job


class InvalidInput(JobError):
    code = "invalid_input"


class DownloadFailed(JobError):
    code = "download_failed"
    retryable = True


class MediaUnreadable(JobError):
    code = "media_unreadable"


class TooLarge(JobError):
    code = "too_large"


class DeliveryFailed(JobError):
    code = "delivery_failed"
    retryable = True


class MarkingFailed(JobError):
    code = "marking_failed"
    retryable = True


class OutOfMemory(JobError):
    code = "out_of_memory"


class RankOutOfMemory(OutOfMemory):
    refresh_worker = True


class Cancelled(JobError):
    code = "cancelled"


class TimedOut(JobError):
    code = "timeout"
    retryable = True


class ModelMissing(JobError):
    code = "model_missing"


class Internal(JobError):
    code = "internal"
    retryable = True


class DeviceFailed(Internal):
    refresh_worker = True


class RankFailed(RuntimeError):
    """A rank is lost, and with it the group: this process can make no further pass.

    Args:
        is_memory: its GPU ran out of memory.
    """

    def __init__(self, message: str, *, is_memory: bool = False) -> None:
        super().__init__(message)
        self.is_memory = is_memory
