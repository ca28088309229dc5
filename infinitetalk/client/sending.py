"""A job sent to an endpoint with its files, and what is known of it until its video is here."""

from collections.abc import Callable

from pydantic import BaseModel, ConfigDict

from infinitetalk.client.endpoint import RemoteEndpoint
from infinitetalk.client.files import load, unload
from infinitetalk.contract.request import Request
from infinitetalk.transfer.bucket import Bucket


class SentJob(BaseModel):
    """A job that was sent and whose video is not here yet.

    Args:
        place: the options that name the endpoint: --endpoint ID, or --url URL.
        uploads: keys of files in the caller's bucket, which are removed when the job has ended.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    job_id: str
    place: tuple[str, str]
    uploads: tuple[str, ...] = ()


def send_job(
    request: Request,
    endpoint: RemoteEndpoint,
    bucket: Bucket | None,
    should_stop: Callable[[], bool] = lambda: False,
    on_loaded: Callable[[tuple[str, ...]], object] = lambda _: None,
    **fields: object,
) -> SentJob:
    """Send a job with its files; see `files.load` and `RemoteEndpoint.send`.

    Whoever gets the sent job removes its uploads (`files.unload`) when it has ended.

    Args:
        on_loaded: called just before the job is sent, with the keys of its uploads.

    Raises:
        TooLarge, InvalidInput, DeliveryFailed, Cancelled, EndpointFailed: it was not sent, and nothing of it stays in
            the bucket.
    """
    cargo = load(request, bucket, should_stop, **fields)
    try:
        on_loaded(cargo.uploads)
        job_id = endpoint.send(cargo.job)
    except BaseException:
        unload(bucket, cargo.uploads)
        raise
    return SentJob(job_id=job_id, place=endpoint.place, uploads=cargo.uploads)
