"""What every engine owes its actor, whichever it is; one of your own if OWN_ENGINE is its import path."""

import asyncio
import os
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
from aiohttp import web

from s3ray.config.job import EndpointConfig, FakeConfig, GeneratorConfig
from s3ray.errors import RequestRefusedError
from s3ray.generator.engines import ENGINES, engine_class, make_engine
from s3ray.generator.engines.base import Choice, Engine, EngineSpec
from s3ray.types import EngineLimits, Generation, Prompt
from tests.endpoints import Answer, Endpoint, refuse
from tests.models import make_llama

Result = TypeVar("Result")
NAMES = (*ENGINES, *os.environ.get("OWN_ENGINE", "").split())
SLOTS = 4
LONG = 1000


async def take_time(request: web.Request, body: dict[str, Any]) -> Answer:
    """A server that refuses what is too long, and is slow enough for a request to be given up."""
    if len(body["prompt"]) > LONG:
        return refuse(400, "maximum context length")
    await asyncio.sleep(0.02)
    return None


@dataclass
class Running:
    """An engine that has started, and the loop that it lives in."""

    name: str
    engine: Engine
    limits: EngineLimits
    loop: asyncio.AbstractEventLoop

    def do(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self.loop.run_until_complete(asyncio.wait_for(work, 120))

    async def ask(self, index: int, text: str = "Once upon a time", max_tokens: int = 40) -> Generation:
        return await self.engine.generate(f"request-{index}", Prompt(text=text), seed=index, max_tokens=max_tokens)

    async def choose(self, index: int, text: str = 'Is it so? "') -> Choice:
        return await self.engine.choose(f"request-{index}", Prompt(text=text, choices=("yes", "no", "perhaps")))


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[pytest.mark.engine] if name == "vllm" else []) for name in NAMES],
)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    loop = asyncio.new_event_loop()
    endpoint = Endpoint(script=take_time)
    settings: dict[str, Any] = {"engine": request.param, "model": "writer"}
    if request.param == "openai":
        loop.run_until_complete(endpoint.__aenter__())
        settings["endpoints"] = [EndpointConfig(url=endpoint.url)]
    if engine_class(request.param).loads_model:
        os.environ["VLLM_WORKER_MULTIPROCESSING_METHOD"] = "spawn"  # this process has threads
        settings |= {"model": str(make_llama(tmp_path_factory.mktemp("llama"))), "dtype": "float32"}
    config = GeneratorConfig(
        prompt_form="completion",
        max_model_len=LONG,
        max_num_seqs=SLOTS,
        max_num_batched_tokens=LONG,
        fake=FakeConfig(delay_s=0.02),
        **settings,
    )
    engine = make_engine(EngineSpec(engine="engine-0", config=config, device="cpu", timed=True))
    limits = loop.run_until_complete(engine.start())
    yield Running(name=request.param, engine=engine, limits=limits, loop=loop)
    loop.run_until_complete(engine.close())
    loop.run_until_complete(engine.close())  # closing twice is safe
    loop.run_until_complete(endpoint.__aexit__())
    loop.close()


def test_it_names_the_limits_that_it_keeps(running: Running) -> None:
    assert running.limits.max_num_seqs == SLOTS
    assert running.limits.max_model_len == LONG
    assert running.limits.num_kv_tokens > LONG


def test_each_request_has_one_answer_of_its_own_and_the_counts_add_up(running: Running) -> None:
    async def scenario() -> None:
        before = running.engine.stats()
        told = await asyncio.gather(*(running.ask(index) for index in range(30)))
        assert [generation.request_id for generation in told] == [f"request-{index}" for index in range(30)]
        assert all(generation.finish_reason in ("stop", "length") for generation in told)
        assert all(0 < generation.num_output_tokens <= 40 for generation in told)
        assert all(generation.num_prompt_tokens > 0 for generation in told)
        after = running.engine.stats()
        num_written = sum(generation.num_output_tokens for generation in told)
        assert after.num_output_tokens - before.num_output_tokens == num_written
        num_read = sum(generation.num_prompt_tokens for generation in told)
        assert after.num_prompt_tokens - before.num_prompt_tokens == num_read
        assert (after.num_running, after.num_waiting) == (0, 0)

    running.do(scenario())


