"""How outcomes travel and lie on disk: Arrow tables, a row per request, made in the actor and journalled as they come.

The driver looks at columns; it makes a Python object of a row only when the row's turn to be judged has come.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from s3ray.types import EngineReport, Outcome, OutcomeStatus

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """What a pool hands to the journal at once: outcomes (``OUTCOME_SCHEMA``), and what each engine told."""

    table: pa.Table
    engines: Mapping[str, EngineReport]


_TOKENS = ("num_prompt_tokens", "num_cached_tokens", "num_output_tokens")
_STATUS = {status.value: status for status in OutcomeStatus}


def table_from_outcomes(outcomes: Sequence[Outcome]) -> pa.Table:
    """Lay outcomes out as a table; order is kept."""
    return table_from_rows(outcomes, OUTCOME_SCHEMA)


def table_from_rows(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    """Lay tuples in the order of the schema's fields out as a table."""
    columns = zip(*rows, strict=True) if rows else [() for _ in schema]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def outcomes_from_table(table: pa.Table) -> Iterator[Outcome]:
    """Read a table that ``table_from_outcomes`` wrote."""
    columns = [column.to_pylist() for column in table.columns]
    columns[2] = [_STATUS[status] for status in columns[2]]
    columns[-1] = [tuple(verdict) for verdict in columns[-1]]
    return map(Outcome._make, zip(*columns, strict=True))


def count_outcomes(table: pa.Table) -> dict[str, Any]:
    """What a chunk of outcomes comes to: rows by status and reason, and tokens."""
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
