"""What a caller's own environment sets: the key of RunPod's API, and a bucket for a job's files. It is read once."""

from collections.abc import Mapping
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from infinitetalk.contract.settings import SettingsError

_BUCKET = ("s3_endpoint_url", "s3_bucket", "s3_access_key_id", "s3_secret_access_key")


class CallerSettings(BaseModel):
    """A caller's settings; each field is the environment variable of the same name in capitals."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    runpod_api_key: SecretStr | None = Field(
        None, description="The key for RunPod's endpoints. If not set, the one that `runpod config` has saved."
    )
    s3_endpoint_url: str | None = Field(
        None, description="S3 endpoint to which files go that are too large for a request."
    )
    s3_bucket: str | None = Field(None, description="The bucket there; `--bucket` comes first.")
    s3_access_key_id: str | None = Field(None, description="Its access key.")
    s3_secret_access_key: SecretStr | None = Field(None, description="Its secret key.")

    @classmethod
    def from_env(cls, env: Mapping[str, str], bucket: str | None = None) -> Self:
        """Settings from environment variables; other variables are ignored, empty ones count as not set.

        Args:
            bucket: in place of S3_BUCKET.

        Raises:
            SettingsError: a part of the bucket's variables is missing.
        """
        given = {name: env[name.upper()] for name in cls.model_fields if env.get(name.upper())}
        if bucket is not None:
            given["s3_bucket"] = bucket
        missing = [name.upper() for name in _BUCKET if name not in given]
        if 0 < len(missing) < len(_BUCKET):
            raise SettingsError(f"{', '.join(missing)} missing: a bucket needs {', '.join(map(str.upper, _BUCKET))}")
        url = given.get("s3_endpoint_url", "https://")
        if not url.startswith(("https://", "http://")):
            raise SettingsError("S3_ENDPOINT_URL is not an http(s) URL, such as https://s3.eu-west-1.example.com")
        return cls.model_validate_strings(given)

    @classmethod
    def variables(cls) -> list[tuple[str, str]]:
        """(name, description) of every environment variable, for the documentation."""
        return [(name.upper(), field.description or "") for name, field in cls.model_fields.items()]
