"""Who has which request. Pure: no clock, no Ray, no choice of who gets what (``dispatch`` chooses).

Invariant: a request on its way is held by one engine or by two, or it waits (``dispatch`` knows where), or it has
ended; it ends once, and the copy that another engine holds is then cancelled.
"""

from collections.abc import Iterable, Iterator

from s3ray.generator.scheduling.estimates import Kind
from s3ray.types import GenerationRequest


class Entry:
    """One request on its way from the source to its end.

    ``num_output_tokens`` and ``num_tokens`` (with the prompt) are expected, and fixed while an engine holds it. Deaths
    count where the engine was to blame or the request may have been. ``avoid`` is the engine where it timed out.
    ``mark`` is how far a sequence of its engine had come when it was handed out (``feedback.Feedback.position``).
    """

    __slots__ = (
        *("request", "kind", "num_output_tokens", "num_tokens", "num_attempts", "num_deaths", "num_timeouts"),
        *("num_deaths_alone", "avoid", "mark", "holder", "second"),
    )

    def __init__(self, request: GenerationRequest, kind: Kind) -> None:
        self.request = request
        self.kind = kind
        self.num_attempts = 0
        self.num_deaths = 0
        self.num_deaths_alone = 0
        self.num_timeouts = 0
        self.avoid: str | None = None
        self.mark = 0.0
        self.holder: Holding | None = None
        self.second: Holding | None = None
        self.expect()

    def expect(self) -> None:
        """Set what it will take by what is known by now; only while it waits. Its own limit scales the answer."""
        kind, limit = self.kind, self.request.max_tokens
        num = kind.num_output_tokens if limit is None else limit * kind.ratio
        self.num_output_tokens = int(num) or 1
        self.num_tokens = self.num_output_tokens + int(kind.num_prompt_tokens)


class Holding:
    """What one engine holds: requests by index in the order of hand-out, and the copies that it is to give up."""

    __slots__ = ("cancelled", "engine", "entries", "num_tokens")

    def __init__(self, engine: str) -> None:
        self.engine = engine
        self.entries: dict[int, Entry] = {}
        self.cancelled: list[int] = []
        self.num_tokens = 0


class Ledger:
    """The requests in flight at each engine. ``num_in_flight`` counts each once, however many engines hold it."""

    def __init__(self) -> None:
        self.num_in_flight = 0
        self.num_output_tokens = 0
        self._holdings: dict[str, Holding] = {}

    def open(self, engine: str) -> None:
        """An engine holds nothing yet."""
        self._holdings[engine] = Holding(engine)

    def holding(self, engine: str) -> Holding:
        """What an engine holds.

        Raises:
            KeyError: the engine is not open.
        """
        return self._holdings[engine]

    def num_held_by(self, engine: str) -> int:
        """Requests in flight at one engine; 0 for one that is not open."""
        holding = self._holdings.get(engine)
        return len(holding.entries) if holding else 0

    def in_flight(self) -> Iterator[tuple[Holding, Entry]]:
        """Each request in flight with its first holder."""
        for holding in self._holdings.values():
            for entry in holding.entries.values():
                if entry.holder is holding:
                    yield holding, entry

    def hand_out(self, holding: Holding, entries: Iterable[Entry], mark: float) -> None:
        """Note that an engine holds these requests; each held before by none or by one other engine."""
        for entry in entries:
            if entry.holder is None:
                entry.holder = holding
                entry.mark = mark
                self.num_in_flight += 1
                self.num_output_tokens += entry.num_output_tokens
            else:
                entry.second = holding
            entry.num_attempts += 1
            holding.entries[entry.request.index] = entry
            holding.num_tokens += entry.num_tokens

    def end(self, engine: str, index: int) -> Entry | None:
        """A request has ended at an engine; another's copy is cancelled. None if the engine does not hold it."""
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
        self._land(entry)
        return entry

    def release(self, engine: str, index: int) -> None:
        """An engine no longer holds a request that has not ended; nothing happens if it does not hold it."""
        entry = self._pop(engine, index)
        if entry is not None:
            self._let_go(self._holdings[engine], entry)

    def close(self, engine: str) -> list[Entry]:
        """An engine is gone; returns what it held, in the order of hand-out. ``holder`` is set where a copy lives."""
        holding = self._holdings.pop(engine, None)
        lost = list(holding.entries.values()) if holding else []
        for entry in lost:
            assert holding is not None
            self._let_go(holding, entry)
        return lost

    def withdraw(self, indexes: range) -> None:
        """Requests are wanted no more: whoever holds one gives it up."""
        for holding in self._holdings.values():
            for index in [index for index in holding.entries if index in indexes]:
                entry = holding.entries.pop(index)
                holding.num_tokens -= entry.num_tokens
                holding.cancelled.append(index)
                if entry.holder is not None:
                    self._land(entry)
                entry.second = None

    def drop(self) -> list[str]:
        """Forget every request; engines stay open. Returns those that held something."""
        holders = [engine for engine, holding in self._holdings.items() if holding.entries]
        self._holdings = {engine: Holding(engine) for engine in self._holdings}
        self.num_in_flight = 0
        self.num_output_tokens = 0
        return holders

    def _pop(self, engine: str, index: int) -> Entry | None:
        holding = self._holdings.get(engine)
        entry = holding.entries.pop(index, None) if holding else None
        if holding is not None and entry is not None:
            holding.num_tokens -= entry.num_tokens
        return entry

    def _let_go(self, holding: Holding, entry: Entry) -> None:
        """One of the holders of a request has it no more; the other, if there is one, becomes the first."""
        if entry.second is None:
            self._land(entry)
        else:
            entry.holder = entry.holder if entry.second is holding else entry.second
            entry.second = None

    def _land(self, entry: Entry) -> None:
        entry.holder = None
        self.num_in_flight -= 1
        self.num_output_tokens -= entry.num_output_tokens
