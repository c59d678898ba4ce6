"""Events of which only what matters is said."""

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, get_args, get_origin

from s3ray.telemetry.events import EVENTS, Event, event_from_dict
from s3ray.telemetry.records import to_plain
from s3ray.types import EngineLimits

LIMITS = {
    "max_num_seqs": 64, "max_num_batched_tokens": 2048, "max_model_len": 1024, "num_kv_tokens": 40000,
    "dtype": "float32", "device": "cpu",
}  # fmt: skip


def an_event(name: str, **said: Any) -> Event:
    """An event by its name in the files; a field that it must have and that is not ``said`` is empty, or zero."""
    needed = [field for field in fields(EVENTS[name]) if field.default is MISSING]
    blank = {field.name: _blank(field.type) for field in needed if field.default_factory is MISSING}
    return event_from_dict({"event": name, **blank, **to_plain(said)})


def _blank(kind: Any) -> object:
    if kind is EngineLimits:
        return LIMITS
    if get_origin(kind) is types.UnionType and type(None) in get_args(kind):
        return None
    empty: dict[Any, object] = {Mapping: {}, tuple: []}
    return empty[get_origin(kind)] if get_origin(kind) in empty else kind()
