"""The actor without Ray: every request that goes in comes out once, and a dead engine ends the process."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from s3ray.config import FakeConfig, GeneratorConfig
from s3ray.errors import EngineDeadError
from s3ray.generator import actor as actor_module
from s3ray.generator.actor import GeneratorActor
from s3ray.generator.engines.base import EngineSpec
from s3ray.types import FailureReason, GenerationRequest, Outcome, OutcomeStatus
from tests.sources import TASK, make_request


def make_actor(**fake: float) -> GeneratorActor:
    config = GeneratorConfig(engine="fake", prompt_form="completion", fake=FakeConfig(**fake))  # type: ignore[arg-type]
    spec = EngineSpec(engine="engine-0", config=config, device="cpu")
    return GeneratorActor(spec, TASK, clean=True)


def requests(num: int, start: int = 0) -> list[tuple[GenerationRequest, int]]:
    return [(make_request(index), 1) for index in range(start, start + num)]


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 30))


async def collect(actor: GeneratorActor, num: int, epoch: int = 1) -> list[Outcome]:
    outcomes: list[Outcome] = []
    while len(outcomes) < num:
        outcomes += (await actor.exchange(epoch, [])).outcomes
    return outcomes


def test_what_goes_in_comes_out_once() -> None:
    async def scenario() -> None:
        actor = make_actor(tokens_per_s=2000.0)
        await actor.start()
        outcomes = list((await actor.exchange(1, requests(40))).outcomes)
        outcomes += await collect(actor, 40 - len(outcomes))
        assert sorted(outcome.index for outcome in outcomes) == list(range(40))
        assert (await actor.exchange(1, [])).outcomes == ()
        assert {outcome.status for outcome in outcomes} == {OutcomeStatus.ACCEPTED}
        assert all(outcome.text and outcome.raw and outcome.num_output_tokens for outcome in outcomes)

    run(scenario)


def test_the_same_request_gives_the_same_text_on_any_engine() -> None:
    async def scenario() -> None:
        texts = []
        for _ in range(2):
            actor = make_actor()
            await actor.start()
            answer = await actor.exchange(1, requests(5))
            outcomes = [*answer.outcomes, *await collect(actor, 5 - len(answer.outcomes))]
            texts.append({outcome.index: outcome.text for outcome in outcomes})
        assert texts[0] == texts[1]

    run(scenario)


@pytest.mark.parametrize("is_told", [True, False])
def test_answers_of_an_earlier_stage_never_mix_with_a_later_one(is_told: bool) -> None:
    async def scenario() -> None:
        actor = make_actor(tokens_per_s=200.0)
        await actor.start()
        pending = asyncio.create_task(actor.exchange(1, requests(20)))
        await asyncio.sleep(0)
        if is_told:
            await actor.abort(1)
        outcomes = list((await actor.exchange(2, requests(8, start=100))).outcomes)
        await actor.abort(1)  # Ray may deliver it late
        assert (await pending).outcomes == ()
        assert (await actor.exchange(1, requests(5, start=50))).outcomes == ()
        outcomes += await collect(actor, 8 - len(outcomes), epoch=2)
        assert sorted(outcome.index for outcome in outcomes) == list(range(100, 108))

    run(scenario)


def test_a_dead_engine_gives_back_what_is_finished_and_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        ended = asyncio.Event()
        monkeypatch.setattr(actor_module.os, "_exit", lambda code: ended.set())  # type: ignore[attr-defined]
        actor = make_actor(die_after=3)
        await actor.start()
        answer = await actor.exchange(1, requests(10))
        assert answer.death is not None
        assert "3 answers" in answer.death
        assert len(answer.outcomes) == 3
        await ended.wait()

    run(scenario)


def test_a_death_that_open_requests_do_not_notice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        ended = asyncio.Event()
        monkeypatch.setattr(actor_module.os, "_exit", lambda code: ended.set())  # type: ignore[attr-defined]
        actor = make_actor(tokens_per_s=0.001)
        await actor.start()

        async def gone() -> None:
            raise EngineDeadError("gone in silence")

        actor._engine.check = gone  # type: ignore[method-assign]
        assert (await actor.exchange(1, requests(3))).death == "gone in silence"
        await ended.wait()

    run(scenario)


def test_a_request_that_breaks_the_task_or_never_ends_fails_alone() -> None:
    async def scenario() -> None:
        actor = make_actor(tokens_per_s=0.001)
        actor._request_s = 0.05
        await actor.start()
        broken = replace(make_request(0), id="broken", template="no-such-prompt")
        outcomes = list((await actor.exchange(1, [(broken, 1), (make_request(1), 1)])).outcomes)
        outcomes += await collect(actor, 2 - len(outcomes))
        reasons = {outcome.request_id: outcome.reason for outcome in outcomes}
        assert reasons == {"broken": FailureReason.ERROR.value, "seed-1": FailureReason.TIMEOUT.value}

    run(scenario)
