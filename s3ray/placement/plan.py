"""The values of placement: what nodes have, and who holds which devices. ``place`` decides, the pool carries it out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

_LISTED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """One living node of the cluster: the whole CPUs and GPUs that Ray counts there.

    ``accelerator`` is the type of its GPUs in Ray's label ``ray.io/accelerator-type``, empty if unknown; ``memory_gib``
    is the host memory that Ray may hand out, 0 if unknown.
    """

    node_id: str
    num_cpus: int
    num_gpus: int
    accelerator: str = ""
    memory_gib: float = 0.0


def in_words(nodes: Sequence[NodeFacts]) -> str:
    """What a cluster has: ``2 nodes, 32 CPU cores, 16 GPUs (H100)``."""
    num_gpus = sum(node.num_gpus for node in nodes)
    types = ", ".join(sorted({node.accelerator for node in nodes if node.num_gpus and node.accelerator}))
    gpus = f"{num_gpus} GPU{'s' * (num_gpus > 1)}" + (f" ({types})" if types else "") if num_gpus else "no GPU"
    return f"{len(nodes)} node{'s' * (len(nodes) > 1)}, {sum(node.num_cpus for node in nodes)} CPU cores, {gpus}"


def workers_stay(mode: str, device: str) -> bool:
    """Whether train workers wait for the next student; not where engines need their GPUs meanwhile."""
    return device == "cpu" or mode == "split"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What an engine reserves on one node in one piece; both counts may be 0."""

    node_id: str
    num_cpus: float
    num_gpus: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePlacement:
    """Where one engine goes: the bundles of its placement group, with its actor in the first.

    ``executor`` is vLLM's (uni, mp or ray), empty for engines that need no device. ``memory_share`` is the part of the
    memory of each of its GPUs that the engine may take. On a CPU node the cores are divided into ``num_shares`` equal
    parts, and the engine owns part number ``share``. An engine that ``can_sleep`` shares its GPU with a train worker.
    """

    engine: str
    device: str
    bundles: tuple[Bundle, ...]
    executor: str = ""
    memory_share: float = 0.0
    share: int = 0
    num_shares: int = 1
    can_sleep: bool = False

    @property
    def node_id(self) -> str:
        """The node of its actor."""
        return self.bundles[0].node_id

    @property
    def node_ids(self) -> tuple[str, ...]:
        """Its nodes, the actor's first."""
        return tuple(dict.fromkeys(bundle.node_id for bundle in self.bundles))

    @property
    def num_gpus(self) -> float:
        """GPUs in all; below 1 where engines share one."""
        return sum(bundle.num_gpus for bundle in self.bundles)

    @property
    def num_cpus(self) -> float:
        """CPUs in all; 0 if engines and train workers take turns on the same cores."""
        return sum(bundle.num_cpus for bundle in self.bundles)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Who holds what: the placements of the engines, and what each train worker reserves.

    ``engines`` may be fewer than ``num_wanted`` (``generator.min_engines``). Train workers go to nodes with the label
    ``worker_accelerator``, or to any node if that is None. ``workers_asked`` is what the job asks for, where its
    batches have too few rows for so many, else 0. Engines may take ``sleep_s`` to fall asleep.

    Where the cluster ``is_elastic``, it is asked for nodes. Engines that need devices then have no place in the plan:
    each asks for what ``asking`` holds, on whatever node, and ``num_at_first`` of them do so as soon as there is work.
    """

    mode: str
    device: str
    engines: tuple[EnginePlacement, ...]
    num_wanted: int
    num_workers: int
    cpus_per_worker: int
    gpus_per_worker: float
    worker_accelerator: str | None = None
    sleep_level: int = 0
    sleep_s: float = 0.0
    workers_asked: int = 0
    is_elastic: bool = False
    asking: EnginePlacement | None = None
    num_at_first: int = 0

    @property
    def num_planned(self) -> int:
        """Engines that have a place, or may ask for one."""
        return self.num_wanted if self.asking else len(self.engines)

    @property
    def engines_per_gpu(self) -> int:
        """How many engines may share a GPU; 1 where each has whole ones, or none."""
        first = self.asking or next(iter(self.engines), None)
        share = first.num_gpus if first else 0.0
        return int(1 / share + 1e-6) if 0 < share < 1 else 1

    @property
    def engines_leave(self) -> bool:
        """Whether engines give their devices back for every training; else they stay idle (on CPUs) or sleep."""
        return self.mode == "swap" and self.device == "gpu" and not self.sleep_level

    @property
    def workers_stay(self) -> bool:
        """Whether train workers wait for the next student."""
        return workers_stay(self.mode, self.device)

    def lines(self) -> list[str]:
        """The plan in words: a line for each group of engines that are placed alike, and one for the train workers."""
        lines = list(_engine_lines(self.engines))
        if self.asking:
            lines.append(self._asking_line(self.asking))
        elif len(self.engines) < self.num_wanted:
            missing = self.num_wanted - len(self.engines)
            lines.append(f"engines that wait for nodes to join: {missing} of {self.num_wanted}")
        per = f"{self.gpus_per_worker:g} GPU" if self.gpus_per_worker else f"{self.cpus_per_worker} CPU"
        if self.worker_accelerator:
            per += f" ({self.worker_accelerator})"
        line = f"{self.num_workers} train worker{'s' * (self.num_workers > 1)}: {per} each"
        line += ", for which the cluster is asked" if self.is_elastic else ""
        if self.num_planned:
            line += ", in turns with the engines" if self.mode == "swap" else ", beside the engines"
            line += ", which sleep meanwhile" if self.sleep_level else ""
        line += ", kept between students" if self.workers_stay else ", new for each student"
        if self.workers_asked:
            line += f" (not {self.workers_asked}: a step would have fewer than 8 rows for each; see student.batch_size)"
        return [*lines, line]

    def _asking_line(self, asking: EnginePlacement) -> str:
        """What the cluster would be asked for."""
        each = f"{asking.num_gpus:g} GPU and {asking.num_cpus:g} CPU on one node for each engine ({asking.executor})"
        if self.num_at_first == self.num_wanted:
            return f"the cluster is asked for {each}: for {self.num_wanted}"
        return (
            f"the cluster is asked for {each}: for {self.num_at_first} at first, for up to {self.num_wanted} where the "
            "start of a node pays"
        )


def _engine_lines(engines: Sequence[EnginePlacement]) -> Iterator[str]:
    """One line for successive runs that look alike; a run is a series of engines on the same nodes."""
    runs = [list(run) for _, run in groupby(engines, key=lambda item: (item.node_ids, _holding(item)))]
    for (holding, num), alike in groupby(runs, key=lambda run: (_holding(run[0]), len(run))):
        same = list(alike)
        first, last = same[0][0].engine, same[-1][-1].engine
        if first == last:
            yield f"{first}: {holding} on {_nodes(same[0])}"
        else:
            nodes = [_nodes(run) for run in same]
            listed = ", ".join(nodes) if len(nodes) <= _LISTED else f"{len(nodes)} places ({nodes[0]} to {nodes[-1]})"
            among = f"{num} on each of {listed}" if len(nodes) > 1 else f"on {listed}"
            yield f"{first}..{last.removeprefix('engine-')}: {holding} each, {among}"


def _holding(item: EnginePlacement) -> str:
    """What one engine reserves, in words."""
    gpus = [bundle.num_gpus for bundle in item.bundles]
    if gpus[0]:
        return f"{len(gpus)} bundle{'s' * (len(gpus) > 1)} of {gpus[0]:g} GPU ({item.executor})"
    return f"1/{item.num_shares} of the node's cores" if item.executor else "no device"


def _nodes(run: Sequence[EnginePlacement]) -> str:
    """The nodes of a run's engines, by the first 8 characters of their ids."""
    return "+".join(node_id[:8] for node_id in run[0].node_ids)


_MOST_HOLDERS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupancy:
    """How many devices of one kind (``resource``: GPU or CPU) there are and are free, and which groups hold some."""

    resource: str
    total: float
    free: float
    by_group: Mapping[str, float]

    @property
    def held(self) -> float:
        """How many are not free."""
        return max(0.0, self.total - self.free)

    def in_words(self) -> str:
        """``3 of 4 GPU are held (2 by s3ray job engine-0, 1 by others)``."""
        largest = sorted(self.by_group.items(), key=lambda item: (-item[1], item[0]))
        listed = [f"{num:g} by {name}" for name, num in largest[:_MOST_HOLDERS]]
        if rest := sum(num for _, num in largest[_MOST_HOLDERS:]):
            listed.append(f"{rest:g} by {len(largest) - _MOST_HOLDERS} more groups")
        outside = self.held - sum(self.by_group.values())
        if outside > 1e-6:
            listed.append(f"{outside:g} by actors and tasks outside any group")
        return f"{self.held:g} of {self.total:g} {self.resource} are held ({', '.join(listed)})"
