"""Where the engines of a pool may start: the nodes as they were last seen, and what they lack there."""

import math
import time
from collections.abc import Callable, Collection, Sequence

from s3ray.cluster import ending_nodes, node_facts
from s3ray.config.job import RunConfig
from s3ray.generator.demand import Demand
from s3ray.generator.node_models import TRY_AGAIN_S, NodeModels
from s3ray.generator.replica import Replica
from s3ray.placement.place import place_engine
from s3ray.placement.plan import NodeFacts

_NO_ROOM = "no node has room for it"
_FETCHES = "its node fetches the model"
# Listing the nodes costs a call to Ray's head, and a node takes longer than this to come or go.
_LOOK_EVERY_S = 3.0
# Before its node is taken away, an engine's requests go to others; its process and their list need a moment for that.
_LAST_S = 5.0


class KnownNodes:
    """Looks at the cluster when what it knows is too old. Times are on the caller's clock."""

    def __init__(
        self,
        list_nodes: Callable[[], list[NodeFacts]] = node_facts,
        list_ends: Callable[[], dict[str, float]] = ending_nodes,
    ) -> None:
        """What the two functions of ``s3ray.cluster`` say is looked at."""
        self._list_nodes = list_nodes
        self._list_ends = list_ends
        self._nodes: list[NodeFacts] = []
        self._ends: dict[str, float] = {}
        self._looked = -math.inf

    def staying(self, now: float) -> list[NodeFacts]:
        """The living nodes, without those that are about to be taken away."""
        self._look(now)
        return self._nodes

    def living(self, now: float) -> set[str]:
        """The ids of all living nodes."""
        self._look(now)
        return {node.node_id for node in self._nodes} | set(self._ends)

    def ending(self, now: float) -> Collection[str]:
        """The ids of those that are about to be taken away."""
        self._look(now)
        return self._ends.keys()

    def end_soon(self, node_ids: Collection[str], now: float) -> bool:
        """Whether one of them is taken away within a few seconds."""
        self._look(now)
        return any(self._ends.get(node_id, math.inf) - now < _LAST_S for node_id in node_ids)

    def forget(self) -> None:
        """A node may just have gone, so what is known is out of date."""
        self._looked = -math.inf

    def _look(self, now: float) -> None:
        if now - self._looked > _LOOK_EVERY_S:
            self._nodes, self._looked = self._list_nodes(), now
            self._ends = {node_id: now + end - time.time() for node_id, end in self._list_ends().items()}


class Places:
    """Finds places for the engines of a pool, and sees to it that their nodes have the model."""

    def __init__(
        self, config: RunConfig, device: str, nodes: KnownNodes, replicas: Sequence[Replica], demand: Demand | None
    ) -> None:
        """``device`` is the plan's. Without a ``demand`` engines are placed on the nodes that are there."""
        self._config = config
        self._device = device
        self._nodes = nodes
        self._replicas = replicas
        self._demand = demand
        self._models = NodeModels(config.generator.model if config.generator.loads_model else "")

    def find(self, replica: Replica, avoided: Collection[str], now: float) -> tuple[bool, str]:
        """Keep an engine's place, or find it another one; also what it has just begun to wait for, if nothing is there.

        Nodes to be ``avoided`` are used only if nothing else has room.
        """
        nodes = self._nodes.staying(now)
        if replica.placement is not None and replica.nodes <= {node.node_id for node in nodes} - set(avoided):
            return True, ""
        if self._demand:
            if replica.placement is not None:
                replica.remove()  # its node has gone while it waited for the model
            return self._demand.find(replica, avoided, now)
        others = [each.placement for each in self._replicas if each is not replica and each.placement is not None]
        place = place_engine(self._config, replica.engine, nodes, others, device=self._device, avoid=avoided)
        if place is not None:
            replica.settle(place)
            return True, ""
        return False, _NO_ROOM if replica.wait_for_room(now + _LOOK_EVERY_S, _NO_ROOM) else ""

    def has_model(self, replica: Replica, now: float) -> tuple[bool, str]:
        """Whether its nodes have an engine's model; else they fetch it, and its start waits. What it waits for, if new.

        Raises:
            InputError: no node can get the model.
        """
        if self._models.are_on(replica.nodes):
            return True, ""
        problem = self._models.problem(replica.nodes)
        is_new = replica.wait_for_room(now + TRY_AGAIN_S, problem) if problem else replica.wait_for_model(_FETCHES)
        return False, (problem or _FETCHES) if is_new else ""
