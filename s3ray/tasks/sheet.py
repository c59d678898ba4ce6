"""CSV and its like: rows of cells in one text, checked so that nothing is read otherwise than it stands there."""

import csv
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from s3ray.errors import InputError
from s3ray.tasks.faults import Faults
from s3ray.text import valid_text

_SEPARATORS = (",", ";", "\t", "|")
_NUM_SNIFFED = 50
_QUOTES_DOUBLED = "Put a text that begins with a quote into quotes, and double the quotes inside it."
_MOST_WORDS = 2  # of a name
_FEW_LINES = 3  # that one cell may hold although each looks like a row, where nothing else speaks for rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """The rows of a sheet by column; the line on which each begins; what was done to read them."""

    rows: list[dict[str, str]]
    lines: list[int]
    num_lines: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """The cells of a row, its first line, and how many lines it takes."""

    line: int
    num_lines: int
    cells: list[str]


class _OpenQuoteError(Exception):
    """A quote that is opened in a record cannot be right: it swallows lines, or text follows where it ends."""

    def __init__(self, row: int, line: int, num_lines: int) -> None:
        super().__init__(row, line, num_lines)
        self.row = row
        self.line = line
        self.num_lines = num_lines


def read_sheet(text: str, where: str, *, is_tsv: bool) -> Sheet:
    """Read a text with the names of its columns in the first line.

    Cells are texts as they stand: the label 01 stays 01. Tab-separated texts whose quotes cannot be read as such are
    read line by line, if each line then has the right number of cells.

    Raises:
        InputError: a column has no name or that of another one, a quote swallows lines, or a row has too few or too
            many cells or is the line of names again.
    """
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))  # of the process, so it is never made smaller
    first = re.match(r'"?sep=([^\r\n])"?(?:\r\n|\r|\n)', text)
    separator = first[1] if first else _separator(text, is_tsv=is_tsv)
    num_skipped = 1 if first else 0
    body = text[first.end() :] if first else text
    notes = ["1 with sep="] if first else []
    records: list[_Record] = []
    try:
        records.extend(_records(body, separator, num_skipped))
        _refuse_swallowed(records, separator)
    except _OpenQuoteError as error:
        plain = list(_unquoted(body, separator, num_skipped)) if separator == "\t" else []
        if not _fit_together(plain):
            raise _explained(error, body, where, num_skipped) from None
        records = plain
        notes.append("quotes are letters there")
    num_lines = num_skipped + sum(1 for _ in io.StringIO(body, newline=""))
    return _as_sheet(records, where, num_lines, notes)


def _separator(text: str, *, is_tsv: bool) -> str:
    """The separator that gives most rows the number of cells that the line of names has, two or more."""
    lines = list(itertools.islice(io.StringIO(text, newline=""), _NUM_SNIFFED))

    def fit(separator: str) -> tuple[float, int]:
        rows = [row for row in csv.reader(lines, delimiter=separator) if row]
        width = len(rows[0]) if rows else 0
        return (sum(len(row) == width for row in rows) / len(rows), width) if width > 1 else (0.0, 0)

    return max(("\t", *_SEPARATORS) if is_tsv else _SEPARATORS, key=fit)


def _records(body: str, separator: str, num_skipped: int) -> Iterator[_Record]:
    sample = list(itertools.islice(io.StringIO(body, newline=""), _NUM_SNIFFED))
    spaced = sum(re.search(f'{re.escape(separator)} +"', line) is not None for line in sample)  # "a", "b"
    reader = csv.reader(
        io.StringIO(body, newline=""), delimiter=separator, strict=True, skipinitialspace=2 * spaced > len(sample)
    )
    before = num_filled = 0
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error:
            raise _OpenQuoteError(num_filled, num_skipped + before + 1, reader.line_num - before) from None
        yield _Record(line=num_skipped + before + 1, num_lines=reader.line_num - before, cells=cells)
        before = reader.line_num
        num_filled += any(map(str.strip, cells))


def _unquoted(body: str, separator: str, num_skipped: int) -> Iterator[_Record]:
    for number, line in enumerate(io.StringIO(body, newline=None), start=num_skipped + 1):
        yield _Record(line=number, num_lines=1, cells=line.rstrip("\n").split(separator))


def _filled(records: Sequence[_Record]) -> list[_Record]:
    """The records that hold something."""
    return [record for record in records if any(map(str.strip, record.cells))]


def _fit_together(records: Sequence[_Record]) -> bool:
    """Whether all records have one number of cells, and no cell is put into quotes."""
    filled = _filled(records)
    is_quoted = any(len(cell) > 1 and cell[0] == cell[-1] == '"' for record in filled for cell in record.cells)
    return len({len(record.cells) for record in filled}) == 1 and not is_quoted


def _refuse_swallowed(records: Sequence[_Record], separator: str) -> None:
    """Refuse a cell whose lines look like rows of the sheet: a quote too many or too few made them one text."""
    width = len(records[0].cells) if records else 0
    if width < 2 or all(record.num_lines == 1 for record in records):
        return
    whole = [record.cells for record in records if len(record.cells) == width]
    seen = [{cells[column] for cells in whole} for column in range(width)]
    for row, record in enumerate(_filled(records)[1:], start=1):
        if record.num_lines > 1 and len(record.cells) == width:
            for column, cell in enumerate(record.cells):
                if _looks_like_rows(cell, column, separator, seen):
                    raise _OpenQuoteError(row, record.line, record.num_lines)


