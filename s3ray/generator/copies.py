"""Which requests in flight an engine that has run out of work should answer too. Pure.

At the very end there is nothing left to deal, and what is under way at a slow, stuck or dying engine would be waited
for. Idle engines get a copy of it; the first answer wins. A request has one copy at most.
"""

from collections.abc import Iterable

from s3ray.generator.ledger import Entry, Holding


class Copies:
    """The requests in flight that have no copy, the one that its holder will finish last at the end."""

    def __init__(self) -> None:
        self._candidates: list[tuple[float, int, Entry, Holding]] = []
        self._is_stale = True

    def expire(self) -> None:
        """Something was dealt or came back since the candidates were listed."""
        self._is_stale = True

    @property
    def needs_candidates(self) -> bool:
        """Whether all that were listed are used up, and there may be others by now."""
        return not self._candidates and self._is_stale

    def list_candidates(self, candidates: Iterable[tuple[float, Entry, Holding]]) -> None:
        """Every request in flight, with the seconds that its holder should still need."""
        self._candidates = sorted((seconds, entry.request.index, entry, held) for seconds, entry, held in candidates)
        self._is_stale = False

    def take(self, num: int, engine: str) -> list[Entry]:
        """Up to ``num`` requests for an engine that holds nothing; not those that timed out there."""
        taken: list[Entry] = []
        avoided: list[tuple[float, int, Entry, Holding]] = []
        while self._candidates and len(taken) < num:
            candidate = self._candidates.pop()
            _, _, entry, holder = candidate
            if entry.holder is not holder:
                continue  # it has ended since, or its holder is gone
            if entry.avoid == engine:
                avoided.append(candidate)
            else:
                taken.append(entry)
        self._candidates += reversed(avoided)
        return taken
