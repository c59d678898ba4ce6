import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3ray.errors import InputError
from s3ray.tasks.files import FileRows, read_rows
from s3ray.tasks.sheet import read_sheet

ROWS = [{"text": f"text number {n}", "label": "ab"[n % 2]} for n in range(40)]
LIST = json.dumps(ROWS)
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


NEW = "a,b,c\n" + "".join(f"x{n},y{n},z{n}\n" for n in range(20))  # no value comes again


def sheet(separator: str = ",", end: str = "\n") -> str:
    return end.join([f"text{separator}label", *(f"{row['text']}{separator}{row['label']}" for row in ROWS), ""])


def read(folder: Path, name: str, content: str | bytes) -> FileRows:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_rows(path)


def refusal(folder: Path, name: str, content: str | bytes) -> str:
    with pytest.raises(InputError) as caught:
        read(folder, name, content)
    assert name in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", sheet()),
        ("a.CSV", "\ufeff" + sheet(";", "\r\n")),
        ("a.csv", sheet("|")),
        ("a.csv", sheet("\t", "\r")),
        ("a.csv", "sep=;\r\n" + sheet(";", "\r\n")),
        ("a.csv", "\ufeff" + sheet().replace("\n", "\n\n") + ",\n,\n"),
        ("a.csv", sheet().replace("\n", ",\n")),
        ("a.csv", "".join(f"{n - 1 if n else ''},{line}\n" for n, line in enumerate(sheet().splitlines()))),
        ("a.csv", '"text", "label"\n' + "".join(f'"{row["text"]}", "{row["label"]}"\n' for row in ROWS)),
        ("a.tsv", sheet("\t")),
        ("a.tsv.gz", gzip.compress(sheet("\t").encode(), mtime=0)),
        ("a.Csv.GZ", gzip.compress(sheet().encode(), mtime=0)),
        ("a.ndjson", LINES),
        ("a.csv", "\ufeff\ufeff" + sheet().replace("text,label", "text , label")),
        ("a.jsonl", "\ufeff" + LINES.replace("\n", "\n\n")),
        ("a.jsonl", LINES + "\ufeff\r\n"),
        ("a.JSONL.gz", gzip.compress(LINES.encode(), mtime=0)),
        ("a.json", LIST),
        ("a.json", "\ufeff" + json.dumps(ROWS, indent=2)),
        ("a.json.gz", gzip.compress(LIST.encode(), mtime=0)),
        ("a.json", LINES),
        ("a.jsonl", LIST),
        ("a.jsonl", json.dumps(ROWS, indent=1)),
    ],
)  # fmt: skip
def test_what_people_have_is_read_as_the_same_rows(tmp_path: Path, name: str, content: str | bytes) -> None:
    assert read(tmp_path, name, content).rows == ROWS


def test_parquet_is_read_whatever_the_case_of_its_name(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.PARQUET")
    file = read_rows(tmp_path / "a.PARQUET")
    assert (file.rows, file.summary) == (ROWS, f"{tmp_path / 'a.PARQUET'}: 40 rows")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", sheet(), "40 rows of 41 lines (1 with the names)"),
        ("a.csv", "sep=,\n" + sheet() + "\n\n", "40 rows of 44 lines (1 with the names, 1 with sep=, 2 blank)"),
        ("a.csv", 'text,label\n"one\n\ntwo",a\n', "1 row of 4 lines (1 with the names, 2 inside quoted texts)"),
        (
            "a.csv",
            "text,label,,\none,a,,\n",
            "1 row of 2 lines (1 with the names, 2 columns without name and values are left out)",
        ),
        ("a.jsonl", LINES + "\n", "40 rows of 41 lines (1 blank)"),
        ("a.json", LIST, "40 rows"),
    ],
)
def test_it_is_said_how_many_lines_became_how_many_rows(tmp_path: Path, name: str, content: str, says: str) -> None:
    assert read(tmp_path, name, content).summary == f"{tmp_path / name}: {says}"


def test_a_row_of_any_length_is_read(tmp_path: Path) -> None:
    long = "word " * 600_000
    assert read(tmp_path, "a.csv", f"text,label\n{long},a\n").rows == [{"text": long, "label": "a"}]


