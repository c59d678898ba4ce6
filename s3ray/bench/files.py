"""Where a profile lies: profile.json and, for spreadsheets, profile.csv with a line for each cell."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from s3ray.bench.schema import SCHEMA, CellProfile, Profile, field_paths
from s3ray.errors import InputError, StoreError
from s3ray.files import join, split
from s3ray.masking import mask
from s3ray.store import RunStore

PROFILE, CSV = "profile.json", "profile.csv"
_HINT = "Give the profile.json that `s3ray bench` wrote, or its folder."


def write_profile(store: RunStore, profile: Profile) -> None:
    """Write both files, each whole or not at all, without secrets; the JSON last."""
    plain = mask(profile.plain())
    store.write_text(CSV, to_csv(plain))
    store.write_json(PROFILE, plain)


def read_profile(place: str) -> Profile:
    """Read a profile from its file, or from the folder that holds it.

    Raises:
        InputError: there is none, or it is not what this version writes.
    """
    folder, name = split(place if place.endswith(".json") else join(place, PROFILE))
    try:
        raw = RunStore(folder).read_json(name)
    except (StoreError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {str(error).splitlines()[0]}", where=place, hint=_HINT) from error
    if not isinstance(raw, dict) or not {"schema", "identity", "cells"} <= raw.keys():
        raise InputError("is not a profile", where=place, hint=_HINT)
    if raw["schema"] != SCHEMA:
        hint = "Measure again, or compare with the version of s3ray that wrote it."
        problem = f"has another schema than {SCHEMA}, which this version reads"
        raise InputError(problem, where=place, field="schema", value=str(raw["schema"]), hint=hint)
    try:
        return Profile.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise InputError(f"is not a profile: {first['msg']}", where=place, field=field, hint=_HINT) from None


def to_csv(plain: Mapping[str, Any]) -> str:
    """A line for each cell of a profile as it is written; empty where a value is null."""
    identity, paths = plain["identity"], list(field_paths(CellProfile))
    about = {
        "job": identity["job"],
        "model": identity["model"]["name"],
        "device_name": identity["machine"]["device_name"],
        "commit": identity["commit"],
    }
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*about, *paths])
    for cell in plain["cells"]:
        writer.writerow([*about.values(), *_values(cell, paths)])
    return text.getvalue()


def value_in(tree: Any, path: str) -> Any:
    """What lies at a dotted path; None where it, or a part that would hold it, is null."""
    for name in path.split("."):
        tree = None if tree is None else tree[name]
    return tree


def _values(cell: Mapping[str, Any], paths: list[str]) -> Iterator[Any]:
    for path in paths:
        value = value_in(cell, path)
        yield json.dumps(value, sort_keys=True) if isinstance(value, dict) else value
