"""Drafts of a task and a job for a file of labelled rows: what `s3ray init` writes, to be edited by hand.

Guesses from the rows which column is the label and which text is to be written, and reports its guesses.
"""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from s3ray.config.dialect import dump
from s3ray.errors import InputError, located
from s3ray.tasks.files import Row, read_rows
from s3ray.tasks.spec import TABLE_COLUMNS
from s3ray.text import num_words, valid_text, words_of

MAX_LABELS = 50
_FEWEST_ROWS = 20
_TOKENS_PER_WORD = 2  # of English with punctuation, with room to spare


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The roles of a file's columns; ``categories`` are the ``given`` ones that repeat, ``left_out`` have no texts."""

    label: str
    writes: str
    given: tuple[str, ...]
    categories: tuple[str, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A task and a job: YAML by file name, for one folder; and the guesses, as lines for the user."""

    files: dict[str, str]
    guesses: tuple[str, ...]


def draft(data: Path, label: str | None = None, writes: str | None = None) -> Draft:
    """Draft a classification task and a job for the rows of one file; writes nothing.

    ``label`` and ``writes`` name columns; None: guessed. Paths in the task are relative to the working directory.

    Raises:
        InputError: the file cannot be read or has too few rows, or the role of a column cannot be guessed.
    """
    if not data.is_file():
        hint = "Give one .jsonl, .csv or .parquet file with all rows; if the splits are separate files, that of train."
        raise InputError("is not a file", where=str(data), hint=hint)
    file = read_rows(data)
    rows = file.rows
    if len(rows) < _FEWEST_ROWS:
        hint = f"At least {_FEWEST_ROWS} rows are needed; some dozens per label are better."
        raise InputError("holds too few rows", where=str(data), value=str(len(rows)), hint=hint)
    with located(data):
        columns = sort_columns(rows, label, writes)
    values = Counter(row[columns.label] for row in rows)
    name = re.sub(r"[^a-z0-9_-]+", "-", data.stem.lower()).strip("-_") or "mine"
    task_file, job_file = f"{name}-task.yaml", f"{name}-job.yaml"
    filled = {
        "name": name,
        "task_file": task_file,
        "data": os.path.relpath(data),
        "labels": list(values),
        **_of_fields(columns),
        **_of_sizes(rows, columns),
    }
    files = {task_file: _render("task.yaml", filled), job_file: _render("job.yaml", filled)}
    return Draft(files=files, guesses=(file.summary, *_guesses(rows, columns, values)))


def sort_columns(rows: Sequence[Row], label: str | None, writes: str | None) -> Columns:
    """Find the role of each column.

    The label is the column of that name, else the last of those with the fewest different values (2 to ``MAX_LABELS``).
    The text to be written is the one that is longest on average. Numbers do not count as texts.

    Raises:
        InputError: a name is not that of a column, or no column suits a role.
    """
    names = list(rows[0])
    for option, name in (("--label", label), ("--writes", writes)):
        if name is not None and name not in names:
            hint = f"Columns there: {', '.join(names)}."
            raise InputError("is not a column", field=option, value=name, hint=hint)
    seen = {name: {str(row.get(name)) for row in rows} for name in names}
    if label is None:
        few = [name for name in names if 2 <= len(seen[name]) <= min(MAX_LABELS, len(rows) // 2) and name != writes]
        last_first = few[::-1]
        label = "label" if "label" in few else min(last_first, key=lambda name: len(seen[name]), default=None)
    if label is None or len(seen[label]) < 2:
        hint = f"Name it: --label COLUMN, one of {', '.join(names)}. It needs two values or more."
        raise InputError("no column looks like a label", field="--label", hint=hint)
    texts = [name for name in names if name != label and not all(map(_is_number, seen[name]))]
    if writes is None:
        writes = max(texts, key=lambda name: fmean(len(str(row.get(name))) for row in rows), default=None)
    if writes not in texts:
        hint = "A task needs a column of texts besides the label. The first line of a CSV names the columns."
        raise InputError("holds no text", field="--writes", value=writes or "", hint=hint)
    given = tuple(name for name in texts if name != writes)
    return Columns(
        label=label,
        writes=writes,
        given=given,
        categories=tuple(name for name in given if 2 * len(seen[name]) <= len(rows)),
        left_out=tuple(name for name in names if name != label and name not in texts),
    )


def field_name(column: str) -> str:
    """A column's name for use in prompts: lower-case letters, digits, underscores, and not a name that s3ray uses."""
    letters = unicodedata.normalize("NFKC", column.strip()).lower()
    legal = "".join(letter if f"a{letter}".isidentifier() else "\0" for letter in letters)
    name = re.sub("\0+", "_", legal).strip("_") or "text"
    name = f"field_{name}" if not name.isidentifier() else name
    return f"{name}_text" if name in TABLE_COLUMNS else name


def _of_fields(columns: Columns) -> dict[str, Any]:
    names = {field_name(column): column for column in (*columns.given, columns.writes)}
    if len(names) < 1 + len(columns.given):
        hint = "Rename one of them in the file."
        listed = ", ".join((*columns.given, columns.writes))
        raise InputError("two columns would have one name in prompts", value=listed, hint=hint)
    writes = field_name(columns.writes)
    label, written = in_words(columns.label).lower(), in_words(columns.writes).lower()
    return {
        "fields": list(names),
        "writes": writes,
        "given": {name: in_words(column) for name, column in names.items() if name != writes},
        "categories": [name for name, column in names.items() if column in columns.categories],
        "columns": {name: column for name, column in names.items() if name != column},
        "label_column": columns.label,
        "label_words": label,
        "written": written,
        "description": f"What is the {label} of a {written}?",
    }


def _of_sizes(rows: Sequence[Row], columns: Columns) -> dict[str, Any]:
    """Sizes that suit the number and length of the rows, and two CPU cores."""
    lengths = sorted(num_words(str(row[columns.writes])) for row in rows)
    given = sum(max(num_words(str(row[name])) for row in rows) for name in columns.given)
    few, most = max(1, lengths[len(lengths) // 20] // 2), 2 * lengths[-1 - len(lengths) // 20] + 5
    num_train = len(rows) - len(rows) // 5
    num_seeds = 120
    return {
        "min_words": few,
        "max_words": most,
        "max_tokens": min(512, max(32, _TOKENS_PER_WORD * most)),
        "max_model_len": min(4096, max(768, 2 * _TOKENS_PER_WORD * (given + 2 * most))),
        "max_length": min(512, max(64, _TOKENS_PER_WORD * (given + most))),
        "num_extrapolate": min(300, num_train // 2),
        "num_select": min(200, num_train // 4),
        "num_seeds": num_seeds,
        "num_rows": num_seeds + 80,
    }


def _guesses(rows: Sequence[Row], columns: Columns, values: "Counter[Any]") -> Iterator[str]:
    yield f"  label: {columns.label} ({', '.join(f'{value} {num}' for value, num in values.most_common(8))})"
    yield f"  the language model writes: {columns.writes}"
    if columns.given:
        kinds = [f"{name} (a category)" if name in columns.categories else name for name in columns.given]
        yield f"  it is given, from your rows: {', '.join(kinds)}"
    if columns.left_out:
        yield f"  left out, since they hold numbers: {', '.join(columns.left_out)}"


def in_words(text: object) -> str:
    """A name or value as words for a prompt: no underscores, no punctuation."""
    return " ".join(words_of(valid_text(str(text)))) or str(text)


def _render(name: str, values: dict[str, Any]) -> str:
    environment = Environment(  # prompts have Jinja's own brackets
        loader=FileSystemLoader(Path(__file__).parent / "drafts"),
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        keep_trailing_newline=True,
        variable_start_string="[[",
        variable_end_string="]]",
        block_start_string="[%",
        block_end_string="%]",
        comment_start_string="[#",
        comment_end_string="#]",
    )
    environment.filters |= {"yaml": _in_yaml, "in_words": in_words}
    return environment.get_template(name).render(values)


def _in_yaml(value: Any) -> str:
    """A value for a list or mapping written on one line, where YAML needs more quotes than elsewhere."""
    text = dump([value], flow=True, width=10_000)
    return text.strip()[1:-1]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text in ("", "None")
    return True
