"""Tasks and rows that a program has in memory, written to files that a job can name.

They are in folders named by their content, below ``~/.cache/s3ray/given`` (``XDG_CACHE_HOME``): the same task and rows
have the same path every time, so that a run which names them can go on.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash
from pyarrow import parquet

from s3ray.config.job import to_yaml
from s3ray.errors import InputError, StoreError
from s3ray.storage.local import LocalFiles
from s3ray.tasks.spec import TaskSpec

Rows = Iterable[Mapping[str, Any]]
"""Rows as dicts of columns, such as a ``datasets.Dataset``."""

_SPLITS = ("train", "validation", "test")


def write_task(spec: TaskSpec) -> Path:
    """Write a task; returns its YAML file.

    Raises:
        InputError: the folder cannot be written.
    """
    name = f"{spec.name}.yaml"
    return _write({name: to_yaml(spec).encode()}) / name


def write_rows(given: Rows | Mapping[str, Rows]) -> Path:
    """Write all labelled rows, or those of each split; returns the file or folder that ``data`` of a job can name.

    Raises:
        InputError: a split is unknown, a row is not a dict, a column has values of several types, or the folder cannot
            be written.
    """
    if not isinstance(given, Mapping):
        return _write({"rows.parquet": _parquet(given, "data")}) / "rows.parquet"
    for split in given:
        if split not in _SPLITS:
            hint = f"Rows by split are called {', '.join(_SPLITS)}; validation may be left out."
            raise InputError("is not a split", field="data", value=repr(split), hint=hint)
    return _write({f"{split}.parquet": _parquet(rows, f"data.{split}") for split, rows in given.items()})


def _parquet(given: Rows, field: str) -> pa.Buffer:
    if not isinstance(given, Iterable):
        hint = "A file, a folder, or rows: dicts of columns."
        raise InputError("is neither a path nor rows", field=field, value=repr(given)[:80], hint=hint)
    rows = list(given)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            hint = "Rows are dicts of columns, as in a datasets.Dataset; of a pandas frame, frame.to_dict('records')."
            raise InputError(f"row {number} is not a dict of columns", field=field, value=repr(row)[:80], hint=hint)
    names = dict.fromkeys(name for row in rows for name in row)
    sink = pa.BufferOutputStream()
    try:
        table = pa.table({name: [row.get(name) for row in rows] for name in names})
        parquet.write_table(table, sink)
    except (pa.ArrowException, TypeError) as error:
        hint = "A column holds values of one type; labels are all texts or all whole numbers."
        raise InputError(f"cannot be written: {error}", field=field, hint=hint) from error
    return sink.getvalue()


def _write(files: Mapping[str, bytes | pa.Buffer]) -> Path:
    """Write files into the folder that their content names."""
    digest = xxhash.xxh128()
    for name, content in files.items():
        digest.update(name.encode())
        digest.update(memoryview(content))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = cache / "s3ray" / "given" / digest.hexdigest()
    try:
        for name, content in files.items():
            LocalFiles(str(folder)).write(name, content)
    except StoreError as error:
        hint = "Task and data in memory are written there; set XDG_CACHE_HOME to a folder that you may write."
        raise InputError(error.problem, hint=hint) from error
    return folder
