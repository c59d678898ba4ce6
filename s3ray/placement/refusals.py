"""The errors of placements that are refused: the field, the arithmetic, and what would fit instead."""

from collections import Counter
from collections.abc import Sequence

from s3ray.config.job import GeneratorConfig, RunConfig
from s3ray.errors import InputError
from s3ray.placement.packing import is_countable
from s3ray.placement.plan import NodeFacts

_GPU_SETTINGS = ("tensor_parallel", "pipeline_parallel", "gpu_share", "accelerator")


def needs_device(config: RunConfig) -> bool:
    """Whether the run's engines need GPUs or cores of their own."""
    return config.generates and config.generator.needs_devices


def check_settings(config: RunConfig, nodes: Sequence[NodeFacts], device: str) -> None:
    """Refuse settings that have no meaning for these engines or nodes.

    Raises:
        InputError: a setting contradicts another one, needs GPUs where there are none, or names an absent type.
    """
    if config.generates:
        _check_generator(config.generator, device)
        if config.generator.accelerator and not config.placement.elastic:
            _check_accelerator(config.generator.accelerator, "generator.accelerator", nodes)
    if config.placement.elastic:
        _check_elastic(config)
    elif config.placement.sleep_level:
        _check_sleep(config, nodes, device)
    if config.student.accelerator:
        if device == "cpu":
            raise _gpus_missing("student.accelerator", config.student.accelerator)
        if not config.placement.elastic:
            _check_accelerator(config.student.accelerator, "student.accelerator", nodes)
    if config.student.least_workers > config.student.workers:
        raise _least_above_most("student.min_workers", config.student.least_workers, config.student.workers)


def _check_generator(generator: GeneratorConfig, device: str) -> None:
    if generator.fake.takes_gpus and (generator.engine != "fake" or device == "cpu"):
        problem = "needs engine fake and a node with GPUs"
        raise InputError(problem, field="generator.fake.takes_gpus", value="true", hint="Leave it out.")
    for name in _GPU_SETTINGS:
        value = getattr(generator, name)
        if value == type(generator).model_fields[name].default:
            continue
        field = f"generator.{name}"
        if not generator.needs_devices:
            problem = f"means nothing to the engine {generator.engine}, which needs no GPU"
            raise InputError(problem, field=field, value=str(value), hint="Leave it out.")
        if device == "cpu":
            raise _gpus_missing(field, str(value))
    world_size, share = generator.world_size, generator.gpu_share
    if share < 1 and world_size > 1:
        problem = f"cannot be below 1 for engines of {world_size} GPUs (tensor_parallel x pipeline_parallel)"
        hint = "Set it to 1, or let an engine have one GPU."
        raise InputError(problem, field="generator.gpu_share", value=str(share), hint=hint)
    if not is_countable(share):
        hint = f"Ray counts parts of a GPU in steps of 0.0001; {max(1, int(share * 10_000)) / 10_000} would do."
        raise InputError("is too fine", field="generator.gpu_share", value=str(share), hint=hint)
    if generator.min_engines and generator.min_engines > generator.engines:
        raise _least_above_most("generator.min_engines", generator.min_engines, generator.engines)


def _least_above_most(field: str, least: int, most: int) -> InputError:
    above = field.replace("min_", "")
    hint = f"Lower it, or raise `{above.split('.')[1]}`."
    return InputError(f"is more than {above} ({most})", field=field, value=str(least), hint=hint)


def _check_sleep(config: RunConfig, nodes: Sequence[NodeFacts], device: str) -> None:
    """Refuse sleep unless there is exactly one engine per GPU, because each shares its GPU with one train worker."""
    generator, num_gpus = config.generator, sum(node.num_gpus for node in nodes)
    problem = hint = ""
    if config.placement.mode != "swap" or device == "cpu" or not needs_device(config):
        problem, hint = "means nothing where engines do not make way on GPUs", "Leave it out."
    elif generator.world_size > 1 or generator.gpu_share < 1:
        problem, hint = "needs engines of one whole GPU each", "Set it to stop, or let each engine have one GPU."
    elif generator.engines != num_gpus or generator.min_engines:
        problem = f"needs an engine on each of the {_count(num_gpus, 'GPU')}, or two train workers may get the same one"
        hint = f"Set generator.engines to {num_gpus} and leave min_engines out, or set this to stop."
    if problem:
        raise InputError(problem, field="placement.leave", value=config.placement.leave, hint=hint)


def _check_elastic(config: RunConfig) -> None:
    """Refuse what a cluster cannot do whose nodes come and go."""
    problem = hint = ""
    if config.placement.mode == "split":
        problem = "does not go with placement.mode split, which keeps devices of its own for train workers"
        hint = "Set placement.mode to swap: engines and train workers then ask for nodes in turns."
    elif config.placement.sleep_level:
        problem = (
            f"does not go with placement.leave {config.placement.leave}: engines that sleep would keep their nodes"
        )
        hint = "Set placement.leave to stop, or leave it out."
    if problem:
        raise InputError(problem, field="placement.elastic", value="true", hint=hint)


