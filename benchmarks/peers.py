"""One peer of ``benchmarks.throughput`` in a process of its own: s3ray's pool, bare vLLM, or Ray Data LLM.

Started by ``benchmarks.throughput``, which sets the environment that vLLM reads. The clock runs from the first request
handed over to the last answer, on an engine that has answered a warm-up before. What is not a peer's own business is
done before: bare vLLM and Ray Data LLM are handed token ids, while the pool renders and tokenises on the clock.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.stages import unjudged_stage
from benchmarks.workload import (
    BATCH,
    MODEL,
    Part,
    device,
    engine_arguments,
    engine_environment,
    make_config,
    make_parts,
    sampling_of,
)
from s3ray.cluster import node_facts, start_local
from s3ray.config.job import RunConfig
from s3ray.generator.engines.vllm import read_limits
from s3ray.generator.pool import GeneratorPool
from s3ray.generator.worker import only_task
from s3ray.models import resolve_model
from s3ray.placement.place import plan_placement
from s3ray.tables import outcomes_from_table
from s3ray.tasks import load_task
from s3ray.telemetry.events import EngineLost, EngineReady, Event
from s3ray.types import EngineLimits, OutcomeStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a peer did with a part: seconds on the clock, tokens in and out; cached tokens where the peer tells them."""

    seconds: float
    num_requests: int
    num_prompt_tokens: int
    num_output_tokens: int
    num_cached_tokens: int | None = None


class PoolPeer:
    """s3ray's pool of one engine, on a Ray of its own.

    Every peer is made from the config and all parts, which it then answers in their order. ``limits`` gives the fields
    of ``EngineLimits`` that its engine resolved, if the peer says.
    """

    def __init__(self, config: RunConfig, parts: Sequence[Part]) -> None:
        start_local()
        self._limits: EngineLimits | None = None
        tasks = only_task(config, load_task(config.task))
        self._pool = GeneratorPool(config, tasks, plan_placement(config, node_facts()), emit=self._note)

    def _note(self, event: Event) -> None:
        if isinstance(event, EngineLost):
            raise SystemExit(f"the engine was lost: {event.problem}")
        if isinstance(event, EngineReady):
            self._limits = event.limits

    def answer(self, part: Part) -> Measured:
        """From the first ``take`` to the chunk with the last answer."""
        stage = unjudged_stage(iter(part.requests))
        tokens = {"num_prompt_tokens": 0, "num_output_tokens": 0, "num_cached_tokens": 0}
        started = time.perf_counter()
        for chunk in self._pool.generate(stage):
            outcomes = list(outcomes_from_table(chunk.table))
            if failed := {outcome.detail for outcome in outcomes if outcome.status is OutcomeStatus.FAILED}:
                raise SystemExit(f"requests failed: {failed}")
            stage.settle(outcomes)
            for name in tokens:
                tokens[name] += sum(chunk.table[name].to_pylist())
        return Measured(seconds=time.perf_counter() - started, num_requests=len(part.requests), **tokens)

    def limits(self) -> Mapping[str, Any] | None:
        """As they stand in the event of the engine's start."""
        return asdict(self._limits) if self._limits else None

    def close(self) -> None:
        """Stop the engine."""
        self._pool.close()


class VLLMPeer:
    """Bare offline vLLM: all prompts of a part at once."""

    def __init__(self, config: RunConfig, parts: Sequence[Part]) -> None:
        from vllm import LLM  # noqa: TID251 - it is what the pool is compared with

        self._config = config
        self._llm = LLM(model=resolve_model(config.generator.model), **engine_arguments(config))

    def answer(self, part: Part) -> Measured:
        """One call of ``generate``."""
        from vllm import SamplingParams, TokensPrompt  # noqa: TID251

        prompts = [TokensPrompt(prompt_token_ids=token_ids) for token_ids in part.token_ids]
        sampling = [SamplingParams(**sampling_of(self._config, request)) for request in part.requests]
        started = time.perf_counter()
        outputs = self._llm.generate(prompts, sampling, use_tqdm=False)
        return Measured(
            seconds=time.perf_counter() - started,
            num_requests=len(outputs),
            num_prompt_tokens=sum(len(output.prompt_token_ids) for output in outputs),
            num_output_tokens=sum(len(output.outputs[0].token_ids) for output in outputs),
            num_cached_tokens=sum(output.num_cached_tokens or 0 for output in outputs),
        )

    def limits(self) -> Mapping[str, Any] | None:
        """Read as s3ray's engine reads them."""
        limits = read_limits(self._llm.llm_engine.vllm_config, device())
        return asdict(limits)

    def close(self) -> None:
        """Nothing to do: the engine ends with its process."""


