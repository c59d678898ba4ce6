"""The one reader of data files: CSV, TSV, JSON lines, JSON and Parquet, the texts among them also gzipped.

It reads what people have (byte order marks, blank lines, Excel's ``sep=`` line, rows of any length), says how many
lines became how many rows, and refuses what could be read in two ways, with the row and the line.
"""

import gzip
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from s3ray.errors import InputError, located
from s3ray.tasks.faults import Faults
from s3ray.tasks.sheet import Sheet, read_sheet
from s3ray.text import valid_text

Row = Mapping[str, Any]

_TEXTS = (".jsonl", ".csv", ".tsv", ".json", ".ndjson")
SUFFIXES = (*_TEXTS, ".parquet", *(f"{suffix}.gz" for suffix in _TEXTS))
"""The kinds of file, whatever the case of the letters."""
_READABLE = (
    "Files are .csv, .tsv, .jsonl or .ndjson, .json (each also .gz) and .parquet; spreadsheets can save CSV UTF-8."
)
_EXCEL = (".xlsx", ".xls", ".xlsm", ".ods")
_BOMS = (b"\xff\xfe", b"\xfe\xff")
_SAVE_AS_UTF8 = "Save it as UTF-8; spreadsheets call it CSV UTF-8."
_OTHERS = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself", "Fetch the file: git lfs pull."),
    (b"PK\x03\x04", "is an Excel or zip file", "Save the sheet as CSV UTF-8, or unpack the zip."),
    (b"\xd0\xcf\x11\xe0", "is an Excel file", "Save the sheet as CSV UTF-8."),
    (b"SQLite format 3", "is an SQLite database", "Export the table as CSV."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRows:
    """The rows of a file or a split of the hub, and how they were read.

    ``lines`` are those on which the rows begin; empty where a format has no lines.
    """

    where: str
    rows: Sequence[Row]
    lines: Sequence[int] = ()
    num_lines: int = 0
    notes: tuple[str, ...] = ()

    def place(self, index: int) -> str:
        """What messages call a row: ``row 5``, with its line where that differs."""
        number = index + 1
        line = self.lines[index] if self.lines else number
        return f"row {number}" if line == number else f"row {number} (line {line})"

    @property
    def summary(self) -> str:
        """How many lines became how many rows, and what was done to the file to read it."""
        rows = f"{len(self.rows)} rows" if len(self.rows) != 1 else "1 row"
        notes = f" ({', '.join(self.notes)})" if self.notes else ""
        return (
            f"{self.where}: {rows} of {self.num_lines} lines{notes}" if self.lines else f"{self.where}: {rows}{notes}"
        )


def suffix_of(path: Path) -> str:
    """The kind of a file, in lower case: ``.csv``, ``.jsonl.gz``."""
    last = path.suffix.lower()
    return f"{path.with_suffix('').suffix.lower()}{last}" if last == ".gz" else last


def read_rows(path: Path) -> FileRows:
    """Read all rows of a file.

    Raises:
        InputError: the file is of another kind than its name says, cannot be read, or can be read in two ways.
    """
    suffix = suffix_of(path)
    if suffix not in SUFFIXES:
        hint = "Save the sheet as CSV UTF-8." if suffix in _EXCEL else _READABLE
        raise InputError("has a format that is not supported", str(path), value=suffix or path.name, hint=hint)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            "cannot be read", str(path), value=error.strerror or str(error), hint="Check the path."
        ) from error
    with located(path):
        _refuse_others(content, suffix)
        if suffix.endswith(".gz"):
            content, suffix = _unzipped(content), suffix.removesuffix(".gz")
            _refuse_others(content, suffix)
        if suffix == ".parquet":
            return _read_parquet(path, content)
        text = _decoded(content)
        if suffix in (".csv", ".tsv"):
            return _of_sheet(path, read_sheet(text, str(path), is_tsv=suffix == ".tsv"))
        return _read_json(path, text, is_list=suffix == ".json")


def _unzipped(content: bytes) -> bytes:
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        hint = "Is it gzipped? Fetch it again, or take .gz off its name."
        raise InputError("cannot be unpacked", value=str(error), hint=hint) from error