def _gpus_missing(field: str, value: str) -> InputError:
    hint = "Leave it out, or run on a cluster with GPUs."
    return InputError("needs GPUs, and the cluster has none", field=field, value=value, hint=hint)


def _check_accelerator(accelerator: str, field: str, nodes: Sequence[NodeFacts]) -> None:
    if any(node.num_gpus and node.accelerator == accelerator for node in nodes):
        return
    hint = f"There are {_inventory(nodes)}. Ray's label for it is ray.io/accelerator-type."
    raise InputError("no node has such GPUs", field=field, value=accelerator, hint=hint)


def gpu_engines_refused(
    config: RunConfig, nodes: Sequence[NodeFacts], least: int, num_fitting: int, *, wants_cpus: bool
) -> InputError:
    """The error for too few GPUs for ``least`` engines, or too few CPUs on their nodes (``wants_cpus``)."""
    generator, stages = config.generator, config.generator.pipeline_parallel
    gpus = generator.tensor_parallel * generator.gpu_share
    need = f"{gpus:g} GPU{'s' * (gpus > 1)}"
    facts = [f"there are {_inventory(nodes, generator.accelerator)}"]
    if config.placement.mode == "split":
        facts.append(f"of which train workers hold {config.student.least_workers} (placement.mode: split)")
    if wants_cpus:
        facts.append("and every engine reserves a CPU")
    if generator.tensor_parallel > 1:
        facts.append(f"{'a stage' if stages > 1 else 'an engine'} spans nodes only where no node has {need}")
    hint = f"At most {_count(num_fitting, 'such engine')} fit. Lower `engines`"
    hint += " or its GPUs (`tensor_parallel`, `pipeline_parallel`)" if generator.world_size > 1 else ""
    return InputError(
        f"{_count(least, 'engine')} of {f'{stages} x ' if stages > 1 else ''}{need} do not fit: {', '.join(facts)}",
        field="generator.engines",
        value=str(generator.engines),
        hint=f"{hint}, or add nodes.{_begin_with(num_fitting)}{_ask(config)}",
    )


def cpu_engines_refused(config: RunConfig, total: int, least: int, num_fitting: int) -> InputError:
    """The error for fewer cores than engines."""
    return InputError(
        f"{_count(least, 'engine')} do not fit: every engine needs a core of its own and the cluster has {total} CPUs",
        field="generator.engines",
        value=str(config.generator.engines),
        hint=f"At most {num_fitting} fit here. Lower `engines`, or run on a larger cluster.{_begin_with(num_fitting)}"
        f"{_ask(config)}",
    )


def workers_refused(config: RunConfig, room: int, device: str, num_engines: int, num_fitting: int) -> InputError:
    """The error for too many train workers: ``room`` of them fit next to ``num_engines`` engines.

    ``num_fitting`` is how many engines would fit next to all workers.
    """
    workers, accelerator = config.student.least_workers, config.student.accelerator
    unit = f"{accelerator} {device}" if accelerator else device
    per = "each needs a GPU and a CPU, " if device == "GPUs" else ""
    hint = f"At most {room} fit. Lower `workers`"
    beside = ""
    if num_engines:
        beside = f" beside {_count(num_engines, 'engine')} (placement.mode: split)"
        hint += f", lower `engines` to {num_fitting}" if num_fitting else ""
        hint += ", or use placement.mode: swap"
    return InputError(
        f"{_count(workers, 'train worker')} do not fit: {per}{room} {unit} are there for them{beside}",
        field="student.workers",
        value=str(config.student.workers),
        hint=f"{hint}.",
    )


def deadlock_refused(config: RunConfig, problem: str) -> InputError:
    """The error for engines or train workers that would wait for devices which are never given back."""
    return InputError(
        f"would wait for ever: {problem}",
        field="placement.mode",
        value=config.placement.mode,
        hint="Lower generator.engines or student.workers, or use the other mode.",
    )


def _begin_with(num_fitting: int) -> str:
    if not num_fitting:
        return ""
    return f" With generator.min_engines: {num_fitting} the run begins with those, and the others join when nodes do."


def _ask(config: RunConfig) -> str:
    if config.placement.mode == "split":
        return ""
    return " On a cluster that starts nodes with GPUs when asked, placement.elastic: true asks for them."


def _count(num: int, noun: str) -> str:
    return f"{num} {noun}{'s' * (num != 1)}"


def _inventory(nodes: Sequence[NodeFacts], accelerator: str | None = None) -> str:
    """The nodes that have GPUs, grouped: ``2 nodes of 8 GPUs (H100) with 64 CPUs``."""
    kinds = Counter(
        (node.num_gpus, node.accelerator, node.num_cpus)
        for node in nodes
        if node.num_gpus and accelerator in (None, node.accelerator)
    )
    return " and ".join(
        f"{_count(num, 'node')} of {_count(gpus, 'GPU')}{f' ({label})' if label else ''} with {_count(cpus, 'CPU')}"
        for (gpus, label, cpus), num in kinds.items()
    )
