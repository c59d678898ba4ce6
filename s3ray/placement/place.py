"""Decides on which node and device each engine and train worker runs, and checks that none would wait forever. Pure.

The check (``who_would_wait``) is independent of how engines are packed: it places engines and train workers on the
nodes one by one, with Ray's arithmetic.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from s3ray.config.job import RunConfig
from s3ray.errors import InputError
from s3ray.placement.packing import (
    BESIDE_SLEEPER_SHARE,
    ENGINE_CPUS,
    SLEEPER_SHARE,
    WORKER_CPUS,
    FreeNode,
    GpusByNode,
    Packing,
)
from s3ray.placement.plan import Bundle, EnginePlacement, NodeFacts, Plan
from s3ray.placement.refusals import (
    check_settings,
    cpu_engines_refused,
    deadlock_refused,
    gpu_engines_refused,
    needs_device,
    workers_refused,
)
from s3ray.placement.sleep import resolve_leave, sleep_limit_s

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
    """Which engine or train worker would never get its devices, in words; empty if all get theirs in each phase."""
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
            when = "when the engines have left" if plan.engines_leave else "beside the engines"
            return (
                f"train worker {number + 1} of {plan.num_workers} finds no node with {plan.cpus_per_worker} CPU and "
                f"{plan.gpus_per_worker:g} GPU {when}"
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


ROWS_PER_WORKER = 8
"""Rows of a step that a train worker on a GPU gets at least; with fewer, exchanging gradients costs what it saves.

