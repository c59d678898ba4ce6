"""A seed set that several runs have in common is written once, by the first of them, and copied into the others."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from s3ray.store import RunStore


class SeedSets:
    """Which run writes which seed set. Two runs have one in common if all that shapes it is equal."""

    def __init__(self) -> None:
        self._written: dict[str, RunStore] = {}
        self._writing: set[str] = set()
        self._changed = threading.Condition()

    def note(self, key: str, store: RunStore) -> None:
        """A run has this seed set."""
        with self._changed:
            self._written.setdefault(key, store)
            self._writing.discard(key)
            self._changed.notify_all()

    @contextlib.contextmanager
    def claimed(self, key: str, store: RunStore) -> Iterator[RunStore | None]:
        """Wait while another run writes this seed set; then yields that run's folder, or None: write it yourself.

        A run that fails with it leaves it to the next one.
        """
        with self._changed:
            while key in self._writing and key not in self._written:
                self._changed.wait()
            source = self._written.get(key)
            if source is None:
                self._writing.add(key)
        try:
            yield source
        finally:
            with self._changed:
                if 0 in store.rounds():
                    self._written.setdefault(key, store)
                if source is None:
                    self._writing.discard(key)
                self._changed.notify_all()


def copy_round(source: RunStore, target: RunStore, round_: int) -> dict[str, Any]:
    """Copy a finished round, its marker last; the marker says which run it comes from. Returns the round's report.

    Raises:
        StoreError: a file cannot be read or written.
    """
    marker = target.in_round(round_, "round.json")
    for file in source.files(f"rounds/{round_}"):
        if file != marker:
            target.copy_from(source, file)
    report: dict[str, Any] = {**source.read_json(marker), "linked_from": source.name}
    target.write_json(marker, report)
    return report
