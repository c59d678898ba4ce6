"""Which engine holds which request. Pure bookkeeping: ``dispatch`` decides who gets what.

Invariant: a request that was drawn is held by one engine or by two, or waits (``dispatch`` knows where), or has ended.
It ends once, and the copy that another engine holds is then cancelled.
"""

from collections.abc import Iterable, Iterator

from s3ray.generator.scheduling.estimates import Kind
from s3ray.types import GenerationRequest


class LedgerEntry:
    """One request between the source and its end.

    ``num_output_tokens`` and ``num_tokens`` (with the prompt) are estimates, fixed while an engine holds it. A death
    counts if engine or request may have caused it. ``avoid`` is the engine where it timed out. ``position`` is the
    ``Feedback.position`` of its engine when the request was assigned.
    """

    __slots__ = (
        *("request", "kind", "num_output_tokens", "num_tokens", "num_attempts", "num_deaths", "num_timeouts"),
        *("num_deaths_alone", "avoid", "position", "holder", "second"),
    )

    def __init__(self, request: GenerationRequest, kind: Kind) -> None:
        self.request = request
        self.kind = kind
        self.num_attempts = 0
        self.num_deaths = 0
        self.num_deaths_alone = 0
        self.num_timeouts = 0
        self.avoid: str | None = None
        self.position = 0.0
        self.holder: EngineLoad | None = None
        self.second: EngineLoad | None = None
        self.expect()

    def expect(self) -> None:
        """Estimate its tokens anew, only while it waits; a limit of its own scales the expected answer."""
        kind, limit = self.kind, self.request.max_tokens
        num = kind.num_output_tokens if limit is None else limit * kind.ratio
        self.num_output_tokens = int(num) or 1
        self.num_tokens = self.num_output_tokens + int(kind.num_prompt_tokens)


class EngineLoad:
    """What one engine holds: requests by index in the order of assignment, and the copies that it must give up."""

    __slots__ = ("cancelled", "engine", "entries", "num_tokens")

    def __init__(self, engine: str) -> None:
        self.engine = engine
        self.entries: dict[int, LedgerEntry] = {}
        self.cancelled: list[int] = []
        self.num_tokens = 0


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
            assert other is not None  # who has a second holder has a first
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

    def close(self, engine: str) -> list[LedgerEntry]:
        """An engine is gone. Returns what it held, in order of assignment; ``holder`` is set where a copy lives on."""
        load = self._loads.pop(engine, None)
        lost = list(load.entries.values()) if load else []
        for entry in lost:
            assert load is not None
            self._release(load, entry)
        return lost

    def withdraw(self, indexes: range) -> None:
        """Requests are wanted no more: whoever holds one gives it up."""
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
