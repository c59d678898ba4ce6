"""The labelled data: checked row by row and split into parts that share no row.

The extrapolation part is what the generator may see (paper: gold-eval), the selection part chooses the student's best
epoch, the test part is scored once at the end. The same task, config and data give the same split.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from s3ray.config.job import GoldConfig
from s3ray.errors import InputError, located
from s3ray.tasks.files import FileRows
from s3ray.tasks.rows import CheckedRows, check_rows, text_of
from s3ray.tasks.source import Part, read_hub, read_parts, unread
from s3ray.tasks.spec import HubSource
from s3ray.tasks.task import Task
from s3ray.types import Example, Span

_TEST_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The fields given to a generator that writes only one of several; ``id`` is that of their gold row."""

    id: str
    fields: Mapping[str, str]
    answer: Span | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldSplit:
    """Gold in parts.

    ``contexts`` are those for which seed examples are written; empty if the task has no context fields. Tasks with
    labels take them from all train rows that are in no other part (the labels are not used), span tasks from the
    extrapolation part alone, because an answer is an annotation. No passage of theirs is in a test or selection row.
    ``num_left_out`` counts the rows of train and validation that were skipped because their text is in another part or
    came before in the same one, and the rows without a context because theirs is in another part. ``notes`` say how the
    files were read and what was done to their rows, as lines for the user.
    """

    extrapolate: tuple[Example, ...]
    select: tuple[Example, ...]
    test: tuple[Example, ...]
    contexts: tuple[Context, ...]
    num_left_out: int
    notes: tuple[str, ...] = field(default=(), compare=False)


def load_gold(task: Task, gold: GoldConfig, data: str | None = None) -> GoldSplit:
    """Read and split the task's data; ``data`` (a folder) replaces the task's own.

    Selection rows come from the validation split if there is one, else from train. With the same seed, a larger part
    contains the rows of a smaller one. Test rows are the same for every seed, so that scores of different seeds can be
    compared.

    Raises:
        InputError: a file, split or column is missing, a split is empty, a row is wrong, there are fewer rows than
            asked for, or no context is left.
    """
    place = Path(data) if data else task.data
    parts, ignored = _read(task, place), unread(place) if place else ""
    checked = check_rows(task, parts)
    train, where = _shuffled(parts, checked, "train", gold.seed)
    validation, where_validation = _shuffled(parts, checked, "validation", gold.seed)
    test, where_test = _shuffled(parts, checked, "test", _TEST_SEED)
    with located(where_test):
        test = _first(test, gold.test, "test")

    pool, num_in_test = _distinct(task, validation or train, apart_from=test)
    with located(where_validation if validation else where):
        select = _first(pool, gold.select, "select")
    rest = train if validation else pool[gold.select :]
    rest, num_in_others = _distinct(task, rest, apart_from=[*test, *select])
    with located(where):
        extrapolate = _first(rest, gold.extrapolate, "extrapolate")
    contexts, num_in_held_out = _contexts(task, rest if task.has_labels else extrapolate, apart_from=[*test, *select])
    if task.context_fields and not contexts:
        names = ", ".join(task.passage_fields)
        hint = (
            "Every row of train shares them with a row of test or validation. If they say in a word or two what a row "
            f"is about (a product, a source), set `categories: [{names}]` in the task; else add rows."
        )
        raise InputError("no context is left to write for", where=where, field=names, hint=hint)
    return GoldSplit(
        extrapolate=tuple(extrapolate),
        select=tuple(select),
        test=tuple(test),
        contexts=contexts,
        num_left_out=num_in_test + num_in_others + num_in_held_out,
        notes=(*checked.notes, *([ignored] if ignored else [])),
    )


def _read(task: Task, place: Path | None) -> dict[str, Part]:
    """The rows of each split that there is."""
    hub = task.spec.source
    if place:
        parts = read_parts(place)
    elif hub:
        names: dict[str, str | None] = {"train": hub.train, "validation": hub.validation, "test": hub.test}
        parts = {split: _of_hub(hub, name) for split, name in names.items() if name}
    else:
        raise InputError("the task names no data", where=task.name, field="data", hint="Set `data` in the job file.")
    for split, part in parts.items():
        if not part.order:
            hint = "Add rows, or leave a validation split out."
            raise InputError(f"there are no {split} rows", where=part.file.where, hint=hint)
    return parts


def _of_hub(source: HubSource, split: str) -> Part:
    rows = read_hub(source, split)
    return Part(file=FileRows(where=f"{source.hub}, split {split}", rows=rows), order=range(len(rows)))


def _shuffled(parts: Mapping[str, Part], checked: CheckedRows, split: str, seed: int) -> tuple[list[Example], str]:
    """The examples of a split, shuffled by the seed, and where they come from; none if there is no such split."""
    if split not in parts:
        return [], ""
    examples = list(checked.examples[split])
    random.Random(f"{seed} {split}").shuffle(examples)
    return examples, parts[split].file.where


def _first(rows: list[Example], num_rows: int | Literal["all"], part: str) -> list[Example]:
    if not rows:
        raise InputError("there are no rows for this part", field=f"gold.{part}", hint="Add rows.")
    if num_rows == "all":
        return rows
    if len(rows) < num_rows:
        hint = f"There are {len(rows)} rows that no other part has; lower gold.{part} or add rows."
        raise InputError("more rows than there are", field=f"gold.{part}", value=str(num_rows), hint=hint)
    return rows[:num_rows]


def _distinct(task: Task, rows: Sequence[Example], apart_from: Sequence[Example]) -> tuple[list[Example], int]:
    """The rows without those that repeat a text or have one of ``apart_from``, and how many were left out."""
    seen = {text_of(example, task.fields) for example in apart_from}
    kept = []
    for example in rows:
        text = text_of(example, task.fields)
        if text not in seen:
            seen.add(text)
            kept.append(example)
    return kept, len(rows) - len(kept)


def _contexts(task: Task, rows: Sequence[Example], apart_from: Sequence[Example]) -> tuple[tuple[Context, ...], int]:
    """The contexts of the rows, and how many were left out because another part has the same context."""
    names, passages = task.context_fields, task.passage_fields
    if not names:
        return (), 0
    taken = {text_of(example, passages) for example in apart_from} if passages else set()
    contexts = tuple(
        Context(
            id=example.id,
            fields={name: example.fields[name] for name in names},
            answer=example.answers[0] if example.answers else None,
        )
        for example in rows
        if text_of(example, passages) not in taken
    )
    return contexts, len(rows) - len(contexts)
