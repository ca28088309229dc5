"""Jobs' ids: RunPod's own are short and plain, and whatever else comes must not break a header, an address or a log."""

from typing import Any
from urllib.parse import quote

Json = dict[str, Any]

_FIELDS = ("input", "policy", "s3Config")  # of a job, beside its id: what this worker reads


def usable_job(job: object) -> Json | None:
    """A job as the SDK can carry it: with an id that fits into headers and logs, and the fields that are read.

    None for what is no job, or has no id under which it could be answered.
    """
    if not isinstance(job, dict):
        return None
    job_id = plain_id(job.get("id"))
    return None if job_id is None else {"id": job_id} | {name: job[name] for name in _FIELDS if name in job}


def plain_id(job_id: object) -> str | None:
    """A job's id as this worker writes it: percent-encoded where it is not printable. None for what is no id."""
    if isinstance(job_id, bool) or not isinstance(job_id, str | int) or str(job_id) in ("", ".", ".."):
        return None
    text = str(job_id)
    return text if text.isprintable() and "%" not in text else quote(text, safe="", errors="surrogatepass")


def id_in_address(job_id: str) -> str:
    """A plain id as one part of an address's path."""
    return quote(job_id, safe="%")
