"""Requests on their way to an actor: plain rows in one pickle, because the driver writes millions of them."""

import pickle
from collections.abc import Iterator, Sequence

from s3ray.types import GenerationRequest


def pack(dealt: Sequence[tuple[GenerationRequest, int]]) -> bytes:
    """Requests, each with its attempt number, as bytes; a parent that several share is written once."""
    return pickle.dumps([(tuple(request), attempt) for request, attempt in dealt], protocol=pickle.HIGHEST_PROTOCOL)


def unpack(packed: bytes) -> Iterator[tuple[GenerationRequest, int]]:
    """Read what ``pack`` wrote."""
    for row, attempt in pickle.loads(packed):
        yield GenerationRequest._make(row), attempt
