"""Which engines make room for training, and which may come back: GPU by GPU, so that what is free are whole GPUs. Pure.

A *unit* is what leaves as one: an engine with all of its GPUs, or all engines that share a GPU. Ray chooses the GPU of
an engine that takes a part of one, and the engine says which once its process runs.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """An engine that holds devices on ``node``.

    ``gpu`` is the one that it shares with others; empty where it shares none, or has not said yet. One that
    ``is_leaving`` gets no more requests.
    """

    engine: str
    node: str
    gpu: str = ""
    num_in_flight: int = 0
    is_ready: bool = True
    is_leaving: bool = False


def num_units(holders: Iterable[Holder]) -> int:
    """Units that are held; an engine that has not named its GPU may be alone on one."""
    return len({_unit(holder) for holder in holders})


def who_leaves(holders: Sequence[Holder], num_allowed: int, per_unit: int) -> list[str]:
    """The engines that must leave, so that no more than ``num_allowed`` units stay; those that leave already included.

    ``per_unit`` is how many engines may share a GPU. Units with the least to do leave first, before all others those
    that are still loading.
    """
    units: defaultdict[tuple[str, str], list[Holder]] = defaultdict(list)
    for holder in holders:
        units[_unit(holder)].append(holder)
    leaving = [unit for unit in units.values() if any(holder.is_leaving for holder in unit)]
    staying = [unit for unit in units.values() if not any(holder.is_leaving for holder in unit)]
    staying.sort(key=lambda unit: (any(each.is_ready for each in unit), sum(each.num_in_flight for each in unit)))
    while staying and _fewest_units([each for unit in staying for each in unit], per_unit) > num_allowed:
        leaving.append(staying.pop(0))
    return [holder.engine for unit in leaving for holder in unit]


def may_join(holders: Sequence[Holder], node: str, num_allowed: int, per_unit: int) -> bool:
    """Whether one more engine may start on ``node``, and no more than ``num_allowed`` units would be held.

    Not where engines of parts of a GPU are leaving: Ray would put it beside the last one of them.
    """
    if per_unit > 1 and any(holder.is_leaving and holder.node == node for holder in holders):
        return False
    return _fewest_units([*holders, Holder(engine="", node=node)], per_unit) <= num_allowed


def _unit(holder: Holder) -> tuple[str, str]:
    return (holder.node, holder.gpu) if holder.gpu else ("", holder.engine)


def _fewest_units(holders: Sequence[Holder], per_unit: int) -> int:
    """Units held at least: Ray fills the GPUs that are shared already with those that have not named theirs."""
    known = Counter((holder.node, holder.gpu) for holder in holders if holder.gpu)
    unknown = Counter(holder.node for holder in holders if not holder.gpu)
    beside = Counter[str]()
    for (node, _), num in known.items():
        beside[node] += per_unit - num
    return len(known) + sum(math.ceil(max(0, num - beside[node]) / per_unit) for node, num in unknown.items())