def test_texts_are_timed_once_by_engines_that_can_tell(running: Running) -> None:
    async def scenario() -> None:
        await asyncio.gather(*(running.ask(index) for index in range(6)))
        running.engine.take_timings()
        told = await asyncio.gather(*(running.ask(index) for index in range(10)))
        await running.choose(0)  # which writes no text
        timings = running.engine.take_timings()
        assert not running.engine.take_timings()
        if running.name != "vllm":
            assert not timings
            return
        assert len(timings) == 10
        assert all(0 <= timing.queue_s < timing.first_token_s for timing in timings)
        has_later = [timing.per_token_s is not None for timing in timings]
        assert sum(has_later) == sum(generation.num_output_tokens > 1 for generation in told)
        # 10 requests and 4 slots: some wait for a slot longer than their first token then takes.
        assert max(timing.queue_s for timing in timings) > min(timing.queue_s for timing in timings)

    running.do(scenario())


def test_each_request_has_a_limit_of_its_own(running: Running) -> None:
    async def scenario() -> None:
        short = await asyncio.gather(*(running.ask(index, max_tokens=2) for index in range(10)))
        assert max(generation.num_output_tokens for generation in short) == 2
        assert "length" in {generation.finish_reason for generation in short}
        whole = await asyncio.gather(*(running.ask(index) for index in range(10)))
        assert max(generation.num_output_tokens for generation in whole) > 2

    running.do(scenario())


def test_the_same_seed_writes_the_same(running: Running) -> None:
    async def scenario() -> None:
        first = await asyncio.gather(*(running.ask(index) for index in range(6)))
        again = await asyncio.gather(*(running.ask(index) for index in reversed(range(6))))
        assert [generation.text for generation in first] == [generation.text for generation in reversed(again)]

    running.do(scenario())


def test_a_request_that_is_given_up_is_forgotten(running: Running) -> None:
    async def scenario() -> None:
        asked = [asyncio.create_task(running.ask(index, max_tokens=900)) for index in range(12)]
        while not running.engine.stats().num_running:
            await asyncio.sleep(0.005)
        stats = running.engine.stats()
        assert stats.num_running <= SLOTS
        assert 0 < stats.num_waiting <= 12 - stats.num_running
        for task in asked:
            task.cancel()
        ended = await asyncio.gather(*asked, return_exceptions=True)
        assert any(isinstance(end, asyncio.CancelledError) for end in ended)
        assert (running.engine.stats().num_running, running.engine.stats().num_waiting) == (0, 0)
        assert len(await asyncio.gather(*(running.ask(index) for index in range(8)))) == 8

    running.do(scenario())


def test_each_choice_has_its_probability(running: Running) -> None:
    async def scenario() -> None:
        before = running.engine.stats()
        told = await asyncio.gather(*(running.choose(index) for index in range(10)))
        for choice in told:
            assert len(choice.probabilities) == 3
            assert sum(choice.probabilities) == pytest.approx(1)
            assert all(0 < probability < 1 for probability in choice.probabilities)
            assert choice.num_prompt_tokens > 0
        after = running.engine.stats()
        assert after.num_output_tokens - before.num_output_tokens == sum(choice.num_output_tokens for choice in told)
        assert after.num_prompt_tokens - before.num_prompt_tokens == sum(choice.num_prompt_tokens for choice in told)

    running.do(scenario())


def test_the_same_question_is_answered_alike_beside_others(running: Running) -> None:
    async def scenario() -> None:
        alone = await running.choose(7)
        asked = asyncio.create_task(running.choose(7))
        await asyncio.gather(*(running.ask(index) for index in range(5)))
        beside = await asked
        assert beside.probabilities == pytest.approx(alone.probabilities, abs=1e-5)

    running.do(scenario())


def test_a_question_that_is_too_long_is_refused_alone(running: Running) -> None:
    if running.name == "fake":
        pytest.skip("the fake engine reads prompts of any length")

    async def scenario() -> None:
        too_long = running.choose(0, "long " * LONG)
        told = await asyncio.gather(too_long, running.choose(1), return_exceptions=True)
        assert isinstance(told[0], RequestRefusedError)
        assert isinstance(told[1], Choice)

    running.do(scenario())


@pytest.mark.parametrize("level", [1, 2])
def test_an_engine_that_slept_answers_as_before(running: Running, level: int) -> None:
    async def scenario() -> None:
        before = await running.ask(3)
        await running.engine.sleep(level)
        await running.engine.check()
        await running.engine.wake()
        assert (await running.ask(3)).text == before.text

    running.do(scenario())


def test_a_request_that_cannot_be_answered_fails_alone(running: Running) -> None:
    if running.name == "fake":
        pytest.skip("the fake engine reads prompts of any length")

    async def scenario() -> None:
        told = await asyncio.gather(
            running.ask(0, "long " * LONG), running.ask(1), running.ask(2), return_exceptions=True
        )
        assert isinstance(told[0], RequestRefusedError)
        assert all(isinstance(one, Generation) for one in told[1:])
        await running.engine.check()

    running.do(scenario())
