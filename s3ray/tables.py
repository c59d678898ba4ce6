"""Arrow tables of outcomes, examples, mistakes and answers, in which they are sent and stored.

Tables of outcomes are made in the actors, one row per request. The driver reads their columns, and makes a Python
object of a row only when it is that row's turn to be judged.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from s3ray.types import Answer, EngineReport, Example, Mistake, Origin, Outcome, OutcomeStatus, Source, Span

OUTCOME_SCHEMA = pa.schema(
    [
        ("request_id", pa.string()),
        ("index", pa.int64()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("text", pa.string()),
        ("raw", pa.string()),
        ("finish_reason", pa.string()),
        ("num_prompt_tokens", pa.int64()),
        ("num_cached_tokens", pa.int64()),
        ("num_output_tokens", pa.int64()),
        ("engine", pa.string()),
        ("attempt", pa.int64()),
        ("seconds", pa.float64()),
        ("verdict", pa.list_(pa.float64())),
    ]
)
"""Outcomes as they are written to the journal."""
SENT_SCHEMA = OUTCOME_SCHEMA.append(pa.field("sketch", pa.binary()))
"""Outcomes as actors send them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A batch that a pool returns: outcomes (``SENT_SCHEMA``), and the latest report of each engine."""

    table: pa.Table
    engines: Mapping[str, EngineReport]


_TOKENS = ("num_prompt_tokens", "num_cached_tokens", "num_output_tokens")
_STATUS = {status.value: status for status in OutcomeStatus}


def table_from_outcomes(outcomes: Sequence[Outcome]) -> pa.Table:
    """Make a table of outcomes, in the given order."""
    return table_from_rows(outcomes, SENT_SCHEMA)


def table_from_rows(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    """Make a table of tuples that have the fields of the schema, in its order."""
    columns = zip(*rows, strict=True) if rows else [() for _ in schema]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def outcomes_from_table(table: pa.Table) -> Iterator[Outcome]:
    """Read a table that ``table_from_outcomes`` wrote; in the journal it has no sketches."""
    columns = [table[name].to_pylist() for name in OUTCOME_SCHEMA.names]
    columns[2] = [_STATUS[status] for status in columns[2]]
    columns[-1] = [tuple(label_probabilities) for label_probabilities in columns[-1]]
    columns.append(table["sketch"].to_pylist() if "sketch" in table.column_names else [b""] * table.num_rows)
    return map(Outcome._make, zip(*columns, strict=True))


def count_outcomes(table: pa.Table) -> dict[str, Any]:
    """Counts of a chunk of outcomes: rows by status and reason, and tokens."""
    ended = Counter(zip(table["status"].to_pylist(), table["reason"].to_pylist(), strict=True))
    by_status = {status: {reason: num for (of, reason), num in ended.items() if of == status} for status in _STATUS}
    tokens = {name.removeprefix("num_"): pc.sum(table[name]).as_py() or 0 for name in _TOKENS}
    return {
        "rows": table.num_rows,
        "ok": sum(by_status[OutcomeStatus.ACCEPTED.value].values()),
        "rejected": by_status[OutcomeStatus.REJECTED.value],
        "failed": by_status[OutcomeStatus.FAILED.value],
        **tokens,
    }


ANSWERS_TYPE = pa.list_(pa.struct([("text", pa.string()), ("start", pa.int64())]))
ANSWER_SCHEMA = pa.schema(
    [("id", pa.string()), ("predicted", pa.string()), ("confidence", pa.float64()), ("score", pa.float64())]
)
_ORIGIN = [("source", pa.string()), ("round", pa.int64()), ("parent", pa.string())]
ORIGIN_SCHEMA = pa.schema([("id", pa.string()), *_ORIGIN])
"""What every table of examples has beside the fields and the target of its task."""
MISTAKE_SCHEMA = pa.schema([*ORIGIN_SCHEMA, ("predicted", pa.string()), ("confidence", pa.float64())])
"""What a table of mistakes has beside them."""
_REJECTED = ("request_id", "stage", "status", "reason", "detail", "label", "parent", "text", "raw")
REJECTED_SCHEMA = pa.schema([(name, pa.string()) for name in _REJECTED])
"""The texts that a round did not keep, each with its reason."""
TABLE_COLUMNS = ("id", "label", "answers", "source", "round", "parent", "soft", "off_policy", "predicted", "confidence")
"""The columns of our own in tables of examples and mistakes: no field of a task is called so."""


def example_schema(
    fields: Sequence[str], has_labels: bool, has_soft: bool = False, has_off_policy: bool = False
) -> pa.Schema:
    """The Arrow schema of a task's example table; the last two columns are there in runs that have use for them."""
    target = ("label", pa.string()) if has_labels else ("answers", ANSWERS_TYPE)
    more = [("soft", pa.list_(pa.float64()))] * has_soft + [("off_policy", pa.bool_())] * has_off_policy
    return pa.schema([("id", pa.string()), *((name, pa.string()) for name in fields), target, *_ORIGIN, *more])


