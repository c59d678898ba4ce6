"""How much an engine that asks for requests may get. Pure: facts in, numbers out."""

import math
from typing import NamedTuple


class Facts(NamedTuple):
    """What is known of the engine that asks, and of all.

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


def room_of(facts: Facts) -> Room:
    """What an engine can decode at once and a little more; towards the end, its share of what is left.

    Bounded by sequences and by tokens; at least one request fits an empty engine.
    """
    most = max(1, int(facts.capacity * facts.allowance))
    if facts.allowance > 1:
        most = max(most, facts.capacity + 1)
    # A group that is torn apart is read twice; a quarter more is what an engine holds beyond its capacity anyway.
    num_extra = facts.capacity // 4
    if facts.num_left is not None:
        most = min(most, max(1, math.ceil(facts.num_left * facts.share)))
        num_extra = 0
    num_tokens = facts.num_kv_tokens * facts.allowance - facts.num_tokens if facts.num_kv_tokens else math.inf
    return Room(most - facts.num_in_flight, num_tokens, num_extra)
