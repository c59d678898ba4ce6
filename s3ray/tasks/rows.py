"""From rows to gold examples: all are checked, in the order of their file, and what is done to them is counted."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from s3ray.errors import InputError
from s3ray.tasks.faults import Faults
from s3ray.tasks.files import FileRows, Row
from s3ray.tasks.labels import only_item
from s3ray.tasks.source import Part, column, key_of
from s3ray.tasks.span import SpanAnswers
from s3ray.tasks.spec import LeaveOut
from s3ray.tasks.task import Task
from s3ray.text import normalise, valid_text
from s3ray.types import Example, Origin, Source

_GOLD = Origin(source=Source.GOLD)
NO_LABEL = ("nan", "none", "null", "na", "n/a", "<na>", "#n/a", "-1", "-1.0", "-")
"""Labels in small letters that mean: none; unless the task has such a class."""

_NUM_SHOWN = 5
# Two or three bytes of one character in UTF-8, each read as a character of its own; in no language do these stand so.
_MOJIBAKE = re.compile(
    "[\u00c3\u00d0][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]"
    "|\u00e2\u20ac[\u0080-\u00bf\u0153\u02dc\u2122\u201c-\u201e\u00a6]|\u00f0\u0178[\u0080-\u017e\u02c6\u02dc\u2013-\u203a]"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedRows:
    """The examples of each split, in its order, and what was done to the rows, as lines for the user."""

    examples: Mapping[str, list[Example]]
    notes: tuple[str, ...]


class _Tally:
    """Counts what was done to rows, by file and kind, with the first rows of each."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, str], list[str]] = {}

    def add(self, where: str, what: str, place: str) -> None:
        self._places.setdefault((where, what), []).append(place)

    def lines(self) -> list[str]:
        return [
            f"{where}: {len(places)} x {what}: {', '.join(places[:_NUM_SHOWN])}" + ", ..." * (len(places) > _NUM_SHOWN)
            for (where, what), places in self._places.items()
        ]


def check_rows(task: Task, parts: Mapping[str, Part]) -> CheckedRows:
    """Make an example of each row.

    Raises:
        InputError: a row is wrong, and no row that the task leaves out; the message counts them all.
    """
    faults, tally = Faults(), _Tally()
    files = {part.file.where: part.file for part in parts.values()}
    found = {where: _of_file(task, file, faults, tally) for where, file in files.items()}
    faults.refuse()
    _sift_contradictory(task, files, found, tally)
    examples = {
        split: [example for index in part.order if (example := found[part.file.where][index])]
        for split, part in parts.items()
    }
    return CheckedRows(examples=examples, notes=(*(file.summary for file in files.values()), *tally.lines()))


def _of_file(task: Task, file: FileRows, faults: Faults, tally: _Tally) -> list[Example | None]:
    """The example of each row; None for one that is left out or wrong."""
    is_known = any(key_of(row, task.target.column) is not None for row in file.rows)
    examples: list[Example | None] = []
    for index, row in enumerate(file.rows):
        example, place = None, file.place(index)
        with faults.gathered(file.where, place):
            lack = _lack(task, row) if is_known else None
            if lack and lack in task.spec.leave_out:
                tally.add(file.where, f"{lack}, left out", place)
            else:
                example, done = _example(task, row, lack)
                for what in done:
                    tally.add(file.where, what, place)
        examples.append(example)
    return examples


def _lack(task: Task, row: Row) -> LeaveOut | None:
    """Why a row has no target; None if it has one, right or wrong."""
    value = row.get(key_of(row, task.target.column) or "")
    if isinstance(task.target, SpanAnswers):
        answers = value.get("text") if isinstance(value, Mapping) else value
        texts = answers if isinstance(answers, Sequence) and not isinstance(answers, str) else [answers]
        return None if any(text is not None and text != "" for text in texts) else "unanswerable"
    value = only_item(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "unlabelled"
    text = str(value).strip().casefold()
    if text and text not in NO_LABEL:
        return None
    try:
        task.target.read_target({task.target.column: value}, {})
    except InputError:
        return "unlabelled"
    return None


def _example(task: Task, row: Row, lack: LeaveOut | None) -> tuple[Example, list[str]]:
    """The example of a row, and what was done to its texts and answers."""
    raw, done = {}, []
    for name in task.fields:
        source_name = task.spec.columns.get(name, name)
        source_name = name if key_of(row, source_name) is None and name in row else source_name
        text = column(row, source_name)
        if not isinstance(text, str) or not valid_text(text).strip():
            hint = "Fill the field or remove the row."
            raise InputError("no text", field=source_name, value=repr(text), hint=hint)
        raw[name] = text
    fields = {name: valid_text(text) for name, text in raw.items()}
    done += [_mended(text) for name, text in raw.items() if text != fields[name]]
    done += [odd for text in fields.values() if (odd := _misread(text))]
    if lack:
        missing = "label" if lack == "unlabelled" else "answer"
        hint = f"Give the row one, or remove it; `leave_out: [{lack}]` in the task leaves such rows out."
        value = repr(row.get(key_of(row, task.target.column) or ""))
        raise InputError(f"no {missing}", field=task.target.column, value=value, hint=hint)
    target = column(row, task.target.column)
    if isinstance(task.target, SpanAnswers):
        answers, moved = task.target.read_answers(target, raw["context"])
        done += [f"answer moved, {why}" for why in moved]
        return task.make_example(fields, {"answers": answers}, _GOLD), done
    labelled = {task.target.column: target}
    return task.make_example(fields, task.target.read_target(labelled, fields), _GOLD), done


def _mended(text: str) -> str:
    if "\0" in text:
        return "text held NUL characters, which are removed"
    if any("\ud800" <= char <= "\udfff" for char in text):
        return "text held half an emoji (a lone surrogate), which is replaced by U+FFFD"
    return "text was composed (Unicode NFC)"


def _misread(text: str) -> str:
    """What is odd about the characters of a text, where a program that wrote it has lost or changed some."""
    if text.isascii():
        return ""
    if "\ufffd" in text:
        return "text holds U+FFFD, which stands for characters that were lost before"
    if _MOJIBAKE.search(text):
        return "text looks wrongly decoded (UTF-8 that was read as Windows-1252, such as \u00c3\u00a9 for \u00e9)"
    return ""


def _sift_contradictory(
    task: Task, files: Mapping[str, FileRows], found: Mapping[str, list[Example | None]], tally: _Tally
) -> None:
    """Find rows whose text stands in another row with another label, and leave them out where the task says so."""
    labels: dict[tuple[str, ...], set[str | None]] = {}
    texts: dict[str, list[tuple[str, ...]]] = {}
    for where, examples in found.items():
        texts[where] = [text_of(example, task.fields) if example else () for example in examples]
        for text, example in zip(texts[where], examples, strict=True):
            if example and example.label is not None:
                labels.setdefault(text, set()).add(example.label)
    leaves_out = "contradictory" in task.spec.leave_out
    told = "left out" if leaves_out else "of each text one is kept; `leave_out: [contradictory]` leaves them out"
    for where, examples in found.items():
        for index, text in enumerate(texts[where]):
            if len(labels.get(text, ())) > 1 and examples[index]:
                tally.add(where, f"contradictory (the same text with another label), {told}", files[where].place(index))
                if leaves_out:
                    examples[index] = None


def text_of(example: Example, names: Sequence[str]) -> tuple[str, ...]:
    """The texts of an example as they are compared."""
    return tuple(normalise(example.fields[name]) for name in names)
