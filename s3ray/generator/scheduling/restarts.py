"""What becomes of an engine that died: when it may start again, and which nodes it had better avoid.

Pure: times come in as facts. Each engine may start again a few times within an hour, the second time later than the
first; a node on which engines died twice is left alone as long as another one has room.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

WINDOW_S = 3600.0  # older deaths say nothing of how an engine or a node is now
_FIRST_BACK_OFF_S = 1.0
_LONGEST_BACK_OFF_S = 60.0
_DEATHS_PER_NODE = 2


@dataclass(slots=True)
class Supervisor:
    """Remembers deaths for an hour."""

    max_restarts: int
    _by_engine: dict[str, list[float]] = field(default_factory=dict)
    _by_node: dict[str, list[float]] = field(default_factory=dict)

    def died(self, engine: str, node_id: str, now: float, *, is_blamed: bool) -> float | None:
        """When an engine may start again, on the caller's clock; None if it died too often.

        ``is_blamed`` is False where the cause lies outside (its node was lost, or it was told to leave): such a death
        costs neither a restart nor the node's good name.
        """
        if not is_blamed:
            return now
        self._by_node.setdefault(node_id, []).append(now)
        deaths = _recent(self._by_engine.setdefault(engine, []), now)
        deaths.append(now)
        if len(deaths) > self.max_restarts:
            return None
        # The first restart is at once: most deaths are single ones.
        wait_s = 0.0 if len(deaths) == 1 else min(_LONGEST_BACK_OFF_S, _FIRST_BACK_OFF_S * 2.0 ** (len(deaths) - 2))
        return now + wait_s

    def shunned(self, now: float) -> Collection[str]:
        """The nodes on which engines died twice within the hour."""
        return {node for node, deaths in self._by_node.items() if len(_recent(deaths, now)) >= _DEATHS_PER_NODE}


def _recent(deaths: list[float], now: float) -> list[float]:
    """Forget, in place, what lies longer back than the window."""
    deaths[:] = [time for time in deaths if time > now - WINDOW_S]
    return deaths
