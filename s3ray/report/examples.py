"""Real examples for the report: mistakes with what was written from them, seeds, and the data in figures.

Works from the tables alone. Invariant: rows are not chosen at random, so that a report made twice is the same.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from s3ray.config.job import STAGES_ASIDE
from s3ray.errors import InputError
from s3ray.storage.run_folder import RunStore
from s3ray.tables import TABLE_COLUMNS, text_fields
from s3ray.tasks import Task, load_task

MAX_CHARS = 420


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Something the generator wrote: kept, or the reason and detail of why not. ``texts`` maps fields to texts."""

    texts: Mapping[str, str]
    target: str
    reason: str = ""
    detail: str = ""

    @property
    def kept(self) -> bool:
        """Whether it is in the dataset."""
        return not self.reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A gold row, the prediction of the student before ``round`` (s3 only), and what was written from it."""

    round: int
    texts: Mapping[str, str]
    target: str
    predicted: str | None
    confidence: float | None
    written: tuple[Written, ...]
    num_more: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFigures:
    """One part of the data: rows by label, and words of its text (5th, 50th and 95th percentile)."""

    name: str
    num_rows: int
    labels: Mapping[str, int]
    words: tuple[float, float, float]


def stories(store: RunStore, at_most: int = 6) -> list[Story]:
    """Gold rows with what was written from them, a few of each round, of every label, with both kept and refused."""
    rounds = [num for num in store.rounds() if store.has(store.accepted(num))]
    found: list[Story] = []
    per_round = max(1, at_most // max(1, len([num for num in rounds if num > 0])))
    for num in rounds:
        mistakes = store.mistakes_before(num)
        parents = mistakes if num and store.has(mistakes) else store.gold("extrapolate")
        if store.has(parents):
            found += _stories_of_round(store, num, store.read_table(parents), per_round)
    return found[:at_most]


def seeds(store: RunStore, per_label: int = 2, num_rejected: int = 3) -> list[Written]:
    """Examples of round 0 that were written without a gold row: some of each label, then some that were refused."""
    if 0 not in store.rounds():
        return []
    accepted = store.read_table(store.accepted(0))
    orphans = accepted.filter(pc.is_null(accepted["parent"]))
    chosen = [row for group in _by_label(orphans) for row in group.slice(0, per_label).to_pylist()]
    rejected = store.read_table(store.rejected(0))
    is_note = pc.is_in(rejected["stage"], pa.array(STAGES_ASIDE))
    refused = rejected.filter(pc.and_(pc.is_null(rejected["parent"]), pc.invert(is_note)))
    reasons = [reason for reason, _ in _by_value(refused["reason"]).most_common(num_rejected)]
    lost = [refused.filter(pc.equal(refused["reason"], reason)).slice(0, 1).to_pylist()[0] for reason in reasons]
    return [_kept(row, {}) for row in chosen] + [_refused(row) for row in lost]


def data_figures(store: RunStore) -> list[DataFigures]:
    """Label balance and length of the gold rows and of each finished round."""
    parts = [("gold", store.gold("extrapolate"))]
    parts += [(f"round {num}", store.accepted(num)) for num in store.rounds()]
    tables = [(name, store.read_table(path)) for name, path in parts if store.has(path)]
    tables = [(name, table) for name, table in tables if table.num_rows]
    if not tables:
        return []
    task = find_task(store, tables[0][1].column_names)
    written = [table for name, table in tables if name != "gold"]
    field = task.written if task else written_field(written, store.read_table(store.gold("extrapolate")))
    return [_figures(name, table, field) for name, table in tables]


def find_task(store: RunStore, columns: Sequence[str]) -> Task | None:
    """The task of a run whose tables have ``columns``; None where config.yaml no longer leads to it."""
    config = store.read_job()
    try:
        task = load_task(config["task"], config.get("data"))
    except InputError:  # the file was moved or changed, or its path starts from another folder: a run must outlive that
        return None
    return task if set(task.fields) <= set(columns) else None


def written_field(tables: Sequence[pa.Table], gold: pa.Table) -> str:
    """Guess which field was written: the one with the fewest texts from gold; if equal, the most varied one."""

    def rank(name: str) -> tuple[int, int]:
        columns = [table[name] for table in tables or [gold]]
        copied = sum(pc.sum(pc.is_in(column, value_set=pc.unique(gold[name]))).as_py() or 0 for column in columns)
        return -copied, sum(pc.count_distinct(column).as_py() for column in columns)

    return max(text_fields(gold), key=rank)


def _stories_of_round(store: RunStore, num: int, parents: pa.Table, at_most: int) -> list[Story]:
    accepted = store.read_table(store.accepted(num))
    rejected = store.read_table(store.rejected(num))
    kept, refused = _by_value(accepted["parent"]), _by_value(rejected["parent"])
    columns = [name for name in ("id", "label", "answers") if name in parents.column_names]
    targets = {row["id"]: _target(row) for row in parents.select(columns).to_pylist()}
    ranked = sorted(
        (id_ for id_ in targets if kept[id_] + refused[id_]),
        key=lambda id_: (-((kept[id_] > 0) + (refused[id_] > 0)), -(kept[id_] + refused[id_]), id_),
    )
    told = []
    for id_ in _one_label_after_the_other(ranked, targets)[:at_most]:
        row = parents.filter(pc.equal(parents["id"], id_)).to_pylist()[0]
        texts = {name: _short(row[name]) for name in text_fields(parents)}
        good = accepted.filter(pc.equal(accepted["parent"], id_)).slice(0, 2).to_pylist()
        bad = rejected.filter(pc.equal(rejected["parent"], id_)).slice(0, 2).to_pylist()
        told.append(
            Story(
                round=num,
                texts=texts,
                target=targets[id_],
                predicted=row.get("predicted"),
                confidence=row.get("confidence"),
                written=(*(_kept(child, texts) for child in good), *(_refused(child) for child in bad)),
                num_more=kept[id_] + refused[id_] - len(good) - len(bad),
            )
        )
    return told


def _one_label_after_the_other(ids: Iterable[str], targets: Mapping[str, str]) -> list[str]:
    seen: Counter[str] = Counter()
    turns = {}
    for id_ in ids:
        turns[id_] = seen[targets[id_]]
        seen[targets[id_]] += 1
    return sorted(turns, key=lambda id_: turns[id_])


def _by_label(table: pa.Table) -> list[pa.Table]:
    if "label" not in table.column_names:
        return [table]
    return [table.filter(pc.equal(table["label"], label)) for label in sorted(_by_value(table["label"]))]


def _by_value(column: pa.ChunkedArray) -> Counter[str]:
    return Counter({item["values"]: item["counts"] for item in pc.value_counts(column).to_pylist()})


def _kept(row: Mapping[str, Any], given: Mapping[str, str]) -> Written:
    """``given`` are the parent's texts: fields that equal them were copied, not written."""
    texts = {
        name: _short(value)
        for name, value in row.items()
        if isinstance(value, str) and name not in TABLE_COLUMNS and _short(value) != given.get(name)
    }
    return Written(texts=texts, target=_target(row))


def _refused(row: Mapping[str, Any]) -> Written:
    text = _short(row["text"] or row["raw"] or "")
    return Written(texts={"": text}, target=row["label"] or "", reason=row["reason"], detail=row["detail"] or "")


def _target(row: Mapping[str, Any]) -> str:
    if row.get("answers"):
        return _short(row["answers"][0]["text"])
    return row.get("label") or ""


def _figures(name: str, table: pa.Table, field: str) -> DataFigures:
    labels = _by_value(table["label"]) if "label" in table.column_names else Counter()
    words = pc.list_value_length(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(table[field])))
    low, middle, high = pc.quantile(words, [0.05, 0.5, 0.95]).to_pylist()
    return DataFigures(
        name=name, num_rows=table.num_rows, labels=dict(sorted(labels.items())), words=(low, middle, high)
    )


def _short(text: str) -> str:
    return text if len(text) <= MAX_CHARS else text[: MAX_CHARS - 1].rstrip() + "…"
