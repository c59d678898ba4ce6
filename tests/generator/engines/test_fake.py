"""The fake engine keeps to its script: texts by seed alone, slots, speed, and every fault when it is due."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop

from s3ray.config.job import FakeConfig, GeneratorConfig
from s3ray.curation.duplicates import DuplicateIndex
from s3ray.errors import EngineDeadError
from s3ray.generator.engines.base import EngineSpec
from s3ray.generator.engines.fake import FakeEngine, weigh, write_text
from s3ray.types import Generation, Prompt

PROMPT = Prompt(text="Write a word or two:")


def make_engine(max_num_seqs: int = 8, **script: Any) -> FakeEngine:
    config = GeneratorConfig(engine="fake", max_num_seqs=max_num_seqs, fake=FakeConfig(**script))
    return FakeEngine(EngineSpec(engine="engine-0", config=config, device="cpu"))


async def ask(engine: FakeEngine, seed: int, max_tokens: int = 256) -> Generation:
    return await engine.generate(f"request-{seed}", PROMPT, seed=seed, max_tokens=max_tokens)


def ask_all(engine: FakeEngine, seeds: range) -> list[asyncio.Task[Generation]]:
    return [asyncio.create_task(ask(engine, seed)) for seed in seeds]


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    """On the loop of Ray's workers as well: its timers are not those of asyncio."""
    for make_loop in (asyncio.new_event_loop, uvloop.new_event_loop):
        with asyncio.Runner(loop_factory=make_loop) as runner:
            runner.run(asyncio.wait_for(scenario(), 30))


def test_texts_are_many_and_of_the_length_they_say() -> None:
    written = [write_text(seed, 256) for seed in range(20_000)]
    assert len({text for text, _, _ in written}) == 20_000
    assert {num for _, num, _ in written} == set(range(6, 25))
    assert all(len(text.split()) == num and text.endswith(".") for text, num, _ in written)
    assert {reason for _, _, reason in written} == {"stop"}


def test_near_duplicates_are_rare() -> None:
    known = DuplicateIndex(0.95)
    num_alike = 0
    for seed in range(5_000):
        text = write_text(seed, 256)[0]
        num_alike += known.find(text) is not None
        known.add(str(seed), text)
    assert num_alike <= 5


def test_a_sixth_of_the_verdicts_doubts_what_was_asked_for() -> None:
    drawn = [weigh(f"request-{number}?", 2) for number in range(6000)]
    assert sum(first < 0.5 for first, _ in drawn) / len(drawn) == pytest.approx(1 / 6, abs=0.02)
    assert min(first for first, _ in drawn) >= 0.4
    assert all(sum(weigh(f"request-{number}?", 5)) == pytest.approx(1) for number in range(50))
    assert weigh("request-1?", 2) == weigh("request-1?", 2)


@pytest.mark.parametrize("max_tokens", [1, 2, 3, 5])
def test_a_limit_cuts_at_a_word_and_says_so(max_tokens: int) -> None:
    for seed in range(50):
        whole, _, _ = write_text(seed, 256)
        text, num, reason = write_text(seed, max_tokens)
        assert text == " ".join(whole.split()[:max_tokens])
        assert (num, reason) == (max_tokens, "length")
    whole, num, _ = write_text(0, 256)
    assert write_text(0, num) == (whole, num, "stop"), "a text that just fits is whole"


def test_no_more_than_its_slots_run_and_each_takes_its_time() -> None:
    async def scenario() -> None:
        engine = make_engine(max_num_seqs=4, delay_s=0.05)
        loop = asyncio.get_running_loop()
        began = loop.time()
        asked = ask_all(engine, range(10))
        await asyncio.sleep(0)
        assert (engine.stats().num_running, engine.stats().num_waiting) == (4, 6)
        told = await asyncio.gather(*asked)
        assert loop.time() - began >= 0.15 - 1e-6, "ten requests in four slots take three turns"
        stats = engine.stats()
        assert (stats.num_running, stats.num_waiting) == (0, 0)
        assert stats.num_output_tokens == sum(generation.num_output_tokens for generation in told)
        assert stats.num_prompt_tokens == 50

    run(scenario)


