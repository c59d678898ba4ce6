"""The dataset of a run as a folder that others can use: Parquet and a dataset card, read by ``datasets.load_dataset``.

Invariant: holds synthetic rows only, in the order of their rounds; the same run gives the same bytes.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from s3ray.config.job import StrategyConfig
from s3ray.errors import InputError, StoreError
from s3ray.monitor.metrics import Metrics, build_metrics, count_reasons
from s3ray.report.examples import find_task, written_field
from s3ray.report.run import page_template
from s3ray.storage.run_folder import RunStore
from s3ray.strategies import make_strategy
from s3ray.strategies.base import TrainingSet
from s3ray.tables import join_tables, text_fields
from s3ray.tasks import Task
from s3ray.telemetry.events import read_events

_DATA = "data/train.parquet"
_CARD = "README.md"
_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)


def export_dataset(store: RunStore, out: str | Path | None) -> str:
    """Write the accepted rows that the newest student learns from, and their card, to ``out``.

    None: the run's own ``dataset/``.

    Raises:
        InputError: the run has no finished round, or ``out`` is there and not empty, or cannot be written.
        StoreError: a file of the run cannot be read, or its own ``dataset/`` cannot be written.
    """
    table = written_rows(store)
    card = _card(store, table)
    if out is None:
        return _write(RunStore(store.url("dataset")), table, card)
    folder = RunStore(out)
    try:
        if folder.entries():
            raise InputError("is there and not empty", where=str(out), field="--out", hint="Give a new folder.")
        return _write(folder, table, card)
    except (OSError, StoreError) as error:
        hint = "Give a new folder where you may write."
        raise InputError("cannot be used", where=str(out), field="--out", value=str(error), hint=hint) from error


def written_rows(store: RunStore) -> pa.Table:
    """The accepted rows that the newest student learns from, in the order of their rounds.

    Raises:
        InputError: the run has no finished round, or none with rows.
        StoreError: a file of the run cannot be read.
    """
    learned = _learned(store)
    tables = [store.read_table(store.accepted(num)) for num in store.rounds() if num in learned.rounds]
    if not sum(table.num_rows for table in tables):
        raise InputError(
            "has no finished round with synthetic rows, so there is no dataset to export",
            where=store.root,
            hint="Let the same `s3ray run` command go on until a round is done; strategy gold never writes any.",
        )
    return join_tables(tables)


def labels_without_rows(store: RunStore) -> list[str]:
    """The labels of the task that no synthetic row has which the newest student learns from.

    None if no row was to be written, or the task cannot be found any more.

    Raises:
        StoreError: a file of the run cannot be read.
    """
    names = [store.accepted(num) for num in store.rounds() if num in _learned(store).rounds]
    tables = [store.read_table(name) for name in names]
    found = {
        label for table in tables if "label" in table.column_names for label in pc.unique(table["label"]).to_pylist()
    }
    task = find_task(store, tables[0].column_names) if found else None
    return [label for label in task.labels if label not in found] if task else []


def _learned(store: RunStore) -> TrainingSet:
    """What the student of the newest finished round learns from."""
    strategy = make_strategy(StrategyConfig.model_validate(store.read_job()["strategy"]))
    return strategy.training(max(store.rounds(), default=0))


def _write(folder: RunStore, table: pa.Table, card: str) -> str:
    folder.write_table(_DATA, table)
    folder.write_text(_CARD, card)
    return folder.root


def _card(store: RunStore, table: pa.Table) -> str:
    """The card (README.md) of a dataset: YAML head for ``datasets``, then where every row comes from."""
    config, metrics = store.read_job(), build_metrics(store, list(read_events(store)))
    gold = {part: store.read_table(store.gold(part)) for part in ("extrapolate", "select", "test")}
    task = find_task(store, table.column_names)
    written = task.written if task else written_field([table], gold["extrapolate"])
    context_fields = [name for name in text_fields(table) if name != written]
    contexts = _distinct(table, context_fields)
    labels = sorted(pc.unique(table["label"]).to_pylist()) if "label" in table.column_names else []
    return (
        page_template("card.md.j2").render(
            m=metrics,
            head=yaml.safe_dump(_head(table, metrics), sort_keys=False),
            columns=table.column_names,
            num_rows=table.num_rows,
            sources=Counter(table["source"].to_pylist()),
            labels_found=labels,
            rows_by_round=[_count_rows(table, entry.round, labels) for entry in metrics.rounds],
            lost=count_reasons(metrics.rounds, "rejected", "failed").most_common(),
            sampling=", ".join(f"{name} {value}" for name, value in config["generator"]["sampling"].items()),
            gold={part: rows.num_rows for part, rows in gold.items()},
            gold_seed=config["gold"]["seed"],
            context_fields=context_fields,
            num_contexts=len(contexts),
            num_elsewhere=len(contexts - _distinct(gold["extrapolate"], context_fields)),
            learns_gold=_learned(store).gold,
            has_reasons=any(store.has(store.notes(num, "reasons")) for num in store.rounds()),
            labels=task.labels if task else (),
            licence=_licence(task),
        )
        + "\n"
    )


def _licence(task: Task | None) -> str | None:
    """The text of the licence file beside the gold data, if there is one."""
    file = task.data / "LICENSE.md" if task and task.data else None
    if file is None or not file.is_file() or file.resolve().parent != file.parent.resolve():
        return None  # a link could put any file of this machine into the card, and another user may have made the run
    return file.read_text(encoding="utf-8").strip()


def _distinct(table: pa.Table, names: Sequence[str]) -> set[tuple[str, ...]]:
    return set(zip(*(table[name].to_pylist() for name in names), strict=True))


def _head(table: pa.Table, metrics: Metrics) -> dict[str, Any]:
    category = "question-answering" if metrics.kind == "span" else "text-classification"
    return {
        "pretty_name": f"{metrics.run} (synthetic, {metrics.task})",
        "task_categories": [category],
        "size_categories": [next((name for limit, name in _SIZES if table.num_rows < limit), "n>10M")],
        "tags": ["synthetic", "s3ray", metrics.strategy],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": _DATA}]}],
    }


def _count_rows(table: pa.Table, round_: int, labels: Sequence[str]) -> list[int]:
    """Round, number of its rows, and of those of each label."""
    rows = table.filter(pc.equal(table["round"], round_))
    return [round_, rows.num_rows, *(rows.filter(pc.equal(rows["label"], label)).num_rows for label in labels)]
