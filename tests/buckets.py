"""An S3 server of this machine (moto), for processes that get what ``Bucket.environment`` says."""

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import fsspec
from moto.server import ThreadedMotoServer

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket of a running server."""

    url: str
    environment: dict[str, str]


@contextmanager
def serve_bucket() -> Iterator[Bucket]:
    """A server with one empty bucket."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line per request otherwise
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    name = f"bucket-{uuid.uuid4().hex[:8]}"
    _forget()
    try:
        options = {"key": "key", "secret": "secret", "endpoint_url": endpoint}
        fsspec.filesystem("s3", **options).mkdir(name)
        yield Bucket(url=f"s3://{name}", environment=KEYS | {"AWS_ENDPOINT_URL": endpoint})
    finally:
        server.stop()
        _forget()


def _forget() -> None:
    """fsspec keeps file systems, and with them the server that the environment named when they were made."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()
