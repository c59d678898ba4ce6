"""How much an engine gets when it asks. Pure: facts in, a decision out.

``PullPolicy`` is the product. The other two are what people do without it; benchmarks compare with them.
"""

import math
from typing import NamedTuple, Protocol


class Facts(NamedTuple):
    """What a policy may know of the engine that asks, and of all.

    ``capacity`` are the sequences that it decodes at once, ``num_kv_tokens`` what its KV cache holds (0: unknown), and
    ``allowance`` how much it should hold in multiples of both. ``num_in_flight`` requests and ``num_tokens`` expected
    tokens are under way there. ``share`` (0 to 1) is its part in the speed of all engines. ``num_left`` are the
    requests that wait or are in flight anywhere, once the end of the source is in sight, else None.
    """

    capacity: int
    num_kv_tokens: int
    allowance: float
    num_in_flight: int
    num_tokens: int
    share: float
    num_left: int | None


class Room(NamedTuple):
    """What an engine may get: requests, their expected tokens, and requests beyond to keep a group together."""

    num: int
    num_tokens: float
    num_extra: int


class Policy(Protocol):
    """Decides how much an engine gets, and which requests are for which engine.

    A request waits in lane ``index % num_lanes``; the n-th engine that joined is fed from lane ``n % num_lanes``.
    ``has_endgame``: slow engines do not get the longest; towards the end the longest go first, and idle engines get
    copies of what others hold.
    """

    num_lanes: int
    has_endgame: bool

    def room(self, facts: Facts) -> Room:
        """How much more the engine may get now."""
        ...


class PullPolicy:
    """Every engine holds what it can decode at once and a little more; towards the end, its share of what is left."""

    num_lanes = 1
    has_endgame = True

    def room(self, facts: Facts) -> Room:
        """Bounded by sequences and by tokens; at least one request fits an empty engine."""
        most = max(1, int(facts.capacity * facts.allowance))
        if facts.allowance > 1:
            most = max(most, facts.capacity + 1)
        num_extra = facts.capacity // 4
        if facts.num_left is not None:
            most = min(most, max(1, math.ceil(facts.num_left * facts.share)))
            num_extra = 0
        num_tokens = facts.num_kv_tokens * facts.allowance - facts.num_tokens if facts.num_kv_tokens else math.inf
        return Room(most - facts.num_in_flight, num_tokens, num_extra)


class StaticShards:
    """Each engine has its fixed part of the requests, given as it has room; a dead engine's part waits for it."""

    has_endgame = False

    def __init__(self, num_engines: int) -> None:
        self.num_lanes = num_engines

    def room(self, facts: Facts) -> Room:
        """What it should hold."""
        return Room(math.ceil(facts.capacity * facts.allowance) - facts.num_in_flight, math.inf, 0)


class BatchBarrier:
    """An engine gets the next batch when its last one is wholly answered."""

    num_lanes = 1
    has_endgame = False

    def __init__(self, size: int) -> None:
        self._size = size

    def room(self, facts: Facts) -> Room:
        """A whole batch or nothing."""
        return Room(0 if facts.num_in_flight else self._size, math.inf, 0)
