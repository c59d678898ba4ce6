"""Whether engines sleep while a student is trained, and how long falling asleep may take. Pure.

What vLLM puts aside are weights, at most as much as its card holds; so the cards and the hosts decide, and not models,
which may still lie on the hub when a run is planned.
"""

from collections.abc import Sequence

from s3ray.config.job import RunConfig
from s3ray.placement.packing import ENGINE_CPUS, WORKER_CPUS
from s3ray.placement.plan import NodeFacts

# By Ray's label ray.io/accelerator-type: cards of data centres, which vLLM's sleep mode (CUDA alone) is made for. Its
# authors measured it on cards up to the A100 (vLLM blog, 26 October 2025); TRL's trainers offer it (trl#3968).
_CARD_GIB = {
    "A10G": 24,
    "L4": 24,
    "L40S": 48,
    "A100": 80,  # Ray's label for either size
    "A100-40G": 40,
    "A100-80G": 80,
    "H100": 80,
    "H20": 141,
    "H200": 141,
    "B200": 192,
    "GB200": 192,
    "B300": 288,
    "GB300": 288,
}
_OTHER_CARD_GIB = 80
_LEAST_SLEEP_S = 120.0
_PINNED_GIB_S = 1.0  # of a node, by all of its engines; one on an A100 took 10.6 s for 22 GiB (vllm#48337)
_ONE_TRAINING = ("gold", "zerogen", "goldgen")


def resolve_leave(config: RunConfig, nodes: Sequence[NodeFacts]) -> str:
    """How engines make way in swap: as the job says; where it leaves that open, asleep where nothing speaks against it.

    That is with vLLM engines of one whole GPU, one on each GPU; cards of a known type; hosts with memory for what their
    cards hold, and with CPUs for engines and train workers at once; and more than one training, or nobody would wake.
    """
    leave = config.placement.leave
    if leave != "auto":
        return leave
    generator, with_gpus = config.generator, [node for node in nodes if node.num_gpus]
    is_alone = generator.world_size == 1 and generator.gpu_share == 1 and not generator.min_engines
    is_everywhere = generator.engines == sum(node.num_gpus for node in with_gpus)
    comes_back = config.strategy.name not in _ONE_TRAINING and config.strategy.rounds > 0
    sleeps = (
        config.placement.mode == "swap"
        and not config.placement.elastic
        and config.generates
        and generator.engine == "vllm"
        and is_alone
        and is_everywhere
        and comes_back
        and all(map(_can_hold_sleepers, with_gpus))
    )
    return "sleep_1" if sleeps and with_gpus else "stop"


def _can_hold_sleepers(node: NodeFacts) -> bool:
    card = _CARD_GIB.get(node.accelerator)
    has_memory = card is not None and node.num_gpus * card <= node.memory_gib
    return has_memory and node.num_cpus >= node.num_gpus * (ENGINE_CPUS + WORKER_CPUS)


def sleep_limit_s(level: int, nodes: Sequence[NodeFacts]) -> float:
    """Seconds that the engines of all nodes may take to fall asleep: at level 1 weights go into pinned host memory."""
    if level != 1:
        return _LEAST_SLEEP_S
    most = max((node.num_gpus * _CARD_GIB.get(node.accelerator, _OTHER_CARD_GIB) for node in nodes), default=0)
    return _LEAST_SLEEP_S + most / _PINNED_GIB_S
