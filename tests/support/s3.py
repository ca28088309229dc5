"""A real S3 server on loopback."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

KEYS = {"aws_access_key_id": "test-key", "aws_secret_access_key": "test-SECRET", "region_name": "us-east-1"}


@contextmanager
def s3_server(port: int = 0) -> Iterator[str]:
    """Its address while the `with` block runs."""
    server = ThreadedMotoServer("127.0.0.1", port=port, verbose=False)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


def make_bucket(url: str) -> Any:
    """A client of the server, on which there is the bucket "videos" now."""
    client = boto3.client("s3", endpoint_url=url, **KEYS)
    client.create_bucket(Bucket="videos")
    return client


def keys_in(client: Any) -> list[str]:
    """The callers' files in the bucket "videos"; the server is shared with other tests of this process."""
    found = client.list_objects_v2(Bucket="videos", Prefix="infinitetalk-input")
    return [entry["Key"] for entry in found.get("Contents", ())]
