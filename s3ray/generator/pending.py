"""Collects many small answers into chunks for the journal. Pure: callers give the time."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from s3ray.generator.scheduling.dispatch import Dispatcher
from s3ray.generator.scheduling.ledger import LedgerEntry
from s3ray.tables import Chunk, table_from_outcomes
from s3ray.types import EngineReport, EngineStats, FailureReason, Outcome, OutcomeStatus

if TYPE_CHECKING:
    from s3ray.generator.actor import Exchange

_CHUNK_ROWS = 4096
_CHUNK_S = 2.0  # a killed driver loses at most so many seconds of answers, which are computed again


class PendingChunk:
    """Collects answers until they are worth a file of their own: each file costs a wait for the disk."""

    def __init__(self) -> None:
        self.num_rows = 0
        self._tables: list[pa.Table] = []
        self._since = 0.0
        self._counts: dict[str, list[int]] = {}
        self._states: dict[str, tuple[EngineStats, int]] = {}

    def add(self, table: pa.Table, now: float) -> None:
        """Keep an answer for the next chunk."""
        if not self.num_rows:
            self._since = now
        self.num_rows += table.num_rows
        self._tables.append(table)

    def add_poisoned(self, poisoned: Sequence[LedgerEntry], engine: str, now: float) -> None:
        """Fail requests during which too many engines died, the last of them ``engine``."""
        self.add(table_from_outcomes([_poison(entry, engine) for entry in poisoned]), now)

    def take_in(
        self, answer: "Exchange", engine: str, dispatcher: Dispatcher, now: float, num_restarts: int = 0
    ) -> set[int]:
        """Settle an engine's answer and keep the rows that end their requests; returns the indexes that timed out."""
        table = answer.table
        output_tokens = table["num_output_tokens"].to_pylist()
        late: set[int] = set()
        if table.num_rows:
            indexes = table["index"].to_pylist()
            reasons = table["reason"].to_pylist()
            late = {index for index, why in zip(indexes, reasons, strict=True) if why == FailureReason.TIMEOUT.value}
            keep = dispatcher.settle(
                engine,
                indexes,
                prompt_tokens=table["num_prompt_tokens"].to_pylist(),
                output_tokens=output_tokens,
                timed_out=late,
            )
            self.add(table if keep is None else table.filter(pa.array(keep)), now)
        dispatcher.report(engine, answer.stats)
        counts = self._counts.setdefault(engine, [0, 0])
        counts[0] += table.num_rows
        counts[1] += sum(output_tokens)
        self._states[engine] = answer.stats, num_restarts
        return late

    def is_due(self, now: float, *, nothing_else: bool) -> bool:
        """Whether there is enough for a file; with ``nothing_else`` under way, any answer is enough."""
        return bool(self.num_rows) and (nothing_else or self.num_rows >= _CHUNK_ROWS or now - self._since >= _CHUNK_S)

    def take(self) -> Chunk:
        """All collected answers as one chunk."""
        engines = {
            engine: _report(rows, tokens, *self._states[engine]) for engine, (rows, tokens) in self._counts.items()
        }
        chunk = Chunk(table=pa.concat_tables(self._tables).combine_chunks(), engines=engines)
        self.num_rows, self._tables, self._counts = 0, [], {}
        return chunk


def _report(rows: int, output_tokens: int, stats: EngineStats, num_restarts: int) -> EngineReport:
    return EngineReport(
        rows=rows,
        output_tokens=output_tokens,
        running=stats.num_running,
        waiting=stats.num_waiting,
        kv_use=round(stats.kv_use, 3),
        preemptions=stats.num_preemptions,
        prompt_tokens=stats.num_prompt_tokens,
        cached_tokens=stats.num_cached_tokens,
        restarts=num_restarts,
        busy_s=round(stats.busy_s, 2),
    )


def _poison(entry: LedgerEntry, engine: str) -> Outcome:
    return Outcome(
        request_id=entry.request.id,
        index=entry.request.index,
        status=OutcomeStatus.FAILED,
        reason=FailureReason.POISON.value,
        detail=f"in flight at {entry.num_deaths} deaths of engines, alone at {entry.num_deaths_alone}",
        engine=engine,
        attempt=entry.num_attempts,
    )