def swallowing(separator: str, first: int, last: int, closed: str = "") -> str:
    lines = sheet(separator).splitlines()
    lines[first], lines[last] = f'"{lines[first]}', f"{closed}{lines[last]}"
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", swallowing(",", 10, 30, '"'), "row 10 (line 11): a quote that is opened there swallows 20 lines"),
        ("a.csv", swallowing(",", 10, 40), "row 10 (line 11): a quote that is opened there swallows 30 lines"),
        ("a.csv", swallowing(",", 10, 30).replace("29,b", '29",b'), "row 10 (line 11): a quote that is opened there"),
        ("a.csv", swallowing(",", 10, 11).replace("10,a", '10",a'), "row 10 (line 11): a quote that is opened there"),
        ("a.csv", NEW.replace("x3", '"x3').replace("x9", 'x9"'), "row 4 (line 5): a quote that is opened there"),
        ("a.csv", 'text,label\n"a" b,c\n', "row 1 (line 2): text follows the end of a quote"),
        ("a.csv", 'text,label\n"a \\"new\\", b",c\n', "A backslash does not escape"),
        ("a.tsv", swallowing("\t", 10, 30, '"').replace("text number 6", '"text number 6"'), "a quote that is opened"),
        ("a.csv", sheet().replace("5,b", "5") + "x,y,z\n", "5 rows are wrong"),
        ("a.csv", "Export of today\n" + sheet(), "line 1: names one column (got Export of today)\n  Is it a title"),
        ("a.csv", sheet().replace("number 5,b", "number 5"), "row 6 (line 7): has too few cells: 1"),
        ("a.csv", sheet() + "x,y,z\n", "row 41 (line 42): has too many cells: 3"),
        ("a.csv", sheet() + sheet(), "row 41 (line 42): is the line of names again"),
        ("a.csv", sheet() + "\ufeff" + sheet(), "row 41 (line 42): is the line of names again"),
        ("a.csv", "text,label,text\na,b,c\n", "text: two columns have one name"),
        ("a.csv", "\u00fc,label,u\u0308\na,b,c\n", "\u00fc: two columns have one name"),
        ("a.jsonl", '{"\u00fc": 1, "u\u0308": 2}\n' + LINES, "row 1: a key comes twice (got '\u00fc')"),
        ("a.csv", "text,,label\na,b,c\n", "column 2 has no name"),
        ("a.csv", sheet().partition("\n")[2], "line 1: is a row, not the names of the columns (got text number 0, a)"),
        ("a.csv", "", "is empty"),
        ("a.csv", sheet().replace("number 7", "number\0 7"), "1 NUL bytes, the first in line 9"),
        ("a.csv", sheet().encode("utf-16"), "Save it as UTF-8"),
        ("a.csv", sheet().encode("utf-16-le"), "Save it as UTF-8"),
        ("a.csv", sheet().replace("number 7", "caf\u00e9").encode("cp1252"), "byte 0xe9 in line 9 is not UTF-8"),
        ("a.csv", "<!DOCTYPE html>\n<html>", "is an HTML page"),
        ("a.jsonl", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("a.csv.gz", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("a.parquet", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("a.csv", b"PK\x03\x04", "is an Excel or zip file"),
        ("a.xlsx", b"PK\x03\x04", "Save the sheet as CSV UTF-8"),
        ("a.csv", b"\xd0\xcf\x11\xe0", "is an Excel file"),
        ("a.csv", b"PAR1", "Call it .parquet"),
        ("a.csv", gzip.compress(b"a", mtime=0), ".csv.gz"),
        ("a.csv.gz", "text,label\n", "cannot be unpacked"),
        ("a.txt", "a", ".json (each also .gz)"),
        ("a.jsonl", LINES + '{"text": 1, "text": 2}\n', "row 41: a key comes twice (got 'text')"),
        ("a.jsonl", LINES + '\n{"answers": {"text": 1, "text": 2}}\n', "row 41 (line 42): a key comes twice"),
        ("a.json", '[{"a": 1}, {"a": 1, "a": 2}]', "row 2: a key comes twice"),
        ("a.json", '[{"a": 1}, 3]', "row 2: is not a JSON object (got 3)"),
        ("a.json", '{"text": {"0": "a"},\n "label": {"0": "b"}}', 'orient="records"'),
        ("a.json", '[{"a": 1}', "is not JSON"),
        ("a.jsonl", "{\n" + LINES + "[1]\n{\n", "2 x is not JSON: row 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_for_certain_is_refused_with_its_place(
    tmp_path: Path, name: str, content: str | bytes, says: str
) -> None:
    assert says in refusal(tmp_path, name, content)


@pytest.mark.parametrize("names", [("text", "text"), ("\u00fc", "u\u0308")])
def test_parquet_with_two_columns_of_one_name_is_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    pq.write_table(pa.table([["a"], ["b"], ["c"]], names=[names[0], "label", names[1]]), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="two columns have one name"):
        read_rows(tmp_path / "a.parquet")


def test_quotes_of_a_file_without_quoting_are_letters(tmp_path: Path) -> None:
    lines = sheet("\t").splitlines()
    lines[10], lines[30] = f'"{lines[10]}', f'"{lines[30]}'
    file = read(tmp_path, "a.csv", "\n".join(lines))
    assert [row["text"] for row in file.rows if '"' in row["text"]] == ['"text number 9', '"text number 29']
    assert len(file.rows) == 40
    assert "quotes are letters there" in file.summary


CELL = st.text(st.sampled_from(' ,;|\t\n\r"é\u2028'), max_size=5)
ROW = st.tuples(CELL.map("a".__add__), CELL.map("b".__add__), st.sampled_from("xyz"))


@settings(max_examples=150, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=6), st.sampled_from(",;\t|"))
def test_whatever_the_texts_a_well_written_sheet_is_read_as_it_was_written(
    rows: list[tuple[str, str, str]], separator: str
) -> None:
    written = io.StringIO()
    csv.writer(written, delimiter=separator, quoting=csv.QUOTE_ALL).writerows([("first", "second", "third"), *rows])
    found: list[dict[str, Any]] = read_sheet(written.getvalue(), "a.csv", is_tsv=False).rows
    assert [tuple(row.values()) for row in found] == rows


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", {"text": {"0": "a", "1": "b"}, "label": {"0": "x", "1": "y"}}, "holds columns, not rows"),
        ("a.jsonl", {"text": ["a", "b"], "label": ["x", "y"]}, "holds columns, not rows"),
        ("a.json", {"version": 1, "data": [{"text": "a"}, {"text": "b"}]}, "an object with one (got 'data')"),
        ("a.json", {"train": [["a", "x"], ["b", "y"]]}, "an object with one (got 'train')"),
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_one_object_that_holds_all_rows_is_refused_with_a_way_out(
    tmp_path: Path, name: str, content: dict[str, Any], says: str, indent: int | None
) -> None:
    if indent is None or name == "a.json":
        assert says in refusal(tmp_path, name, json.dumps(content, indent=indent))


def test_one_row_may_hold_lists(tmp_path: Path) -> None:
    row = {"text": "a b", "answers": {"text": ["a", "b"], "answer_start": [0, 2]}}
    assert read(tmp_path, "a.jsonl", json.dumps(row)).rows == [row]