def _looks_like_rows(cell: str, column: int, separator: str, seen: Sequence[set[str]]) -> bool:
    """Whether each line of a cell has the cells that its part of a row needs, with values that other rows have."""
    width = len(seen)
    lines = [line.split(separator) for line in re.split(r"\r\n|\r|\n", cell)]
    if len(lines) < 2:
        return False
    first, last = lines[0], lines[-1]
    inner = [parts for parts in lines[1:-1] if parts != [""]]
    if len(first) != width - column or len(last) != column + 1 or any(len(parts) != width for parts in inner):
        return False
    by_column = [enumerate(first, start=column), enumerate(last), *(enumerate(parts) for parts in inner)]
    known = sum(any(n != column and part and part in seen[n] for n, part in pairs) for pairs in by_column)
    is_certain = (width > 2 or separator == "\t") and len(by_column) > _FEW_LINES
    return is_certain or 2 * known >= len(by_column) - 1


def _explained(error: _OpenQuoteError, body: str, where: str, num_skipped: int) -> InputError:
    lines = io.StringIO(body, newline="")
    shown = next(itertools.islice(lines, error.line - num_skipped - 1, None), "").rstrip("\r\n")
    hint = f"Is a quote too many or missing there? {_QUOTES_DOUBLED}"
    if '\\"' in shown:
        hint = f"A backslash does not escape a quote in CSV. {_QUOTES_DOUBLED}"
    num_swallowed = error.num_lines - 1
    swallows = f"swallows {num_swallowed} lines" if num_swallowed > 1 else f"swallows {num_swallowed} line"
    problem = f"a quote that is opened there {swallows}" if num_swallowed else "text follows the end of a quote"
    return InputError(problem, f"{where}, row {error.row} (line {error.line})", value=shown[:80], hint=hint)


def _as_sheet(records: Sequence[_Record], where: str, num_lines: int, notes: list[str]) -> Sheet:
    filled = _filled(records)
    if not filled:
        raise InputError("is empty", hint="The first line names the columns, each other line is a row.")
    header, *filled = filled
    num_blank = len(records) - len(filled) - 1
    kept = _kept_columns(header, filled, notes)
    _check_cells(header, filled, where)
    _refuse_unnamed(header, filled, where)
    names = [valid_text(header.cells[column]).strip() for column in kept]
    num_inside = sum(record.num_lines - 1 for record in filled)
    notes.insert(0, "1 with the names")
    notes += [f"{num_blank} blank"] if num_blank else []
    notes += [f"{num_inside} inside quoted texts"] if num_inside else []
    return Sheet(
        rows=[dict(zip(names, (record.cells[column] for column in kept), strict=True)) for record in filled],
        lines=[record.line for record in filled],
        num_lines=num_lines,
        notes=tuple(notes),
    )


def _refuse_unnamed(header: _Record, filled: Sequence[_Record], where: str) -> None:
    """Refuse a first line that is a row: it has a value that its column has again, beside a text or a number."""
    has_row = any(len(name.split()) > _MOST_WORDS or re.fullmatch(r"-?\d+(\.\d+)?", name) for name in header.cells)
    if not has_row:
        return
    for column, name in enumerate(header.cells):
        if name.strip() and sum(record.cells[column] == name for record in filled) > 1:
            hint = "Write the names of the columns above it."
            value = ", ".join(header.cells)[:80]
            raise InputError("is a row, not the names of the columns", f"{where}, line {header.line}", "", value, hint)


def _kept_columns(header: _Record, filled: Sequence[_Record], notes: list[str]) -> list[int]:
    """The columns with a name. One without may be left out if it holds nothing, or only the numbers of the rows."""
    kept: list[int] = []
    num_nameless = 0
    names = [valid_text(name).strip() for name in header.cells]
    for column, name in enumerate(names):
        values = [record.cells[column] for record in filled if len(record.cells) > column]
        if name and names.count(name) > 1:
            numbers = ", ".join(str(n + 1) for n, other in enumerate(names) if other == name)
            hint = f"Columns {numbers} are called so: which is meant cannot be known. Rename or remove one of them."
            raise InputError("two columns have one name", field=name, hint=hint)
        if name:
            kept.append(column)
        elif not any(value.strip() for value in values):
            num_nameless += 1
        elif column == 0 and len(set(values)) == len(values) and all(re.fullmatch(r"\d+", v) for v in values):
            notes.append("the numbers of the rows, a column without name, are left out")
        else:
            value = next(value for value in values if value.strip())
            hint = "The first line names the columns: name it there, or remove it."
            raise InputError(f"column {column + 1} has no name", value=repr(value)[:80], hint=hint)
    if num_nameless:
        nameless = "a column" if num_nameless == 1 else f"{num_nameless} columns"
        notes.append(f"{nameless} without name and values {'is' if num_nameless == 1 else 'are'} left out")
    return kept


def _check_cells(header: _Record, filled: Sequence[_Record], where: str) -> None:
    faults = Faults()
    width = len(header.cells)
    if width == 1 and filled and all(len(record.cells) > 1 for record in filled):
        hint = "Is it a title or a remark? Remove what stands above the names of the columns."
        raise InputError("names one column", f"{where}, line {header.line}", "", header.cells[0][:80], hint)
    names = [name.strip("\ufeff") for name in header.cells]
    for number, record in enumerate(filled, start=1):
        with faults.gathered(where, f"row {number} (line {record.line})"):
            if [cell.strip("\ufeff") for cell in record.cells] == names:
                hint = "Were files joined that have one each? Remove it there."
                raise InputError("is the line of names again", value=", ".join(names)[:80], hint=hint)
            if len(record.cells) != width:
                few = "few" if len(record.cells) < width else "many"
                put = "Put a text with a separator, quote or line end into quotes, and double the quotes inside it."
                hint = f"The line of names has {width}. {put}"
                raise InputError(f"has too {few} cells: {len(record.cells)}", value=repr(record.cells)[:80], hint=hint)
    faults.refuse()
