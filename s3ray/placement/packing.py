"""Which free GPUs one more engine takes: arithmetic on counts, from which ``place`` makes placements.

An engine of one GPU, or of a part of one, goes where most GPUs are free, so that such engines spread. A larger engine
goes where the fewest would be left, so that the next one finds whole nodes. The GPUs that train workers hold at the
same time are never taken.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from s3ray.config.job import GeneratorConfig
from s3ray.placement.plan import EnginePlacement

ENGINE_CPUS = 1
"""CPUs that an engine on GPUs reserves, on the node of its actor."""
WORKER_CPUS = 1
"""CPUs that a train worker with a GPU reserves."""
SLEEPER_SHARE = 0.6
"""Part of its GPU that an engine which can sleep keeps reserved: more than half, so that no second one fits."""
BESIDE_SLEEPER_SHARE = 0.4
"""Part of that GPU that a train worker reserves."""
_UNITS = 10_000
"""Ray counts parts of a GPU in units of one ten-thousandth."""

GpusByNode = tuple[tuple[str, int], ...]
"""An engine's nodes with the GPUs that it takes on each; its actor is on the first."""


def is_countable(gpu_share: float) -> bool:
    """Whether Ray can count this share: it is a multiple of 0.0001."""
    units = gpu_share * _UNITS
    return round(units) >= 1 and abs(units - round(units)) < 1e-6


@dataclass(slots=True, kw_only=True)
class FreeNode:
    """What is free on one node, and who may use it.

    ``num_gpus`` are whole GPUs; ``num_parts`` counts the engine-sized parts left on GPUs that are already shared.
    """

    node_id: str
    num_cpus: float
    num_gpus: int
    num_parts: int = 0
    for_engines: bool = True
    for_workers: bool = True

    def room_for_workers(self, less_gpus: int = 0, less_cpus: float = 0) -> int:
        """How many train workers would fit with so many GPUs and CPUs less."""
        if not self.for_workers:
            return 0
        return max(0, min(self.num_gpus - less_gpus, int((self.num_cpus - less_cpus) // WORKER_CPUS)))


class Packing:
    """The free GPUs of a cluster while equal engines take them one by one.

    ``nodes`` have everything free at first. An engine of one GPU takes ``gpu_share`` of it. Room for ``num_workers``
    train workers is never taken.
    """

    def __init__(
        self, nodes: Sequence[FreeNode], generator: GeneratorConfig, gpu_share: float, num_workers: int
    ) -> None:
        self._nodes = {node.node_id: node for node in nodes}
        self._tensor_parallel = generator.tensor_parallel
        self._world_size = generator.world_size
        self._per_gpu = _UNITS // round(gpu_share * _UNITS)
        self._largest = max((node.num_gpus for node in nodes if node.for_engines), default=0)
        self._spare = self.room_for_workers - num_workers

    @property
    def room_for_workers(self) -> int:
        """How many train workers fit on the free devices."""
        return sum(node.room_for_workers() for node in self._nodes.values())

    def reserve(self, placement: EnginePlacement) -> None:
        """Count an engine's GPUs and CPUs as taken, except on nodes that are lost."""
        for bundle in placement.bundles:
            self._reserve(bundle.node_id, bundle.num_gpus, bundle.num_cpus)

    def _reserve(self, node_id: str, num_gpus: float, num_cpus: float) -> None:
        """``num_gpus`` are whole GPUs, or one engine's part of one."""
        node = self._nodes.get(node_id)
        if node is None:
            return
        before = node.room_for_workers()
        node.num_cpus -= num_cpus
        if num_gpus >= 1:
            node.num_gpus -= round(num_gpus)
        elif num_gpus and node.num_parts:
            node.num_parts -= 1
        elif num_gpus:
            node.num_gpus -= 1
            node.num_parts += self._per_gpu - 1
        self._spare -= before - node.room_for_workers()

    def find(self, avoid: Collection[str] = ()) -> GpusByNode | None:
        """The GPUs for one more engine, on nodes to ``avoid`` only if nothing else fits; None if nothing fits."""
        usable = [node for node in self._nodes.values() if node.for_engines]
        found = self._find_among([node for node in usable if node.node_id not in avoid])
        return found or (self._find_among(usable) if avoid else None)

    def _find_among(self, nodes: Sequence[FreeNode]) -> GpusByNode | None:
        tensor_parallel, world_size = self._tensor_parallel, self._world_size
        if world_size == 1:
            fitting = [
                node for node in nodes if self._num_free(node) and self._may_take(node, 0 if node.num_parts else 1)
            ]
            return ((max(fitting, key=self._num_free).node_id, 1),) if fitting else None
        fitting = [node for node in nodes if node.num_gpus >= world_size and self._may_take(node, world_size)]
        if fitting:
            return ((min(fitting, key=lambda node: node.num_gpus).node_id, world_size),)
        return self._across(nodes, tensor_parallel if tensor_parallel <= self._largest else 1)

    def _across(self, nodes: Sequence[FreeNode], unit: int) -> GpusByNode | None:
        """Multiples of ``unit`` GPUs per node, on as few nodes as possible.

        vLLM numbers the GPUs of an engine node by node, so a stage of ``unit`` GPUs stays on one node.
        """
        missing, spare = self._world_size, self._spare
        parts: list[tuple[FreeNode, int]] = []
        # The first node hosts the actor, which needs a CPU; the workers of vLLM on the others need none.
        for node in sorted(nodes, key=lambda node: (node.num_cpus < ENGINE_CPUS, -node.num_gpus)):
            num = min(node.num_gpus, missing) // unit * unit
            num_cpus = 0 if parts else ENGINE_CPUS
            while num and self._loss(node, num, num_cpus) > max(0, spare):
                num -= unit
            if num:
                spare -= self._loss(node, num, num_cpus)
                missing -= num
                parts.append((node, num))
        if missing or parts[0][0].num_cpus < ENGINE_CPUS:
            return None
        return tuple((node.node_id, num) for node, num in parts)

    def _num_free(self, node: FreeNode) -> int:
        """How many more engines of one GPU, or of a part of one, fit on a node."""
        return node.num_gpus * self._per_gpu + node.num_parts

    def _may_take(self, node: FreeNode, num_gpus: int) -> bool:
        return node.num_cpus >= ENGINE_CPUS and self._loss(node, num_gpus, ENGINE_CPUS) <= max(0, self._spare)

    def _loss(self, node: FreeNode, num_gpus: int, num_cpus: float) -> int:
        """By how much the room for train workers would shrink."""
        return node.room_for_workers() - node.room_for_workers(num_gpus, num_cpus)
