"""What a pool asks of a cluster that starts nodes when they are asked for, and what it gives back.

An engine asks by a placement group of its own on any node. While that waits, Ray's autoscaler counts it as demand. It
belongs to the driver's job, so that nothing stays asked for when the driver dies.
"""

import math
from collections.abc import Collection, Sequence

from s3ray.config.job import RunConfig
from s3ray.generator.replica import Replica, ReplicaState
from s3ray.generator.scheduling.dispatch import Dispatcher
from s3ray.generator.scheduling.growth import IDLE_S, Growth, who_is_idle
from s3ray.generator.scheduling.queue import RequestSource
from s3ray.placement.place import place_on
from s3ray.placement.plan import Plan

ASKED = "no node has room for it, and the cluster is asked for one"
IDLE = "nothing is left for it to do"
# Looking whether devices have been given costs a call to Ray's head. Free ones come at once, a node takes longer.
_LOOK_SOON_S = 0.2
_SOON_S = 2.0
_LOOK_EVERY_S = 1.0


class Demand:
    """Decides which engines of an elastic pool may start, and asks for their places. Used by the pool's thread."""

    def __init__(self, config: RunConfig, plan: Plan, replicas: Sequence[Replica], dispatcher: Dispatcher) -> None:
        """``plan.asking`` says what each engine asks for, and ``plan.num_at_first`` how many do as soon as they can."""
        assert plan.asking is not None, "the cluster is asked for engines"
        self._config = config
        self._asking = plan.asking
        self._replicas = replicas
        self._dispatcher = dispatcher
        self._growth = Growth(least=plan.num_at_first, most=len(replicas), num_seqs=config.generator.num_seqs)
        self._is_stage = False
        self._waited_at = -math.inf
        self._num_more = 0

    def want_all(self) -> None:
        """Every engine is wanted, whether its start pays or not."""
        num = len(self._replicas)
        self._growth = Growth(least=num, most=num, num_seqs=self._config.generator.num_seqs)

    def look(self, source: RequestSource, now: float) -> None:
        """See what there is to do; a stage is under way."""
        self._is_stage = True
        if not any(replica.state is ReplicaState.READY for replica in self._replicas):
            self._dispatcher.look_ahead(source, self._config.generator.num_seqs * len(self._replicas))
        if self._dispatcher.work.num_waiting:
            self._waited_at = now

    def end(self) -> None:
        """No stage is under way."""
        self._is_stage = False

    def wants(self, replica: Replica) -> bool:
        """Whether an engine that is not running should be."""
        return replica.is_asking or self._num_more > 0

    def find(self, replica: Replica, avoid: Collection[str], now: float) -> tuple[bool, str]:
        """Whether an engine has been given devices; if not, what it waits for, if that is news.

        It asks for them if it has not yet.
        """
        if not replica.is_asking:
            self._num_more -= 1
            replica.ask(self._asking, self._config.name, self._config.generator.accelerator, avoid, now)
        if node := replica.granted_node():
            replica.settle(place_on(self._config, replica.engine, node))
            return True, ""
        if replica.asked_s(now) < _SOON_S:
            replica.look_again(now + _LOOK_SOON_S)
            return False, ""
        return False, ASKED if replica.wait_for_room(now + _LOOK_EVERY_S, ASKED) else ""

    def note_ready(self, replica: Replica, now: float) -> None:
        """An engine can take work."""
        self._growth.note_start(replica.asked_s(now))

    def review(self, now: float) -> list[Replica]:
        """Decide anew how many engines are wanted.

        Returns those to stop, for which there is nothing to do: idle ones, and all that start or ask for a node.
        """
        work = self._dispatcher.work if self._is_stage else None
        ready = [each for each in self._replicas if each.state is ReplicaState.READY and not each.is_draining]
        coming = [each for each in self._replicas if each.state is ReplicaState.STARTING or each.is_asking]
        num_there = len(ready) + len(coming)
        self._num_more = self._growth.num_worth(work, len(ready), len(coming)) - num_there
        if work is None or work.num_waiting or now - self._waited_at < IDLE_S:
            return []
        idle_s = {replica.engine: replica.idle_s(now) for replica in ready if not self._num_held(replica)}
        idle = who_is_idle(idle_s, len(ready) - len(idle_s), work)
        return [replica for replica in ready if replica.engine in idle] + coming

    def _num_held(self, replica: Replica) -> int:
        return self._dispatcher.num_in_flight(replica.engine)
