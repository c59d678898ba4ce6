"""How many engines are worth a node on a cluster that starts nodes when they are asked for. Pure.

An engine pays if it works for at least as long as its start takes, its node's own start included. Nobody asks for one
in the last minutes of a stage, and what has been asked for is not given up while requests wait: its start is half paid.
"""

import math
from dataclasses import dataclass

# Assumed before one has started: a machine of a cloud, its setup, and a model of a few billion parameters.
PRIOR_START_S = 300.0
# An engine that has had nothing to do for so long is given back; rejections bring requests within a few seconds.
IDLE_S = 10.0
MEMORY = 0.5  # weight of the starts before the last one


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is left of a stage: requests that wait or are under way, and the seconds that one engine would need alone.

    Both are infinite before the end is in sight; ``engine_s`` also while no engine's pace is known. ``num_waiting`` of
    the requests are held by no engine.
    """

    num_requests: float
    num_waiting: int
    engine_s: float


class Growth:
    """Decides how many engines there should be: ``least`` as long as requests wait, at most ``most``.

    ``num_seqs`` is how many requests an engine answers at once.
    """

    def __init__(self, *, least: int, most: int, num_seqs: int) -> None:
        self._least = least
        self._most = most
        self._num_seqs = num_seqs
        self._start_s: float | None = None

    @property
    def start_s(self) -> float:
        """Seconds from asking for a node to an engine that works there."""
        return PRIOR_START_S if self._start_s is None else self._start_s

    def note_start(self, seconds: float) -> None:
        """An engine is ready, ``seconds`` after it asked for a node."""
        before = seconds if self._start_s is None else self._start_s
        self._start_s = MEMORY * before + (1 - MEMORY) * seconds

    def num_worth(self, work: Work | None, num_ready: int, num_coming: int) -> int:
        """How many engines there should be, those that are ready or coming (asked for, or starting) included.

        Without ``work``, requests will come and nobody knows how many.
        """
        num_there = num_ready + num_coming
        if work is None:
            return max(self._least, num_there)
        if not work.num_waiting:
            return num_there
        # With more engines than this, one that joins has less to do than its start takes.
        by_time = work.engine_s / self.start_s - num_ready
        at_once = work.num_requests / self._num_seqs  # more engines than this would have no request to answer
        worth = math.floor(min(by_time, self._most))
        if at_once < worth:
            worth = math.ceil(at_once)
        return min(self._most, max(self._least, num_there, worth))


def who_is_idle(idle_s: dict[str, float], num_working: int, work: Work) -> list[str]:
    """The engines to give back, of those that have had nothing to do for so many seconds (``idle_s``).

    One engine stays as long as the stage goes on, for requests may come still. ``num_working`` have something to do.
    """
    if work.num_waiting:
        return []
    idle = sorted((engine for engine, seconds in idle_s.items() if seconds >= IDLE_S), key=lambda name: -idle_s[name])
    num_others = num_working + len(idle_s) - len(idle)
    return idle if num_others else idle[:-1]