def _refuse_others(content: bytes, suffix: str) -> None:
    """Refuse a file that is of another kind than its name says."""
    start = content[:1000].lstrip().lower()
    for mark, problem, hint in _OTHERS:
        if content.startswith(mark):
            raise InputError(problem, hint=hint)
    if start.startswith((b"<!doctype html", b"<html")):
        hint = "The download brought a page (a sign-in, an error) instead of the file. Fetch it again."
        raise InputError("is an HTML page", hint=hint)
    is_parquet = content.startswith(b"PAR1")
    if is_parquet and suffix != ".parquet":
        raise InputError("is a Parquet file", hint="Call it .parquet.")
    if content.startswith(b"\x1f\x8b") and not suffix.endswith(".gz"):
        raise InputError("is gzipped", hint="Let its name end in .gz, as in rows.csv.gz; or unpack it.")


def _decoded(content: bytes) -> str:
    if content.startswith(_BOMS):
        raise InputError("cannot be read (it is UTF-16, not UTF-8)", hint=_SAVE_AS_UTF8)
    num_nul = content.count(b"\0")
    if num_nul > len(content) // 4:
        raise InputError("cannot be read (it looks like UTF-16, not UTF-8)", hint=_SAVE_AS_UTF8)
    if num_nul:
        line = _line_at(content, content.index(b"\0"))
        hint = "A file of texts has none: it is damaged or of another kind. Remove them: tr -d '\\000' < OLD > NEW."
        raise InputError(f"holds {num_nul} NUL bytes, the first in line {line}", hint=hint)
    try:
        return content.decode("utf-8").lstrip("\ufeff")
    except UnicodeDecodeError as error:
        line = _line_at(content, error.start)
        byte = f"byte 0x{content[error.start]:02x} in line {line}"
        raise InputError(f"cannot be read ({byte} is not UTF-8)", hint=_SAVE_AS_UTF8) from error


def _line_at(content: bytes, position: int) -> int:
    before = content[:position]
    return 1 + max(before.count(b"\n"), before.count(b"\r"))


def _read_parquet(path: Path, content: bytes) -> FileRows:
    try:
        _refuse_twice(parquet.read_schema(pa.BufferReader(content)).names)  # read_table says it less clearly
        rows = parquet.read_table(
            pa.BufferReader(content)
        ).to_pylist()  # Arrow looks at texts and times of day only now
    except (OSError, pa.ArrowException, MemoryError, ValueError, OverflowError) as error:
        hint = "Is it .parquet? Fetch or write it again."
        raise InputError("cannot be read", value=str(error), hint=hint) from error
    return FileRows(where=str(path), rows=[_named(row) for row in rows])


def _refuse_twice(names: Sequence[str]) -> None:
    names = [valid_text(name) for name in names]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        hint = "Rename one of them in the file: it cannot be known which is meant."
        raise InputError("two columns have one name", value=repr(twice), hint=hint)


def _named(row: Row) -> Row:
    return {valid_text(name): value for name, value in row.items()}


def _of_sheet(path: Path, sheet: Sheet) -> FileRows:
    return FileRows(where=str(path), rows=sheet.rows, lines=sheet.lines, num_lines=sheet.num_lines, notes=sheet.notes)


def _read_json(path: Path, text: str, *, is_list: bool) -> FileRows:
    """Read a list of objects, or one object a line; either may stand in a file of the other's name."""
    holds_list = text.lstrip("\ufeff \t\r\n").startswith("[")
    if text.strip() and (is_list or holds_list):
        found = _read_list(path, text)
        if found is not None:
            return found if is_list else replace(found, notes=("one list, as in .json",))
    rows = _read_lines(path, text)
    if len(rows.rows) == 1:
        _refuse_columns(rows.rows[0])
    return replace(rows, notes=("one object a line, as in .jsonl", *rows.notes)) if is_list else rows


