"""The books of a run: is every request answered once, and does every round balance?"""

from collections import Counter
from pathlib import Path
from typing import Any

from s3ray.storage.run_folder import RunStore


def audit(folder: Path) -> dict[str, int]:
    """Count what must be zero in the journal of a run: requests ``lost``, ``duplicated``, rounds ``unbalanced``.

    A request is lost if a finished round booked it and no chunk has its outcome, or if its place in the stage's
    sequence is empty although no quota was full yet. It is duplicated if it has two outcomes, or one that no round
    booked. Also counts ``requests`` and ``rounds``.
    """
    store = RunStore.existing(folder)
    books = Counter(requests=0, rounds=0, lost=0, duplicated=0, unbalanced=0)
    for round_ in store.rounds():
        rows = store.read_table(store.request_table(round_)).to_pylist()
        asked = Counter(row["request_id"] for row in rows)
        answered: Counter[str] = Counter()
        for file in store.path(store.in_round(round_, "chunks")).glob("*.parquet"):
            chunk = store.read_table(str(file.relative_to(store.folder)))
            answered.update(chunk["request_id"].to_pylist())
        report = store.read_json(store.round_report(round_))
        ended = report["accepted"] + sum(report["rejected"].values()) + sum(report["failed"].values())
        books["rounds"] += 1
        books["requests"] += asked.total()
        books["lost"] += (asked - answered).total() + sum(
            _num_gaps([row for row in rows if row["stage"] == stage]) for stage in {row["stage"] for row in rows}
        )
        books["duplicated"] += (answered - asked).total()
        books["unbalanced"] += report["requested"] != ended
    return dict(books)


def _num_gaps(rows: list[dict[str, Any]]) -> int:
    """Places of a stage's sequence without an outcome, before any label had all its rows."""
    last_kept = {row["label"]: row["index"] for row in rows if row["status"] == "accepted"}
    places = {row["index"] for row in rows}
    return sum(place not in places for place in range(min(last_kept.values(), default=-1) + 1))
