"""The dataset of a run as a folder that others can use: Parquet and a dataset card, read by ``datasets.load_dataset``.

Invariant: holds synthetic rows only, in the order of their rounds; the same run gives the same bytes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from s3ray.config.job import StrategyConfig
from s3ray.errors import InputError, StoreError
from s3ray.monitor.metrics import Metrics, build_metrics
from s3ray.report.examples import find_task, text_fields, written_field
from s3ray.storage.run_folder import RunStore
from s3ray.strategies import make_strategy
from s3ray.strategies.base import TrainingSet
from s3ray.tables import join_tables
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
    card = dataset_card(table, build_metrics(store, list(read_events(store))), _recipe(store, table))
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


def _learned(store: RunStore) -> TrainingSet:
    """What the student of the newest finished round learns from."""
    strategy = make_strategy(StrategyConfig.model_validate(store.read_config()["strategy"]))
    return strategy.training(max(store.rounds(), default=0))


def _write(folder: RunStore, table: pa.Table, card: str) -> str:
    folder.write_table(_DATA, table)
    folder.write_text(_CARD, card)
    return folder.root


def dataset_card(table: pa.Table, metrics: Metrics, recipe: Mapping[str, Any]) -> str:
    """The card (README.md) of a dataset: YAML head for ``datasets``, then where every row comes from.

    ``recipe`` holds ``sampling``, ``gold_seed``, ``gold`` (rows by part),
    ``context_fields`` (given to the generator from gold), ``num_contexts`` (distinct ones), ``num_elsewhere`` (those
    not in the extrapolation part), ``reasons`` (whether seeds could have some), ``labels`` (in the task's order, if
    known), ``on_gold`` (whether students learn from gold too) and ``licence`` (gold's, if known).
    """
    parts = [
        f"---\n{yaml.safe_dump(_head(table, metrics), sort_keys=False)}---",
        f"# {metrics.run}: synthetic data for {metrics.task}",
        _made(table, metrics, recipe),
        f"## Columns\n\n{_columns(table, recipe)}",
        f"## Rows by round\n\n{_rows_by_round(table, metrics)}",
        f"## What was rejected\n\n{_rejected(metrics)}",
        f"## How good a student became on it\n\n{_scores(metrics, recipe)}",
        f"## Gold data and licence\n\n{_gold(table, metrics, recipe)}",
        f"## To make it again\n\nFingerprint of the settings: `{metrics.fingerprint}`; seed {metrics.seed}, "
        f"gold drawn with seed {recipe['gold_seed']}; sampling: {recipe['sampling']}.",
    ]
    return "\n\n".join(parts) + "\n"


def _recipe(store: RunStore, table: pa.Table) -> dict[str, Any]:
    config = store.read_config()
    gold = {part: store.read_table(store.gold(part)) for part in ("extrapolate", "select", "test")}
    task = find_task(store, table.column_names)
    written = task.written if task else written_field([table], gold["extrapolate"])
    context_fields = [name for name in text_fields(table) if name != written]
    contexts = _distinct(table, context_fields)
    licence = task.data / "LICENSE.md" if task and task.data else None
    if licence and licence.resolve().parent != licence.parent.resolve():
        licence = None  # a link: a run that somebody else made could put any file of this machine into the card
    return {
        "sampling": ", ".join(f"{name} {value}" for name, value in config["generator"]["sampling"].items()),
        "gold_seed": config["gold"]["seed"],
        "gold": {part: rows.num_rows for part, rows in gold.items()},
        "context_fields": context_fields,
        "num_contexts": len(contexts),
        "num_elsewhere": len(contexts - _distinct(gold["extrapolate"], context_fields)),
        "on_gold": _learned(store).gold,
        "reasons": any(store.has(store.notes(num, "reasons")) for num in store.rounds()),
        "labels": task.labels if task else (),
        "licence": licence.read_text(encoding="utf-8").strip() if licence and licence.is_file() else None,
    }


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


def _made(table: pa.Table, metrics: Metrics, recipe: Mapping[str, Any]) -> str:
    given, target = _names(recipe["context_fields"]), "answer" if metrics.kind == "span" else "label"
    seed = f"its {target} and gold text ({given})" if given else f"its {target}, without gold text"
    if recipe["reasons"]:
        seed += ", and from reasons that the model had listed before"
    how = {
        "seed": f"each written from {seed}",
        "imitated": f"each written like a gold row, with that row's {target}",
        "extrapolated": f"each written like a gold row that a student got wrong, with that row's {target}; round by "
        "round, the student was trained on everything written so far (Synthesis Step by Step, arXiv 2310.13671)",
    }
    numbers = Counter(table["source"].to_pylist())
    rows = "\n".join(
        f"- {numbers[source]} rows (`{source}`): {text}." for source, text in how.items() if numbers[source]
    )
    head = f"Written by the language model `{metrics.generator}` with s3ray, strategy `{metrics.strategy}`:"
    return f"{head}\n\n{rows}"


def _columns(table: pa.Table, recipe: Mapping[str, Any]) -> str:
    order = f"{_names(recipe['labels'])}, in this order" if recipe["labels"] else "each label, in the task's order"
    meaning = {
        "id": "name of the row, stable over repeated runs",
        "label": "the label's name",
        "answers": "list of `text` and its first character's place, `start`, in the context",
        "source": "`seed`, `extrapolated` or `imitated`",
        "round": "the round in which it was written",
        "parent": "id of the gold row that it was written from, if any",
        "soft": f"probabilities that the generator itself gave to the text's being {order}",
    }
    return _table(["column", "meaning"], [[name, meaning.get(name, "input text")] for name in table.column_names])


def _rows_by_round(table: pa.Table, metrics: Metrics) -> str:
    rounds = [entry.round for entry in metrics.rounds]
    if "label" not in table.column_names:
        counted = [[num, pc.sum(pc.equal(table["round"], num)).as_py() or 0] for num in rounds]
        return _table(["round", "rows"], counted)
    labels = sorted(pc.unique(table["label"]).to_pylist())
    rows = []
    for num in rounds:
        column = table.filter(pc.equal(table["round"], num))["label"].to_pylist()
        rows.append([num, len(column), *(column.count(label) for label in labels)])
    return _table(["round", "rows", *labels], rows)


def _rejected(metrics: Metrics) -> str:
    total: Counter[str] = Counter()
    for entry in metrics.rounds:
        total.update(entry.rejected)
        total.update(entry.failed)
    requested = sum(entry.requested for entry in metrics.rounds)
    head = f"Of {requested} requests, {total.total()} gave no row:"
    return f"{head}\n\n{_table(['reason', 'requests'], total.most_common())}"


def _scores(metrics: Metrics, recipe: Mapping[str, Any]) -> str:
    scored = [(entry.round, entry.select) for entry in metrics.rounds if entry.select]
    if not scored:
        return "No student was trained yet."
    names = list(scored[0][1])
    rows = [[f"round {num}, selection part", *(f"{select[name]:.3f}" for name in names)] for num, select in scored]
    if metrics.test:
        rows.append(["final, test part", *(f"{metrics.test[name]:.3f}" for name in names)])
    learned = "gold (extrapolation part) and synthetic rows" if recipe["on_gold"] else "synthetic rows only"
    return f"Student: `{metrics.student}`, trained on {learned}.\n\n{_table(['student', *names], rows)}"


def _gold(table: pa.Table, metrics: Metrics, recipe: Mapping[str, Any]) -> str:
    used = [f"{num} rows ({part})" for part, num in recipe["gold"].items()]
    copied = "They are not part of this dataset."
    if recipe["context_fields"]:
        used.append(f"{recipe['num_elsewhere']} context(s) from other training rows")
        names = _names([*recipe["context_fields"], *(["answers"] if metrics.kind == "span" else [])])
        copied = (
            f"The generator was given {names}, it did not write them: in all {table.num_rows} rows they are the gold "
            f"data's own, word for word ({recipe['num_contexts']} distinct contexts). No other text of gold is in here."
        )
    licence = "its licence is not known to s3ray: look it up where the data comes from"
    if recipe["licence"]:
        quoted = recipe["licence"].replace("\n", "\n> ")
        licence = f"its licence file says:\n\n> {quoted}"
    return (
        f"Gold used on the way: {', '.join(used)}. {copied}\n\nRows written from gold may lean on its wording. Before "
        f"you pass this dataset on, look at the terms of the generator (`{metrics.generator}`) and at the gold data "
        f"(task `{metrics.task}`); {licence}{'' if recipe['licence'] else '.'}"
    )


def _names(fields: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in fields)


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
