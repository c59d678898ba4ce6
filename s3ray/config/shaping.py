"""Which settings of a job shape the data, their fingerprint, and how two such sets differ in words."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from s3ray.config.engine_args import shaping_arguments
from s3ray.config.job import ADDED, ENGINE_ARGS, EXECUTION


def data_shaping(section: BaseModel) -> dict[str, Any]:
    """The settings of a config that shape the data, as plain values; execution settings are left out."""
    shaping: dict[str, Any] = {}
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if info.json_schema_extra == EXECUTION or (isinstance(value, BaseModel) and not data_shaping(value)):
            continue
        if info.json_schema_extra == ENGINE_ARGS:
            value = shaping_arguments(value)
        if info.json_schema_extra in (ADDED, ENGINE_ARGS) and value == info.default:
            continue
        shaping[name] = data_shaping(value) if isinstance(value, BaseModel) else value
    return shaping


def fingerprint(shaping: Mapping[str, Any]) -> str:
    """A short, stable name (16 hex digits) for settings that shape the data."""
    text = json.dumps(shaping, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def seed_fingerprint(shaping: Mapping[str, Any], seed_settings: Mapping[str, object]) -> str:
    """The fingerprint of what shapes the seed set; ``student`` does not, and of ``strategy`` only ``seed_settings``."""
    return fingerprint({**shaping, "student": None, "strategy": dict(seed_settings)})


def changes_in_words(
    old: Mapping[str, Any], new: Mapping[str, Any], places: Mapping[str, str] | None = None
) -> list[str]:
    """As ``data_changes``, but a task or rows that changed are named, which settings hold as digests alone.

    ``places`` says where they lie: by ``task_content`` the task's name or file, by ``gold_content`` that of its rows.
    """
    places = places or {}
    digests = ("task_content", "gold_content")
    before, now = ({name: value for name, value in each.items() if name not in digests} for each in (old, new))
    lines = data_changes(before, now)
    changed = [name for name in digests if old.get(name) != new.get(name)]
    if "task_content" in changed:
        lines.append(f"the task {places.get('task_content', new.get('task', ''))} has changed".replace("  ", " "))
    # Another task, or other sizes of its parts, take other rows from the same file.
    elif "gold_content" in changed and not any(line.startswith(("gold.", "task ")) for line in lines):
        lines.append(f"the rows of {places.get('gold_content', 'gold')} have changed")
    return lines


def data_changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The differences between two trees of data-shaping settings, one line per field."""
    lines: list[str] = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += data_changes(before, after, f"{prefix}{name}.")
        elif before != after:
            lines.append(f"{prefix}{name} was {before!r}, is {after!r}")
    return lines
