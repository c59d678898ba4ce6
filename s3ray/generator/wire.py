"""Requests on their way to an actor: plain rows in one pickle, because the driver writes millions of them."""

import pickle
from collections.abc import Iterator, Sequence
from operator import attrgetter

from s3ray.types import GenerationRequest

_NAMES = tuple(GenerationRequest.__slots__)
_row = attrgetter(*_NAMES)


def pack(dealt: Sequence[tuple[GenerationRequest, int]]) -> bytes:
    """Requests, each with its attempt number, as bytes; a parent that several share is written once."""
    return pickle.dumps([(_row(request), attempt) for request, attempt in dealt], protocol=pickle.HIGHEST_PROTOCOL)


def unpack(packed: bytes) -> Iterator[tuple[GenerationRequest, int]]:
    """Read what ``pack`` wrote."""
    for row, attempt in pickle.loads(packed):
        yield GenerationRequest(**dict(zip(_NAMES, row, strict=True))), attempt
