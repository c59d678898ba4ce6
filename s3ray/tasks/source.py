"""Reading the rows of a task's data, unchanged, from a folder of files or from the Hugging Face hub."""

import difflib
import json
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv, parquet

from s3ray.errors import InputError
from s3ray.tasks.spec import HubSource

Row = Mapping[str, Any]

_SUFFIXES = (".jsonl", ".csv", ".parquet")
_SEPARATORS = (",", ";", "\t")
_PARTS = 5


def find_file(folder: Path, split: str) -> Path | None:
    """The file of a split in a data folder; None where a folder has no validation file.

    Raises:
        InputError: the folder or a needed file is missing, or a split has several files.
    """
    if not folder.is_dir():
        raise InputError("no such folder or file", where="", field="data", value=str(folder), hint="Check the path.")
    found = [path for path in (folder / f"{split}{suffix}" for suffix in _SUFFIXES) if path.is_file()]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise InputError(f"several {split} files", where=str(folder), value=names, hint="Leave one of them.")
    if not found and split != "validation":
        names = ", ".join(f"{split}{suffix}" for suffix in _SUFFIXES)
        raise InputError(f"no {split} file", where=str(folder), hint=f"Expected one of {names}.")
    return found[0] if found else None


def read_split(place: Path, split: str) -> tuple[list[tuple[int, Row]], str] | None:
    """The rows of a split, each with its number in its file, and that file's name; None if there is no validation.

    ``place`` is a folder with a file for each split, or one file with all rows. A fifth of a single file is the test
    split, always the same fifth, and the rest is train.

    Raises:
        InputError: the folder or a file is missing or cannot be read, or a single file has too few rows to be split.
    """
    path = place if place.is_file() else find_file(place, split)
    if path is None:
        return None
    rows: list[tuple[int, Row]] = list(enumerate(read_file(path), start=1))
    if path == place:
        if split == "validation":
            return None
        if len(rows) < _PARTS:
            hint = f"A file with all rows needs {_PARTS} or more: a fifth of them is the test split."
            raise InputError("has too few rows", where=str(path), value=str(len(rows)), hint=hint)
        random.Random("parts").shuffle(rows)  # a fixed seed: the test rows are the same in every run
        num_test = len(rows) // _PARTS
        rows = rows[:num_test] if split == "test" else rows[num_test:]
    return rows, str(path)


def read_file(path: Path) -> list[Row]:
    """All rows of a .jsonl, .csv or .parquet file.

    Raises:
        InputError: the file cannot be read as the format that its name says.
    """
    if path.suffix not in _SUFFIXES:
        hint = f"Files are {', '.join(_SUFFIXES)}; spreadsheets can save CSV UTF-8."
        raise InputError("has a format that is not supported", where=str(path), value=path.suffix, hint=hint)
    try:
        if path.suffix == ".jsonl":
            return _read_jsonl(path)
        table = _read_csv(path) if path.suffix == ".csv" else parquet.read_table(path)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise InputError("cannot be read", where=str(path), value=str(error), hint=_advice(path, error)) from error
    rows: list[Row] = table.to_pylist()
    return rows


def _read_jsonl(path: Path) -> list[Row]:
    rows: list[Row] = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"is not JSON: {error}", f"{path}, row {number}", value=line[:80]) from None
            if not isinstance(row, dict):
                raise InputError("is not a JSON object", f"{path}, row {number}", value=line[:80])
            rows.append(row)
    return rows


def _read_csv(path: Path) -> pa.Table:
    """Read all columns as strings: a text that looks like a date stays a text, and the label 01 stays 01."""
    multiline = csv.ParseOptions(newlines_in_values=True, delimiter=_separator(path))
    with csv.open_csv(path, parse_options=multiline) as reader:
        names = reader.schema.names
    as_strings = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
    return csv.read_csv(path, parse_options=multiline, convert_options=as_strings)


def _separator(path: Path) -> str:
    """The separator in the first line; spreadsheets write semicolons in countries with decimal commas."""
    with path.open(encoding="utf-8-sig") as lines:
        plain = re.sub(r'"[^"]*"', "", lines.readline())
    return max(_SEPARATORS, key=plain.count)


def _advice(path: Path, error: Exception) -> str:
    text = str(error).lower()
    if "utf-8" in text or "utf8" in text:
        return "Save it as UTF-8; spreadsheets call it CSV UTF-8."
    if "columns" in text:
        return "Put a text with a separator, quote or line end into quotes, and double the quotes inside it."
    return f"Is it {path.suffix}?"


def read_hub(source: HubSource, split: str) -> list[Row]:
    """All rows of a split of a hub dataset.

    Raises:
        InputError: the hub cannot be reached and nothing is cached, or there is no such dataset, config or split.
    """
    import datasets

    try:
        return list(datasets.load_dataset(source.hub, source.config, split=split))
    except (OSError, ValueError, RuntimeError) as error:
        hint = "Check the task's `source`; without a network, set `data` to a folder with train and test files."
        raise InputError(f"cannot load split {split}: {error}", source.hub, "source", split, hint) from error


def column(row: Row, name: str) -> Any:
    """The value of a column.

    Raises:
        InputError: the row has no such column; the message names its columns.
    """
    if name in row:
        return row[name]
    near = difflib.get_close_matches(name, list(row), n=1, cutoff=0.5)
    hint = f"Columns there: {', '.join(row)}. The task names those to read: columns, label_column, answers_column."
    hint = f"Did you mean {near[0]}? {hint}" if near else hint
    raise InputError("no such column", field=name, hint=hint)