def _read_list(path: Path, text: str) -> FileRows | None:
    """The rows of a JSON list; None if the text is no single JSON value, or no list but one line."""
    faults = Faults()
    try:
        items = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        if _has_json_lines(text):
            return None
        raise InputError(f"is not JSON: {error}", hint="Mend the file there.") from None
    if not isinstance(items, list):
        _refuse_columns(items)
        if len(text.strip().splitlines()) == 1:
            return None
        hint = 'Write a list of objects: [{"text": ..., "label": ...}, ...]; pandas: to_json(orient="records").'
        raise InputError("holds no list of rows", value=text.strip()[:80], hint=hint)
    rows: list[Row] = []
    for number, item in enumerate(items, start=1):
        with faults.gathered(str(path), f"row {number}"):
            rows.append(_as_row(item, json.dumps(item, default=str)[:80]))
    faults.refuse()
    return FileRows(where=str(path), rows=rows)


def _refuse_columns(value: object) -> None:
    """Refuse one object that holds all rows: as columns (``DataFrame.to_json``), or as a list under a key."""
    if not isinstance(value, dict) or not value:
        return
    key = next((key for key, part in value.items() if isinstance(part, list) and _are_objects(part)), None)
    if key is not None:
        hint = "Save that list alone, as .json."
        raise InputError("holds no list of rows, but an object with one", value=repr(key)[:80], hint=hint)
    sizes = {len(part) if isinstance(part, dict | list) else -1 for part in value.values()}
    if len(value) > 1 and len(sizes) == 1 and min(sizes) > 1:
        hint = 'Write a list of objects: [{"text": ..., "label": ...}, ...]; pandas: to_json(orient="records").'
        raise InputError("holds columns, not rows", value=", ".join(map(repr, value))[:80], hint=hint)


def _are_objects(part: list[object]) -> bool:
    return len(part) > 1 and all(isinstance(item, dict | list) for item in part)


def _has_json_lines(text: str) -> bool:
    """Whether the first line with something in it is a JSON value of its own."""
    line = next((line for line in io.StringIO(text) if line.strip()), "")
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _read_lines(path: Path, text: str) -> FileRows:
    faults = Faults()
    rows: list[Row] = []
    numbers: list[int] = []
    num_blank = num_lines = 0
    for num_lines, line in enumerate(io.StringIO(text, newline=None), start=1):
        plain = line.strip().strip("\ufeff")
        if not plain:
            num_blank += 1
            continue
        numbers.append(num_lines)
        place = f"row {len(numbers)}" + (f" (line {num_lines})" if num_blank else "")
        with faults.gathered(str(path), place):
            rows.append(_json_row(plain))
    faults.refuse()
    notes = (f"{num_blank} blank",) if num_blank else ()
    return FileRows(where=str(path), rows=rows, lines=numbers, num_lines=num_lines, notes=notes)


def _json_row(line: str) -> Row:
    try:
        return _as_row(json.loads(line, object_pairs_hook=_object), line[:80])
    except (ValueError, RecursionError) as error:
        hint = 'Each line is one object in one line: {"text": "...", "label": "..."}.'
        raise InputError(f"is not JSON: {error}", value=line[:80], hint=hint) from None


class _Twins(dict[str, Any]):
    """A JSON object in which the key ``twice`` comes twice."""

    twice = ""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) == len(pairs):
        return row
    keys = [key for key, _ in pairs]
    twins = _Twins(row)
    twins.twice = next(key for key in keys if keys.count(key) > 1)
    return twins


def _as_row(value: object, shown: str) -> Row:
    if not isinstance(value, dict):
        hint = 'A row is an object: {"text": "...", "label": "..."}.'
        raise InputError("is not a JSON object", value=shown, hint=hint)
    try:
        twice = _twice_in(value)
    except RecursionError:
        raise InputError("is nested too deeply", value=shown, hint="A row holds texts and numbers.") from None
    row = _named(value)
    if not twice and len(row) < len(value):  # names that differ in their Unicode form alone
        names = [valid_text(name) for name in value]
        twice = next(name for name in names if names.count(name) > 1)
    if twice:
        raise InputError("a key comes twice", value=repr(twice), hint="Remove or rename one of them.")
    return row


def _twice_in(value: object) -> str:
    """A key that comes twice in an object or in what it holds; empty if there is none."""
    if isinstance(value, _Twins):
        return value.twice
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((twice for part in parts if (twice := _twice_in(part))), "")
