"""Reading the rows of a task's data, unchanged, from a folder of files or from the Hugging Face hub."""

import difflib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s3ray.errors import InputError
from s3ray.tasks.files import SUFFIXES, FileRows, Row, read_rows, suffix_of
from s3ray.tasks.spec import HubSource
from s3ray.text import valid_text

SPLITS = ("train", "validation", "test")

_PARTS = 5


def find_file(folder: Path, split: str) -> Path | None:
    """The file of a split in a data folder; None where a folder has no validation file.

    Raises:
        InputError: the folder or a needed file is missing, or a split has several files.
    """
    if not folder.is_dir():
        raise InputError("no such folder or file", where="", field="data", value=str(folder), hint="Check the path.")
    legal = {f"{split}{suffix}": rank for rank, suffix in enumerate(SUFFIXES)}
    there = [path for path in _data_files(folder) if path.name.lower() in legal]
    found = sorted(there, key=lambda path: (legal[path.name.lower()], path.name))
    if len(found) > 1:
        listed = ", ".join(path.name for path in found)
        raise InputError(f"several {split} files", where=str(folder), value=listed, hint="Leave one of them.")
    if not found and split != "validation":
        raise InputError(f"no {split} file", where=str(folder), hint=f"Expected one of {', '.join(legal)}.")
    return found[0] if found else None


def _data_files(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if suffix_of(path) in SUFFIXES and path.is_file()]
    except OSError as error:
        value = error.strerror or str(error)
        raise InputError("cannot be read", where=str(folder), value=value, hint="Check who may read it.") from error


def unread(place: Path) -> str:
    """The files of a data folder that belong to no split, as a line for the user; empty if there are none."""
    stems = tuple(f"{split}." for split in SPLITS)
    paths = _data_files(place) if place.is_dir() else []
    names = sorted(path.name for path in paths if not path.name.lower().startswith(stems))
    return f"{place}: not read: {', '.join(names)} (files are called {', '.join(SPLITS)})" if names else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A split: the rows of its file, or those of a file with all rows that ``order`` names, counted from 0."""

    file: FileRows
    order: Sequence[int]


def read_parts(place: Path) -> dict[str, Part]:
    """The splits that a folder has a file for; or the train and test split of one file with all rows.

    A fifth of a single file is the test split, always the same fifth, and the rest is train.

    Raises:
        InputError: the folder or a file is missing or cannot be read, or a single file has too few rows to be split.
    """
    if place.is_file():
        return _parted(read_rows(place))
    files = {split: path for split in SPLITS if (path := find_file(place, split))}
    read = {split: read_rows(path) for split, path in files.items()}
    return {split: Part(file=file, order=range(len(file.rows))) for split, file in read.items()}


def _parted(file: FileRows) -> dict[str, Part]:
    if len(file.rows) < _PARTS:
        hint = f"A file with all rows needs {_PARTS} or more: a fifth of them is the test split."
        raise InputError("has too few rows", where=file.where, value=str(len(file.rows)), hint=hint)
    order = list(range(len(file.rows)))
    random.Random("parts").shuffle(order)  # a fixed seed: the test rows are the same in every run
    num_test = len(order) // _PARTS
    return {"train": Part(file=file, order=order[num_test:]), "test": Part(file=file, order=order[:num_test])}


def read_split(place: Path, split: str) -> tuple[list[tuple[int, Row]], str] | None:
    """The rows of a split, each with its number in its file, and that file's name; None if there is no such split."""
    part = read_parts(place).get(split)
    return ([(1 + index, part.file.rows[index]) for index in part.order], part.file.where) if part else None


def read_file(path: Path) -> list[Row]:
    """All rows of a file; raises as ``read_rows`` does."""
    return list(read_rows(path).rows)


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


def key_of(row: Row, name: str) -> str | None:
    """What a row calls a column that the task names, composed or not (Unicode), with or without blanks around it."""
    if name in row:
        return name
    plain = valid_text(name).strip()
    return plain if plain in row else None


def column(row: Row, name: str) -> Any:
    """The value of a column.

    Raises:
        InputError: the row has no such column; the message names its columns.
    """
    key = key_of(row, name)
    if key is not None:
        return row[key]
    near = difflib.get_close_matches(name, list(row), n=1, cutoff=0.5)
    hint = f"Columns there: {', '.join(row)}. The task names those to read: columns, label_column, answers_column."
    hint = f"Did you mean {near[0]}? {hint}" if near else hint
    raise InputError("no such column", field=name, hint=hint)
