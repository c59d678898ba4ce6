"""Walks a plan through a round with Ray's arithmetic: who would wait for devices for ever is found before the start.

Independent of how ``placement`` packs: engines and train workers are put on the nodes one by one. Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from s3ray.generator.plan import NodeFacts, Plan

_TINY = 1e-6  # sums of parts of a GPU are not exact


@dataclass(slots=True, kw_only=True)
class _Node:
    """What is free on a node: CPUs, and a share of each of its GPUs."""

    node_id: str
    accelerator: str
    cpus: float
    gpus: list[float]

    def take(self, cpus: float, gpus: float) -> bool:
        """Reserve as Ray does: whole GPUs, or a part of the GPU that it fills best."""
        if cpus > self.cpus + _TINY:
            return False
        if gpus > 1:
            whole = [place for place, free in enumerate(self.gpus) if free > 1 - _TINY]
            taken = whole[: round(gpus)]
            if len(taken) < round(gpus):
                return False
            for place in taken:
                self.gpus[place] = 0.0
        elif gpus:
            fitting = [place for place, free in enumerate(self.gpus) if free > gpus - _TINY]
            if not fitting:
                return False
            self.gpus[min(fitting, key=lambda place: self.gpus[place])] -= gpus
        self.cpus -= cpus
        return True


def who_would_wait(plan: Plan, nodes: Sequence[NodeFacts]) -> str:
    """Which engine or train worker would never get its devices, in words; empty if each phase finds its own."""
    free = _free(nodes)
    for engine in plan.engines:
        for bundle in engine.bundles:
            there = free.get(bundle.node_id)
            if there is None or not there.take(bundle.num_cpus, bundle.num_gpus):
                return (
                    f"{engine.engine} finds no {bundle.num_gpus:g} GPU and {bundle.num_cpus:g} CPU on {bundle.node_id}"
                )
    if plan.engines_leave:
        free = _free(nodes)
    usable = [node for node in free.values() if plan.worker_accelerator in (None, node.accelerator)]
    for number in range(plan.num_workers):
        if not any(node.take(plan.cpus_per_worker, plan.gpus_per_worker) for node in usable):
            beside = "when the engines have left" if plan.engines_leave else "beside the engines"
            return (
                f"train worker {number + 1} of {plan.num_workers} finds no node with {plan.cpus_per_worker} CPU and "
                f"{plan.gpus_per_worker:g} GPU {beside}"
            )
    return ""


def _free(nodes: Sequence[NodeFacts]) -> dict[str, _Node]:
    return {
        node.node_id: _Node(
            node_id=node.node_id,
            accelerator=node.accelerator,
            cpus=node.num_cpus,
            gpus=[1.0] * node.num_gpus,
        )
        for node in nodes
    }