class RayDataPeer:
    """Ray Data LLM, configured in its own favour: token ids in, no stage but the engine's, no metrics, large batches.

    It starts an engine for each execution, so all parts are one dataset, and the rows of a part wait at a gate (a file
    that appears) until the part before it is answered.
    """

    def __init__(self, config: RunConfig, parts: Sequence[Part]) -> None:
        import ray
        from ray.data.llm import build_processor

        start_local()
        ray.data.DataContext.get_current().enable_progress_bars = False
        self._folder = tempfile.TemporaryDirectory(prefix="s3ray-gates-")
        self._gates = Path(self._folder.name)
        # A row that waits holds a worker: it must not be the one that the engine's answers need.
        per_task = {"num_cpus": len(os.sched_getaffinity(0)) / 8}
        processor = build_processor(
            _ray_data_config(config),
            preprocess=_wait_at(self._gates),
            postprocess=_keep_answer,
            preprocess_map_kwargs={**per_task, "concurrency": 1},
            postprocess_map_kwargs=per_task,
        )
        answered = processor(ray.data.from_arrow(_tables(config, parts)))
        self._batches: Iterator[pa.Table] = iter(
            answered.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
        )

    def answer(self, part: Part) -> Measured:
        """Open the gate and collect the rows behind it."""
        num_requests = num_prompt_tokens = num_output_tokens = 0
        started = time.perf_counter()
        (self._gates / part.name).touch()
        while num_requests < len(part.requests):
            table = next(self._batches)
            num_requests += table.num_rows
            num_prompt_tokens += sum(table["num_input_tokens"].to_pylist())
            num_output_tokens += sum(table["num_generated_tokens"].to_pylist())
        return Measured(
            seconds=time.perf_counter() - started,
            num_requests=num_requests,
            num_prompt_tokens=num_prompt_tokens,
            num_output_tokens=num_output_tokens,
        )

    def limits(self) -> Mapping[str, Any] | None:
        """It keeps them to itself."""
        return None

    def close(self) -> None:
        """The engine ends with the dataset."""
        if next(self._batches, None) is not None:
            raise SystemExit("Ray Data LLM answered more rows than it was given")
        self._folder.cleanup()


def _ray_data_config(config: RunConfig) -> Any:
    from ray.data.llm import vLLMEngineProcessorConfig

    bundle = {"CPU": len(os.sched_getaffinity(0)) / 2} if device() == "cpu" else {"CPU": 1.0, "GPU": 1.0}
    return vLLMEngineProcessorConfig(
        model_source=resolve_model(config.generator.model),
        engine_kwargs=engine_arguments(config),
        concurrency=1,
        batch_size=BATCH,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
        log_engine_metrics=False,
        placement_group_config={"bundles": [bundle]},
        runtime_env={"env_vars": engine_environment(config)},
    )


def _tables(config: RunConfig, parts: Sequence[Part]) -> list[pa.Table]:
    """A block for each batch, so that no batch waits for rows of the next part."""
    tables = []
    for part in parts:
        rows = [
            {"part": part.name, "tokenized_prompt": token_ids, "sampling_params": sampling_of(config, request)}
            for token_ids, request in zip(part.token_ids, part.requests, strict=True)
        ]
        tables += [pa.Table.from_pylist(rows[start : start + BATCH]) for start in range(0, len(rows), BATCH)]
    return tables


def _wait_at(gates: Path) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def wait(row: dict[str, Any]) -> dict[str, Any]:
        while not (gates / row["part"]).exists():
            time.sleep(0.01)
        return {}

    return wait


def _keep_answer(row: dict[str, Any]) -> dict[str, Any]:
    """The text too: it travels to s3ray's driver as well."""
    return {name: row[name] for name in ("num_input_tokens", "num_generated_tokens", "generated_text")}


Peer = PoolPeer | VLLMPeer | RayDataPeer
PEERS: dict[str, type[Peer]] = {
    "pool": PoolPeer,
    "vllm": VLLMPeer,
    "vllm_in_process": VLLMPeer,
    "ray_data": RayDataPeer,
}


def main() -> None:
    """Start one peer, warm it up, and measure the parts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("parts", nargs="+", help="parts of the work, in the order of benchmarks.workload")
    parser.add_argument("--requests", type=int, default=256, help="requests with uneven output limits")
    parser.add_argument("--model", default=MODEL, help="hub id, folder, or package:NAME")
    parser.add_argument("--out", type=Path, required=True, help="file for the report")
    options = parser.parse_args()
    config = make_config(options.model)
    all_parts = make_parts(config, options.requests)
    warm_up, *measured = (all_parts[name] for name in ("warm-up", *options.parts))
    started = time.perf_counter()
    peer = PEERS[options.peer](config, [warm_up, *measured])
    peer.answer(warm_up)
    report: dict[str, Any] = {"start_s": time.perf_counter() - started}
    report["parts"] = {part.name: asdict(peer.answer(part)) for part in measured}
    report["limits"] = peer.limits()
    peer.close()
    options.out.write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main()
