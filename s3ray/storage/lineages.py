"""The lineages of a run: folders NAME, NAME.2, NAME.3 ... beside each other. A new one never touches an old one.

A folder is a lineage of NAME if its ``fingerprint.json`` says so. Another run that happens to be called NAME.2 is
skipped, and so is its number.
"""

import re
from dataclasses import asdict, dataclass
from typing import Any

from s3ray.errors import InputError, StoreError
from s3ray.storage.local import is_url, join, split
from s3ray.storage.run_folder import RunStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """One of the folders of a run: ``of`` is the name of the first, ``parent`` that of the one before, if any."""

    of: str
    number: int = 1
    parent: str | None = None

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.of if self.number == 1 else f"{self.of}.{self.number}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for ``fingerprint.json`` and events."""
        return asdict(self)


def choose(first: str, *, fresh: bool) -> tuple[str, Lineage]:
    """The lineage that a start of a run goes on with, or begins (``fresh``): its place, and what it is.

    Raises:
        InputError: no run can lie there.
    """
    if is_url(first) and not first.partition("://")[2].partition("/")[2].strip("/"):
        raise InputError(
            "is a bucket, not a folder in one", where=first, field="store", hint="Such as s3://bucket/runs."
        )
    RunStore(first).check_writable()
    return following(first) if fresh else newest(first)


def newest(first: str) -> tuple[str, Lineage]:
    """The lineage that ``s3ray run`` goes on with, and where it lies; the first one if there is none yet."""
    parent, name = split(first)
    last = max(_own(first), key=lambda lineage: lineage.number, default=Lineage(of=name))
    return (first if last.number == 1 else join(parent, last.name)), last


def following(first: str) -> tuple[str, Lineage]:
    """The lineage that comes after all that are there, and where it will lie; the first one if there is none yet."""
    parent, name = split(first)
    taken = [_number(name, store.name) for store in _beside(first)]
    if not taken:
        return newest(first)
    number = 1 + max(taken)
    lineage = Lineage(of=name, number=number, parent=_newest_that_says_so(first))
    return join(parent, lineage.name), lineage


def _newest_that_says_so(first: str) -> str | None:
    """The folder of the newest lineage; None if there is none, or one of them is damaged, which `--fresh` outlives."""
    try:
        return newest(first)[1].name if _own(first) else None
    except StoreError:
        return None


def _own(first: str) -> list[Lineage]:
    _, name = split(first)
    return [lineage for lineage in map(_of_store, _beside(first)) if lineage and lineage.of == name]


def lineage_of(store: RunStore) -> Lineage:
    """Which lineage a run's folder is; one that does not say is the first."""
    return _of_store(store) or Lineage(of=store.name)


def _of_store(store: RunStore) -> Lineage | None:
    if not store.is_run():
        return None
    if written := store.identity().get("lineage"):
        lineage = Lineage(of=written["of"], number=written["number"], parent=written["parent"])
        if lineage.name == store.name:
            return lineage
    return Lineage(of=store.name)  # also of a folder that was copied to another name


def _beside(first: str) -> list[RunStore]:
    """The folders NAME and NAME.N that hold a file that is not hidden."""
    parent, name = split(first)
    found = [entry for entry in RunStore(parent).entries() if _number(name, entry)]
    stores = [RunStore(join(parent, entry)) for entry in sorted(found)]
    return [store for store in stores if any(not entry.startswith(".") for entry in store.entries())]


def _number(name: str, entry: str) -> int:
    """The number that a folder's name gives it; 0 if it has another name."""
    if entry == name:
        return 1
    match = re.fullmatch(re.escape(name) + r"\.([1-9][0-9]*)", entry)
    return int(match.group(1)) if match else 0
