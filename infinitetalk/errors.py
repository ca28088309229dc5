"""Everything a job can fail with. The class, never the message, decides the code and whether to retry.

JobError
├── InvalidInput      invalid_input       a field of the job is wrong
├── DownloadFailed    download_failed     a URL could not be fetched (may work later)
├── MediaUnreadable   media_unreadable    the bytes are not what the field asks for
├── TooLarge          too_large           over a limit of size, length or pixels
├── DeliveryFailed    delivery_failed     the finished video could not be handed over
├── OutOfMemory       out_of_memory       the device had too little memory
├── Cancelled         cancelled           the caller stopped the job
├── TimedOut          timeout             the job ran past its time
├── ModelMissing      model_missing       weights missing, incomplete or of another shape
└── Internal          internal            a fault of the worker itself
"""

from typing import ClassVar


class JobError(Exception):
    """A failure that is reported to the caller.

    The message is one sentence for the caller: it names the field and says what to do.
    """

    code: ClassVar[str]
    retryable: ClassVar[bool] = False


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


class OutOfMemory(JobError):
    code = "out_of_memory"


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
