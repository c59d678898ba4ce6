"""The tables of a round: every request and how it ended, every text that was rejected and why, every example.

Rows are written page by page, so that memory does not grow with the round. The tables get their names when they are
closed, and are then complete; an interrupted round writes them again from the chunks on disk.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from s3ray.rounds.stage import Ending
from s3ray.storage.run_folder import RunStore
from s3ray.tables import REJECTED_SCHEMA, example_schema, table_from_examples, table_from_rows
from s3ray.tasks.task import STILL_THINKING
from s3ray.types import Example, OutcomeStatus

_TEXT, _COUNT = pa.string(), pa.int64()
REQUESTS_SCHEMA = pa.schema(
    [
        ("request_id", _TEXT),
        ("index", _COUNT),
        ("stage", _TEXT),
        ("template", _TEXT),
        ("label", _TEXT),
        ("parent", _TEXT),
        ("variant", _COUNT),
        ("seed", _COUNT),
        ("status", _TEXT),
        ("reason", _TEXT),
        ("engine", _TEXT),
        ("num_output_tokens", _COUNT),
        ("seconds", pa.float64()),
    ]
)
_PAGE_ROWS = 4096
_MOST_TEXTS = 1000
_MOST_LETTERS = 300


class Causes:
    """Counts why requests of a stage gave nothing: failures by their words, rejected texts by their reason."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[OutcomeStatus, str, str]] = Counter()
        self._examples: dict[tuple[OutcomeStatus, str, str], str] = {}

    def add(self, status: OutcomeStatus, reason: str, detail: str) -> None:
        """Count one; words that differ in their numbers alone count as the same."""
        is_failure = status is OutcomeStatus.FAILED
        key = (status, reason, re.sub(r"\d+", "#", detail) if is_failure else "")
        if key not in self._counts and len(self._counts) >= _MOST_TEXTS:
            key = (status, reason, "")
        self._counts[key] += 1
        self._examples.setdefault(key, detail)

    def join(self, other: "Causes") -> None:
        """Add what another stage counted."""
        self._counts.update(other._counts)
        self._examples = {**other._examples, **self._examples}

    def most_common(self, num: int = 3) -> tuple[str, ...]:
        """The most frequent ones in words, each with its count and an example of what was said."""
        found = []
        for key, count in self._counts.most_common(num):
            status, reason, _ = key
            said = self._examples[key]
            said = said if len(said) <= _MOST_LETTERS else f"{said[:_MOST_LETTERS]}..."
            how = "failed" if status is OutcomeStatus.FAILED else "rejected"
            example = "" if not said else f": {said}" if status is OutcomeStatus.FAILED else f" (one of them: {said})"
            found.append(f"{count} {how}, {reason}{example}")
        return tuple(found)

    @property
    def num_rejected(self) -> int:
        """Texts that were written and not kept."""
        return sum(count for (status, _, _), count in self._counts.items() if status is OutcomeStatus.REJECTED)


@dataclass(slots=True)
class Tally:
    """How the requests of a stage ended; every request is counted once.

    ``thinking`` counts answers that were cut while the model was thinking aloud, among the rejected.
    """

    requested: int = 0
    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    thinking: int = 0
    causes: Causes = field(default_factory=Causes)

    def add(self, ending: Ending) -> None:
        """Count one ending."""
        self.requested += 1
        if ending.status is not OutcomeStatus.ACCEPTED:
            self.causes.add(ending.status, ending.reason, ending.detail)
        if ending.status is OutcomeStatus.ACCEPTED:
            self.accepted += 1
        elif ending.status is OutcomeStatus.REJECTED:
            self.rejected[ending.reason] += 1
            self.thinking += ending.detail == STILL_THINKING
        else:
            self.failed[ending.reason] += 1
        self.prompt_tokens += ending.outcome.num_prompt_tokens
        self.cached_tokens += ending.outcome.num_cached_tokens
        self.output_tokens += ending.outcome.num_output_tokens

    def summary(self) -> dict[str, Any]:
        """The counts as plain values, the most frequent reasons first."""
        return {
            "requested": self.requested,
            "accepted": self.accepted,
            "rejected": dict(self.rejected.most_common()),
            "failed": dict(self.failed.most_common()),
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "output_tokens": self.output_tokens,
        }


def total(tallies: Iterable[Tally]) -> Tally:
    """The sum of several stages."""
    whole = Tally()
    for tally in tallies:
        whole.requested += tally.requested
        whole.accepted += tally.accepted
        whole.rejected += tally.rejected
        whole.failed += tally.failed
        whole.prompt_tokens += tally.prompt_tokens
        whole.cached_tokens += tally.cached_tokens
        whole.output_tokens += tally.output_tokens
        whole.causes.join(tally.causes)
    return whole


class RoundJournal:
    """Writes ``requests.parquet``, ``rejected.parquet`` and ``accepted.parquet`` of one round."""

    def __init__(
        self,
        store: RunStore,
        round_: int,
        fields: Sequence[str],
        has_labels: bool,
        has_soft: bool = False,
        has_off_policy: bool = False,
    ) -> None:
        """The counts are those of the round so far: ``tallies`` by stage, of the examples ``num_kept``.

        ``has_soft`` and ``has_off_policy``: the examples have these columns (``tables.example_schema``).
        """
        self.tallies: dict[str, Tally] = {}
        self.num_kept = 0
        self.num_off_policy = 0
        self._fields = fields
        self._has_labels = has_labels
        self._has_soft = has_soft
        self._has_off_policy = has_off_policy
        self._requests = store.table_writer(store.request_table(round_), REQUESTS_SCHEMA)
        self._rejected = store.table_writer(store.rejected(round_), REJECTED_SCHEMA)
        examples = example_schema(fields, has_labels, has_soft, has_off_policy)
        self._accepted = store.table_writer(store.accepted(round_), examples)
        self._asked: list[tuple[Any, ...]] = []
        self._refused: list[tuple[Any, ...]] = []
        self._examples: list[Example] = []

    def record(self, ending: Ending) -> None:
        """Record how one request ended."""
        request, outcome = ending.request, ending.outcome
        self.tallies.setdefault(request.stage, Tally()).add(ending)
        parent = request.parent.id if request.parent else None
        status = ending.status.value
        asked = (request.id, request.index, request.stage, request.template, request.label, parent, request.variant)
        ended = (request.seed, status, ending.reason, outcome.engine, outcome.num_output_tokens, outcome.seconds)
        self._asked.append(asked + ended)
        if ending.status is not OutcomeStatus.ACCEPTED:
            why = (request.id, request.stage, status, ending.reason, ending.detail, request.label, parent)
            self._refused.append((*why, outcome.text, outcome.raw))
        if len(self._asked) >= _PAGE_ROWS:
            self._turn_page()

    def keep(self, example: Example) -> None:
        """Record an example that was kept."""
        self.num_kept += 1
        self.num_off_policy += example.origin.off_policy
        self._examples.append(example)

    def close(self) -> None:
        """Finish the three tables and give them their names."""
        self._turn_page()
        for writer in (self._requests, self._rejected, self._accepted):
            writer.close()

    def _turn_page(self) -> None:
        self._requests.write(table_from_rows(self._asked, REQUESTS_SCHEMA))
        self._rejected.write(table_from_rows(self._refused, REJECTED_SCHEMA))
        columns = (self._fields, self._has_labels, self._has_soft, self._has_off_policy)
        self._accepted.write(table_from_examples(self._examples, *columns))
        self._asked, self._refused, self._examples = [], [], []
