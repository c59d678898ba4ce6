"""Frozen dataclasses to and from JSON."""

import functools
from collections.abc import Hashable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, cast

import pydantic

from s3ray.errors import StoreError

_Value = TypeVar("_Value")
_ONLY_WHERE_KNOWN = frozenset(("round", "phase", "stage", "own_busy_s", "workers", "causes"))
"""Fields that are left out of JSON, not null, while they are None."""


def to_plain(value: object) -> Any:
    """A value as JSON can hold it: a dataclass becomes a dict of its fields, in their order."""
    if is_dataclass(value):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
        return {k: to_plain(v) for k, v in parts.items() if v is not None or k not in _ONLY_WHERE_KNOWN}
    if isinstance(value, Mapping):
        return {key: to_plain(part) for key, part in value.items()}
    return [to_plain(part) for part in value] if isinstance(value, list | tuple) else value


def from_plain(kind: type[_Value], plain: object, where: str) -> _Value:
    """The dataclass ``kind`` from JSON: missing fields get their defaults, unknown ones are ignored.

    Raises:
        StoreError: a field without a default is missing, or one has another type; ``where`` names the file.
    """
    try:
        value: _Value = _adapter(cast(Hashable, kind)).validate_python(plain)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        hint = "Another program or another version of s3ray wrote it; put the file back as it was."
        raise StoreError(f"{where}: {place}: {first['msg']}", hint) from error
    return value


@functools.cache
def _adapter(kind: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(kind)
