"""Which engine holds which request. Pure bookkeeping: ``dispatch`` decides who gets what.

Invariant: a request that was drawn waits (``dispatch`` knows where), is held by one engine or two, or has ended. It
ends once; the copy that another engine holds is then cancelled.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from s3ray.generator.scheduling.estimates import Kind
from s3ray.types import GenerationRequest


@dataclass(slots=True, eq=False)
class LedgerEntry:
    """One request, from when it is drawn until it ends.

    ``num_deaths`` counts the engines that died while they held it, if engine or request may have been the cause.
    ``avoid`` is the engine where it timed out. ``position`` is the ``Feedback.position`` of its engine when the request
    was assigned. ``num_output_tokens`` and ``num_tokens`` (with the prompt) are estimates, fixed while an engine holds
    the request.
    """

    request: GenerationRequest
    kind: Kind
    num_attempts: int = 0
    num_deaths: int = 0
    num_deaths_alone: int = 0
    num_timeouts: int = 0
    avoid: str | None = None
    position: float = 0.0
    holder: "EngineLoad | None" = None
    second: "EngineLoad | None" = None
    num_output_tokens: int = field(init=False)
    num_tokens: int = field(init=False)

    def __post_init__(self) -> None:
        self.expect()

    def expect(self) -> None:
        """Estimate its tokens again, only while it waits; a request's own limit scales the expected answer."""
        kind, limit = self.kind, self.request.max_tokens
        num = kind.num_output_tokens if limit is None else limit * kind.ratio
        self.num_output_tokens = int(num) or 1
        self.num_tokens = self.num_output_tokens + int(kind.num_prompt_tokens)


@dataclass(slots=True, eq=False)
class EngineLoad:
    """What one engine holds: requests by index in the order of assignment, and the copies that it must give up."""

    engine: str
    entries: dict[int, LedgerEntry] = field(default_factory=dict)
    cancelled: list[int] = field(default_factory=list)
    num_tokens: int = 0


class Ledger:
    """The requests in flight at each engine. ``num_in_flight`` counts each once, however many engines hold it."""

    def __init__(self) -> None:
        self.num_in_flight = 0
        self.num_output_tokens = 0
        self._loads: dict[str, EngineLoad] = {}

    def open(self, engine: str) -> None:
        """An engine holds nothing yet."""
        self._loads[engine] = EngineLoad(engine)

    def load_of(self, engine: str) -> EngineLoad:
        """What an engine holds.

        Raises:
            KeyError: the engine is not open.
        """
        return self._loads[engine]

    def num_held_by(self, engine: str) -> int:
        """Requests in flight at one engine; 0 for one that is not open."""
        load = self._loads.get(engine)
        return len(load.entries) if load else 0

    def in_flight(self) -> Iterator[tuple[EngineLoad, LedgerEntry]]:
        """Each request in flight with its first holder."""
        for load in self._loads.values():
            for entry in load.entries.values():
                if entry.holder is load:
                    yield load, entry

    def assign(self, load: EngineLoad, entries: Iterable[LedgerEntry], position: float) -> None:
        """An engine gets these requests; each is held by no engine yet, or by one other."""
        for entry in entries:
            if entry.holder is None:
                entry.holder = load
                entry.position = position
                self.num_in_flight += 1
                self.num_output_tokens += entry.num_output_tokens
            else:
                entry.second = load
            entry.num_attempts += 1
            load.entries[entry.request.index] = entry
            load.num_tokens += entry.num_tokens

    def end(self, engine: str, index: int) -> LedgerEntry | None:
        """A request has ended at an engine; a copy elsewhere is cancelled. None if the engine does not hold it."""
        entry = self._pop(engine, index)
        if entry is None:
            return None
        if entry.second is not None:
            other = entry.holder if entry.second.engine == engine else entry.second
            assert other is not None  # a request with a second holder has a first
            del other.entries[index]
            other.num_tokens -= entry.num_tokens
            other.cancelled.append(index)
            entry.second = None
        self._remove(entry)
        return entry

    def release(self, engine: str, index: int) -> None:
        """An engine no longer holds a request that has not ended; nothing happens if it does not hold it."""
        entry = self._pop(engine, index)
        if entry is not None:
            self._release(self._loads[engine], entry)

    def recall(self, load: EngineLoad, entry: LedgerEntry) -> None:
        """An engine must give up a request that it holds, so that others can have it."""
        self.release(load.engine, entry.request.index)
        load.cancelled.append(entry.request.index)

    def close(self, engine: str) -> list[LedgerEntry]:
        """An engine is gone. Returns what it held, in order of assignment; those with a ``holder`` have a copy left."""
        load = self._loads.pop(engine, None)
        lost = list(load.entries.values()) if load else []
        for entry in lost:
            assert load is not None
            self._release(load, entry)
        return lost

    def withdraw(self, indexes: range) -> None:
        """Requests are no longer wanted: every engine that holds one must give it up."""
        for load in self._loads.values():
            for index in [index for index in load.entries if index in indexes]:
                entry = load.entries.pop(index)
                load.num_tokens -= entry.num_tokens
                load.cancelled.append(index)
                if entry.holder is not None:
                    self._remove(entry)
                entry.second = None

    def drop(self) -> list[str]:
        """Forget every request; engines stay open. Returns those that held some."""
        holders = [engine for engine, load in self._loads.items() if load.entries]
        self._loads = {engine: EngineLoad(engine) for engine in self._loads}
        self.num_in_flight = 0
        self.num_output_tokens = 0
        return holders

    def _pop(self, engine: str, index: int) -> LedgerEntry | None:
        load = self._loads.get(engine)
        entry = load.entries.pop(index, None) if load else None
        if load is not None and entry is not None:
            load.num_tokens -= entry.num_tokens
        return entry

    def _release(self, load: EngineLoad, entry: LedgerEntry) -> None:
        """A holder no longer has the request; the other one, if there is one, becomes the first."""
        if entry.second is None:
            self._remove(entry)
        else:
            entry.holder = entry.holder if entry.second is load else entry.second
            entry.second = None

    def _remove(self, entry: LedgerEntry) -> None:
        entry.holder = None
        self.num_in_flight -= 1
        self.num_output_tokens -= entry.num_output_tokens
