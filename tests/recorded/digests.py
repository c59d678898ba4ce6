"""What a run wrote, in few words: a digest of each final table and of each stage's journal.

``digests.json`` holds those of the run that commit b1254bf finished after it was killed.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

BY_CHANCE = {"engine", "attempt", "seconds"}


def run_digests(run: Path) -> dict[str, str]:
    """By table; the columns that depend on who answered and how fast are left out."""
    digests = {"dataset/data/train.parquet": _digest(_rows(run / "dataset/data/train.parquet"))}
    for folder in sorted((run / "rounds").iterdir()):
        place = f"rounds/{folder.name}"
        for name in ("requests", "accepted", "rejected", "train"):
            digests[f"{place}/{name}.parquet"] = _digest(_rows(folder / f"{name}.parquet"))
        chunks = sorted((folder / "chunks").iterdir())
        for stage in {path.name.rpartition("-")[0] for path in chunks}:
            rows = [row for path in chunks if path.name.startswith(f"{stage}-") for row in _rows(path)]
            digests[f"{place}/chunks/{stage}"] = _digest(sorted(rows, key=lambda row: int(row["index"])))
    return digests


def _rows(path: Path) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in row.items() if name not in BY_CHANCE} for row in pq.read_table(path).to_pylist()
    ]


def _digest(rows: Sequence[dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