def text_fields(table: pa.Table) -> list[str]:
    """The input fields of an example table: its string columns that are not ours."""
    return [
        column.name for column in table.schema if pa.types.is_string(column.type) and column.name not in TABLE_COLUMNS
    ]


def table_from_examples(
    examples: Iterable[Example],
    fields: Sequence[str],
    has_labels: bool,
    has_soft: bool | None = None,
    has_off_policy: bool = False,
) -> pa.Table:
    """Make a table of examples, in the given order; ``has_soft`` None: with soft labels if any example has some."""
    examples = list(examples)
    has_soft = any(example.soft for example in examples) if has_soft is None else has_soft
    schema = example_schema(fields, has_labels, has_soft, has_off_policy)
    rows = []
    for example in examples:
        row: dict[str, object] = {"id": example.id, **{name: example.fields[name] for name in fields}}
        if has_labels:
            row["label"] = example.label
        else:
            row["answers"] = [{"text": span.text, "start": span.start} for span in example.answers]
        if example.soft:
            row["soft"] = example.soft
        origin = example.origin
        row |= {"source": origin.source.value, "round": origin.round, "parent": origin.parent}
        rows.append(row | {"off_policy": origin.off_policy} if has_off_policy else row)
    return pa.Table.from_pylist(rows, schema=schema)


def join_tables(tables: Iterable[pa.Table]) -> pa.Table:
    """Concatenate example tables of one task; the result has the columns of all of them."""
    joined = pa.concat_tables(tables, promote_options="default")
    place = joined.schema.get_field_index("off_policy")
    return joined if place < 0 else joined.set_column(place, "off_policy", pc.fill_null(joined["off_policy"], False))


def examples_from_table(table: pa.Table, fields: Sequence[str]) -> list[Example]:
    """Read a table that ``table_from_examples`` wrote."""
    return [
        Example(
            id=row["id"],
            fields={name: row[name] for name in fields},
            label=row.get("label"),
            answers=tuple(Span(text=span["text"], start=span["start"]) for span in row.get("answers") or ()),
            soft=tuple(row.get("soft") or ()),
            origin=Origin(
                source=Source(row["source"]),
                round=row["round"],
                parent=row["parent"],
                off_policy=bool(row.get("off_policy")),
            ),
        )
        for row in table.to_pylist()
    ]


def table_from_mistakes(mistakes: Sequence[Mistake], fields: Sequence[str], has_labels: bool) -> pa.Table:
    """An example table with two more columns: ``predicted`` and ``confidence``."""
    table = table_from_examples((mistake.example for mistake in mistakes), fields, has_labels)
    table = table.append_column("predicted", pa.array([mistake.predicted for mistake in mistakes], pa.string()))
    return table.append_column("confidence", pa.array([mistake.confidence for mistake in mistakes], pa.float64()))


def mistakes_from_table(table: pa.Table, fields: Sequence[str]) -> list[Mistake]:
    """Read a table that ``table_from_mistakes`` wrote."""
    examples = examples_from_table(table, fields)
    columns = zip(examples, table["predicted"].to_pylist(), table["confidence"].to_pylist(), strict=True)
    return [
        Mistake(example=example, predicted=predicted, confidence=confidence)
        for example, predicted, confidence in columns
    ]


def table_from_answers(answers: Sequence[Answer]) -> pa.Table:
    """Make a table (``ANSWER_SCHEMA``) of answers to a part of gold, in the given order."""
    return pa.Table.from_pylist([asdict(answer) for answer in answers], schema=ANSWER_SCHEMA)


PROBE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("predicted", pa.string()),
        ("target_probability", pa.float64()),
        ("probabilities", pa.list_(pa.float64())),
        ("features", pa.list_(pa.float32())),
    ]
)
"""``target_probability`` is the student's probability of the row's own label or of its first reference answer (first
times last token, in the best window), ``probabilities`` are those of each label (empty for span tasks), ``features``
the input of the student's head (``student.evaluate``)."""
