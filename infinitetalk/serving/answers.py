"""Finished answers, kept on the volume until they have arrived at RunPod: a job that comes back is answered at once.

    infinitetalk-unfinished/<job id>/answer     beside the job's windows; gone with them

An answer counts for a job of the same id and the same content. It is read as any stranger's file is: whoever can write
to the volume can put another video there anyway.
"""

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from infinitetalk.contract.result import Result
from infinitetalk.contract.settings import Settings
from infinitetalk.job.resume import FOLDER, forget_job, open_volume
from infinitetalk.logs import log_event
from infinitetalk.transfer.bucket import URL_LIFETIME_S
from infinitetalk.transfer.delivery import ANSWER_LIMIT_BYTES, video_name
from infinitetalk.transfer.volume import Volume, plain_name

Json = dict[str, Any]

logger = logging.getLogger(__name__)


class _Kept(BaseModel):
    """What the file holds: the job's digest, when it was answered (seconds since 1970), and the answer.

    Args:
        video_bytes: the size of the video on the volume; None if it is elsewhere.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    job: str
    time_s: float
    answer: Result
    video_bytes: int | None = None


class KeptAnswers:
    """The answers of jobs whose results are on their way. Without a volume nothing is kept and nothing found."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def find(self, job: Mapping[str, Any]) -> Json | None:
        """The answer of an earlier run of this job, if its video is still there."""
        volume, name = open_volume(self._settings), _name(job["id"])
        if volume is None:
            return None
        try:
            kept = _Kept.model_validate_json(volume.read(name, 2 * ANSWER_LIMIT_BYTES))
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            log_event(logger, logging.WARNING, "kept answer is not used", cause=type(error).__name__)
            return None
        if kept.job != _digest(job):  # of another job under this id, which takes the place of its video
            with suppress(OSError):
                volume.remove(name)
            return None
        return kept.answer.to_json() if _has_video(kept, volume, video_name(job["id"])) else None

    def keep(self, job: Mapping[str, Any], answer: Result) -> None:
        """Keep a finished video's answer. A failure is logged: the windows are there still."""
        volume = open_volume(self._settings)
        if volume is None:
            return
        try:
            size = None if answer.video_path is None else volume.size(video_name(job["id"]))
            kept = _Kept(job=_digest(job), time_s=time.time(), answer=answer, video_bytes=size)
            volume.write(_name(job["id"]), kept.model_dump_json(exclude_none=True).encode())
        except OSError as error:
            log_event(logger, logging.WARNING, "answer is not kept", cause=error.strerror or type(error).__name__)

    def arrived(self, job_id: str, result: Json) -> None:
        """A job's result has arrived: what was kept of a finished video goes."""
        output = result.get("output")
        if "error" not in result and isinstance(output, Mapping) and not output.get("dry_run"):
            forget_job(self._settings, job_id)


def _has_video(kept: _Kept, volume: Volume, name: str) -> bool:
    """Whether the video that was answered is still there."""
    answer = kept.answer
    if answer.video_path is not None:
        try:
            return answer.video_path == str(volume.root / name) and volume.size(name) == kept.video_bytes
        except OSError:
            return False
    # A signed URL is good for a week; the caller needs a part of it.
    return answer.video_url is None or 0 <= time.time() - kept.time_s < URL_LIFETIME_S / 2


def _name(job_id: str) -> str:
    """Of the answer's file on the volume."""
    return f"{FOLDER}/{plain_name(job_id)}/answer"


def _digest(job: Mapping[str, Any]) -> str:
    """Of all that a job asks for."""
    asked = [job.get("input"), job.get("s3Config")]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
