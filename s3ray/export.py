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

from s3ray.config import read_yaml
from s3ray.errors import InputError
from s3ray.monitor.examples import text_fields
from s3ray.monitor.metrics import build_metrics, run_identity
from s3ray.store import RunStore

_DATA = "data/train.parquet"
_CARD = "README.md"
_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)


def export_dataset(store: RunStore, out: Path | None) -> Path:
    """Write the accepted rows of all finished rounds and their card to ``out`` (None: the run's own ``dataset/``).

    Raises:
        InputError: the run has no finished round, or ``out`` is there and not empty. Nothing was written.
        StoreError: a file of the run cannot be read.
    """
    tables = [store.read_table(store.in_round(num, "accepted.parquet")) for num in store.rounds()]
    if not sum(table.num_rows for table in tables):
        raise InputError(
            "has no finished round with synthetic rows, so there is no dataset to export",
            where=str(store.folder),
            hint="Let the same `s3ray run` command go on until a round is done; strategy gold never writes any.",
        )
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError("is there and not empty", where=str(out), field="--out", hint="Give a new folder.")
    table = pa.concat_tables(tables)
    folder = RunStore(out or store.path("dataset"))  # for its whole-file writes
    folder.write_table(_DATA, table)
    folder.write_text(_CARD, dataset_card(table, build_metrics(store, run_identity(store)), _recipe(store)))
    return folder.folder


def dataset_card(table: pa.Table, metrics: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    """The card (README.md) of a dataset: YAML head for ``datasets``, then where every row comes from.

    ``metrics`` is ``build_metrics``; ``recipe`` holds ``sampling``, ``gold`` (rows by part), ``copied`` (rows by field
    whose text is a gold row's) and ``gold_seed``.
    """
    parts = [
        f"---\n{yaml.safe_dump(_head(table, metrics), sort_keys=False)}---",
        f"# {metrics['run']}: synthetic data for {metrics['task']}",
        _made(metrics, recipe),
        f"## Columns\n\n{_columns(table)}",
        f"## Rows by round\n\n{_rows_by_round(table, metrics)}",
        f"## What was rejected\n\n{_rejected(metrics)}",
        f"## How good a student became on it\n\n{_scores(metrics)}",
        f"## Gold data and licence\n\n{_gold(metrics, recipe)}",
        f"## To make it again\n\nFingerprint of the settings: `{metrics['fingerprint']}`; seed {metrics['seed']}, "
        f"gold drawn with seed {recipe['gold_seed']}; sampling: {recipe['sampling']}.",
    ]
    return "\n\n".join(parts) + "\n"


def _recipe(store: RunStore) -> dict[str, Any]:
    config = read_yaml(store.path("config.yaml"))
    parts = [part for part in ("extrapolate", "select", "test") if store.has(store.gold(part))]
    gold = {part: store.read_table(store.gold(part)) for part in parts}
    copied: dict[str, int] = {}
    for num in store.rounds() if "extrapolate" in gold else []:
        rows = store.read_table(store.in_round(num, "accepted.parquet"))
        for name in text_fields(gold["extrapolate"]):
            same = pc.is_in(rows[name], value_set=pc.unique(gold["extrapolate"][name]))
            copied[name] = copied.get(name, 0) + (pc.sum(same).as_py() or 0)
    return {
        "sampling": ", ".join(f"{name} {value}" for name, value in config["generator"]["sampling"].items()),
        "gold_seed": config["gold"]["seed"],
        "gold": {part: rows.num_rows for part, rows in gold.items()},
        "copied": copied,
    }


def _head(table: pa.Table, metrics: Mapping[str, Any]) -> dict[str, Any]:
    category = "question-answering" if metrics["kind"] == "span" else "text-classification"
    return {
        "pretty_name": f"{metrics['run']} (synthetic, {metrics['task']})",
        "task_categories": [category],
        "size_categories": [next((name for limit, name in _SIZES if table.num_rows < limit), "n>10M")],
        "tags": ["synthetic", "s3ray", str(metrics["strategy"])],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": _DATA}]}],
    }


def _made(metrics: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    how = {
        "zerogen": "Every row was written from its label alone.",
        "goldgen": "A seed set was written from labels alone; the other rows imitate labelled gold rows.",
        "s3": "A seed set was written first; then, round by round, a student was trained on everything written so far, "
        "and new rows were written from the gold rows that it answered wrongly (Synthesis Step by Step, "
        "arXiv 2310.13671).",
    }[metrics["strategy"]]
    return f"Written by the language model `{metrics['generator']}` with s3ray, strategy `{metrics['strategy']}`. {how}"


def _columns(table: pa.Table) -> str:
    meaning = {
        "id": "name of the row, stable over repeated runs",
        "label": "the label's name",
        "answers": "list of `text` and its first character's place, `start`, in the context",
        "source": "`seed`, `extrapolated` or `imitated`",
        "round": "the round in which it was written",
        "parent": "id of the gold row that it was written from, if any",
    }
    return _table(["column", "meaning"], [[name, meaning.get(name, "input text")] for name in table.column_names])


def _rows_by_round(table: pa.Table, metrics: Mapping[str, Any]) -> str:
    rounds = [entry["round"] for entry in metrics["rounds"]]
    if "label" not in table.column_names:
        counted = [[num, pc.sum(pc.equal(table["round"], num)).as_py() or 0] for num in rounds]
        return _table(["round", "rows"], counted)
    labels = sorted(pc.unique(table["label"]).to_pylist())
    rows = []
    for num in rounds:
        column = table.filter(pc.equal(table["round"], num))["label"].to_pylist()
        rows.append([num, len(column), *(column.count(label) for label in labels)])
    return _table(["round", "rows", *labels], rows)


def _rejected(metrics: Mapping[str, Any]) -> str:
    total: Counter[str] = Counter()
    for entry in metrics["rounds"]:
        total.update(entry["rejected"])
        total.update(entry["failed"])
    requested = sum(entry["requested"] for entry in metrics["rounds"])
    head = f"Of {requested} requests, {total.total()} gave no row:"
    return f"{head}\n\n{_table(['reason', 'requests'], total.most_common())}"


def _scores(metrics: Mapping[str, Any]) -> str:
    scored = [entry for entry in metrics["rounds"] if entry["select"]]
    if not scored:
        return "No student was trained yet."
    names = list(scored[0]["select"])
    rows = [[f"round {e['round']}, selection part", *(f"{e['select'][name]:.3f}" for name in names)] for e in scored]
    if metrics["test"]:
        rows.append(["final, test part", *(f"{metrics['test'][name]:.3f}" for name in names)])
    return f"Student: `{metrics['student']}`, trained on synthetic rows only.\n\n{_table(['student', *names], rows)}"


def _gold(metrics: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    used = ", ".join(f"{n} rows ({part})" for part, n in recipe["gold"].items())
    copied = ", ".join(f"`{name}` in {n} rows" for name, n in recipe["copied"].items() if n)
    text = f"Gold rows used on the way: {used or 'none'}. They are not part of this dataset."
    if copied:
        text += f" Texts that were given to the generator, not written by it, are the gold data's own: {copied}."
    return (
        f"{text}\n\nRows written from gold rows may lean on their wording. Before you pass this dataset on, look at "
        f"the licence of the gold data (task `{metrics['task']}`) and at the terms of the generator "
        f"(`{metrics['generator']}`)."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
