"""What a comparison reads of a finished run, and so all that a light copy of its folder must hold.

config.yaml  fingerprint.json  metrics.json  students/N/score.json  students/LAST/test.parquet
gold/test.parquet, where macro-F1 decides; audit.json, where there is one
"""

from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import (
    Annotated,
    NotRequired,  # see ``storage.contents``
)

import numpy as np
import pydantic
from typing_extensions import TypedDict

from s3ray.adapters import is_same_adapter
from s3ray.campaign.intervals import Answers
from s3ray.config.job import RunConfig
from s3ray.config.shaping import data_changes, data_shaping
from s3ray.errors import InputError
from s3ray.monitor.metrics import Metrics, read_metrics
from s3ray.report.audit import AUDIT
from s3ray.storage.run_folder import METRICS, RunStore
from s3ray.strategies import make_strategy

_CONTENTS = ("task", "task_content", "gold_content")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A finished run: its metrics.json, its answers if they were kept, and the share of right labels if audited."""

    metrics: Metrics
    answers: Answers | None = None
    label_accuracy: float | None = None


class _Accuracy(TypedDict):
    value: float


class _Group(TypedDict):
    label_accuracy: NotRequired[_Accuracy | None]


class _Audit(TypedDict):
    """What is read of ``audit.json``."""

    groups: Annotated[list[_Group], pydantic.Field(min_length=1)]


def num_students_left(store: RunStore, config: RunConfig) -> int:
    """Students that are still to be trained."""
    return make_strategy(config.strategy).last_round + 1 - len(store.students())


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStudent:
    """The rows that a round should write, and the work of the student after it: rows times epochs."""

    num_rows: int
    work: int


def planned_students(config: RunConfig, num_gold: int) -> tuple[PlannedStudent, ...]:
    """What each round should write and its student learn; ``num_gold`` rows are those of the extrapolation part.

    Where the number of mistakes decides, nothing is counted for the rounds after the first.
    """
    strategy = make_strategy(config.strategy)
    rows = [strategy.num_rows(round_, 0) for round_ in range(strategy.last_round + 1)]
    is_on_gold = config.strategy.train_on_gold or not any(rows)
    return tuple(
        PlannedStudent(num_rows=num, work=(total + num_gold * is_on_gold) * config.student.epochs)
        for num, total in zip(rows, accumulate(rows), strict=True)
    )


def is_finished(store: RunStore, config: RunConfig) -> bool:
    """Whether nothing is left to do. Needs no data, models or cluster."""
    return store.has(METRICS) and num_students_left(store, config) == 0


def check_finished(store: RunStore, config: RunConfig) -> None:
    """Refuse a finished run of other settings, as far as they can be compared without its data and models.

    Raises:
        InputError: the folder belongs to another run.
    """
    known, models, own = store.identity()["settings"], store.models(), data_shaping(config)
    for part in ("generator", "student"):
        if _is_same_model(models[part], own[part]["model"]):
            own[part] = own[part] | {"model": models[part]}
    adapter = known["generator"].get("adapter", "")
    if adapter and is_same_adapter(adapter, config.generator.adapter):
        own["generator"] = own["generator"] | {"adapter": adapter}
    before, now = ({name: of[name] for name in of if name not in _CONTENTS} for of in (known, own))
    changes = data_changes(before, now)
    if changes:
        hint = "Give the campaign another `name` or --out, or put the setting back. Nothing in it was touched."
        raise InputError(f"belongs to a run with other settings: {'; '.join(changes)}", where=store.root, hint=hint)


def read_result(store: RunStore) -> Result:
    """Read a finished run.

    Raises:
        StoreError: a file cannot be read.
    """
    metrics = read_metrics(store)
    return Result(metrics=metrics, answers=_answers(store, metrics), label_accuracy=_label_accuracy(store))


def _answers(store: RunStore, metrics: Metrics) -> Answers | None:
    """What the last student answered on test, sorted by id; None where that was not kept."""
    name = store.answers(max(store.students()))
    needs_truth = metrics.metric == "macro_f1"
    if not store.has(name) or (needs_truth and not store.has(store.gold("test"))):
        return None
    table = store.read_table(name).sort_by("id")
    truth = store.read_table(store.gold("test")).sort_by("id")["label"].to_pylist() if needs_truth else []
    return Answers(
        ids=tuple(table["id"].to_pylist()),
        scores=np.array(table["score"].to_pylist(), dtype=np.float64),
        truth=tuple(truth),
        predicted=tuple(table["predicted"].to_pylist()) if needs_truth else (),
    )


def _label_accuracy(store: RunStore) -> float | None:
    """Share of right labels among all written rows, as the audit estimates it; None without one."""
    audit = store.read_record(AUDIT, _Audit) if store.has(AUDIT) else None
    found = audit and audit["groups"][0].get("label_accuracy")
    return found["value"] if found else None


def _is_same_model(known: str, own: str) -> bool:
    """Whether a job's model can be the known one: of the same name, or a folder of it (``models.model_identity``)."""
    return known == own or known.rpartition("@")[0] == Path(own).name
