"""The bucket that comes beside a job's input, as RunPod passes it on: s3Config."""

from collections.abc import Mapping
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from runpod.serverless.utils.rp_ssrf import SSRFError

from infinitetalk.contract.wording import show
from infinitetalk.errors import InvalidInput
from infinitetalk.transfer.bucket import Bucket
from infinitetalk.transfer.safe_http import public_addresses

_Key = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,256}$")]  # what can stand in a header
_FIELDS = "endpointUrl, bucketName, accessId and accessSecret"


class _S3Config(BaseModel):
    """Its fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    endpoint_url: str = Field(alias="endpointUrl", max_length=2048)
    bucket_name: str = Field(alias="bucketName", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{1,254}$")
    access_id: _Key = Field(alias="accessId")
    access_secret: _Key = Field(alias="accessSecret")


def job_bucket(s3_config: object) -> Bucket:
    """The bucket of a job's s3Config: endpointUrl, bucketName, accessId, accessSecret.

    Raises InvalidInput, also for an endpoint that has no public address.
    """
    if not isinstance(s3_config, Mapping):
        raise InvalidInput(f"s3Config must be an object with {_FIELDS}.")
    try:
        config = _S3Config.model_validate(s3_config)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        names = [name if problem["type"] != "extra_forbidden" else show(name) for name in problem["loc"]]
        place = ".".join(["s3Config", *map(str, names)])
        raise InvalidInput(f"{place} is wrong ({problem['msg']}); s3Config has {_FIELDS}.") from None
    try:
        parts = urlsplit(config.endpoint_url)
        port = parts.port
    except ValueError:
        raise _not_public() from None
    secure = parts.scheme == "https"
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
        raise _not_public()
    try:
        public_addresses(parts.hostname, port or (443 if secure else 80))
    except (SSRFError, ValueError):  # ValueError: no name at all
        raise _not_public() from None
    return Bucket(config.endpoint_url, config.bucket_name, config.access_id, config.access_secret, owner="job")


def _not_public() -> InvalidInput:
    return InvalidInput(
        "s3Config.endpointUrl is refused: it must be a public http(s) address, such as https://s3.eu-west-1.example.com."
    )