An estimate for a model of DistilBERT's size, which nobody has measured.
"""


def most_workers(batch_size: int, device: str) -> int | None:
    """How many train workers are worth their devices; None: any number. Any number computes the same."""
    return max(1, batch_size // ROWS_PER_WORKER) if device == "gpu" else None


def without_idle_workers(config: RunConfig, nodes: Sequence[NodeFacts]) -> RunConfig:
    """The job with no more train workers than its batches have rows for."""
    most, student = most_workers(config.student.batch_size, _device(config, nodes)), config.student
    if most is None or student.workers <= most or student.least_workers > student.workers:  # the last is refused
        return config
    least = student.min_workers and min(student.min_workers, most)
    student = student.model_copy(update={"workers": most, "min_workers": least})
    return config.model_copy(update={"student": student})


def device_of(nodes: Sequence[NodeFacts]) -> str:
    """Where engines and students compute: ``gpu`` if any node has one, else ``cpu``."""
    return "gpu" if any(node.num_gpus for node in nodes) else "cpu"


def _device(config: RunConfig, nodes: Sequence[NodeFacts]) -> str:
    """As ``device_of``; on a cluster that starts nodes with GPUs when asked, there may be none yet."""
    return "gpu" if config.placement.elastic else device_of(nodes)


_PLENTY = 1_000_000  # CPUs, to find out whether more of them would help


def plan_placement(config: RunConfig, nodes: Sequence[NodeFacts]) -> Plan:
    """Place the engines and train workers of a run.

    Raises:
        InputError: something does not fit, or a setting has no meaning here; says the arithmetic and what would fit.
    """
    device = _device(config, nodes)
    config = leaving(config, resolve_leave(config, nodes))
    check_settings(config, nodes, device)
    if config.placement.elastic:
        return _plan_elastic(config, nodes)
    room = _packing(config, nodes, 0).room_for_workers if device == "gpu" else sum(node.num_cpus for node in nodes)
    if config.student.least_workers > room:
        raise workers_refused(config, room, f"{device.upper()}s", 0, 0)
    wanted = config.generator.engines if config.generates else 0
    if not needs_device(config):
        engines = _place_anywhere(nodes, wanted)
    elif device == "gpu":
        engines = _place_on_gpus(config, nodes, wanted)
    else:
        engines = _place_on_cores(config, nodes, wanted)
    workers = min(config.student.workers, room)
    left = sum(node.num_cpus for node in nodes) - sum(item.num_cpus for item in engines)
    plan = Plan(
        mode=config.placement.mode,
        device=device,
        engines=tuple(engines),
        num_wanted=wanted,
        num_workers=workers,
        cpus_per_worker=max(1, int(left // workers)) if device == "cpu" and len(nodes) == 1 else 1,
        gpus_per_worker=0 if device == "cpu" else BESIDE_SLEEPER_SHARE if config.placement.sleep_level else 1,
        worker_accelerator=config.student.accelerator,
        sleep_level=config.placement.sleep_level,
        sleep_s=sleep_limit_s(config.placement.sleep_level, nodes),
    )
    if deadlock := who_would_wait(plan, nodes):
        raise deadlock_refused(config, deadlock)
    return plan


def _plan_elastic(config: RunConfig, nodes: Sequence[NodeFacts]) -> Plan:
    """The plan for a cluster that is asked for nodes; it may bring any number, so none is refused for lack of room."""
    wanted = config.generator.engines if config.generates else 0
    asks = needs_device(config)
    return Plan(
        mode=config.placement.mode,
        device="gpu",
        engines=() if asks else tuple(_place_anywhere(nodes, wanted)),
        num_wanted=wanted,
        num_workers=config.student.workers,
        cpus_per_worker=WORKER_CPUS,
        gpus_per_worker=1,
        worker_accelerator=config.student.accelerator,
        is_elastic=True,
        asking=place_on(config, "", "") if asks else None,
        num_at_first=config.generator.min_engines or 1,
    )


def place_on(config: RunConfig, engine: str, node_id: str) -> EnginePlacement:
    """The placement of an engine whose devices Ray has reserved on a node."""
    return replace(_on_gpus(config, ((node_id, config.generator.world_size),)), engine=engine)


def leaving(config: RunConfig, leave: str) -> RunConfig:
    """The job whose engines make way like this."""
    return config.model_copy(update={"placement": config.placement.model_copy(update={"leave": leave})})


def as_planned(config: RunConfig, plan: Plan) -> RunConfig:
    """The job with what the plan decided: how its engines make way."""
    return leaving(config, f"sleep_{plan.sleep_level}" if plan.sleep_level else "stop")


def place_engine(
    config: RunConfig,
    engine: str,
    nodes: Sequence[NodeFacts],
    taken: Sequence[EnginePlacement],
    avoid: Collection[str] = (),
    *,
    device: str,
) -> EnginePlacement | None:
    """Find a place for one more engine in addition to those in ``taken``; None if nothing fits now.

    Used while a run is under way, when an engine has lost its node or a node has joined. ``device`` is the plan's,
    because a cluster does not become a CPU cluster by losing its last node with GPUs. Nodes to ``avoid`` are used only
    if nothing else fits. In split mode the devices of the train workers stay free.
    """
    if not nodes:
        return None
    if not needs_device(config):
        usable = [node for node in nodes if node.node_id not in avoid] or nodes
        num_there = Counter(item.node_id for item in taken)
        best = max(usable, key=lambda node: node.num_cpus / (num_there[node.node_id] + 1))
        return _anywhere(engine, best.node_id)
    if device == "cpu":
        placement = _place_on_cores_beside(config, nodes, taken, avoid)
    else:
        placement = _place_on_gpus_beside(config, nodes, taken, avoid)
    return placement and replace(placement, engine=engine)


def _num_beside(config: RunConfig) -> int:
    """Number of train workers that hold devices at the same time as the engines do."""
    return config.student.least_workers if config.placement.mode == "split" else 0


# -- engines on GPUs ---------------------------------------------------------------------------------------------------


def _place_on_gpus(config: RunConfig, nodes: Sequence[NodeFacts], wanted: int) -> list[EnginePlacement]:
    found = _pack(config, nodes, wanted, _num_beside(config))
    least = config.generator.min_engines or wanted
    if len(found) < least:
        raise _gpu_refusal(config, nodes, least, len(found))
    # Engines with successive numbers share a node, fullest nodes first: equal engines then share a line of the plan.
    order = {node.node_id: place for place, node in enumerate(nodes)}
    num_there = Counter(item.node_ids for item in found)
    found.sort(key=lambda item: (-num_there[item.node_ids], order[item.node_id]))
    return [replace(item, engine=f"engine-{number}") for number, item in enumerate(found)]


def _place_on_gpus_beside(
    config: RunConfig, nodes: Sequence[NodeFacts], taken: Sequence[EnginePlacement], avoid: Collection[str]
) -> EnginePlacement | None:
    packing = _packing(config, nodes, _num_beside(config))
    for item in taken:
        packing.reserve(item)
    found = packing.find(avoid)
    return _on_gpus(config, found) if found else None


def _pack(config: RunConfig, nodes: Sequence[NodeFacts], wanted: int, num_workers: int) -> list[EnginePlacement]:
    """As many engines as fit next to ``num_workers`` train workers, at most ``wanted``."""
    packing = _packing(config, nodes, num_workers)
    placed: list[EnginePlacement] = []
    while len(placed) < wanted and (found := packing.find()):
        placed.append(_on_gpus(config, found))
        packing.reserve(placed[-1])
    return placed


def _packing(config: RunConfig, nodes: Sequence[NodeFacts], num_workers: int) -> Packing:
    generator, student = config.generator, config.student
    free = [
        FreeNode(
            node_id=node.node_id,
            num_cpus=node.num_cpus,
            num_gpus=node.num_gpus,
            for_engines=generator.accelerator in (None, node.accelerator),
            for_workers=student.accelerator in (None, node.accelerator),
        )
        for node in nodes
    ]
    return Packing(free, generator, _gpu_share(config), num_workers)


def _gpu_share(config: RunConfig) -> float:
    """The part of its GPU that an engine of one GPU reserves."""
    return SLEEPER_SHARE if config.placement.sleep_level else config.generator.gpu_share


def _on_gpus(config: RunConfig, found: GpusByNode) -> EnginePlacement:
    generator, world_size = config.generator, config.generator.world_size
    if len(found) == 1:
        [(node_id, num_gpus)] = found
        gpus = num_gpus if world_size > 1 else _gpu_share(config)
        bundles: tuple[Bundle, ...] = (Bundle(node_id=node_id, num_cpus=ENGINE_CPUS, num_gpus=gpus),)
    else:
        node_ids = [node_id for node_id, num_gpus in found for _ in range(num_gpus)]
        cpus = [ENGINE_CPUS] + [0] * (world_size - 1)
        bundles = tuple(
            Bundle(node_id=node_id, num_cpus=num, num_gpus=1) for node_id, num in zip(node_ids, cpus, strict=True)
        )
    return EnginePlacement(
        engine="",
        device="gpu",
        bundles=bundles,
        executor="ray" if len(found) > 1 else "mp" if world_size > 1 else "uni",
        memory_share=generator.gpu_memory_utilization * generator.gpu_share,
        can_sleep=config.placement.sleep_level > 0,
    )


def _gpu_refusal(config: RunConfig, nodes: Sequence[NodeFacts], least: int, num_fitting: int) -> InputError:
    """The error that says what the engines lack: room next to the train workers, CPUs, or GPUs."""
    beside = _num_beside(config)
    alone = _pack(config, nodes, least, 0)
    if len(alone) == least:
        rest = _packing(config, nodes, 0)
        for item in alone:
            rest.reserve(item)
        return workers_refused(config, rest.room_for_workers, "GPUs", least, num_fitting)
    rich = [replace(node, num_cpus=_PLENTY) for node in nodes]
    wants_cpus = len(_pack(config, rich, least, beside)) > num_fitting
    return gpu_engines_refused(config, nodes, least, num_fitting, wants_cpus=wants_cpus)


# -- engines on cores, and engines that need no device -----------------------------------------------------------------


def _place_on_cores(config: RunConfig, nodes: Sequence[NodeFacts], wanted: int) -> list[EnginePlacement]:
    total = sum(node.num_cpus for node in nodes)
    fitting = min(wanted, total - _num_beside(config))
    least = config.generator.min_engines or wanted
    if least > total:
        raise cpu_engines_refused(config, total, least, fitting)
    if least > fitting:
        raise workers_refused(config, total - least, "CPUs", least, fitting)
    counts = _spread(fitting, nodes)
    placed = [
        _on_cores(config, node, share, count)
        for node, count in zip(nodes, counts, strict=True)
        for share in range(count)
    ]
    return [replace(item, engine=f"engine-{number}") for number, item in enumerate(placed)]


def _on_cores(config: RunConfig, node: NodeFacts, share: int, num_shares: int) -> EnginePlacement:
    """The engine reserves a CPU in split mode, and none in swap mode, where the train workers get all of them."""
    num_cpus = 1 if config.placement.mode == "split" else 0
    return EnginePlacement(
        engine="",
        device="cpu",
        bundles=(Bundle(node_id=node.node_id, num_cpus=num_cpus, num_gpus=0),),
        executor="uni",
        share=share,
        num_shares=num_shares,
    )


def _place_on_cores_beside(
    config: RunConfig, nodes: Sequence[NodeFacts], taken: Sequence[EnginePlacement], avoid: Collection[str]
) -> EnginePlacement | None:
    """A free part of a node's cores. The parts do not change, so a node takes no more engines than at the start."""
    held = sum(item.num_cpus for item in taken if item.node_id in {node.node_id for node in nodes})
    is_split = config.placement.mode == "split"
    if is_split and sum(node.num_cpus for node in nodes) - held < 1 + _num_beside(config):
        return None
    options: list[tuple[bool, float, EnginePlacement]] = []
    for node, count in zip(nodes, _spread(config.generator.engines, nodes), strict=True):
        there = [item for item in taken if item.node_id == node.node_id]
        num_shares = there[0].num_shares if there else max(1, min(count, node.num_cpus))
        shares = set(range(num_shares)) - {item.share for item in there}
        if shares and node.num_cpus:
            option = _on_cores(config, node, min(shares), num_shares)
            options.append((node.node_id not in avoid, node.num_cpus / num_shares, option))
    return max(options, key=lambda option: option[:2])[2] if options else None


def _place_anywhere(nodes: Sequence[NodeFacts], wanted: int) -> list[EnginePlacement]:
    node_ids = [node.node_id for node, count in zip(nodes, _spread(wanted, nodes), strict=True) for _ in range(count)]
    return [_anywhere(f"engine-{number}", node_id) for number, node_id in enumerate(node_ids)]


def _anywhere(engine: str, node_id: str) -> EnginePlacement:
    return EnginePlacement(engine=engine, device="cpu", bundles=(Bundle(node_id=node_id, num_cpus=0, num_gpus=0),))


def _spread(num_engines: int, nodes: Sequence[NodeFacts]) -> list[int]:
    """Number of engines per node; each engine goes to the node with the most cores per engine."""
    counts = [0] * len(nodes)
    for _ in range(num_engines):
        best = max(range(len(nodes)), key=lambda place: nodes[place].num_cpus / (counts[place] + 1))
        counts[best] += 1
    return counts