def test_a_slot_is_taken_again_when_its_request_was_due_however_late_the_loop_notices() -> None:
    async def scenario() -> None:
        engine = make_engine(max_num_seqs=1, delay_s=0.02)
        loop = asyncio.get_running_loop()
        asked = ask_all(engine, range(5))
        await asyncio.sleep(0)
        began = loop.time()
        while loop.time() - began < 0.12:
            pass  # the loop stands still for longer than all five take
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        assert all(task.done() for task in asked)

    run(scenario)


def test_speed_is_per_token() -> None:
    async def scenario() -> None:
        engine = make_engine(tokens_per_s=200.0)
        loop = asyncio.get_running_loop()
        began = loop.time()
        told = await ask(engine, 1)
        assert loop.time() - began >= told.num_output_tokens / 200.0 - 1e-6

    run(scenario)


def test_a_request_that_is_given_up_frees_its_slot() -> None:
    async def scenario() -> None:
        engine = make_engine(max_num_seqs=2, delay_s=0.3)
        asked = ask_all(engine, range(6))
        await asyncio.sleep(0)
        for task in (asked[0], asked[3]):  # one that runs, one that waits
            task.cancel()
        await asyncio.sleep(0)
        assert (engine.stats().num_running, engine.stats().num_waiting) == (2, 2)
        told = await asyncio.gather(*asked, return_exceptions=True)
        assert sum(isinstance(one, Generation) for one in told) == 4
        assert engine.stats().num_output_tokens == sum(
            one.num_output_tokens for one in told if isinstance(one, Generation)
        )

    run(scenario)


@pytest.mark.parametrize("delay_s", [0.0, 0.01])
def test_it_dies_after_as_many_answers_as_its_script_says(delay_s: float) -> None:
    async def scenario() -> None:
        engine = make_engine(die_after=5, delay_s=delay_s)
        await engine.check()
        told = await asyncio.gather(*ask_all(engine, range(20)), return_exceptions=True)
        assert sum(isinstance(one, Generation) for one in told) == 5
        assert sum(isinstance(one, EngineDeadError) for one in told) == 15
        with pytest.raises(EngineDeadError, match="after 5 answers"):
            await engine.check()
        with pytest.raises(EngineDeadError):
            await ask(engine, 99)

    run(scenario)


@pytest.mark.parametrize("delay_s", [0.0, 0.01])
def test_it_hangs_after_as_many_answers_as_its_script_says_and_looks_healthy(delay_s: float) -> None:
    async def scenario() -> None:
        engine = make_engine(hang_after=5, delay_s=delay_s, max_num_seqs=4)
        asked = ask_all(engine, range(12))
        await asyncio.gather(*asked[:5])
        more, open_ = await asyncio.wait(asked[5:], timeout=0.1)
        assert (len(more), len(open_)) == (0, 7)
        await engine.check()
        assert (engine.stats().num_running, engine.stats().num_waiting) == (4, 3)
        for task in open_:
            task.cancel()
        await asyncio.wait(open_)
        assert (engine.stats().num_running, engine.stats().num_waiting) == (0, 0)

    run(scenario)


@pytest.mark.parametrize("delay_s", [0.0, 0.01])
def test_poison_ends_the_engine_every_time(delay_s: float) -> None:
    async def scenario() -> None:
        for _ in range(2):
            engine = make_engine(poison_every=7, delay_s=delay_s)
            assert (await ask(engine, 6)).text
            with pytest.raises(EngineDeadError, match="poison: request-14"):
                await ask(engine, 14)
            with pytest.raises(EngineDeadError):
                await engine.check()

    run(scenario)
