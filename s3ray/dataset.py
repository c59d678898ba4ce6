"""Example tables: how rows of a task lie in Parquet, the same for gold, synthetic and exported data.

Columns: ``id``, one string column per input field of the task, ``label`` (classification) or ``answers`` (span: a
list of ``{text, start}``), then ``source``, ``round`` and ``parent`` of the row's origin.
"""

from collections.abc import Iterable, Sequence

import pyarrow as pa

from s3ray.types import Example, Origin, Source, Span

_ANSWERS = pa.list_(pa.struct([("text", pa.string()), ("start", pa.int64())]))


def example_schema(fields: Sequence[str], has_labels: bool) -> pa.Schema:
    """The Arrow schema of a task's example table."""
    target = ("label", pa.string()) if has_labels else ("answers", _ANSWERS)
    origin = [("source", pa.string()), ("round", pa.int64()), ("parent", pa.string())]
    return pa.schema([("id", pa.string()), *((name, pa.string()) for name in fields), target, *origin])


def table_from_examples(examples: Iterable[Example], fields: Sequence[str], has_labels: bool) -> pa.Table:
    """Lay examples out as a table; order is kept."""
    rows = []
    for example in examples:
        row: dict[str, object] = {"id": example.id, **{name: example.fields[name] for name in fields}}
        if has_labels:
            row["label"] = example.label
        else:
            row["answers"] = [{"text": span.text, "start": span.start} for span in example.answers]
        origin = example.origin
        rows.append(row | {"source": origin.source.value, "round": origin.round, "parent": origin.parent})
    return pa.Table.from_pylist(rows, schema=example_schema(fields, has_labels))


def examples_from_table(table: pa.Table, fields: Sequence[str]) -> list[Example]:
    """Read a table that ``table_from_examples`` wrote."""
    return [
        Example(
            id=row["id"],
            fields={name: row[name] for name in fields},
            label=row.get("label"),
            answers=tuple(Span(text=span["text"], start=span["start"]) for span in row.get("answers") or ()),
            origin=Origin(source=Source(row["source"]), round=row["round"], parent=row["parent"]),
        )
        for row in table.to_pylist()
    ]
