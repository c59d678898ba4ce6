"""The books of a run: is every request answered once, and does every round balance?"""

from collections import Counter
from pathlib import Path

from s3ray.store import RunStore


def audit(folder: Path) -> dict[str, int]:
    """Count what must be zero in the journal of a run: requests ``lost``, ``duplicated``, rounds ``unbalanced``.

    A request is lost if a finished round asked for it and no chunk has its outcome, duplicated if two chunks do. Also
    counts ``requests`` and ``rounds``.
    """
    store = RunStore.existing(folder)
    books = Counter(requests=0, rounds=0, lost=0, duplicated=0, unbalanced=0)
    for round_ in store.rounds():
        asked = Counter(store.read_table(store.in_round(round_, "requests.parquet"))["request_id"].to_pylist())
        answered: Counter[str] = Counter()
        for file in store.path(store.in_round(round_, "chunks")).glob("*.parquet"):
            chunk = store.read_table(str(file.relative_to(store.folder)))
            answered.update(chunk["request_id"].to_pylist())
        report = store.read_json(store.in_round(round_, "round.json"))
        ended = report["accepted"] + sum(report["rejected"].values()) + sum(report["failed"].values())
        books["rounds"] += 1
        books["requests"] += asked.total()
        books["lost"] += len(asked - answered)
        books["duplicated"] += len(answered - asked)
        books["unbalanced"] += report["requested"] != ended
    return dict(books)
