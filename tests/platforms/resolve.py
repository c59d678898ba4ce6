"""What does vLLM make of each job file on H100s? Its resolved configurations go into a JSON file, by job.

    PYTHONPATH=.:tests/platforms/plugins VLLM_PLUGINS=fake_cuda python -m tests.platforms.resolve ANSWERS.json

Nothing is loaded: configurations need no weights.
"""

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from s3ray.config.grid import load_campaign
from s3ray.config.job import RunConfig
from s3ray.config.load import load_config
from s3ray.errors import InputError
from s3ray.generator.engines.base import EngineSpec
from s3ray.generator.engines.vllm import VLLMEngine
from s3ray.models import resolve_model
from s3ray.placement.place import plan_placement
from s3ray.placement.plan import EnginePlacement, NodeFacts
from tests.platforms.model_configs import CONFIGS

ROOT = Path(__file__).parents[2]
PLUGINS = Path(__file__).parent / "plugins"
H100 = [NodeFacts(node_id=f"n{number}", num_cpus=96, num_gpus=8, accelerator="H100") for number in range(8)]
SHAPES: dict[str, dict[str, Any]] = {
    "two GPUs of a node": {"generator.engines": 4, "generator.tensor_parallel": 2},
    "two nodes": {"generator.engines": 4, "generator.tensor_parallel": 8, "generator.pipeline_parallel": 2},
    "half of a GPU": {"generator.engines": 16, "generator.gpu_share": 0.5},
    "asleep, weights kept": {"placement.leave": "sleep_1"},
    "asleep, weights dropped": {"placement.leave": "sleep_2"},
}
"""What a user may set in ``jobs/gpu-8.yaml``."""


def jobs() -> Iterator[tuple[str, RunConfig]]:
    """The jobs with a generator of vLLM by file; a grid gives one for each of its generators."""
    for path in sorted((ROOT / "jobs").rglob("*.yaml")):
        name = str(path.relative_to(ROOT / "jobs"))
        if "\naxes:" not in path.read_text(encoding="utf-8"):
            yield name, load_config(path)
            continue
        runs = [run.config for run in load_campaign(path).runs if run.config.generates]
        for number, config in enumerate({run.generator.model_dump_json(): run for run in runs}.values()):
            yield f"{name} {number}", config
    for shape, changes in SHAPES.items():
        yield f"gpu-8.yaml, {shape}", load_config(ROOT / "jobs" / "gpu-8.yaml", changes)


def placed(config: RunConfig) -> EnginePlacement:
    """The first engine of a job on as few nodes as it fits."""
    for num in (1, 2):
        with contextlib.suppress(InputError):
            return plan_placement(config, H100[:num]).engines[0]
    return plan_placement(config, H100).engines[0]


def specs() -> Iterator[tuple[str, EngineSpec]]:
    """The first engine of each job, as the pool would build it."""
    for name, config in jobs():
        if config.generator.engine == "vllm":
            first = placed(config)
            yield (
                name,
                EngineSpec(
                    engine=first.engine,
                    config=config.generator,
                    device=first.device,
                    executor=first.executor,
                    memory_share=first.memory_share,
                    can_sleep=first.can_sleep,
                ),
            )


def folder_of(model: str, below: Path) -> str:
    """A folder with the ``config.json`` of a model on the hub, or the installed package's own."""
    if model.startswith("package:"):
        return resolve_model(model)
    folder = below / model.replace("/", "--")
    if not folder.exists():
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(CONFIGS[model]), encoding="utf-8")
    return str(folder)


def asked(spec: EngineSpec) -> dict[str, Any]:
    """What the plan and the job ask of the engine."""
    config = spec.config
    return {
        "executor": spec.executor,
        "world_size": config.world_size,
        "tensor_parallel": config.tensor_parallel,
        "max_model_len": config.max_model_len,
        "memory": spec.memory_share,
        "sleeps": spec.can_sleep,
    }


def told(resolved: Any) -> dict[str, Any]:
    """What a ``VllmConfig`` says of that, and of what makes an engine fast."""
    parallel, scheduler = resolved.parallel_config, resolved.scheduler_config
    return {
        "executor": parallel.distributed_executor_backend,
        "world_size": parallel.world_size,
        "tensor_parallel": parallel.tensor_parallel_size,
        "max_model_len": resolved.model_config.max_model_len,
        "memory": resolved.cache_config.gpu_memory_utilization,
        "sleeps": resolved.model_config.enable_sleep_mode,
        "max_num_seqs": scheduler.max_num_seqs,
        "dtype": str(resolved.model_config.dtype),
        "chunked_prefill": scheduler.enable_chunked_prefill,
        "async_scheduling": scheduler.async_scheduling,
        "prefix_caching": resolved.cache_config.enable_prefix_caching,
        "graphs": resolved.compilation_config.cudagraph_mode.name,
        "largest_graph": max(resolved.compilation_config.cudagraph_capture_sizes),
    }


def look_at_classes() -> None:
    """Let vLLM look at the classes of all models on its CPU platform: they cannot be imported without a GPU's kernels.

    By itself it would start a process for each class.
    """
    from vllm.model_executor.models import registry

    names = {config["architectures"][0] for config in CONFIGS.values()}
    known = registry.ModelRegistry.models

    def look() -> dict[str, Any]:
        return {name: registry._ModelInfo.from_model_cls(known[name].load_model_cls()) for name in names}

    os.environ["VLLM_PLUGINS"] = ""
    for name, about in registry._run_in_subprocess(look).items():
        known[name] = registry._RegisteredModel(interfaces=about, model_cls=object)


def main() -> None:
    """Resolve all of them."""
    from vllm.config import vllm as vllm_config
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.platforms import current_platform
    from vllm.usage.usage_lib import UsageContext

    assert current_platform.is_cuda(), "the plugin is not there"
    look_at_classes()
    vllm_config.HAS_TRITON = True
    with tempfile.TemporaryDirectory() as below:
        found = {}
        for name, spec in specs():
            arguments = VLLMEngine(spec)._arguments(folder_of(spec.config.model, Path(below)))
            resolved = AsyncEngineArgs(**arguments).create_engine_config(UsageContext.ENGINE_CONTEXT)
            found[name] = {"asked": asked(spec), "resolved": told(resolved)}
    Path(sys.argv[1]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
