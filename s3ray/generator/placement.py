"""What fits where. Pure: facts about nodes in, a plan or a refusal with its arithmetic out."""

from collections.abc import Sequence
from dataclasses import dataclass

from s3ray.config import RunConfig
from s3ray.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """One node of the cluster: whole CPUs and GPUs that Ray counts there."""

    node_id: str
    num_cpus: int
    num_gpus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePlacement:
    """Where one engine goes.

    On a CPU node it owns every core of the ``share``-th of ``num_shares`` equal parts; on GPUs Ray picks the devices.
    ``num_cpus`` is what it reserves for its whole life, 0 where it takes turns with the train workers.
    """

    engine: str
    node_id: str | None
    device: str
    num_gpus: int
    num_cpus: float
    share: int = 0
    num_shares: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Who holds what: the engines, and the train workers' reservation each."""

    mode: str
    device: str
    engines: tuple[EnginePlacement, ...]
    num_workers: int
    cpus_per_worker: int
    gpus_per_worker: int

    def lines(self) -> list[str]:
        """The plan in words, one line per holder."""
        lines = []
        for placement in self.engines:
            holds = f"{placement.num_gpus} GPU" if placement.num_gpus else f"part {placement.share + 1} of "
            if not placement.num_gpus:
                holds += f"{placement.num_shares} of the node's cores"
            lines.append(f"{placement.engine}: {holds}")
        per = f"{self.gpus_per_worker} GPU" if self.gpus_per_worker else f"{self.cpus_per_worker} CPU"
        lines.append(f"{self.num_workers} train worker{'s' * (self.num_workers > 1)}: {per} each")
        return lines


def plan_placement(config: RunConfig, nodes: Sequence[NodeFacts], where: str = "") -> Plan:
    """Place the engines and train workers of a run.

    Raises:
        InputError: something does not fit; the message has the arithmetic and what would fit.
    """
    num_engines = config.generator.engines if config.generates else 0
    if any(node.num_gpus for node in nodes):
        return _plan_gpus(config, nodes, num_engines, where)
    return _plan_cpus(config, nodes, num_engines, where)


def _plan_gpus(config: RunConfig, nodes: Sequence[NodeFacts], num_engines: int, where: str) -> Plan:
    is_fake = config.generator.engine == "fake"
    tensor_parallel = 0 if is_fake else config.generator.tensor_parallel
    free = {node.node_id: node.num_gpus for node in nodes}
    total = sum(free.values())
    engines: list[EnginePlacement] = []
    for number in range(num_engines):
        node_id = max(free, key=lambda node: free[node])
        if free[node_id] < tensor_parallel:
            fitting = sum(node.num_gpus // tensor_parallel for node in nodes)
            raise InputError(
                f"{num_engines} engines of {tensor_parallel} GPU each do not fit: the cluster has {total} GPUs on "
                f"{len(nodes)} nodes, an engine stays on one node",
                where=where,
                field="generator.engines",
                hint=f"At most {fitting} such engines fit. Lower `engines` or `tensor_parallel`, or add nodes.",
            )
        free[node_id] -= tensor_parallel
        engines.append(
            EnginePlacement(
                engine=f"engine-{number}", node_id=node_id, device="gpu", num_gpus=tensor_parallel, num_cpus=0
            )
        )
    left = sum(free.values()) if config.placement.mode == "split" else total
    _check_workers(config.student.workers, left, "GPUs", config.placement.mode, where)
    return Plan(
        mode=config.placement.mode,
        device="gpu",
        engines=tuple(engines),
        num_workers=config.student.workers,
        cpus_per_worker=1,
        gpus_per_worker=1,
    )


def _plan_cpus(config: RunConfig, nodes: Sequence[NodeFacts], num_engines: int, where: str) -> Plan:
    if config.generator.tensor_parallel > 1 and num_engines and config.generator.engine == "vllm":
        hint = "Set it to 1, or run on a cluster with GPUs."
        raise InputError(
            "needs GPUs, and the cluster has none", where=where, field="generator.tensor_parallel", hint=hint
        )
    total = sum(node.num_cpus for node in nodes)
    is_split = config.placement.mode == "split"
    takes_cores = config.generator.engine == "vllm"
    if takes_cores and num_engines > total:
        raise InputError(
            f"{num_engines} engines do not fit: every engine needs a core of its own and the cluster has {total} CPUs",
            where=where,
            field="generator.engines",
            hint=f"At most {total} fit here. Lower `engines`, or run on a larger cluster.",
        )
    per_node = _spread(num_engines, nodes)
    engines: list[EnginePlacement] = []
    for node, count in zip(nodes, per_node, strict=True):
        for share in range(count):
            engines.append(
                EnginePlacement(
                    engine=f"engine-{len(engines)}",
                    node_id=node.node_id,
                    device="cpu",
                    num_gpus=0,
                    num_cpus=1 if is_split and takes_cores else 0,
                    share=share,
                    num_shares=count,
                )
            )
    left = total - num_engines if is_split and takes_cores else total
    workers = config.student.workers
    _check_workers(workers, left, "CPUs", config.placement.mode, where)
    return Plan(
        mode=config.placement.mode,
        device="cpu",
        engines=tuple(engines),
        num_workers=workers,
        cpus_per_worker=max(1, left // workers) if len(nodes) == 1 else 1,
        gpus_per_worker=0,
    )


def _spread(num_engines: int, nodes: Sequence[NodeFacts]) -> list[int]:
    """Engines per node, each next one on the node with most cores per engine."""
    counts = [0] * len(nodes)
    for _ in range(num_engines):
        best = max(range(len(nodes)), key=lambda place: nodes[place].num_cpus / (counts[place] + 1))
        counts[best] += 1
    return counts


def _check_workers(num_workers: int, left: int, unit: str, mode: str, where: str) -> None:
    if num_workers <= left:
        return
    beside = " beside the engines (placement.mode: split)" if mode == "split" else ""
    raise InputError(
        f"{num_workers} train workers do not fit: {left} {unit} are there for them{beside}",
        where=where,
        field="student.workers",
        hint=f"At most {left} fit. Lower `workers`" + (", or use placement.mode: swap." if beside else "."),
    )
