"""Drafts of a task and a job for a file of labelled rows: what `s3ray init` writes, to be edited by hand.

What it writes can be run as it is: before anything is written, the draft is loaded and its gold read, as `plan` does.
"""

import functools
import os
import re
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from s3ray.config.dialect import dump
from s3ray.config.load import load_config
from s3ray.errors import InputError, located, written
from s3ray.tables import TABLE_COLUMNS
from s3ray.tasks.columns import Columns, sort_columns
from s3ray.tasks.files import FileRows, Row, suffix_of
from s3ray.tasks.gold import load_gold
from s3ray.tasks.labels import label_text, spellings
from s3ray.tasks.rows import NO_LABEL
from s3ray.tasks.source import Part, read_parts
from s3ray.tasks.task import load_task
from s3ray.text import normalise, num_words, valid_text, words_of

LEAVE_OUT = ("unlabelled", "contradictory")
"""Rows that a draft can leave out: those without a label, and those whose text has several."""

_FEWEST_ROWS = 20
_FEWEST_TEXTS = 8  # that are left to draw gold from, beside the test split
_FEW_PER_CLASS = 5
_NUM_NAMED = 8
_TOKENS_PER_WORD = 2  # of English with punctuation, with room to spare
_TOKENS_PER_BYTE = 0.9  # of other scripts in UTF-8, for the packaged model: 0.4 (Russian) to 0.9 (Korean)
_SIGNS = re.compile(r"\d|^[-+<>=~\u2264\u2265]|[-+#%]$")  # a name means something by its signs: -1, 0.5, C++, A-, <18
# Limits are there to reject fragments and texts that never end, not to hold a length; any engine can meet these, the
# fake one (6 to 24 words) included.
_LEAST_MAX_WORDS, _MOST_MIN_WORDS = 24, 12


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelClass:
    """A class that a file has: its ``spellings``, the most frequent first, its rows, and how a prompt says it."""

    spellings: tuple[str, ...]
    num_rows: int
    words: str

    @property
    def name(self) -> str:
        """What reports call it."""
        return " ".join(self.spellings[0].split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A task and a job: YAML by file name, for one folder; and the guesses, as lines for the user."""

    files: dict[str, str]
    guesses: tuple[str, ...]

    def write(self) -> None:
        """Write the files into the working directory; overwrites none.

        Raises:
            InputError: one of them is there already, or the folder cannot be written.
        """
        for name in self.files:
            if Path(name).exists():
                raise InputError("is there already", where=name, hint="Edit it, or remove it first.")
        for name, text in self.files.items():
            with written(name):
                Path(name).write_text(text, encoding="utf-8")


def draft(data: Path, label: str | None = None, writes: str | None = None, leave_out: Sequence[str] = ()) -> Draft:
    """Draft a classification task and a job for the rows of one file; writes nothing.

    ``label`` and ``writes`` name columns; None: guessed. Paths in the task are relative to the working directory.

    Raises:
        InputError: the file cannot be read or has too few rows, or what it holds leaves something to be decided; the
            message says what, and how it is said.
    """
    if not data.is_file():
        hint = "Give one .jsonl, .csv or .parquet file with all rows; if the splits are separate files, that of train."
        raise InputError("is not a file", where=str(data), hint=hint)
    with located(data):
        unknown = next((what for what in leave_out if what not in LEAVE_OUT), None)
        if unknown is not None:
            hint = f"Choose from {', '.join(LEAVE_OUT)}."
            raise InputError("is no kind of rows", where="--leave-out", value=unknown, hint=hint)
        parts = read_parts(data)
        file = parts["train"].file  # which has all rows
        rows = file.rows
        if len(rows) < _FEWEST_ROWS:
            hint = f"At least {_FEWEST_ROWS} rows are needed; some dozens per label are better."
            raise InputError("holds too few rows", value=str(len(rows)), hint=hint)
        columns = sort_columns(rows, label, writes)
        labels, odd = _labels(file, columns.label, leaves_out="unlabelled" in leave_out)
        in_words_of, words = _words_of_numbers(rows, labels, columns)
        classes = classes_of(Counter(filter(None, labels)), words)
        if len(classes) < 2:
            hint = "They differ by case, blanks or signs alone. A task needs two classes or more: --label COLUMN."
            value = ", ".join(map(repr, classes[0].spellings))
            raise InputError("all labels are one", field=columns.label, value=value, hint=hint)
        fields = _of_fields(columns)
        kept = _Kept.of(parts, columns, labels, classes, leave_out)
        sizes = _of_sizes(kept.train, columns, len(classes))
        files = _files(data, {"labels": classes, "leave_out": list(leave_out), **fields, **sizes})
        notes = _check(files, data)
    odd += [f"  the labels are numbers; their words are those of {in_words_of}"] if words else []
    told = (file.summary, *_guesses(columns, classes), *odd, *_oddities(columns, classes, kept, leave_out), *notes)
    return Draft(files=files, guesses=told)


def _labels(file: FileRows, column: str, *, leaves_out: bool) -> tuple[list[str], list[str]]:
    """The label of each row, empty for one that is left out; and what to say of those that have none.

    Raises:
        InputError: rows have no label, and are not to be left out.
    """
    labels = [label_text(row.get(column)) for row in file.rows]
    places = [file.place(index) for index, text in enumerate(labels) if not text]
    if places and not leaves_out:
        hint = "Fill them, remove the rows, or say --leave-out unlabelled."
        first = ", ".join(places[:5]) + (", ..." if len(places) > 5 else "")
        problem = f"{first} has no label" if len(places) == 1 else f"{len(places)} rows have no label: {first}"
        raise InputError(problem, field=column, hint=hint)
    counts = Counter(filter(None, labels))
    words = {value for value in counts if value.casefold() in NO_LABEL and value not in ("-1", "-")}
    others = counts.keys() - {"-1"}
    if (
        not (words or places)
        and len(others) > 1
        and all(map(str.isdecimal, others))
        and 10 * counts["-1"] < len(labels)
    ):
        words = counts.keys() & {"-1"}
    if "+" not in counts and len(counts) > 2 and 10 * counts["-"] < len(labels):
        words = words | (counts.keys() & {"-"})  # so SNLI marks pairs of which its annotators say different things
    if len(counts) < 2 + len(words):
        words = set()
    num = sum(counts[value] for value in words)
    if leaves_out:
        labels = ["" if text in words else text for text in labels]
        return labels, [f"  left out, without a label: {len(places) + num} rows"] if places or words else []
    told = f"  {', '.join(sorted(words))} ({num} rows) may mean that there is no label; then: --leave-out unlabelled"
    return labels, [told] if words else []


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """What gold keeps of a file: ``train`` rows with different texts that the test split does not have."""

    train: Sequence[Row]
    num_repeated: int
    num_contradictory: int

    @classmethod
    def of(
        cls,
        parts: Mapping[str, Part],
        columns: Columns,
        labels: Sequence[str],
        classes: Sequence[LabelClass],
        leave_out: Sequence[str],
    ) -> "_Kept":
        """Count as ``load_gold`` does.

        Raises:
            InputError: too few texts are left.
        """
        place = {value: number for number, each in enumerate(classes) for value in each.spellings}
        said: dict[tuple[str, ...], set[int]] = {}
        texts: dict[str, list[tuple[tuple[str, ...], Row]]] = {"test": [], "train": []}
        for split, part in parts.items():
            for index in part.order:
                if labels[index]:
                    row = part.file.rows[index]
                    text = tuple(normalise(str(row.get(name))) for name in (*columns.given, columns.writes))
                    texts[split].append((text, row))
                    said.setdefault(text, set()).add(place[labels[index]])
        contradictory = {text for text, its_labels in said.items() if len(its_labels) > 1}
        out = contradictory if "contradictory" in leave_out else set()
        in_test = {text for text, _ in texts["test"]} - out
        train = {text: row for text, row in texts["train"] if text not in in_test and text not in out}
        if len(train) < _FEWEST_TEXTS or not in_test:
            hint = f"At least {_FEWEST_ROWS} rows with different texts are needed; some dozens per label are better."
            value = str(len(train) + len(in_test))
            raise InputError("holds too few different texts", value=value, hint=hint)
        num_all = len(texts["train"]) + len(texts["test"])
        return cls(train=list(train.values()), num_repeated=num_all - len(said), num_contradictory=len(contradictory))


def _files(data: Path, values: Mapping[str, Any]) -> dict[str, str]:
    name = re.sub(r"[^a-z0-9_-]+", "-", data.name.lower().removesuffix(suffix_of(data))).strip("-_") or "mine"
    task_file, job_file = f"{name}-task.yaml", f"{name}-job.yaml"
    filled = {"name": name, "task_file": task_file, "data": os.path.relpath(data), **values}
    return {task_file: _render("task.yaml", filled), job_file: _render("job.yaml", filled)}


def _check(files: Mapping[str, str], data: Path) -> list[str]:
    """Load a draft as ``plan`` would; returns what is odd about the characters of texts.

    Raises:
        InputError: it cannot be loaded, or a row of the file cannot be used.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            Path(folder, name).write_text(text, encoding="utf-8")
        task_file, job_file = (Path(folder, name) for name in files)
        try:
            gold = load_config(job_file).gold
            notes = load_gold(load_task(str(task_file), str(data)), gold, str(data)).notes
        except InputError as error:
            if error.where and error.where.startswith(folder):
                error.where = Path(error.where).name
            raise
    return [f"  {note.partition(': ')[2]}" for note in notes if " x text " in note]


def field_name(column: str) -> str:
    """A column's name for use in prompts: lower-case letters, digits, underscores, and not a name that s3ray uses."""
    letters = _lower(unicodedata.normalize("NFKC", column.strip()))
    legal = "".join(letter if f"a{letter}".isidentifier() else "\0" for letter in letters)
    name = re.sub("\0+", "_", legal).strip("_") or "text"
    name = f"field_{name}" if not name.isidentifier() else name
    return f"{name}_text" if name in TABLE_COLUMNS else name


def _words_of_numbers(rows: Sequence[Row], labels: Sequence[str], columns: Columns) -> tuple[str, dict[str, str]]:
    """A column that says in words what labels say as numbers, and its words by label; nothing if there is none."""
    if all(re.fullmatch(r"[-+]?\d*", label) for label in labels):
        for name in columns.left_out:
            said = {(label, str(row.get(name) or "")) for row, label in zip(rows, labels, strict=True) if label}
            words = {label: " ".join(text.split()) for label, text in said}
            is_same = len(said) == len(words) == len({text.casefold() for text in words.values()})
            if is_same and all(re.search(r"[^\W\d_]{2}", text) for text in words.values()):
                return _on_one_line(name), words
    return "", {}


def classes_of(counts: Mapping[str, int], said: Mapping[str, str] | None = None) -> tuple[LabelClass, ...]:
    """The classes of a column by the counts of its values (``label_text``), in the order in which these are given.

    ``said`` is how another column says the values.
    Values that differ by case, blanks or the like alone are spellings of one class. No two classes have the same words.
    """
    groups = spellings(counts)
    words = _distinct_words([(said or {}).get(group[0]) or " ".join(group[0].split()) for group in groups])
    return tuple(
        LabelClass(spellings=group, num_rows=sum(counts[value] for value in group), words=said)
        for group, said in zip(groups, words, strict=True)
    )


def _distinct_words(names: Sequence[str]) -> list[str]:
    """Words of each name; names as they are where words would be the same, or mean something by their signs."""
    words = [name.replace("_", " ").strip() or name if _SIGNS.search(name) else in_words(name) for name in names]
    for _ in range(2):  # a bare name may be what another one's words are
        said = Counter(text.casefold() for text in words)
        words = [name if said[text.casefold()] > 1 else text for name, text in zip(names, words, strict=True)]
    return words if len({text.casefold() for text in words}) == len(words) else list(names)


def _of_fields(columns: Columns) -> dict[str, Any]:
    names = {field_name(column): column for column in (*columns.given, columns.writes)}
    if len(names) < 1 + len(columns.given):
        hint = "Rename one of them in the file."
        listed = ", ".join((*columns.given, columns.writes))
        raise InputError("two columns would have one name in prompts", value=listed, hint=hint)
    writes = field_name(columns.writes)
    label, written = _lower(_said(columns.label, "label")), _lower(_said(columns.writes, "text"))
    return {
        "fields": list(names),
        "writes": writes,
        "given": {name: _said(column, "text") for name, column in names.items() if name != writes},
        "categories": [name for name, column in names.items() if column in columns.categories],
        "columns": {name: column for name, column in names.items() if name != column},
        "label_column": columns.label,
        "label_words": label,
        "written": written,
        "description": f"What is the {label} of a {written}?",
    }


def _lower(text: str) -> str:
    return text.replace("\u0130", "i").lower()  # the Turkish capital would get a second dot


def _said(column: str, otherwise: str) -> str:
    """A column's name in words for a template, in which signs such as braces would be read as code."""
    words = in_words(column)
    return words if re.search(r"\w", words) else otherwise


def _of_sizes(rows: Sequence[Row], columns: Columns, num_classes: int) -> dict[str, Any]:
    """Sizes that suit the number and length of the rows, and two CPU cores."""
    texts = [str(row.get(columns.writes) or "") for row in rows]
    words, tokens = sorted(map(num_words, texts)), sorted(map(_num_tokens, texts))
    given = sum(max(_num_tokens(str(row.get(name) or "")) for row in rows) for name in columns.given)
    nearly_longest = len(rows) - 1 - len(rows) // 20
    most = 2 * tokens[nearly_longest] + 5 * _TOKENS_PER_WORD
    num_seeds = max(120, 4 * num_classes)
    return {
        "min_words": min(_MOST_MIN_WORDS, max(1, words[len(words) // 20] // 2)),
        "max_words": max(_LEAST_MAX_WORDS, 2 * words[nearly_longest] + 5),
        "max_tokens": min(512, max(32, most)),
        "max_model_len": min(4096, max(768, 2 * (given + 2 * most))),
        "max_length": min(512, max(64, given + most)),
        "num_extrapolate": min(max(300, 5 * num_classes), len(rows) // 2),
        "num_select": min(max(200, 3 * num_classes), len(rows) // 4),
        "num_seeds": num_seeds,
        "num_rows": num_seeds + max(80, 2 * num_classes),  # in two rounds
    }


def _num_tokens(text: str) -> int:
    """About how many tokens a text has, with room to spare."""
    num_ascii = sum(map(str.isascii, text))
    num_bytes = len(text.encode("utf-8", "replace")) - num_ascii
    return max(_TOKENS_PER_WORD * len(text.split()), round(num_ascii / 3 + _TOKENS_PER_BYTE * num_bytes))


def _guesses(columns: Columns, classes: Sequence[LabelClass]) -> Iterator[str]:
    ordered = sorted(classes, key=lambda each: -each.num_rows)
    more = f", and {len(classes) - _NUM_NAMED} more" if len(classes) > _NUM_NAMED else ""
    counts = ", ".join(f"{each.name} {each.num_rows}" for each in ordered[:_NUM_NAMED])
    yield f"  label: {_on_one_line(columns.label)} ({counts}{more})"
    yield f"  the language model writes: {_on_one_line(columns.writes)}"
    if columns.given:
        kinds = [_on_one_line(name) + " (a category)" * (name in columns.categories) for name in columns.given]
        yield f"  it is given, from your rows: {', '.join(kinds)}"
    for reason in dict.fromkeys(columns.left_out.values()):
        names = [
            _on_one_line(name) or "the column without a name" for name, why in columns.left_out.items() if why == reason
        ]
        yield f"  left out, since {reason}: {', '.join(names)}"


def _on_one_line(name: str) -> str:
    return " ".join(name.split())


def _oddities(
    columns: Columns,
    classes: Sequence[LabelClass],
    kept: _Kept,
    leave_out: Sequence[str],
) -> Iterator[str]:
    """What is odd about the rows, and what became of it."""
    for warning in columns.warnings:
        yield f"  {warning}"
    if all(re.fullmatch(r"[-+]?\d+", each.words) for each in classes):
        yield "  the labels are numbers, which say nothing to a language model: put words for them into the task"
    for each in classes:
        if len(each.spellings) > 1:
            yield f"  taken for one class, as they differ by case, blanks or signs alone: {', '.join(each.spellings)}"
    few = [each.name for each in classes if each.num_rows < _FEW_PER_CLASS]
    if few:
        named = ", ".join(few[:_NUM_NAMED]) + (", ..." if len(few) > _NUM_NAMED else "")
        yield f"  {len(few)} of {len(classes)} classes have fewer than {_FEW_PER_CLASS} rows, too few to score: {named}"
    if kept.num_contradictory and "contradictory" in leave_out:
        yield f"  left out, since they have several labels: {kept.num_contradictory} texts"
    elif kept.num_contradictory:
        yield (
            f"  {kept.num_contradictory} texts come with several labels; gold keeps one row of each"
            " (--leave-out contradictory: none)"
        )
    if kept.num_repeated:
        yield f"  {kept.num_repeated} rows repeat the text of another one; gold keeps one row of each text"


def in_words(text: object) -> str:
    """A name or value as words for a prompt: no underscores, no punctuation."""
    return " ".join(words_of(valid_text(str(text)))) or str(text)


def _render(name: str, values: dict[str, Any]) -> str:
    return _environment().get_template(name).render(values)


@functools.cache
def _environment() -> Environment:
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
    environment.filters["yaml"] = _in_yaml
    return environment


def _in_yaml(value: Any) -> str:
    """A value for a list or mapping written on one line, where YAML needs more quotes than elsewhere."""
    text = dump([value], flow=True, width=10_000)
    return text.strip()[1:-1]
